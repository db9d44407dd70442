"""Stage 2: how the task vectors conflict, for every pair of experts (THEORY 2)."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.common.plain import Float64s, result
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.workspace import own_code
from pytest_mergegate.metrics.pairwise import (
    QUANTITIES,
    RATIOS,
    SQUARE_A,
    PairwiseConflicts,
    propagated_error,
)
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.stages.context import Context, Results

if TYPE_CHECKING:  # which import numba
    from pytest_mergegate.engine.weights.conflicts import TensorConflicts
    from pytest_mergegate.engine.weights.tensor_sums import Dense

Doubles = NDArray[np.float64]

_PACKAGES = ("pytest-mergegate", "numpy", "torch", "transformers", "peft")
_LAYER = re.compile(r"(.+?\.\d+)\.")


@result
class PairConflict:
    """The conflict ratios of one pair, over the tensors that either expert adapts."""

    a: str
    b: str
    magnitude_change_ratio: Value
    sign_change_ratio: Value
    sign_change_ratio_of_base: Value
    """The same count over all parameters of the base."""
    conflicting_magnitude_ratio: Value
    cosine: Value
    cosine_mean: Value
    """Mean of the per-tensor cosines."""


@result
class PartConflicts:
    """The ratios within one layer or one tensor, for every pair."""

    name: str
    ratios: Mapping[str, Float64s]
    """By name, [experts, experts]; NaN where undefined. Estimates, where rows were sampled."""


@result
class ConflictResult:
    """What the weights say."""

    pairs: tuple[PairConflict, ...]
    norms: Mapping[str, float]
    """‖τ_i‖ by expert."""
    layers: tuple[PartConflicts, ...]
    tensors: tuple[PartConflicts, ...]

    def worst_layer(self, ratio: str, a: str, b: str) -> tuple[str, float] | None:
        """Where a pair's ratio is largest, and how large; None where no layer stands out."""
        names = list(self.norms)
        within = [
            (layer.name, float(layer.ratios[ratio][names.index(a), names.index(b)]))
            for layer in self.layers
        ]
        known = [found for found in within if not math.isnan(found[1])]
        return max(known, key=lambda found: found[1]) if len(known) > 1 else None


def run(context: Context, earlier: Results) -> Iterator[Results]:
    """Compare all pairs once for the same experts, base and settings. Raises GateError."""
    pool, device = context.pool, context.options.device
    pool.base.start_hashing()
    key = {
        "kind": "conflicts",
        "engine": own_code(),
        "versions": {name: version(name) for name in _PACKAGES},
        "base": pool.base.fingerprint,
        "experts": [(expert.name, expert.fingerprint) for expert in pool.experts],
        "conflict": pool.spec.conflict.model_dump(mode="json"),
        "device": device.partition(":")[0],
    }

    def dense(expert: str, parameter: str) -> Any:
        delta = context.vectors.delta(expert, parameter)
        assert delta is not None
        return delta.numpy()

    def compute() -> ConflictResult:
        return run_conflict(pool, dense, lambda done: context.tell("conflict", done), device)

    yield replace(earlier, conflict=context.cache.kept(ConflictResult, key, compute))


def run_conflict(
    pool: Pool, dense: "Dense", progress: Callable[[float], None], device: str = "cpu"
) -> ConflictResult:
    """Compute every pair's ratios in one pass over the parameters.

    ``dense`` gives τ of an expert and a parameter that only a library can work out; ``device`` is
    ``auto``, ``cpu`` or ``cuda[:i]``. Raises PoolError for what cannot be read, and for a τ that
    is not finite, GateError for a device that is not there.
    """
    # imports numba
    from pytest_mergegate.engine.weights.conflicts import accelerator_of, tensor_conflicts

    found: list[TensorConflicts] = []
    uncertainty = _Uncertainty(len(pool.experts))
    parameters = {name for expert in pool.experts for name in expert.changes}
    with closing(tensor_conflicts(pool, dense, accelerator_of(device, pool))) as each:
        for tensor in each:
            uncertainty.add(tensor)
            found.append(replace(tensor, covariances=None))  # too large to keep
            progress(len(found) / len(parameters))
    tensors = PairwiseConflicts.of_tensors(
        np.stack([tensor.triangles for tensor in found], axis=1),
        np.stack([tensor.changed for tensor in found]),
        np.array([tensor.size for tensor in found]),
    )
    names = [tensor.parameter for tensor in found]
    layers = np.array([layer_of(name) for name in names])
    whole, by_tensor = tensors.total(), _ratios(tensors)
    sampled = pool.spec.conflict.mode == "sampled"
    errors = uncertainty.errors(whole, tensors, pool.base.parameters) if sampled else {}
    return ConflictResult(
        pairs=_pairs(pool, whole, by_tensor["cosine"], errors),
        norms=dict(zip(pool.names, np.sqrt(whole.sums[SQUARE_A, :, 0]).tolist(), strict=True)),
        layers=tuple(
            PartConflicts(name=layer, ratios=_ratios(tensors.total(layers == layer)))
            for layer in sorted(set(layers.tolist()), key=_by_number)
        ),
        tensors=tuple(
            PartConflicts(name=name, ratios={ratio: of[k] for ratio, of in by_tensor.items()})
            for k, name in enumerate(names)
        ),
    )


def layer_of(parameter: str) -> str:
    """``model.layers.3`` of ``model.layers.3.mlp.up_proj.weight``; the module outside of layers."""
    match = _LAYER.match(parameter)
    return match[1] if match else parameter.rpartition(".")[0] or parameter


def _ratios(conflicts: PairwiseConflicts) -> dict[str, Doubles]:
    return {ratio: getattr(conflicts, ratio)() for ratio in RATIOS}


class _Uncertainty:
    """Of what was estimated from a sample of the rows."""

    def __init__(self, experts: int) -> None:
        self._covariances = np.zeros((QUANTITIES, QUANTITIES, experts, experts))
        self._cosines = np.zeros((experts, experts))

    def add(self, tensor: "TensorConflicts") -> None:
        """Count one more parameter."""
        if tensor.covariances is None:
            return
        conflicts = PairwiseConflicts.of_tensors(
            tensor.triangles, tensor.changed, np.array(tensor.size)
        )
        self._covariances += tensor.covariances
        error = propagated_error(conflicts.gradient_of("cosine"), tensor.covariances)
        self._cosines += error**2

    def errors(
        self, whole: PairwiseConflicts, tensors: PairwiseConflicts, parameters: int
    ) -> dict[str, Doubles]:
        """Standard errors by ratio; ``parameters`` are those of the base."""
        gradients = {ratio: whole.gradient_of(ratio) for ratio in RATIOS}
        gradients["sign_change_ratio_of_base"] = whole.gradient_of("sign_change_ratio", parameters)
        found = {n: propagated_error(g, self._covariances) for n, g in gradients.items()}
        count = np.isfinite(tensors.cosine()).sum(axis=0)
        found["cosine_mean"] = np.sqrt(self._cosines) / np.maximum(count, 1)
        return found


def _pairs(
    pool: Pool, whole: PairwiseConflicts, cosines: Doubles, errors: Mapping[str, Doubles]
) -> tuple[PairConflict, ...]:
    found, count = _ratios(whole), np.isfinite(cosines).sum(axis=0)
    found["sign_change_ratio_of_base"] = whole.sign_change_ratio(pool.base.parameters)
    # over the tensors that have a cosine, NaN where there is none
    found["cosine_mean"] = np.nansum(cosines, axis=0) / np.where(count > 0, count, np.nan)
    spread = 0.0
    if errors:  # 95 % lie within, as uncertain as if one tensor were all there is
        from scipy.special import stdtrit

        spread = float(stdtrit(pool.spec.conflict.rows // 2, 0.975))
    return tuple(
        PairConflict(
            a=pool.names[i],
            b=pool.names[j],
            **{
                name: _value(
                    name, float(ratio[i, j]), errors[name][i, j] if errors else None, spread
                )
                for name, ratio in found.items()
            },
        )
        for i, j in combinations(range(len(pool.names)), 2)
    )


def _by_number(layer: str) -> list[tuple[bool, int, str]]:
    """Layer 2 before layer 10."""
    parts = layer.split(".")
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _value(name: str, number: float, error: float | None, spread: float) -> Value:
    if math.isnan(number):
        none_shared = name == "cosine_mean"
        return Value.missing("no_shared_tensors" if none_shared else "zero_task_vectors")
    if error is None:
        return Value(number=number)
    error, least = float(error), -1.0 if name.startswith("cosine") else 0.0
    low, high = number - spread * error, number + spread * error
    return Value(number=number, interval=(max(low, least), min(high, 1.0)), standard_error=error)
