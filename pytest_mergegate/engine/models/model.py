"""The base in memory: weights swapped in and out, hidden states read, one family a subclass."""

import contextlib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.models.loading import load_module, load_tokenizer, unsupported
from pytest_mergegate.engine.models.placement import Placement, batch_tokens, batches, bounded, pad
from pytest_mergegate.engine.models.readings import (
    BASE,
    Reading,
    Row,
    TokenCounts,
    Tokens,
    expert_loaded,
)
from pytest_mergegate.engine.models.streaming import MappedPages, StreamedWeights, load_streamed
from pytest_mergegate.engine.weights.mixing import PlacedWeights
from pytest_mergegate.gate.sections import Positions
from pytest_mergegate.pool.base import Base


class Model(ABC):
    """A model whose parameters are swapped in place.

    ``loaded`` names the weights that are in: ``base``, an expert, or a merge.
    """

    kind: ClassVar[str]
    """What the family is called in messages."""
    auto_class: ClassVar[Any]
    """The class of transformers that loads the family."""
    reading: ClassVar[Reading]
    """How its answers are read where nothing else is asked for."""
    stop: tuple[str, ...] = ()
    """Strings at which its settings end an answer."""
    known_positions: tuple[Positions, ...]
    """Where its states can be read; the first is the default."""
    forced_positions: ClassVar[frozenset[Positions]] = frozenset()
    """Those that can be read only once the answer is known."""
    answer_positions: ClassVar[Positions | None]
    """Those whose states give the answers; None where there are no answers."""
    labels: tuple[str, ...] | None = None
    """The only answers that it can give; None where answers are text."""

    def __init__(self, base: Base, placement: Placement) -> None:
        self.device = placement.device
        self.called = base.called
        trusted = placement.trust_remote_code
        self.tokenizer = load_tokenizer(
            base.tokenizer or base.path, trust_remote_code=trusted, called=base.called
        )
        self._streamed: StreamedWeights | None = None
        if placement.residence == "streamed":
            self.module, self._streamed = load_streamed(base, self.auto_class, self.kind, placement)
        else:
            self.module = load_module(
                base.path,
                self.auto_class,
                self.kind,
                trust_remote_code=trusted,
                dtype=placement.dtype,
                device=None if placement.residence == "spread" else placement.device,
                called=base.called,
            )
        self.parameters: dict[str, torch.nn.Parameter] = dict(self.module.named_parameters())
        self.dtype = placement.dtype
        self.dtypes = {name: p.dtype for name, p in self.parameters.items()}
        """To what a parameter is rounded, however wide it is held to compute with it."""
        if self._streamed is not None:
            self.dtypes = self._streamed.dtypes
        elif placement.computes is not None:
            self.module.to(placement.computes)
        first = {id(parameter): name for name, parameter in self.parameters.items()}
        every = self.module.named_parameters(remove_duplicate=False)
        self.names = {name: first[id(parameter)] for name, parameter in every}
        """Every name of a parameter, and the one by which it goes here (tied weights)."""
        self.positions = positions_read(self.module)
        self._pages = MappedPages(base.path.glob("*.safetensors"))
        self.loaded = BASE
        self.changes = 0
        """How many times weights were put in place, or taken out again."""
        self.counts = TokenCounts()
        """What went through the layers so far."""
        self._originals: Mapping[str, Tensor] = {}
        pad = self.tokenizer.pad_token_id
        self._pad_id = int(pad if pad is not None else self.config.pad_token_id or 0)

    @property
    def is_streamed(self) -> bool:
        """Whether weights are in memory only while their module runs."""
        return self._streamed is not None

    @property
    def config(self) -> Any:
        """The settings of the part that reads text."""
        return self.module.config.get_text_config()

    @property
    def backbone(self) -> Any:
        """The model without its head."""
        return self.module.base_model

    def check_parameters(self, names: Sequence[str]) -> None:
        """Raise PoolError where the loaded model lacks one of ``names``."""
        for name in names:
            if name in self.names and name not in self.parameters:
                raise unsupported(
                    f"{name!r} is tied to another parameter of the base, and cannot change alone",
                    "adapt the layer it is tied to, or leave this expert out of the pool",
                )
            if name not in self.parameters:
                raise PoolError(
                    f"the loaded model has no parameter {name!r}",
                    code="MG102",
                    fix="this architecture renames its tensors on loading; it is not supported yet",
                )

    def resolve_positions(self, asked: Positions | None) -> Positions:
        """Where states are read: as ``asked``, else the family's default. Raises PoolError."""
        if asked is None:
            return self.known_positions[0]
        if asked not in self.known_positions:
            raise PoolError(
                f"probes.positions {asked!r} does not exist in a {self.kind}"
                + (": it needs a classification head" if asked == "head" else ""),
                code="MG203",
                fix=f"use {' or '.join(self.known_positions)}",
            )
        return asked

    @contextlib.contextmanager
    def swapped(self, name: str, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Have ``weights`` in place of the base's inside the block; ``loaded`` is ``name``.

        The base's own tensors are put back afterwards, so nothing drifts.
        """
        saved = {key: self.parameters[key].data for key in weights}
        before = self.loaded, self._originals
        self._originals = {**saved, **self._originals}
        try:
            if self._streamed is not None:
                self._streamed.swapped.append(weights)
            else:
                self._put(weights)
            self.loaded = name
            self.changes += 1
            yield
        finally:
            self.changes += 1
            if self._streamed is not None:
                self._streamed.swapped.pop()
            for key, value in saved.items():
                self.parameters[key].data = value
            self.loaded, self._originals = before

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        if self.device.type != "cpu" or not isinstance(weights, PlacedWeights):
            for key, value in weights.items():
                held = self.parameters[key]
                held.data = value.to(held.device, self.dtypes[key]).to(held.dtype)
            return
        own = self.parameters
        places = {key: torch.empty_like(own[key], dtype=self.dtypes[key]) for key in weights}

        def done(key: str) -> None:
            held = self.parameters[key]
            before, held.data = held.data, places.pop(key).to(held.dtype)
            self._pages.give_back(before)

        weights.fill(places, done)

    @property
    def swapped_names(self) -> frozenset[str]:
        """The parameters in whose place other weights than the base's are."""
        return frozenset(self._originals)

    def base_weight(self, parameter: str) -> Tensor:
        """The base's own parameter, whatever is loaded now, on the CPU in float32."""
        return self.held_weight(parameter).to("cpu", torch.float32)

    def held_weight(self, parameter: str) -> Tensor:
        """The base's own parameter, whatever is loaded now, on its device in its own precision."""
        if self._streamed is not None:
            return self._streamed.original(parameter)
        held = self._originals.get(parameter, self.parameters[parameter].data)
        return held.to(self.dtypes[parameter])

    def loaded_weight(self, parameter: str) -> Tensor:
        """The parameter that is in place now, in its own precision."""
        return self.computed_weight(parameter).to(self.dtypes[parameter])

    def computed_weight(self, parameter: str) -> Tensor:
        """The parameter that is in place now, as it is computed with."""
        held = self.parameters[parameter]
        if self._streamed is not None:
            return self._streamed.loaded(parameter).to(held.dtype)
        return held.data

    @torch.inference_mode()
    def states(self, rows: Sequence[Row], positions: Positions) -> list[Tensor]:
        """Last hidden states (after the final norm) at ``positions``.

        One [T, d] float32 tensor on the CPU per row, in the given order; T is 1 except for the
        positions of an answer. Raises PoolError where they are not finite: no comparison with
        NaN means anything.
        """
        states = self._read_all(rows, positions)
        self.check_finite(states)
        return states

    def _read_all(self, rows: Sequence[Row], positions: Positions) -> list[Tensor]:
        """See ``states``, of which nothing is known to be finite yet."""
        found: dict[int, Tensor] = {}
        lengths = [len(p) + len(f) for p, f in rows]
        for batch in batches(lengths, self._batch_tokens):
            read = self._read([rows[index] for index in batch], positions)
            if positions == "mean":
                read = [state.to(torch.float64).mean(dim=0, keepdim=True) for state in read]
            # copies: views would keep the whole batch alive
            own = [state.to("cpu", torch.float32).clone() for state in read]
            found.update(zip(batch, own, strict=True))
        self.counts.processed += sum(lengths)
        return [found[index] for index in range(len(rows))]

    def check_finite(self, states: Sequence[Tensor]) -> None:
        """Raise PoolError for states of the loaded weights that hold NaN or infinity."""
        if not all(bool(torch.isfinite(state).all()) for state in states):
            raise PoolError(
                f"the hidden states of {self._shown} hold NaN or infinity",
                code="MG105",
                expert=expert_loaded(self.loaded),
                fix="the weights are finite but too large; check scales and merge weights",
            )

    @property
    def _shown(self) -> str:
        """What is loaded, in messages."""
        is_other = self.loaded == BASE and self.called != Base.called
        return self.called if is_other else self.loaded

    @abstractmethod
    def _read(self, rows: Sequence[Row], positions: Positions) -> list[Tensor]:
        """The states of one batch at ``positions``, not yet pooled: [T, d] per row."""

    def fits(self, prompt: int, answer: int) -> bool:
        """Whether there are positions for a prompt and an answer of so many tokens.

        A label takes none.
        """
        return prompt <= self.positions

    @property
    def _batch_tokens(self) -> int:
        each = 128 * (getattr(self.config, "hidden_size", None) or 1024)
        return bounded(batch_tokens(self.device), each, self.device)

    def _pad(self, rows: Sequence[Tokens], *, side: str = "right") -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, [rows, width] each."""
        ids, mask = pad(rows, self._pad_id, side=side)
        return ids.to(self.device), mask.to(self.device)

    def _read_prompts(self, prompts: Sequence[Tokens], positions: Positions) -> list[Tensor]:
        """States of the backbone at the ``last`` token, or at all of them for their ``mean``."""
        ids, mask = self._pad(prompts)
        hidden = run(self.backbone, input_ids=ids, attention_mask=mask).last_hidden_state
        first = -1 if positions == "last" else 0
        return [hidden[k, : len(row)][first:] for k, row in enumerate(prompts)]


def run(part: Any, **inputs: Any) -> Any:
    """One forward pass of a model or a part of it, without keys and values for a next one."""
    if "use_cache" in inspect.signature(part.forward).parameters:
        inputs["use_cache"] = False
    return part(**inputs)


def positions_read(module: Any, part: str = "encoder") -> int:
    """How many tokens a model, or a part of an encoder-decoder, reads at most."""
    config = module.config.get_text_config()
    names = ("max_position_embeddings", f"max_{part}_position_embeddings")
    limits = [getattr(config, name, None) for name in names]
    known = [int(limit) for limit in limits if limit is not None and limit > 0]
    return known[0] - _positions_skipped(module) if known else sys.maxsize


def _positions_skipped(module: Any) -> int:
    """RoBERTa and its kin start counting behind the padding token, within the same table."""
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.Embedding) and name.endswith("position_embeddings"):
            return 0 if part.padding_idx is None else part.padding_idx + 1
    return 0
