"""The base in memory: weights swapped in and out, hidden states read, answers decoded."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from pytest_mergegate.engine.loading import load_module, load_tokenizer
from pytest_mergegate.errors import GateError, PoolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from pytest_mergegate.pool.pool import Base

BATCH_TOKENS = 2048
"""Tokens in one forward pass, padding included."""
_KEY_VALUE_BYTES = 1 << 28
"""Memory for the keys and values of one batch that is decoded together."""
_HEAD_TOLERANCE = 1e-4


def pick_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda[:i]`` to a device. Raises GateError where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise GateError(f"there is no device {name!r}", fix="use auto, cpu or cuda[:i]") from None
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise GateError(
            f"device {name!r} is not available here", fix="use --mergegate-device auto or cpu"
        )
    return device


class LanguageModel:
    """A causal language model whose parameters are swapped in place.

    ``loaded`` names the weights that are in: ``base``, an expert, or a merge.
    """

    def __init__(self, base: Base, device: torch.device) -> None:
        self.device = device
        self.tokenizer = load_tokenizer(base.path)
        self.module = load_module(base.path).to(device)
        self.parameters: dict[str, torch.nn.Parameter] = dict(self.module.named_parameters())
        self.loaded = "base"
        self._originals: Mapping[str, Tensor] = {}
        self._adopt_end_of_text()
        self._scale_logits = self._find_logit_scaling()

    @property
    def backbone(self) -> Any:
        """The model without its vocabulary projection."""
        return self.module.base_model

    @property
    def positions(self) -> int:
        """How many tokens the model reads at most."""
        return int(getattr(self.module.config, "max_position_embeddings", None) or sys.maxsize)

    @property
    def head_parameter(self) -> str:
        """Name of the parameter of the vocabulary projection."""
        head = self.module.get_output_embeddings()
        return next(name for name, p in self.parameters.items() if p is head.weight)

    def check_parameters(self, names: Sequence[str]) -> None:
        """Raise PoolError where the loaded model lacks one of ``names``."""
        if missing := [name for name in names if name not in self.parameters]:
            raise PoolError(
                f"the loaded model has no parameter {missing[0]!r}",
                code="MG102",
                fix="this architecture renames its tensors on loading; it is not supported yet",
            )

    @contextlib.contextmanager
    def swapped(self, name: str, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Have ``weights`` in place of the base's inside the block; ``loaded`` is ``name``.

        The base's own tensors are put back afterwards, so nothing drifts.
        """
        saved = {key: self.parameters[key].data for key in weights}
        before = self.loaded, self._originals
        self._originals = {**saved, **self._originals}
        try:
            for key, value in weights.items():
                self.parameters[key].data = value.to(self.device, saved[key].dtype)
            self.loaded = name
            yield
        finally:
            for key, value in saved.items():
                self.parameters[key].data = value
            self.loaded, self._originals = before

    def is_swapped(self, parameter: str) -> bool:
        """Whether other weights than the base's are in place of ``parameter``."""
        return parameter in self._originals

    def base_weight(self, parameter: str) -> Tensor:
        """The base's own parameter, whatever is loaded now, on the CPU in float32."""
        own = self._originals.get(parameter, self.parameters[parameter].data)
        return own.to("cpu", torch.float32)

    @torch.inference_mode()
    def states(
        self, sequences: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """Last hidden states (after the final norm) at the positions [start, stop) of ``spans``.

        One [stop − start, d] float32 tensor on the CPU per sequence, in the given order.
        Raises PoolError where they are not finite: no comparison with NaN means anything.
        """
        found: list[Tensor | None] = [None] * len(sequences)
        for batch in batches([len(s) for s in sequences], BATCH_TOKENS):
            ids, mask = self._pad([sequences[i] for i in batch], side="right")
            out = self.backbone(input_ids=ids, attention_mask=mask, use_cache=False)
            hidden = out.last_hidden_state
            for row, index in enumerate(batch):
                start, stop = spans[index]
                # a copy: a view would keep the whole batch alive
                found[index] = hidden[row, start:stop].to("cpu", torch.float32).clone()
        states = [state for state in found if state is not None]
        if not all(bool(torch.isfinite(state).all()) for state in states):
            raise PoolError(
                f"the hidden states of {self.loaded} hold NaN or infinity",
                code="MG105",
                expert=expert_loaded(self.loaded),
                fix="the weights are finite but too large; check scales and merge weights",
            )
        return states

    @torch.inference_mode()
    def decode(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        """Greedy answers in tokens, the end-of-text token included where it was reached.

        An answer has at most ``max_tokens``, and no more than the model has positions for.
        """
        answers: list[list[int]] = [[] for _ in prompts]
        rooms = [min(max_tokens, self.positions - len(prompt)) for prompt in prompts]
        for room in sorted(set(rooms)):
            chosen = [index for index, own in enumerate(rooms) if own == room]
            lengths = [len(prompts[index]) + room for index in chosen]
            for batch in batches(lengths, self._decoding_tokens):
                rows = [chosen[k] for k in batch]
                found = self._generate([prompts[index] for index in rows], room)
                for index, answer in zip(rows, found, strict=True):
                    answers[index] = answer
        return answers

    def _generate(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        ids, mask = self._pad(prompts, side="left")
        out = self.module.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False
        )
        ends = self._ends
        answers: list[list[int]] = []
        for row in out[:, ids.shape[1] :].tolist():
            stop = next((k + 1 for k, token in enumerate(row) if token in ends), len(row))
            answers.append(row[:stop])
        return answers

    def is_complete(self, answer: Sequence[int]) -> bool:
        """Whether an answer reached its end, rather than the limit on its length."""
        return bool(answer) and answer[-1] in self._ends

    def text(self, answer: Sequence[int]) -> str:
        """An answer's tokens as stripped text."""
        return str(self.tokenizer.decode(answer, skip_special_tokens=True)).strip()

    @torch.inference_mode()
    def logits(self, states: Tensor, head_weight: Tensor | None = None) -> Tensor:
        """Next-token logits [T, vocabulary] in float32 on the CPU, from ``states`` [T, d].

        ``head_weight`` stands in for the projection's own weight.
        """
        head = self.module.get_output_embeddings()
        weight = head.weight if head_weight is None else head_weight.to(self.device)
        bias = getattr(head, "bias", None)
        projected = torch.nn.functional.linear(states.to(self.device, weight.dtype), weight, bias)
        scaled: Tensor = self._scale_logits(projected.to(torch.float32))
        return scaled.cpu()

    @property
    def _decoding_tokens(self) -> int:
        """Decoding takes a pass per token however many rows there are: as many as fit."""
        config = self.module.config
        per_token = 8 * int(config.num_hidden_layers) * int(config.hidden_size)
        return max(BATCH_TOKENS, _KEY_VALUE_BYTES // per_token)

    @property
    def _ends(self) -> set[int]:
        ends = self.module.generation_config.eos_token_id
        return set(ends) if isinstance(ends, (list, tuple)) else {ends} - {None}

    def _adopt_end_of_text(self) -> None:
        """Keep only the end-of-text tokens of the generation settings: a repetition penalty or
        a length penalty would make decoding differ from the argmax of the forward pass."""
        ends = self.module.generation_config.eos_token_id
        if ends is None:
            ends = self.tokenizer.eos_token_id
        pad = self.tokenizer.pad_token_id
        if pad is None:
            pad = ends[0] if isinstance(ends, (list, tuple)) else ends
        self._pad_id = 0 if pad is None else int(pad)
        self.module.generation_config = GenerationConfig(
            eos_token_id=ends, pad_token_id=self._pad_id
        )

    def _pad(self, rows: Sequence[Sequence[int]], *, side: str) -> tuple[Tensor, Tensor]:
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self._pad_id)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for k, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
            ids[k, place] = torch.tensor(row)
            mask[k, place] = 1
        return ids.to(self.device), mask.to(self.device)

    @torch.inference_mode()
    def _find_logit_scaling(self) -> Any:
        """Find how this architecture turns projected states into logits, by trying.

        Raises PoolError where none of the known ways reproduces the model's own logits: numbers
        from a wrong head would look like any others.
        """
        config = self.module.config
        cap = getattr(config, "final_logit_softcapping", None)
        divide = getattr(config, "logits_scaling", None)
        multiply = getattr(config, "logit_scale", None)
        ways: list[Any] = [lambda x: x]
        if cap:
            ways.append(lambda x: torch.tanh(x / cap) * cap)
        if divide:
            ways.append(lambda x: x / divide)
        if multiply:
            ways.append(lambda x: x * multiply)
        ids = torch.arange(1, 5).remainder(config.vocab_size)[None].to(self.device)
        expected = self.module(input_ids=ids).logits[0].to("cpu", torch.float32)
        states = self.backbone(input_ids=ids).last_hidden_state[0]
        for way in ways:
            self._scale_logits = way
            error = (self.logits(states) - expected).abs().max()
            if float(error) <= _HEAD_TOLERANCE * max(1.0, float(expected.abs().max())):
                return way
        raise PoolError(
            f"the logits of {config.model_type} are not a projection of its last hidden state",
            code="MG002",
            fix="this architecture is not supported yet",
        )


def loaded_as(expert: str) -> str:
    """What ``LanguageModel.loaded`` says of an expert; no expert's name can be taken for it."""
    return f"expert:{expert}"


def expert_loaded(loaded: str) -> str | None:
    """The expert that ``LanguageModel.loaded`` speaks of; None for the base and for merges."""
    return loaded.removeprefix("expert:") if loaded.startswith("expert:") else None


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices in groups of similar length whose padded size stays within ``most`` tokens."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if group and lengths[index] * (len(group) + 1) > most:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
