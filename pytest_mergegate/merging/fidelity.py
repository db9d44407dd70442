"""Whether a merge is what its name says, before anything is concluded from it (THEORY 8)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.merging.in_place import (
    by_mergekit,
    drawn,
    experts_rows,
    merge_stack,
    own_arithmetic,
)
from pytest_mergegate.merging.method import Method, linear_scales
from pytest_mergegate.merging.own_method import keeps_one

_TOLERANCE = 1e-3
"""Of the change's size; rounding of its sum with the base comes on top."""
_ROUNDING = 4 * torch.finfo(torch.float32).eps
_PARAMETERS = 4
_NUMBERS = 1 << 14
"""Of each parameter that is looked at, about."""


def check_fidelity(method: Method, engine: Engine) -> float:
    """The largest relative error of what ``method`` has to satisfy whatever the experts are.

    On some rows of a few parameters, the identities that the table says: one expert by itself
    stays as it is (identity), or does where it changes all directions alike (isotropy), experts
    that change nothing leave the base (no-op), a sum of task vectors is their sum, and what we
    compute ourselves is what mergekit computes. A function of the team's own gives the same again
    when asked again, and may say that it does not keep one expert. Raises GateError for a merge
    that is broken.
    """
    found: list[float] = []
    for parameter in drawn(engine.vectors.parameters(), _PARAMETERS):
        whole = engine.model.base_weight(parameter)
        rows = experts_rows(method, engine, parameter)
        experts = {name: _first(own.put(torch.empty_like(whole))) for name, own in rows.items()}
        part = _Part(method, parameter, _first(whole), experts)
        scales = linear_scales(method)
        if scales is not None and "sum" in method.traits.identities:
            mixed = _first(engine.mixed_weights(scales)[parameter].cpu())
            found += part.sum_errors(mixed, scales)
        found += part.errors()
    return max(found, default=0.0)


@dataclass(frozen=True)
class _Part:
    """Some rows of one parameter."""

    method: Method
    parameter: str
    base: Tensor
    experts: Mapping[str, Tensor]

    def errors(self) -> Iterator[float]:
        """Of the identities that need nothing but ``merge_stack``."""
        method, identities = self.method, self.method.traits.identities
        if method.root is not None and not keeps_one(method):
            identities = tuple(known for known in identities if known != "identity")
        if "repeat" in identities:
            once, again = (
                merge_stack(method, self.base, self.experts, self.parameter) for _ in "12"
            )
            yield self._error("repetition", again, once)
        if "identity" in identities:
            yield self._error("identity", self._alone(self._changed), self._changed)
        if "no-op" in identities:
            yield self._error("no-op", self._alone(self.base), self.base)
        # numbers drawn at random: which of several equal ones is trimmed is anyone's choice
        generator = torch.Generator().manual_seed(0)
        base = torch.zeros_like(self.base)
        if "isotropy" in identities:
            turned = torch.nn.init.orthogonal_(torch.empty(base.shape), generator=generator)
            alike = replace(self, base=base, experts={"turned": turned})
            yield alike._error("isotropy", alike._alone(turned), turned)
        if "election" in identities and own_arithmetic(method):
            experts = {n: torch.randn(base.shape, generator=generator) for n in self.experts}
            part = replace(self, base=base, experts=experts)
            ours = merge_stack(method, base, experts, self.parameter)
            theirs = part._by_mergekit()
            yield part._error("election", ours, theirs, size=theirs)

    def sum_errors(self, mixed: Tensor, scales: Mapping[str, float]) -> Iterator[float]:
        """Of ``mixed``, against the sum of task vectors and against mergekit's."""
        total = self.base.double()
        for name, own in self.experts.items():
            total = total + scales[name] * (own.double() - self.base.double())
        yield self._error("sum", mixed, total)
        yield self._error("sum (mergekit's)", mixed, self._by_mergekit())

    @property
    def _changed(self) -> Tensor:
        """The expert that changes most."""
        return max(self.experts.values(), key=lambda own: float((own - self.base).abs().sum()))

    def _alone(self, own: Tensor) -> Tensor:
        """The merge of as many copies of one expert as it takes, nothing left out of them."""
        traits, given = self.method.traits, self.method.parameters
        # by the names of experts: a function of the team's own may know these alone
        copies = [*self.experts][: traits.fewest]
        parameters = {n: 1.0 if n in traits.whole_at_one else v for n, v in given.items()}
        weights = dict.fromkeys(copies, 1 / len(copies))
        untrimmed = replace(self.method, parameters=parameters, weights=weights)
        return merge_stack(untrimmed, self.base, dict.fromkeys(copies, own), self.parameter)

    def _by_mergekit(self) -> Tensor:
        return by_mergekit(self.method, self.base, self.experts, self.parameter)

    def _error(
        self, what: str, merged: Tensor, expected: Tensor, size: Tensor | None = None
    ) -> float:
        """Relative to the change of the expert that changes most, or of ``expected``."""
        error = float((merged.double() - expected.double()).norm())
        change = expected.double() - self.base.double()
        largest = self._changed - self.base if size is None else size
        scale = max(float(largest.double().norm()), float(change.norm()))
        # a task vector much smaller than the base drowns in the round-off of their sum
        rounding = float((expected.double() * _ROUNDING).norm())
        if not error <= _TOLERANCE * scale + rounding:
            raise GateError(
                f"{self.method.label} is a broken merge: its {what} is off by "
                f"{error / scale if scale else error:.2%} in {self.parameter!r}",
                fix="report it with the versions of mergekit and torch"
                if self.method.root is None
                else "correct the function, or write .identity = False on it where one expert is "
                "not to stay as it is",
            )
        return error / scale if scale else 0.0


def _first(weight: Tensor) -> Tensor:
    flat = weight.reshape(-1, 1) if weight.ndim < 2 else weight.flatten(1)
    return flat[: max(1, _NUMBERS // max(flat.shape[1], 1))].contiguous()
