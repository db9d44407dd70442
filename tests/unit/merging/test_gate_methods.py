"""Merge methods: the weights mergekit is handed, and the linear merge that each amounts to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from mergekit.merge_methods import registered_methods
from mergekit.merge_methods.api import merge_tensors

from pytest_mergegate.common.errors import GateError, GateFileError
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.gate.merge_methods import traits_of
from pytest_mergegate.merging import ties
from pytest_mergegate.merging.gate_methods import plan_methods
from pytest_mergegate.merging.merge import effective_scales, merge
from pytest_mergegate.merging.method import Method, linear_scales, with_shares
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("a", "b", "c")


def plan(root: Path, method: Any, weights: Any = "uniform", names: Any = NAMES) -> Method:
    """The one method of a gate."""
    experts = {name: f"x/{name}" for name in names}
    merging = {"methods": [method], "weights": weights}
    gate = gate_from({"base": "base", "experts": experts, "merge": merging}, root=root)
    return plan_methods(gate, names)[0]


@pytest.mark.parametrize(
    ("method", "weight"),
    [
        pytest.param("linear", 1 / 3, id="average"),
        pytest.param("task_arithmetic", 1, id="sum"),
        pytest.param({"method": "task_arithmetic", "weight": 0.4}, 0.4, id="weighted sum"),
        pytest.param({"method": "ties", "density": 0.5}, 1, id="ties"),
        pytest.param({"method": "dare_linear", "density": 0.5, "weight": 0.3}, 0.3, id="dare"),
        pytest.param("karcher", 1 / 3, id="no weights"),
    ],
)
def test_uniform_weights(tmp_path: Path, method: Any, weight: float) -> None:
    planned = plan(tmp_path, method)
    assert planned.weights == pytest.approx(dict.fromkeys(NAMES, weight))
    handed = planned.mergekit_parameters.get("weight")
    assert (handed is None) == (method == "karcher")


def test_given_weights(tmp_path: Path) -> None:
    given = {"a": 1, "b": 2, "c": 0}
    scaled = plan(tmp_path, {"method": "task_arithmetic", "weight": 0.5}, given)
    assert plan(tmp_path, "linear", given).weights == given
    assert scaled.weights == {"a": 0.5, "b": 1, "c": 0}


def test_shares_keep_the_sum(tmp_path: Path) -> None:
    shares = {"a": 0.7, "b": 0.3, "c": 0.0}
    averaged = with_shares(plan(tmp_path, "linear"), shares)
    summed = with_shares(plan(tmp_path, "task_arithmetic"), shares)
    assert averaged.weights == pytest.approx(shares)
    assert summed.weights == pytest.approx({"a": 2.1, "b": 0.9, "c": 0})


@pytest.mark.parametrize(
    ("weights", "t"), [("uniform", 0.5), ({"a": 3, "b": 1}, 0.25)], ids=["uniform", "given"]
)
def test_slerp_walks_by_the_share_of_the_second(tmp_path: Path, weights: Any, t: float) -> None:
    planned = plan(tmp_path, "slerp", weights, ("a", "b"))
    assert planned.mergekit_parameters == {"t": t}
    assert linear_scales(planned) == pytest.approx({"a": 1 - t, "b": t})


def test_slerp_of_more_than_two_is_another_method(tmp_path: Path) -> None:
    planned = plan(tmp_path, "slerp", {"a": 2, "b": 1, "c": 1})
    assert planned.label == "slerp (as multislerp)"
    assert planned.name == "multislerp"
    assert planned.mergekit_parameters == {"weight": {"a": 2, "b": 1, "c": 1}}
    assert linear_scales(planned) == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.25})


@pytest.mark.parametrize(
    ("method", "weights", "says"),
    [
        pytest.param("karcher", {"a": 1, "b": 1, "c": 1}, "takes no weights", id="weightless"),
        pytest.param("linear", {"a": 1, "b": -1, "c": 0}, "sum to zero", id="nothing left"),
        pytest.param("tise", "uniform", "did you mean 'ties'", id="unknown method"),
        pytest.param({"method": "ties", "dens": 1}, "uniform", "'density'", id="unknown parameter"),
        pytest.param({"method": "ties", "density": -1}, "uniform", "between", id="out of range"),
        pytest.param({"method": "ties", "normalize": 3}, "uniform", "does not take", id="type"),
        pytest.param("nuslerp", "uniform", "exactly 2 non-base inputs", id="too many experts"),
    ],
)
def test_errors(tmp_path: Path, method: Any, weights: Any, says: str) -> None:
    with pytest.raises(GateFileError, match=says):
        plan(tmp_path, method, weights)


@pytest.mark.parametrize(
    ("method", "weights", "scales"),
    [
        pytest.param("linear", {"a": 2, "b": 1, "c": 1}, (0.5, 0.25, 0.25), id="normalised"),
        pytest.param(
            {"method": "linear", "normalize": False},
            {"a": 0.5, "b": 0.25, "c": 0.25},
            (0.5, 0.25, 0.25),
            id="sums to one",
        ),
        pytest.param({"method": "task_arithmetic", "lambda": 0.5}, "uniform", (0.5,) * 3, id="λ"),
        pytest.param(
            {"method": "task_arithmetic", "normalize": True}, "uniform", (1 / 3,) * 3, id="mean"
        ),
    ],
)
def test_linear_scales(tmp_path: Path, method: Any, weights: Any, scales: Any) -> None:
    known = linear_scales(plan(tmp_path, method, weights))
    assert known == pytest.approx(dict(zip(NAMES, scales, strict=True)))


@pytest.mark.parametrize("method", ["ties", {"method": "linear", "normalize": False, "weight": 2}])
def test_not_linear(tmp_path: Path, method: Any) -> None:
    assert linear_scales(plan(tmp_path, method)) is None


@pytest.fixture(scope="module")
def engine(tiny_pool: Path) -> Engine:
    """The tiny pool, loaded."""
    gate = gate_from(tiny_pool, root=tiny_pool.parent)
    pool, _ = read_pool(gate)
    assert pool is not None
    return Engine(pool, "cpu")


KNOWN = (traits_of(method.spec.name) for method in registered_methods())
USABLE = sorted(traits.name for traits in KNOWN if traits.most is None)


@pytest.mark.parametrize("name", USABLE)
def test_every_method_of_the_installed_mergekit_merges(
    engine: Engine, tmp_path: Path, name: str
) -> None:
    """With nothing but its name it changes what the experts change, and only with numbers."""
    merged = merge(plan(tmp_path, name), engine).weights
    assert sorted(merged) == engine.vectors.parameters()
    assert all(bool(torch.isfinite(weight).all()) for weight in merged.values())
    changed = [p for p, w in merged.items() if not torch.equal(w, engine.model.base_weight(p))]
    assert changed


class TestMerged:
    LINEAR = [  # noqa: RUF012
        {"method": "linear", "normalize": False, "weight": 0.6},
        {"method": "task_arithmetic", "lambda": 0.5, "weight": 0.8},
        {"method": "task_arithmetic", "normalize": True},
    ]

    def test_scaling_the_whole_base_is_refused(self, engine: Engine, tmp_path: Path) -> None:
        with pytest.raises(GateError, match="scale every parameter of the base"):
            merge(plan(tmp_path, self.LINEAR[0]), engine)

    @pytest.mark.parametrize("method", LINEAR[1:], ids=["λ", "normalised"])
    def test_linear_merges_are_faithful(self, engine: Engine, tmp_path: Path, method: Any) -> None:
        """``merge`` itself compares mergekit's result with the scales claimed for it."""
        fidelity = merge(plan(tmp_path, method), engine).fidelity
        assert fidelity is not None
        assert fidelity < 1e-5

    def test_wrong_merge_is_refused(
        self, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        planned = plan(tmp_path, "linear")
        monkeypatch.setattr(
            "pytest_mergegate.merging.fidelity.linear_scales",
            lambda method: dict.fromkeys(method.weights, 0.34),
        )
        with pytest.raises(GateError, match="broken merge: its sum"):
            merge(planned, engine)

    @pytest.mark.parametrize(
        ("broken", "says"),
        [
            pytest.param(lambda base, own: 2 * own - base, "identity", id="doubles"),
            pytest.param(lambda base, own: own + 0.01, "no-op", id="shifts"),
            pytest.param(lambda base, own: own * 0, "identity", id="forgets"),
        ],
    )
    @pytest.mark.parametrize("name", ["dare_ties", "karcher", "model_stock"])
    def test_broken_arithmetic_is_refused(
        self,
        engine: Engine,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        broken: Any,
        says: str,
    ) -> None:
        def merge_tensors(tensors: Any, *_: Any, **__: Any) -> torch.Tensor:
            merged = torch.stack(list(tensors[-2:])).mean(0) if name == "karcher" else tensors[-1]
            return torch.as_tensor(broken(own_base.to(merged), merged))

        parameter = engine.vectors.parameters()[0]
        own_base = engine.model.base_weight(parameter)
        monkeypatch.setattr("pytest_mergegate.merging.fidelity._PARAMETERS", 1)
        monkeypatch.setattr("random.Random.sample", lambda *_: [parameter])
        monkeypatch.setattr("pytest_mergegate.merging.in_place.merge_tensors", merge_tensors)
        with pytest.raises(GateError, match="broken merge"):
            merge(plan(tmp_path, name), engine)

    def test_trimming_differently_is_refused(
        self, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        planned = plan(tmp_path, {"method": "ties", "density": 0.5})
        own = ties._cut
        monkeypatch.setattr(ties, "_cut", lambda expert, _, tiles: own(expert, 1.0, tiles))
        with pytest.raises(GateError, match="broken merge: its election"):
            merge(planned, engine)

    @pytest.mark.parametrize(
        "method",
        [
            {"method": "ties", "density": 0.5},
            {"method": "dare_ties", "density": 0.7, "weight": 0.5},
        ],
        ids=["ties", "dare_ties"],
    )
    def test_effective_scale_is_the_least_squares_one(
        self, engine: Engine, tmp_path: Path, method: Any
    ) -> None:
        planned = plan(tmp_path, method)
        merged, summed = [], []
        for parameter, weight in merge(planned, engine).weights.items():
            merged.append((weight - engine.model.base_weight(parameter)).flatten())
            deltas = [engine.vectors.delta(name, parameter) for name in NAMES]
            summed.append(sum(d for d in deltas if d is not None).flatten())
        x, y = torch.cat(summed).double()[:, None], torch.cat(merged).double()[:, None]
        best = float(torch.linalg.lstsq(x, y).solution)
        assert effective_scales(planned, engine) == pytest.approx(dict.fromkeys(NAMES, best))

    def test_slerp_of_three_is_nearly_their_average(self, engine: Engine, tmp_path: Path) -> None:
        slerp, linear = (merge(plan(tmp_path, m), engine).weights for m in ("slerp", "linear"))
        for name, weight in slerp.items():
            base = engine.model.base_weight(name)
            off = (weight - linear[name]).norm() / (linear[name] - base).norm()
            assert float(off) < 0.3

    def test_digest_tells_merges_apart(self, engine: Engine, tmp_path: Path) -> None:
        dare = plan(tmp_path, {"method": "dare_linear", "density": 0.5})
        merged = [merge(m, engine) for m in (dare, dare, replace(dare, seed=1))]
        for one in merged:
            list(one.weights.values())
        assert merged[0].digest == merged[1].digest != merged[2].digest

    def test_seed_decides_what_is_dropped(self, engine: Engine, tmp_path: Path) -> None:
        dare = plan(tmp_path, {"method": "dare_linear", "density": 0.5})
        one, again, other = (merge(m, engine).weights for m in (dare, dare, replace(dare, seed=1)))
        name = next(iter(one))
        assert torch.equal(one[name], again[name])
        assert not torch.equal(one[name], other[name])

    def test_randomness_outside_is_left_alone(self, engine: Engine, tmp_path: Path) -> None:
        dare = plan(tmp_path, {"method": "dare_linear", "density": 0.5})
        torch.manual_seed(3)
        expected = torch.rand(3)
        torch.manual_seed(3)
        merge(dare, engine)
        assert torch.equal(torch.rand(3), expected)


class TestOneModelIntoAnother:
    """Methods whose base_model is one of two experts, and the one that takes a single expert."""

    @pytest.mark.parametrize("method", ["arcee_fusion", {"method": "nearswap", "t": 0.05}])
    def test_the_first_is_the_base_model(self, engine: Engine, tmp_path: Path, method: Any) -> None:
        planned = plan(tmp_path, method, names=("a", "b"))
        merged = merge(planned, engine)
        assert merged.fidelity is not None
        name, weight = next(iter(merged.weights.items()))
        first, second = (engine.mixed_weights({own: 1.0})[name] for own in ("a", "b"))
        expected = merge_tensors(
            [first, second],
            planned.name,
            parameters=dict(planned.parameters),
            ids=["a", "b"],
            base_index=0,
        )
        torch.testing.assert_close(weight, expected)

    def test_one_adapter_is_put_into_its_base(self, engine: Engine, tmp_path: Path) -> None:
        merged = merge(plan(tmp_path, "passthrough", names=("a",)), engine)
        own = engine.mixed_weights({"a": 1.0})
        for name, weight in own.items():
            torch.testing.assert_close(merged.weights[name], weight)

    def test_a_scale_is_of_the_whole_model(self, engine: Engine, tmp_path: Path) -> None:
        planned = plan(tmp_path, {"method": "passthrough", "scale": 0.5}, names=("a",))
        with pytest.raises(GateError, match="scale every parameter of the base"):
            merge(planned, engine)

    @pytest.mark.parametrize(
        ("method", "names"), [("passthrough", ("a", "b")), ("arcee_fusion", ("a", "b", "c"))]
    )
    def test_of_no_more(self, tmp_path: Path, method: str, names: Any) -> None:
        with pytest.raises(GateFileError, match=f"does not fit a pool of {len(names)} experts"):
            plan(tmp_path, method, names=names)
