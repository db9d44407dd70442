"""Models with a linear head: answers are read from states through it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.models.model import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.models.readings import Row, Tokens
    from pytest_mergegate.gate.sections import Positions

_TOLERANCE = 1e-4
_SMALLEST = 1e-3
"""Logits smaller than this are no measure for their own error."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The weights that take states to logits."""

    weight: Tensor
    """[outputs, d]."""
    bias: Tensor | None
    """[outputs]."""


class HeadedModel(Model):
    """A model whose logits are a projection of its states."""

    answer_positions: ClassVar[Positions]
    _adjust: Callable[[Tensor], Tensor] = staticmethod(lambda logits: logits)
    """What this architecture does to projected states to make logits of them."""
    _trial: tuple[Row, ...] = (((1, 2), (3, 4)), ((3,), ()))
    """On what the head is tried out."""

    @property
    @abstractmethod
    def projection(self) -> Any:
        """The linear layer that makes logits of states."""

    @abstractmethod
    def decode(
        self, prompts: Sequence[Tokens], max_tokens: int, stop: Sequence[str] = ()
    ) -> list[list[int]]:
        """The answer to each prompt: tokens, or the index of one label.

        Tokens end with the one that completes one of ``stop``.
        """

    @abstractmethod
    def text(self, answer: Sequence[int], stop: Sequence[str] = ()) -> str:
        """An answer as the metrics read it, up to the first of ``stop``."""

    @abstractmethod
    def is_complete(self, answer: Sequence[int], stop: Sequence[str] = ()) -> bool:
        """Whether an answer reached its end, rather than the limit on its length."""

    @abstractmethod
    def choice_tokens(self, choice: str) -> Tokens:
        """A choice as an answer; empty where the model cannot say it."""

    @abstractmethod
    def _own_logits(self, row: Row) -> Tensor:
        """What the model itself says at the answer positions of ``row``, [T, outputs]."""

    @cached_property
    def head_parameters(self) -> dict[str, str]:
        """Names of the head's ``weight`` and, where it has one, ``bias`` among the parameters.

        With tied embeddings the weight goes by the embedding's name.
        """
        layer = next(n for n, part in self.module.named_modules() if part is self.projection)
        held = {part: f"{layer}.{part}" for part in ("weight", "bias")}
        return {part: self.names[name] for part, name in held.items() if name in self.names}

    @torch.inference_mode()
    def logits(self, states: Tensor, head: Head | None = None) -> Tensor:
        """Logits [T, outputs] in float32 on the CPU, from ``states`` [T, d].

        ``head`` stands in for the loaded one.
        """
        if head is None:
            parts = {p: self.loaded_weight(name) for p, name in self.head_parameters.items()}
            head = Head(weight=parts["weight"], bias=parts.get("bias"))
        own = self.parameters[self.head_parameters["weight"]]
        weight, bias = head.weight.to(own.device, own.dtype), head.bias
        if bias is not None:
            bias = bias.to(own.device, own.dtype)
        projected = torch.nn.functional.linear(states.to(own.device, own.dtype), weight, bias)
        return self._adjust(projected.to(torch.float32)).cpu()

    @property
    def _tolerance(self) -> float:
        """What rounding may make of logits, relative to the largest."""
        return max(_TOLERANCE, 8 * torch.finfo(self.module.dtype).eps)

    @torch.inference_mode()
    def _check_head(self, ways: Sequence[Callable[[Tensor], Tensor]]) -> None:
        """Find, by trying ``ways``, how this architecture makes logits of projected states.

        Rows of two lengths go in one batch, so that padding which leaks shows as well. Raises
        PoolError where no way reproduces the model's own logits: numbers from a wrong head would
        look like any others.
        """
        try:
            states = torch.cat(self.states(self._trial, self.answer_positions))
            own = torch.cat([self._own_logits(row).to("cpu", torch.float32) for row in self._trial])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise PoolError(
                f"{type(self.module).__name__} does not run ({error})",
                code="MG002",
                fix="check config.json against the weights; or it is not supported yet",
            ) from None
        for way in ways:
            self._adjust = way
            off = (self.logits(states) - own).abs().max()
            if float(off) <= self._tolerance * max(_SMALLEST, float(own.abs().max())):
                return
        raise PoolError(
            f"the logits of {type(self.module).__name__} are not a projection of its states",
            code="MG002",
            fix="this architecture is not supported yet",
        )
