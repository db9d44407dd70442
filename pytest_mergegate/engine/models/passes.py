"""Rows of tokens read in batches, on keys and values that a next pass can go on from."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from pytest_mergegate.engine.models.beginnings import by_beginning
from pytest_mergegate.engine.models.placement import batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.models.readings import TokenCounts, Tokens

_CACHES = ("cache", "past_key_values")
"""What transformers calls keys and values, newer releases first."""
_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How one model reads tokens and chooses the next."""

    backbone: Any
    pad: Callable[[Sequence[Tokens]], tuple[Tensor, Tensor]]
    """Token ids and mask of some rows, filled up on the right."""
    choose: Callable[[Sequence[Tensor]], list[list[int]]]
    """The tokens that follow each row of several states [n, d] on the CPU."""
    batch_tokens: int
    """Of one pass, padding included."""
    held_tokens: int
    """Of the rows whose keys and values are in memory at once, what they begin with included."""
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
class Pass:
    """Some rows, read except for what all of them begin with."""

    rows: list[int]
    begun: int
    """How many tokens that are."""
    hidden: Tensor
    cache: DynamicCache


def passes(reader: Reader, rows: Sequence[Tokens], most: Sequence[int]) -> Iterator[Pass]:
    """All rows, batch by batch, each except for the beginning that it shares with others; at least
    what is behind ``most`` tokens of it."""
    groups = by_beginning(rows, most) if reader.shares else [((), [*range(len(rows))])]
    for begins, members in groups:
        begun = _beginning(reader, begins) if begins else None
        own = [rows[index][len(begins) :] for index in members]
        held = max(reader.held_tokens, reader.batch_tokens)
        lengths = [*map(len, own)]
        for batch in batches(lengths, reader.batch_tokens, begun=len(begins), held=held):
            cache = DynamicCache()
            for index, (keys, values) in enumerate(begun or ()):
                wide = (len(batch), -1, -1, -1)
                cache.update(keys.expand(wide), values.expand(wide), index)
            inputs = _inputs(reader, [own[place] for place in batch], len(begins))
            hidden = reader.run(cache, **inputs)
            reader.counts.processed += sum(len(own[place]) for place in batch)
            reader.counts.reused += len(begins) * len(batch)
            places = [members[place] for place in batch]
            yield Pass(rows=places, begun=len(begins), hidden=hidden, cache=cache)


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
    return [pair(layer) for layer in cache.layers]


def pair(layer: Any) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, DynamicLayer)
    assert layer.keys is not None
    assert layer.values is not None
    return layer.keys, layer.values


def cut(cache: DynamicCache, rows: Sequence[int], lengths: Sequence[int]) -> DynamicCache:
    """The first ``lengths`` keys and values of some rows, moved so that all end at one place: the
    distances between them stay what they were, which windows and biases go by."""
    longest = max(lengths)
    kept, cut = torch.tensor(rows), DynamicCache()
    shift = longest - torch.tensor(lengths)
    for index, layer in enumerate(cache.layers):
        device = pair(layer)[0].device
        places = (torch.arange(longest) - shift[:, None]).clamp_min(0).to(device)
        pairs = []
        for held in pair(layer):
            own = held[kept.to(device)]
            wide = places[:, None, :, None].expand(-1, own.shape[1], -1, own.shape[3])
            pairs.append(own.gather(2, wide))
        cut.update(*pairs, index)
        layer.reset()
    return cut


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
        cut(cache, [0], [half])
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError):
        return False
    own = states[half:].to(found)
    rounding = max(_TOLERANCE, 8 * torch.finfo(found.dtype).eps)
    return bool((found - own).abs().max() <= rounding * own.abs().max())


def read_states(reader: Reader, rows: Sequence[Tokens], kept: Sequence[int]) -> list[Tensor]:
    """States of the last ``kept`` tokens of each row, [T, d] float32 on the CPU."""
    found: dict[int, Tensor] = {}
    most = [len(row) - own for row, own in zip(rows, kept, strict=True)]
    for one in passes(reader, rows, most):
        for place, row in enumerate(one.rows):
            end = len(rows[row]) - one.begun
            own = one.hidden[place, end - kept[row] : end]
            # copies: views would keep the whole batch alive
            found[row] = own.to("cpu", torch.float32).clone()
    return [found[row] for row in range(len(rows))]
