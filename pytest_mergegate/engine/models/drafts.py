"""Greedy answers that are read, not decoded, as far as a draft foretells them.

One pass over prompt and draft gives the states where every token of the draft is predicted, and so
the model's own choice there. Up to the first choice that is another one the draft is the model's
answer; from there it is decoded, on the keys and values that this pass has left.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.models.readings import Tokens

_CACHES = ("cache", "past_key_values")
"""What transformers calls keys and values, newer releases first."""
_MOSTLY_THERE = 0.75
"""Rows leave a batch once no more than this part of it goes on: to copy what is left takes time."""


@dataclass(frozen=True, kw_only=True)
class VerifiedDraft:
    """What one pass over a prompt and a draft has shown."""

    states: Tensor
    """Where the draft's tokens are predicted, [T, d] float32 on the CPU."""
    answer: list[int]
    """The model's own greedy answer."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How one model reads tokens and chooses the next."""

    backbone: Any
    choose: Callable[[Tensor], Tensor]
    """The tokens [n] that follow states [n, d] on the CPU."""
    is_over: Callable[[list[int], int], bool]
    """Whether an answer ends there; the number is the row of the batch."""

    def run(self, cache: DynamicCache, **inputs: Any) -> Any:
        """One pass of the backbone that adds keys and values to ``cache``."""
        known = inspect.signature(self.backbone.forward).parameters
        name = next(name for name in _CACHES if name in known)
        own = {key: value for key, value in inputs.items() if key in known}
        return self.backbone(**own, **{name: cache}, use_cache=True)


def can_verify(backbone: Any) -> bool:
    """Whether keys and values of a pass can be cut and gone on from: not where layers keep a state
    of their own in their place."""
    known = set(inspect.signature(backbone.forward).parameters)
    if not ({"use_cache", "attention_mask"} <= known and known.intersection(_CACHES)):
        return False
    kinds = getattr(backbone.config.get_text_config(), "layer_types", None) or ()
    return all("attention" in kind and "linear" not in kind for kind in kinds)


def verify(
    reader: Reader,
    ids: Tensor,
    mask: Tensor,
    prompts: Sequence[Tokens],
    drafts: Sequence[Tokens],
) -> list[VerifiedDraft]:
    """States along the ``drafts`` and the model's own answers.

    ``ids`` and ``mask`` hold every prompt with its draft but the last token, filled up on the
    right.
    """
    cache = DynamicCache()
    out = reader.run(cache, input_ids=ids, attention_mask=mask)
    states = [
        out.last_hidden_state[row, len(p) - 1 : len(p) + len(d) - 1].to("cpu", torch.float32)
        for row, (p, d) in enumerate(zip(prompts, drafts, strict=True))
    ]
    del out
    answers = [
        _foretold(reader.choose(own).tolist(), list(draft))
        for own, draft in zip(states, drafts, strict=True)
    ]
    left = [
        row
        for row, (own, draft) in enumerate(zip(answers, drafts, strict=True))
        if own != list(draft) and not reader.is_over(own, row)
    ]
    if left:
        read = [len(prompts[row]) + len(answers[row]) - 1 for row in left]
        _decode(reader, _cut(cache, left, read), read, left, answers)
    return [
        VerifiedDraft(states=own.clone(), answer=a) for own, a in zip(states, answers, strict=True)
    ]


def _foretold(chosen: list[int], draft: list[int]) -> list[int]:
    """The draft up to the first token that the model does not choose, and the one it does."""
    for place, (own, told) in enumerate(zip(chosen, draft, strict=True)):
        if own != told:
            return [*draft[:place], own]
    return draft


def _cut(cache: DynamicCache, rows: Sequence[int], lengths: Sequence[int]) -> DynamicCache:
    """The first ``lengths`` keys and values of some rows, moved so that all end at one place: the
    distances between them stay what they were, which windows and biases go by."""
    longest = max(lengths)
    kept, cut = torch.tensor(rows), DynamicCache()
    shift = longest - torch.tensor(lengths)
    for index, layer in enumerate(cache.layers):
        assert isinstance(layer, DynamicLayer)
        device = layer.keys.device
        places = (torch.arange(longest) - shift[:, None]).clamp_min(0).to(device)
        pairs = []
        for held in (layer.keys, layer.values):
            own = held[kept.to(device)]
            wide = places[:, None, :, None].expand(-1, own.shape[1], -1, own.shape[3])
            pairs.append(own.gather(2, wide))
        cut.update(*pairs, index)
        layer.reset()
    return cut


def _decode(
    reader: Reader,
    cache: DynamicCache,
    read: Sequence[int],
    rows: Sequence[int],
    answers: list[list[int]],
) -> None:
    """Go on with the ``answers`` of ``rows``, of which all but the last token was ``read``."""
    batch, longest = list(rows), max(read)
    positions = torch.tensor(read)
    mask = (torch.arange(longest) >= longest - positions[:, None]).long()
    device = cache.layers[0].keys.device
    going = set(batch)
    while going:
        # what has ended stands still: it may have filled all positions that there are
        goes_on = torch.tensor([row in going for row in batch])
        mask = torch.cat([mask, goes_on[:, None].long()], dim=1)
        out = reader.run(
            cache,
            input_ids=torch.tensor([[answers[row][-1]] for row in batch], device=device),
            attention_mask=mask.to(device),
            position_ids=positions[:, None].to(device),
        )
        chosen = reader.choose(out.last_hidden_state[:, -1].to("cpu", torch.float32)).tolist()
        positions = positions + goes_on
        for row, token in zip(batch, chosen, strict=True):
            if row in going:
                answers[row].append(token)
                if reader.is_over(answers[row], row):
                    going.remove(row)
        if going and len(going) <= _MOSTLY_THERE * len(batch):
            kept = torch.tensor([place for place, row in enumerate(batch) if row in going])
            cache.batch_select_indices(kept.to(device))
            batch = [batch[place] for place in kept.tolist()]
            mask, positions = mask[kept], positions[kept]
