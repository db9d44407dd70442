"""Greedy answers and the states that give them, every token read once.

One pass over a prompt and a draft of its answer gives the states where every token of the draft is
predicted, and so the model's own choice there. Up to the first choice that is another one the draft
is the model's answer; from there it is decoded, on the keys and values that this pass has left.
What several prompts begin with is read once for all of them.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer

from pytest_mergegate.engine.models.beginnings import by_beginning
from pytest_mergegate.engine.models.placement import batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.models.readings import TokenCounts, Tokens

_CACHES = ("cache", "past_key_values")
"""What transformers calls keys and values, newer releases first."""
_MOSTLY_THERE = 0.75
"""Rows leave a batch once no more than this part of it goes on: to copy what is left takes time."""
_TOLERANCE = 1e-4
_GROWTH = 64
"""Tokens that room is made for behind each row that is decoded; few answers take more."""


@dataclass(frozen=True, kw_only=True)
class GreedyAnswer:
    """A model's own greedy answer to a prompt."""

    answer: list[int]
    states: Tensor
    """Where the tokens of the draft are predicted, or those of the answer where there was no draft,
    [T, d] float32 on the CPU."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How one model reads tokens and chooses the next."""

    backbone: Any
    pad: Callable[[Sequence[Tokens]], tuple[Tensor, Tensor]]
    """Token ids and mask of some rows, filled up on the right."""
    choose: Callable[[Tensor], Tensor]
    """The tokens [n] that follow states [n, d] on the CPU."""
    batch_tokens: int
    """Of one pass, padding included."""
    held_tokens: int
    """Of the rows that are decoded together."""
    shares: bool
    """Whether beginnings are worth a pass of their own."""
    counts: TokenCounts

    def run(self, cache: DynamicCache, **inputs: Any) -> Tensor:
        """Last hidden states [rows, width, d] of one pass of the backbone, which adds its keys and
        values to ``cache``."""
        known = inspect.signature(self.backbone.forward).parameters
        name = next(name for name in _CACHES if name in known)
        own = {key: value for key, value in inputs.items() if key in known}
        out: Tensor = self.backbone(**own, **{name: cache}, use_cache=True).last_hidden_state
        return out


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """Some rows, read but for what all of them begin with."""

    rows: list[int]
    begun: int
    """How many tokens that are."""
    hidden: Tensor
    cache: DynamicCache


def goes_on(reader: Reader, row: Tokens, states: Tensor) -> bool:
    """Whether a second pass can go on from the keys and values of a first one, and finds the
    ``states`` [T, d] of one pass over all of ``row``: not where layers keep something else."""
    known = set(inspect.signature(reader.backbone.forward).parameters)
    if not ({"use_cache", "attention_mask"} <= known and known.intersection(_CACHES)):
        return False
    kinds = getattr(reader.backbone.config.get_text_config(), "layer_types", None) or ()
    if not all("attention" in kind and "linear" not in kind for kind in kinds):
        return False
    cache, half = DynamicCache(), len(row) // 2
    try:
        reader.run(cache, **_inputs(reader, [row[:half]]))
        found = reader.run(cache, **_inputs(reader, [row[half:]], half))[0]
        _cut(cache, [0], [half])
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError):
        return False
    own = states[half:].to(found)
    rounding = max(_TOLERANCE, 8 * torch.finfo(found.dtype).eps)
    return bool((found - own).abs().max() <= rounding * own.abs().max())


def read_states(reader: Reader, rows: Sequence[Tokens], kept: Sequence[int]) -> list[Tensor]:
    """States of the last ``kept`` tokens of each row, [T, d] float32 on the CPU."""
    found: dict[int, Tensor] = {}
    most = [len(row) - own for row, own in zip(rows, kept, strict=True)]
    for one in _passes(reader, rows, most):
        for place, row in enumerate(one.rows):
            end = len(rows[row]) - one.begun
            own = one.hidden[place, end - kept[row] : end]
            # copies: views would keep the whole batch alive
            found[row] = own.to("cpu", torch.float32).clone()
    return [found[row] for row in range(len(rows))]


def greedy_answers(
    reader: Reader,
    prompts: Sequence[Tokens],
    drafts: Sequence[Tokens],
    is_over: Callable[[list[int], int], bool],
) -> list[GreedyAnswer]:
    """The model's own answers, each read as far as its draft, which may be empty, foretells it.

    ``is_over`` says whether an answer ends there; the number is that of its prompt.
    """
    rows = [(*p, *d[:-1]) for p, d in zip(prompts, drafts, strict=True)]
    answers: dict[int, list[int]] = {}
    states: dict[int, list[Tensor]] = {}
    held: list[_Held] = []
    for one in _passes(reader, rows, [len(p) - 1 for p in prompts]):
        left = []
        for place, row in enumerate(one.rows):
            draft, first = list(drafts[row]), len(prompts[row]) - 1 - one.begun
            own = one.hidden[place, first : first + max(1, len(draft))]
            states[row] = [own.to("cpu", torch.float32).clone()]
            answers[row] = _foretold(reader.choose(states[row][0]).tolist(), draft)
            if (not draft or answers[row] != draft) and not is_over(answers[row], row):
                left.append(place)
        if left:
            ends = [one.rows[place] for place in left]
            read = [len(prompts[row]) + len(answers[row]) - 1 for row in ends]
            held.append(_Held(cache=_cut(one.cache, left, read), read=read, rows=ends))
        if sum(map(len, held)) >= reader.held_tokens:
            _decode(reader, held, is_over, answers, states)
            held = []
    _decode(reader, held, is_over, answers, states)
    return [
        GreedyAnswer(
            answer=answers[row],
            states=states[row][0] if drafts[row] else torch.cat(states[row]),
        )
        for row in range(len(prompts))
    ]


def _passes(reader: Reader, rows: Sequence[Tokens], most: Sequence[int]) -> Iterator[_Pass]:
    """All rows, batch by batch, each but for the beginning that it shares with others; at least
    what is behind ``most`` tokens of it."""
    groups = by_beginning(rows, most) if reader.shares else [((), [*range(len(rows))])]
    for begins, members in groups:
        begun = _beginning(reader, begins) if begins else None
        own = [rows[index][len(begins) :] for index in members]
        for batch in batches([*map(len, own)], reader.batch_tokens):
            cache = DynamicCache()
            for index, (keys, values) in enumerate(begun or ()):
                wide = (len(batch), -1, -1, -1)
                cache.update(keys.expand(wide), values.expand(wide), index)
            inputs = _inputs(reader, [own[place] for place in batch], len(begins))
            hidden = reader.run(cache, **inputs)
            reader.counts.processed += sum(len(own[place]) for place in batch)
            reader.counts.reused += len(begins) * len(batch)
            places = [members[place] for place in batch]
            yield _Pass(rows=places, begun=len(begins), hidden=hidden, cache=cache)


def _inputs(reader: Reader, rows: Sequence[Tokens], begun: int = 0) -> dict[str, Tensor]:
    """What is run to read ``rows`` behind ``begun`` tokens that were read before."""
    ids, mask = reader.pad(rows)
    places = torch.arange(begun, begun + ids.shape[1], device=ids.device).expand_as(ids)
    seen = mask.new_ones(len(rows), begun)
    return {
        "input_ids": ids,
        "attention_mask": torch.cat([seen, mask], dim=1),
        "position_ids": places,
    }


def _beginning(reader: Reader, begins: Tokens) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of tokens that many rows begin with, by layer, [1, heads, T, d] each."""
    cache = DynamicCache()
    reader.run(cache, **_inputs(reader, [begins]))
    reader.counts.processed += len(begins)
    return [_pair(layer) for layer in cache.layers]


def _pair(layer: Any) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, DynamicLayer)
    assert layer.keys is not None
    assert layer.values is not None
    return layer.keys, layer.values


def _foretold(chosen: list[int], draft: list[int]) -> list[int]:
    """The draft up to the first token that the model does not choose, and the one it does."""
    for place, (own, told) in enumerate(zip(chosen, draft, strict=False)):
        if own != told:
            return [*draft[:place], own]
    return draft or chosen


@dataclass(frozen=True, kw_only=True)
class _Held:
    """Rows whose answers go on, with keys and values that end at one place."""

    cache: DynamicCache
    read: list[int]
    """How many tokens of each there are keys and values for."""
    rows: list[int]

    def __len__(self) -> int:
        return len(self.rows) * (max(self.read) + _GROWTH)


def _cut(cache: DynamicCache, rows: Sequence[int], lengths: Sequence[int]) -> DynamicCache:
    """The first ``lengths`` keys and values of some rows, moved so that all end at one place: the
    distances between them stay what they were, which windows and biases go by."""
    longest = max(lengths)
    kept, cut = torch.tensor(rows), DynamicCache()
    shift = longest - torch.tensor(lengths)
    for index, layer in enumerate(cache.layers):
        device = _pair(layer)[0].device
        places = (torch.arange(longest) - shift[:, None]).clamp_min(0).to(device)
        pairs = []
        for held in _pair(layer):
            own = held[kept.to(device)]
            wide = places[:, None, :, None].expand(-1, own.shape[1], -1, own.shape[3])
            pairs.append(own.gather(2, wide))
        cut.update(*pairs, index)
        layer.reset()
    return cut


def _together(held: Sequence[_Held]) -> DynamicCache:
    """Keys and values of all that is held, with room in front of those that are shorter."""
    if len(held) == 1:
        return held[0].cache
    longest, joined = max(max(own.read) for own in held), DynamicCache()
    for index in range(len(held[0].cache.layers)):
        pairs = zip(*(_pair(own.cache.layers[index]) for own in held), strict=True)
        keys, values = (
            torch.cat([pad(own, (0, 0, longest - own.shape[2], 0)) for own in each])
            for each in pairs
        )
        joined.update(keys, values, index)
        for own in held:
            own.cache.layers[index].reset()
    return joined


def _decode(
    reader: Reader,
    held: Sequence[_Held],
    is_over: Callable[[list[int], int], bool],
    answers: dict[int, list[int]],
    states: dict[int, list[Tensor]],
) -> None:
    """Go on with the ``answers`` of what is ``held``, and note the ``states`` that give them."""
    if not held:
        return
    cache = _together(held)
    batch = [row for own in held for row in own.rows]
    positions = torch.tensor([read for own in held for read in own.read])
    longest = int(positions.max())
    mask = (torch.arange(longest) >= longest - positions[:, None]).long()
    device = _pair(cache.layers[0])[0].device
    going = set(batch)
    while going:
        # what has ended stands still: it may have filled all positions that there are
        goes_on = torch.tensor([row in going for row in batch])
        mask = torch.cat([mask, goes_on[:, None].long()], dim=1)
        hidden = reader.run(
            cache,
            input_ids=torch.tensor([[answers[row][-1]] for row in batch], device=device),
            attention_mask=mask.to(device),
            position_ids=positions[:, None].to(device),
        )
        reader.counts.processed += len(going)
        reached = hidden[:, -1].to("cpu", torch.float32)
        positions = positions + goes_on
        chosen = reader.choose(reached).tolist()
        for place, (row, token) in enumerate(zip(batch, chosen, strict=True)):
            if row in going:
                states[row].append(reached[place : place + 1])
                answers[row].append(token)
                if is_over(answers[row], row):
                    going.remove(row)
        if going and len(going) <= _MOSTLY_THERE * len(batch):
            kept = torch.tensor([place for place, row in enumerate(batch) if row in going])
            cache.batch_select_indices(kept.to(device))
            batch = [batch[place] for place in kept.tolist()]
            mask, positions = mask[kept], positions[kept]
