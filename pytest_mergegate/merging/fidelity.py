"""Whether a merge is what its name says, before anything is concluded from it (THEORY 8)."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.merging.in_place import by_mergekit, experts_rows, merge_stack
from pytest_mergegate.merging.method import is_sum, linear_scales
from pytest_mergegate.merging.ties import is_ties

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.merging.method import Method

_TOLERANCE = 1e-3
"""Of the change's size; rounding of its sum with the base comes on top."""
_ROUNDING = 4 * torch.finfo(torch.float32).eps
_PARAMETERS = 4
_NUMBERS = 1 << 14
"""Of each parameter that is looked at, about."""
_TAKES_TWO = frozenset(("slerp", "nuslerp", "model_stock"))
"""Methods that merge no fewer than two experts: two copies of one, in their case."""
_TRIMMING = ("density", "lambda", "select_topk")
"""Parameters that are 1 unless something is left out or scaled."""


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

    On some rows of a few parameters: one expert by itself stays as it is (identity), experts
    that change nothing leave the base (no-op), a sum of task vectors is their sum (additivity),
    and what we compute ourselves is what mergekit computes. Raises GateError for a merge that is
    broken.
    """
    parameters = engine.vectors.parameters()
    # drawn, not every n-th: that would be the same module of every layer
    drawn = random.Random(0).sample(parameters, min(_PARAMETERS, len(parameters)))
    found = [
        _error(method, check, parameter)
        for parameter in drawn
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
    size = changed - base
    copies = [f"copy {k}" for k in range(2 if method.name in _TAKES_TWO else 1)]
    plain = _untrimmed(method, copies)
    for what, own in (("identity", changed), ("no-op", base)):
        merged = merge_stack(plain, base, dict.fromkeys(copies, own), parameter)
        yield _Check(what=what, merged=merged, expected=own, base=base, size=size)
    scales = linear_scales(method)
    if scales is not None and is_sum(method):
        mixed = _part(engine.mixed_weights(scales)[parameter].cpu())
        total = base.double()
        for name, own in experts.items():
            total = total + scales[name] * (own.double() - base.double())
        yield _Check(what="sum", merged=mixed, expected=total, base=base, size=size)
        theirs = by_mergekit(method, base, experts, parameter)
        yield _Check(what="sum (mergekit's)", merged=mixed, expected=theirs, base=base, size=size)
    elif is_ties(method):
        yield _ties_check(method, base, list(experts), parameter)


def _ties_check(method: Method, base: Tensor, names: list[str], parameter: str) -> _Check:
    """On numbers drawn at random: which of several equal ones is trimmed is anyone's choice."""
    generator = torch.Generator().manual_seed(0)
    nothing = torch.zeros_like(base)
    drawn = {name: torch.randn(base.shape, generator=generator) for name in names}
    ours = merge_stack(method, nothing, drawn, parameter)
    theirs = by_mergekit(method, nothing, drawn, parameter)
    return _Check(what="election", merged=ours, expected=theirs, base=nothing, size=theirs)


def _part(weight: Tensor) -> Tensor:
    """The first rows."""
    flat = weight.reshape(-1, 1) if weight.ndim < 2 else weight.flatten(1)
    return flat[: max(1, _NUMBERS // max(flat.shape[1], 1))].contiguous()


def _untrimmed(method: Method, copies: list[str]) -> Method:
    """``method`` for copies of one expert, with nothing left out of them."""
    parameters = {n: 1.0 if n in _TRIMMING else value for n, value in method.parameters.items()}
    return replace(method, parameters=parameters, weights=dict.fromkeys(copies, 1 / len(copies)))
