"""Whether a merge is what its name says, before anything is concluded from it (THEORY 8)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.merging.in_place import (
    by_mergekit,
    drawn,
    experts_rows,
    merge_stack,
    own_arithmetic,
)
from pytest_mergegate.merging.method import linear_scales

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.merging.method import Method

_TOLERANCE = 1e-3
"""Of the change's size; rounding of its sum with the base comes on top."""
_ROUNDING = 4 * torch.finfo(torch.float32).eps
_PARAMETERS = 4
_NUMBERS = 1 << 14
"""Of each parameter that is looked at, about."""


@dataclass(frozen=True, kw_only=True)
class _Check:
    """Something that has to be equal to something else."""

    what: str
    merged: Tensor
    expected: Tensor
    base: Tensor
    size: Tensor
    """A change of the size by which errors are measured."""


def check_fidelity(method: Method, engine: Engine) -> float:
    """The largest relative error of what ``method`` has to satisfy whatever the experts are.

    On some rows of a few parameters, the identities that the table says: one expert by itself
    stays as it is (identity), experts that change nothing leave the base (no-op), a sum of task
    vectors is their sum, and what we compute ourselves is what mergekit computes. Raises GateError
    for a merge that is broken.
    """
    found = [
        _error(method, check, parameter)
        for parameter in drawn(engine.vectors.parameters(), _PARAMETERS)
        for check in _checks(method, engine, parameter)
    ]
    return max(found, default=0.0)


def _error(method: Method, check: _Check, parameter: str) -> float:
    error = float((check.merged.double() - check.expected.double()).norm())
    change = check.expected.double() - check.base.double()
    size = max(float(check.size.double().norm()), float(change.norm()))
    # a task vector much smaller than the base drowns in the round-off of their sum
    rounding = float((check.expected.double() * _ROUNDING).norm())
    if not error <= _TOLERANCE * size + rounding:
        raise GateError(
            f"{method.label} is a broken merge: its {check.what} is off by "
            f"{error / size if size else error:.2%} in {parameter!r}",
            fix="report it with the versions of mergekit and torch",
        )
    return error / size if size else 0.0


def _checks(method: Method, engine: Engine, parameter: str) -> Iterator[_Check]:
    whole = engine.model.base_weight(parameter)
    base = _part(whole)
    experts = {
        name: _part(rows.put(torch.empty_like(whole)))
        for name, rows in experts_rows(method, engine, parameter).items()
    }
    changed = max(experts.values(), key=lambda own: float((own - base).abs().sum()))
    for identity in method.traits.identities:
        match identity:
            case "identity":
                yield _alone(method, identity, changed, base, changed - base, parameter)
            case "no-op":
                yield _alone(method, identity, base, base, changed - base, parameter)
            case "sum" if scales := linear_scales(method):
                mixed = _part(engine.mixed_weights(scales)[parameter].cpu())
                yield from _sums(method, mixed, scales, base, experts, changed - base, parameter)
            case "election" if own_arithmetic(method):
                yield _election(method, base, list(experts), parameter)


def _alone(
    method: Method, what: str, own: Tensor, base: Tensor, size: Tensor, parameter: str
) -> _Check:
    """As many copies of one expert as the method merges, with nothing left out of them."""
    traits = method.traits
    copies = [f"copy {k}" for k in range(traits.fewest)]
    parameters = {n: 1.0 if n in traits.whole_at_one else v for n, v in method.parameters.items()}
    weights = dict.fromkeys(copies, 1 / len(copies))
    untrimmed = replace(method, parameters=parameters, weights=weights)
    merged = merge_stack(untrimmed, base, dict.fromkeys(copies, own), parameter)
    return _Check(what=what, merged=merged, expected=own, base=base, size=size)


def _sums(
    method: Method,
    mixed: Tensor,
    scales: Mapping[str, float],
    base: Tensor,
    experts: Mapping[str, Tensor],
    size: Tensor,
    parameter: str,
) -> Iterator[_Check]:
    total = base.double()
    for name, own in experts.items():
        total = total + scales[name] * (own.double() - base.double())
    theirs = by_mergekit(method, base, experts, parameter)
    for what, expected in (("sum", total), ("sum (mergekit's)", theirs)):
        yield _Check(what=what, merged=mixed, expected=expected, base=base, size=size)


def _election(method: Method, base: Tensor, names: Sequence[str], parameter: str) -> _Check:
    """On numbers drawn at random: which of several equal ones is trimmed is anyone's choice."""
    generator = torch.Generator().manual_seed(0)
    nothing = torch.zeros_like(base)
    experts = {name: torch.randn(base.shape, generator=generator) for name in names}
    ours = merge_stack(method, nothing, experts, parameter)
    theirs = by_mergekit(method, nothing, experts, parameter)
    return _Check(what="election", merged=ours, expected=theirs, base=nothing, size=theirs)


def _part(weight: Tensor) -> Tensor:
    """The first rows."""
    flat = weight.reshape(-1, 1) if weight.ndim < 2 else weight.flatten(1)
    return flat[: max(1, _NUMBERS // max(flat.shape[1], 1))].contiguous()
