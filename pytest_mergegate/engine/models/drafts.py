"""Greedy answers and the states that give them, every token read once.

One pass over a prompt and a draft of its answer gives the states where every token of the draft is
predicted, and so the model's own choice there. Up to the first choice that is another one the draft
is the model's answer; from there it is decoded, on the keys and values that this pass has left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache

from pytest_mergegate.engine.models.passes import cut, pair, passes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.models.passes import Reader
    from pytest_mergegate.engine.models.readings import Tokens

_MOSTLY_THERE = 0.75
"""Rows leave a batch once no more than this part of it goes on: to copy what is left takes time."""
_GROWTH = 64
"""Tokens that room is made for behind each row that is decoded; few answers take more."""


@dataclass(frozen=True, kw_only=True)
class GreedyAnswer:
    """A model's own greedy answer to a prompt."""

    answer: list[int]
    states: Tensor
    """Where the tokens of the draft are predicted, or those of the answer where it begins as the
    draft says, [T, d] float32 on the CPU."""
    whole: bool = True
    """Whether it was read as far as the model goes on; not where the rest was of no interest."""


def greedy_answers(
    reader: Reader,
    prompts: Sequence[Tokens],
    drafts: Sequence[Tokens],
    is_over: Callable[[list[int], int], bool],
) -> list[GreedyAnswer]:
    """The model's own answers, each read as far as its draft, which may be empty, predicts it.

    ``is_over`` says whether an answer ends there; the number is that of its prompt.
    """
    rows = [(*p, *d[:-1]) for p, d in zip(prompts, drafts, strict=True)]
    answers: dict[int, list[int]] = {}
    states: dict[int, list[Tensor]] = {}
    held: list[_Held] = []
    for one in passes(reader, rows, [len(p) - 1 for p in prompts]):
        for place, row in enumerate(one.rows):
            first = len(prompts[row]) - 1 - one.begun
            own = one.hidden[place, first : first + max(1, len(drafts[row]))]
            states[row] = [own.to("cpu", torch.float32).clone()]
        chosen = reader.choose([states[row][0] for row in one.rows])
        left = []
        for place, (row, tokens) in enumerate(zip(one.rows, chosen, strict=True)):
            answers[row] = _predicted(tokens, list(drafts[row]))
            if not is_over(answers[row], row):
                left.append(place)
        if left:
            ends = [one.rows[place] for place in left]
            read = [len(prompts[row]) + len(answers[row]) - 1 for row in ends]
            held.append(_Held(cache=cut(one.cache, left, read), read=read, rows=ends))
        if sum(map(len, held)) >= reader.held_tokens:
            _decode(reader, held, is_over, answers, states)
            held = []
    _decode(reader, held, is_over, answers, states)
    return [
        GreedyAnswer(
            answer=answers[row],
            states=torch.cat(states[row]) if begins_so else states[row][0],
        )
        for row, draft in enumerate(drafts)
        for begins_so in [answers[row][: len(draft)] == [*draft]]
    ]


def _predicted(chosen: list[int], draft: list[int]) -> list[int]:
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


def _together(held: Sequence[_Held]) -> DynamicCache:
    """Keys and values of all that is held, with room in front of those that are shorter."""
    if len(held) == 1:
        return held[0].cache
    longest, joined = max(max(own.read) for own in held), DynamicCache()
    for index in range(len(held[0].cache.layers)):
        pairs = zip(*(pair(own.cache.layers[index]) for own in held), strict=True)
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
    device = pair(cache.layers[0])[0].device
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
        (chosen,) = reader.choose([reached])
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
