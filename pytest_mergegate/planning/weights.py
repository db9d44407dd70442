"""Merge weights of a group of experts: the gate's own, and those that its states suggest."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate import metrics
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.merge_methods import MethodTraits
from pytest_mergegate.merging.method import Method, has_surrogate
from pytest_mergegate.planning.forecasts import GroupForecast
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


def with_merge(gate: Gate, **changes: object) -> Gate:
    """The gate with other settings of its merges."""
    merge = gate.spec.merge.model_copy(update=changes)
    return replace(gate, spec=gate.spec.model_copy(update={"merge": merge}))


def group_gate(gate: Gate, names: Sequence[str]) -> Gate:
    """The gate of some of its experts, under all of its methods."""
    if isinstance(given := gate.spec.merge.weights, dict):
        gate = with_merge(gate, weights={name: given[name] for name in names})
    experts = {name: gate.spec.experts[name] for name in names}
    spec = gate.spec.model_copy(update={"experts": experts})
    return replace(gate, spec=spec, mergekit=None, experts_pattern=None)


def proposed_gate(gate: Gate, group: GroupForecast) -> Gate:
    """The gate whose verdict the forecast of ``group`` was of.

    Under ``select: any`` with the proposed method alone, so that the merge that is gated is the one
    that is shipped.
    """
    part, best = group_gate(gate, group.names), group.best
    if best is None:
        return part
    merge, shares = part.spec.merge, best.shares.shares
    if best.shares.kind == "uniform" or not best.method.is_weighted:
        part = with_merge(part, weights="uniform")
    elif not isinstance(merge.weights, dict):
        # an average divides by their sum; a sum of task vectors takes each at full scale
        weights = {name: round(len(shares) * share, 6) for name, share in shares.items()}
        part = with_merge(part, weights=weights)
    if merge.select == "any":
        part = with_merge(part, methods=(merge.method_called(best.method.label),))
    return part


def group_methods(gate: Gate, names: Sequence[str]) -> tuple[Method, ...]:
    """The gate's methods for a group, as far as a sum of task vectors can stand for them.

    Under ``select: any`` a method that does not fit a group of that size is left out.
    """
    # imports torch, which a gate that explains itself by kept results does without
    from pytest_mergegate.merging.gate_methods import plan_methods

    part = group_gate(gate, names)
    found: list[Method] = []
    for method in part.spec.merge.methods:
        try:
            found += plan_methods(with_merge(part, methods=(method,)), names)
        except GateError:
            if len(names) == len(gate.spec.experts) or gate.spec.merge.select == "all":
                raise
    return tuple(method for method in found if has_surrogate(method))


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


class OwnInputRisk:
    """How likely a group is to fail, from the shifts of the hidden states alone: the worst of
    δ_i² / G⁽ⁱ⁾_ii over its experts under their average (end of THEORY 5)."""

    def __init__(self, grams: Mapping[str, FloatArray]) -> None:
        """``grams`` are G⁽ⁱ⁾ [N, N] of every expert, in the order of their rows."""
        self._names = list(grams)
        self._grams = np.stack(list(grams.values()))

    def of(self, names: Sequence[str]) -> float:
        """0 for a group that keeps every expert, 1 for one that is as far from it as the base."""
        return float(self.by_expert(names, dict.fromkeys(names, 1 / len(names))).max())

    def by_expert(self, names: Sequence[str], scales: Mapping[str, float]) -> FloatArray:
        """δ_i² / G⁽ⁱ⁾_ii of every expert of the group under λ; 0 for one that moves nothing."""
        at = [self._names.index(name) for name in names]
        grams = self._grams[np.ix_(at, at, at)]
        off = np.array([scales[name] for name in names]) - np.eye(len(at))
        moved = np.einsum("ij,ijk,ik->i", off, grams, off)
        own = np.einsum("iii->i", grams)
        relative: FloatArray = np.divide(moved, own, out=np.zeros(len(at)), where=own > 0)
        return relative


class GroupShares:
    """The shares of any group: the weights ``given`` by the gate, and what the states suggest."""

    def __init__(self, hidden: HiddenResult, given: str | Mapping[str, float]) -> None:
        states = hidden.states
        self._given = given
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

    def of(self, names: Sequence[str]) -> tuple[Shares, ...]:
        """The gate's own first, then the others that its states suggest."""
        given, squared = self._given, self.squared(names)
        uniform = np.full(len(names), 1 / len(names))
        if isinstance(given, str):
            optimal, minimax = metrics.minimum_distortion(squared).weights, uniform
            at = [self._names.index(name) for name in names]
            with suppress(metrics.Undefined):
                minimax = metrics.minimax_weights(self._grams[np.ix_(at, at, at)]).weights
            shares = {"uniform": uniform, "optimal": optimal, "minimax": minimax}
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


def distinct(found: Sequence[Shares]) -> list[Shares]:
    """The shares without those that are much like some before them."""
    kept: list[Shares] = []
    for shares in found:
        apart = (max(abs(s - other.shares[n]) for n, s in shares.shares.items()) for other in kept)
        if all(most > _ALIKE for most in apart):
            kept.append(shares)
    return kept
