"""Merge weights of a group of experts: the gate's own, and those that its states suggest."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate import metrics
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.running.workspace import own_code
from pytest_mergegate.merging.method import Method, has_surrogate, linear_scales, with_shares

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_mergegate.engine.running.workspace import Workspace
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.gate.merge_methods import MethodTraits
    from pytest_mergegate.planning.forecasts import GroupForecast, MergeForecast
    from pytest_mergegate.stages.hidden import HiddenResult

FloatArray = NDArray[np.float64]
_ALIKE = 0.02
"""Shares that differ by less are not worth another forecast."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How the total weight is divided among the experts of a group."""

    kind: str
    """``uniform``, ``optimal`` (the centre of the enclosing ball), ``minimax``, or ``given``."""
    shares: Mapping[str, float]
    """By expert, summing to one."""
    distortion: float
    """The worst mean squared distance of the mixed states to an expert's, over the group's
    probes: no less than the group's R²."""


def group_gate(gate: Gate, names: Sequence[str]) -> Gate:
    """The gate of some of its experts, under all of its methods."""
    spec, merge = gate.spec, gate.spec.merge
    if isinstance(merge.weights, dict):
        weights = {name: merge.weights[name] for name in names}
        merge = merge.model_copy(update={"weights": weights})
    experts = {name: spec.experts[name] for name in names}
    part = spec.model_copy(update={"experts": experts, "merge": merge})
    return replace(gate, spec=part, mergekit=None, experts_pattern=None)


def proposed_gate(gate: Gate, group: GroupForecast) -> Gate:
    """The gate whose verdict the forecast of ``group`` was of.

    Under ``select: any`` with the proposed method alone, so that the merge that is gated is the one
    that is shipped.
    """
    part, best = group_gate(gate, group.names), group.best
    if best is None:
        return part
    changes: dict[str, object] = {"weights": _gate_weights(gate, group.names, best)}
    if gate.spec.merge.select == "any":
        changes["methods"] = (part.spec.merge.method_called(best.method.label),)
    merge = part.spec.merge.model_copy(update=changes)
    return replace(part, spec=part.spec.model_copy(update={"merge": merge}))


def _gate_weights(gate: Gate, names: Sequence[str], best: MergeForecast) -> str | dict[str, float]:
    """As ``merge.weights`` has them: what each method multiplies by a weight of its own."""
    given = gate.spec.merge.weights
    if best.shares.kind == "uniform" or not best.method.is_weighted:
        return "uniform"
    if isinstance(given, dict):
        return {name: given[name] for name in names}
    # an average divides by their sum; a sum of task vectors takes each at full scale
    return {name: round(len(names) * s, 6) for name, s in best.shares.shares.items()}


def group_methods(gate: Gate, names: Sequence[str], workspace: Workspace) -> tuple[Method, ...]:
    """The gate's methods for a group, as far as a sum of task vectors can stand for them.

    Under ``select: any`` a method that does not fit a group of that size is left out.
    """
    part = group_gate(gate, names)
    found: list[Method] = []
    for method in part.spec.merge.methods:
        merge = part.spec.merge.model_copy(update={"methods": (method,)})
        alone = replace(part, spec=part.spec.model_copy(update={"merge": merge}))
        key = {
            "kind": "methods of a group",
            "code": own_code(),
            "versions": workspace.ground["versions"],
            "merge": merge.model_dump(mode="json"),
            "names": list(names),
        }
        try:
            planned = workspace.cache.json(key, partial(_planned, alone, names))
        except GateError:
            if len(names) == len(gate.spec.experts) or gate.spec.merge.select == "all":
                raise
            continue
        found += [Method(**plain) for plain in planned]
    return tuple(method for method in found if has_surrogate(method))


def _planned(gate: Gate, names: Sequence[str]) -> list[dict[str, Any]]:
    from pytest_mergegate.merging.methods import plan_methods

    return [method.plain for method in plan_methods(gate, names)]


def group_scales(method: Method, names: Sequence[str], workspace: Workspace) -> dict[str, float]:
    """λ_j by expert: known, or measured on a sample of really merged tensors."""
    known = linear_scales(method)
    if known is not None:
        return known

    def measure() -> dict[str, float]:
        from pytest_mergegate.merging.merge import effective_scales

        return effective_scales(method, workspace.engine)

    models = {name: workspace.models[name] for name in names}
    key = workspace.key("scales", method=method.plain, experts=models)
    found = workspace.cache.json(key, measure)
    return {name: float(found[name]) for name in names}


def scales_of_part(
    traits: MethodTraits, whole: Mapping[str, float], names: Sequence[str]
) -> dict[str, float]:
    """λ_j in a group, from those in the whole pool: shares are shared out anew, and what methods
    like ties leave of a sum falls with the root of how many there are."""
    own = {name: whole[name] for name in names}
    if traits.combines == "average":
        total = sum(own.values())
        factor = sum(whole.values()) / total if total else 1.0
    else:
        factor = 1.0 if traits.scales is not None else math.sqrt(len(whole) / len(own))
    return {name: factor * scale for name, scale in own.items()}


def weighted(method: Method, shares: Shares) -> Method:
    """The method with its total weight divided in these shares, if they are not its own."""
    own = shares.kind in {"given", "uniform"}
    return method if own else with_shares(method, shares.shares)


class OwnInputRisk:
    """How likely a group is to fail, from the shifts of the hidden states alone: the worst of
    δ_i² / G⁽ⁱ⁾_ii over its experts under their average (end of THEORY 5)."""

    def __init__(self, grams: Mapping[str, FloatArray]) -> None:
        """``grams`` are G⁽ⁱ⁾ [N, N] of every expert, in the order of their rows."""
        self._names = list(grams)
        self._grams = np.stack(list(grams.values()))

    def of(self, names: Sequence[str]) -> float:
        """0 for a group that keeps every expert, 1 for one that is as far from it as the base."""
        return float(self.by_expert(names, np.full(len(names), 1 / len(names))).max())

    def by_expert(self, names: Sequence[str], scales: FloatArray) -> FloatArray:
        """δ_i² / G⁽ⁱ⁾_ii of every expert of the group under λ; 0 for one that moves nothing."""
        at = [self._names.index(name) for name in names]
        grams = self._grams[np.ix_(at, at, at)]
        off = scales - np.eye(len(at))
        moved = np.einsum("ij,ijk,ik->i", off, grams, off)
        own = np.einsum("iii->i", grams)
        relative: FloatArray = np.divide(moved, own, out=np.zeros(len(at)), where=own > 0)
        return relative


class GroupShares:
    """The shares of any group, from the states of the pool."""

    def __init__(self, hidden: HiddenResult) -> None:
        states = hidden.states
        self._names = states.names
        self._grams = np.stack([hidden.grams[name] for name in states.names])
        squared = metrics.pairwise_squared_distances(states.experts)
        tasks = np.array(states.tasks)
        # [task, N, N]: every task has its own number of probes
        self._sums = np.stack([squared[tasks == name].sum(axis=0) for name in states.names])
        self._probes = np.array([(tasks == name).sum() for name in states.names])

    def squared(self, names: Sequence[str]) -> FloatArray:
        """D2 among a group's experts over the group's own probes."""
        at = [self._names.index(name) for name in names]
        total = self._sums[at].sum(axis=0)[np.ix_(at, at)]
        result: FloatArray = total / self._probes[at].sum()
        return result

    def of(self, names: Sequence[str], given: str | Mapping[str, float]) -> tuple[Shares, ...]:
        """The gate's own first, then the others that its states suggest."""
        squared = self.squared(names)
        uniform = np.full(len(names), 1 / len(names))
        shares: dict[str, FloatArray]
        if isinstance(given, str):
            shares = {
                "uniform": uniform,
                "optimal": metrics.minimum_distortion(squared).weights,
                "minimax": self._minimax(names, uniform),
            }
            shares = {given: shares.pop(given), **shares}
        else:
            weights = np.array([given[name] for name in names])
            total = weights.sum()
            shares = {"given": weights / total if total else uniform}
        return tuple(
            Shares(
                kind=kind,
                shares=dict(zip(names, own.tolist(), strict=True)),
                distortion=float(metrics.distortions(squared, own).max()),
            )
            for kind, own in shares.items()
        )

    def _minimax(self, names: Sequence[str], uniform: FloatArray) -> FloatArray:
        at = [self._names.index(name) for name in names]
        try:
            return metrics.minimax_weights(self._grams[np.ix_(at, at, at)]).weights
        except metrics.Undefined:
            return uniform


def distinct(found: Sequence[Shares]) -> list[Shares]:
    """The shares without those that are much like some before them."""
    kept: list[Shares] = []
    for shares in found:
        if all(_differ(shares, other) for other in kept):
            kept.append(shares)
    return kept


def _differ(one: Shares, other: Shares) -> bool:
    return max(abs(one.shares[name] - other.shares[name]) for name in one.shares) > _ALIKE
