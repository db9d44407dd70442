"""Merges by singular vectors against dense ones in float64, as the papers have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from engine_of import engine_of
from pools import read_gate

from pytest_mergegate import assess
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.weights.mixing import FactoredTensor
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.gate.merge_methods import METHODS
from pytest_mergegate.merging import core_space
from pytest_mergegate.merging.gate_methods import plan_methods
from pytest_mergegate.merging.in_place import own_arithmetic
from pytest_mergegate.merging.merge import merge
from pytest_mergegate.merging.method import Method

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_mergegate.engine.running.engine import Engine

    Doubles = NDArray[np.float64]

OURS = [name for name, row in METHODS.items() if (row.arithmetic or "").count("core_space")]
CASES: list[dict[str, Any]] = [
    {"name": "core_space"},
    {"name": "core_space", "density": 0.3, "lambda": 0.7},
    {"name": "tsv_m"},
    {"name": "tsv_m", "lambda": 1.5},
    {"name": "iso_c"},
    {"name": "iso_c", "lambda": 0.4},
]


def svd(matrix: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """The singular vectors and values above zero."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    kept = s > 1e-6 * max(s.max(initial=0.0), 1e-300)
    return u[:, kept], s[kept], v[kept]


def naive_iso_c(taus: list[Doubles], _: list[Any], **__: float) -> Doubles:
    u, s, v = svd(np.sum(taus, axis=0))
    return u @ np.diag(np.full(len(s), s.mean() if len(s) else 0.0)) @ v


def naive_tsv_m(taus: list[Doubles], _: list[Any], **__: float) -> Doubles:
    k = min(taus[0].shape) // len(taus)
    parts = [svd(tau) for tau in taus]
    u = np.hstack([u[:, :k] for u, _, _ in parts])
    s = np.concatenate([s[:k] for _, s, _ in parts])
    v = np.vstack([v[:k] for _, _, v in parts])
    p_u, _, q_u = svd(u)
    p_v, _, q_v = svd(v)
    return p_u @ q_u @ np.diag(s) @ p_v @ q_v


def naive_core_space(
    taus: list[Doubles], factors: list[tuple[Doubles, Doubles]], *, density: float = 1.0
) -> Doubles:
    u = np.linalg.svd(np.hstack([b for b, _ in factors]), full_matrices=False)[0]
    v = np.linalg.svd(np.vstack([a for _, a in factors]), full_matrices=False)[2]
    cores = np.stack([u.T @ tau @ v.T for tau in taus])
    for core in cores:
        kept = max(1, int(density * core.size))
        least = np.sort(np.abs(core), axis=None)[-kept]
        core[np.abs(core) < least] = 0.0
    sign = np.sign(cores.sum(axis=0))
    agreeing = np.where(np.sign(cores) == sign, cores, 0.0)
    return u @ (agreeing.sum(0) / np.maximum((agreeing != 0).sum(0), 1)) @ v


NAIVE = {"core_space": naive_core_space, "tsv_m": naive_tsv_m, "iso_c": naive_iso_c}


def planned(name: str, names: list[str], **parameters: float) -> Method:
    return Method(
        label=name,
        name=name,
        parameters=parameters,
        weights=dict.fromkeys(names, 1 / len(names)),
        seed=0,
        takes_base=True,
        takes_weights=False,
    )


def ours(
    case: dict[str, Any], base: torch.Tensor, experts: dict[str, FactoredTensor]
) -> torch.Tensor:
    method = planned(names=[*experts], **case)
    arithmetic, place = own_arithmetic(method), torch.empty(base.shape)
    assert arithmetic is not None
    arithmetic(method, FactoredTensor(base), experts, place)
    return place


def expected(case: dict[str, Any], taus: list[Any], factors: list[Any]) -> Doubles:
    given = {key: value for key, value in case.items() if key not in {"name", "lambda"}}
    return case.get("lambda", 1.0) * NAIVE[case["name"]](taus, factors, **given)


def assert_close(merged: torch.Tensor, base: torch.Tensor, change: Doubles) -> None:
    """To 1e-5 of the change, beside the round-off of its sum with the base."""
    found = merged.double().numpy() - base.double().numpy()
    error = np.linalg.norm(found - change)
    rounding = 2**-24 * np.linalg.norm(base.double().numpy() + change)
    assert error <= 1e-5 * np.linalg.norm(change) + rounding


@pytest.mark.parametrize("shape", [(40, 33), (24, 61), (50, 50)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_loras_in_factors(shape: tuple[int, int], case: Any, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator) * 0.05
    experts, factors = {}, []
    for k in range(count):
        rank, scale = k + 2, 0.5 + k / 4
        b = torch.randn(shape[0], rank, generator=generator)
        a = torch.randn(rank, shape[1], generator=generator)
        experts[f"e{k}"] = FactoredTensor(base, [(b, a, scale)])
        factors.append((scale * b.double().numpy(), a.double().numpy()))
    taus = [b @ a for b, a in factors]
    assert_close(ours(case, base, experts), base, expected(case, taus, factors))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", ["dense", "whole"])
def test_changes_without_factors(case: Any, kind: str, seed: int) -> None:
    """Full checkpoints: Core Space takes the factors that singular values give."""
    generator = torch.Generator().manual_seed(seed)
    base, taus = torch.zeros(30, 22), []
    experts = {}
    for name in "abc":
        tau = torch.randn(base.shape, generator=generator)
        taus.append(tau.double().numpy())
        whole = kind == "whole"
        experts[name] = (
            FactoredTensor(tau, whole=True) if whole else FactoredTensor(base, dense=tau)
        )
    factors = [(u * np.sqrt(s), np.sqrt(s)[:, None] * v) for u, s, v in map(svd, taus)]
    assert_close(ours(case, base, experts), base, expected(case, taus, factors))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shape", [(17,), (3, 5, 4)], ids=str)
def test_what_is_no_matrix_is_averaged(case: Any, shape: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    base, *taus = (torch.randn(shape, generator=generator) for _ in range(4))
    experts = {name: FactoredTensor(base, dense=t) for name, t in zip("abc", taus, strict=True)}
    merged = ours(case, base, experts)
    mean = case.get("lambda", 1.0) * torch.stack(taus).double().mean(0)
    torch.testing.assert_close(merged, (base + mean).float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OURS)
def test_one_expert_many_times(name: str, seed: int) -> None:
    """Directions that all share are told once; the sum of copies has their mean length."""
    generator = torch.Generator().manual_seed(seed)
    b, a = torch.randn(20, 3, generator=generator), torch.randn(3, 16, generator=generator)
    base = torch.zeros(20, 16)
    copies = {n: FactoredTensor(base, [(b, a, 0.5)]) for n in "abcd"}
    change = 0.5 * (b @ a).double().numpy()
    wanted = naive_iso_c([4 * change], []) if name == "iso_c" else change
    assert_close(ours({"name": name}, base, copies), base, wanted)


@pytest.mark.parametrize("name", OURS)
def test_one_that_changes_nothing_here(name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    b, a = torch.randn(20, 2, generator=generator), torch.randn(2, 16, generator=generator)
    base = torch.zeros(20, 16)
    experts = {"a": FactoredTensor(base, [(b, a, 1.0)]), "b": FactoredTensor(base)}
    change = (b @ a).double().numpy()
    wanted = naive_iso_c([change], []) if name == "iso_c" else change
    assert_close(ours({"name": name}, base, experts), base, wanted)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("kind", ["factors", "dense", "whole"])
def test_nan_is_seen(name: str, kind: str) -> None:
    base, odd = torch.zeros(4, 4), torch.full((4, 1), torch.nan)
    own = {
        "factors": FactoredTensor(base, [(odd, torch.ones(1, 4), 1.0)]),
        "dense": FactoredTensor(base, dense=odd @ torch.ones(1, 4)),
        "whole": FactoredTensor(odd @ torch.ones(1, 4), whole=True),
    }[kind]
    assert bool(ours({"name": name}, base, {"a": own, "b": own}).isnan().all())


@pytest.fixture(scope="module")
def engine(tiny_pool: Path) -> Engine:
    """The tiny pool, loaded."""
    return engine_of(tiny_pool)


def plan(engine: Engine, method: Any, root: Path) -> Method:
    experts = {name: f"x/{name}" for name in engine.pool.names}
    gate = gate_from(
        {"base": "base", "experts": experts, "merge": {"methods": [method]}}, root=root
    )
    return plan_methods(gate, engine.pool.names)[0]


@pytest.mark.parametrize("case", CASES[::2], ids=str)
def test_a_pool_of_adapters(engine: Engine, tmp_path: Path, case: Any) -> None:
    spec = {"method": case["name"], **{k: v for k, v in case.items() if k != "name"}}
    merged = merge(plan(engine, spec, tmp_path), engine)
    assert merged.fidelity is not None
    assert merged.fidelity < 1e-5
    for parameter, weight in merged.weights.items():
        factors = [engine.vectors.factors(name, parameter) for name in engine.vectors.names]
        pairs = [tuple(f.double().numpy() for f in both) for both in factors if both]
        change = expected(case, [b @ a for b, a in pairs], pairs)
        assert_close(weight, engine.model.base_weight(parameter), change)


def test_a_gate_of_all_three(tiny_pool: Path) -> None:
    settings = {**read_gate(tiny_pool), "merge": {"methods": OURS, "select": "all"}}
    report = assess(settings, root=tiny_pool.parent, stage="merge", cache=False)
    assert report.status != "error", report.findings
    assert [merge.method for merge in report.merges] == OURS
    assert {forecast.method for forecast in report.forecasts} == {*OURS}
    assert len({merge.digest for merge in report.merges}) == len(OURS)


@pytest.mark.parametrize(
    ("name", "part", "says"),
    [
        ("tsv_m", "_nearest_orthonormal", "identity"),
        ("core_space", "_balanced", "identity"),
        ("iso_c", "_isotropic", "isotropy"),
    ],
)
def test_broken_arithmetic_is_refused(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, part: str, says: str
) -> None:
    own = getattr(core_space, part)

    def doubled(*given: Any) -> Any:
        found = own(*given)
        return (2 * found[0], found[1]) if isinstance(found, tuple) else 2 * found

    monkeypatch.setattr(core_space, part, doubled)
    with pytest.raises(GateError, match=f"broken merge: its {says}"):
        merge(plan(engine, name, tmp_path), engine)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        pytest.param({"method": "tsv_m", "density": 0.5}, "no parameter 'density'", id="parameter"),
        pytest.param({"method": "core_space", "density": 2}, "between 0 and 1", id="range"),
        pytest.param("iso-c", "did you mean 'iso_c'", id="name"),
    ],
)
def test_errors(engine: Engine, tmp_path: Path, method: Any, says: str) -> None:
    with pytest.raises(Exception, match=says):
        plan(engine, method, tmp_path)
