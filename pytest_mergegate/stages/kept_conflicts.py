"""The conflict stage, from the cache where the same task vectors were compared before."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.entries import JSON, pack_json, unpack_json
from pytest_mergegate.engine.running.workspace import own_code
from pytest_mergegate.stages.conflict import (
    ConflictResult,
    PairConflict,
    PartConflicts,
    run_conflict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_mergegate.engine.running.cache import Cache
    from pytest_mergegate.engine.running.entries import Arrays
    from pytest_mergegate.engine.weights.tensor_sums import Dense
    from pytest_mergegate.pool.pool import Pool

_PACKAGES = ("pytest-mergegate", "numpy", "torch", "transformers", "peft")


def find_conflicts(
    pool: Pool, cache: Cache, dense: Dense, progress: Callable[[float], None], device: str
) -> ConflictResult:
    """What ``run_conflict`` finds, computed once for the same experts, base and settings."""
    key = {
        "kind": "conflicts",
        "engine": own_code(),
        "versions": {name: version(name) for name in _PACKAGES},
        "base": pool.base.fingerprint,
        "experts": [(expert.name, expert.fingerprint) for expert in pool.experts],
        "conflict": pool.spec.conflict.model_dump(mode="json"),
        "device": device.partition(":")[0],
    }
    found = cache.find(key)
    if found is not None:
        return _result(found)
    result = run_conflict(pool, dense, progress, device)
    cache.keep(key, _arrays(result))
    return result


def _arrays(result: ConflictResult) -> Arrays:
    plain = {
        "pairs": [asdict(pair) for pair in result.pairs],
        "norms": dict(result.norms),
        "ratios": list(result.layers[0].ratios) if result.layers else [],
        "layers": [part.name for part in result.layers],
        "tensors": [part.name for part in result.tensors],
    }
    parts = {"layers": _stack(result.layers), "tensors": _stack(result.tensors)}
    return {**pack_json(plain), **parts}


def _stack(parts: Sequence[PartConflicts]) -> NDArray[np.float64]:
    """[parts, ratios, experts, experts]."""
    return np.array([[*part.ratios.values()] for part in parts], dtype=np.float64)


def _result(arrays: Mapping[str, NDArray[Any]]) -> ConflictResult:
    plain = unpack_json({JSON: arrays[JSON]})

    def parts(kind: str) -> tuple[PartConflicts, ...]:
        return tuple(
            PartConflicts(name=name, ratios=dict(zip(plain["ratios"], ratios, strict=True)))
            for name, ratios in zip(plain[kind], arrays[kind], strict=True)
        )

    return ConflictResult(
        pairs=tuple(_pair(pair) for pair in plain["pairs"]),
        norms=plain["norms"],
        layers=parts("layers"),
        tensors=parts("tensors"),
    )


def _pair(plain: Mapping[str, Any]) -> PairConflict:
    values = {name: Value.of(v) for name, v in plain.items() if name not in {"a", "b"}}
    return PairConflict(a=plain["a"], b=plain["b"], **values)
