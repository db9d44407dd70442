"""``method: package.module:function``: what it is handed, what is asked of it, and its mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_of import engine_of
from pools import read_gate, write_gate
from safetensors.torch import load_file

from pytest_mergegate import assess
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.gate.gatefile import gate_from, load_gate
from pytest_mergegate.gate.options import Options
from pytest_mergegate.merging.build import write_merged
from pytest_mergegate.merging.gate_methods import plan_methods
from pytest_mergegate.merging.merge import merge
from pytest_mergegate.report.gating import run_gate

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.merging.method import Method

MODULE = """
import torch

def mean(base, experts):
    return torch.stack(list(experts.values())).mean(0)

def summed(base, experts, *, weights, density=1.0, **settings):
    changes = [weights[name] * (own - base) for name, own in experts.items()]
    return base + settings.get("lambda", 1.0) * density * sum(changes)

def scaled(base, experts, *, scale):
    return base + scale * (mean(base, experts) - base)

def drawing(base, experts, *, name, share):
    own = experts[sorted(experts)[0]]
    assert name.endswith("weight") and base.dtype == torch.float32
    return torch.where(torch.rand(base.shape) < share, own, own)

def any_name(base, experts, **settings):
    base += 1  # a copy
    return mean(base, experts) if settings == {"lambda": 1.0} else base

def largest(base, experts, k=3):
    changes = torch.stack([own - base for own in experts.values()])
    order = changes.abs().flatten(1).argsort(dim=1, descending=True)[:, :k]
    kept = torch.zeros_like(changes).flatten(1)
    kept.scatter_(1, order, changes.flatten(1).gather(1, order))
    return base + kept.mean(0).view(base.shape)

largest.identity = False

def doubled(base, experts):
    return base + 2 * (mean(base, experts) - base)

def shifted(base, experts):
    return mean(base, experts) + 0.1

shifted.identity = False

def differing(base, experts, calls=[0.0]):
    calls[0] += 0.01
    return mean(base, experts) + calls[0] * (mean(base, experts) - base)

differing.identity = False

def raises(base, experts):
    raise SystemExit("bye")

def flat(base, experts):
    return mean(base, experts).flatten()[:3]

def number(base, experts):
    return 3

def infinite(base, experts):
    return mean(base, experts) if len(base) < 48 else mean(base, experts) * torch.inf

infinite.identity = False

def unknown(base, experts):
    return mean(base, experts) * torch.nan

def few(base, experts):
    return mean(base, experts).to_sparse()

def empty(base, experts):
    return mean(base, experts).to("meta")

def half(base, experts):
    return mean(base, experts).half()

half.identity = False

def brain(base, experts):
    return mean(base, experts).bfloat16()

def whole(base, experts):
    return mean(base, experts).long()

def array(base, experts):
    return mean(base, experts).numpy()

def nothing(base, experts):
    mean(base, experts)

def wide(base, experts):
    torch.set_default_dtype(torch.float64)
    return mean(base, experts)

def three(base, experts, weights, /):
    return base

value = 7
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_merges.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def engine(tiny_pool: Path) -> Engine:
    """The tiny pool, loaded."""
    return engine_of(tiny_pool)


def plan(place: Path, method: Any, **merging: Any) -> Method:
    spec = {"method": method} if isinstance(method, str) else dict(method)
    spec["method"] = f"own_merges:{spec['method']}"
    experts = {name: f"x/{name}" for name in "abc"}
    gate = {"base": "base", "experts": experts, "merge": {"methods": [spec], **merging}}
    return plan_methods(gate_from(gate, root=place), ("a", "b", "c"))[0]


@pytest.mark.parametrize(
    ("method", "merging", "scales"),
    [
        ("mean", {}, (1 / 3,) * 3),
        ({"method": "summed", "lambda": 0.5}, {}, (0.5,) * 3),
        ("summed", {"weights": {"a": 0.2, "b": 0.7, "c": 0}}, (0.2, 0.7, 0)),
        ({"method": "drawing", "share": 0.5}, {}, (1, 0, 0)),
        ({"method": "any_name", "lambda": 1.0}, {}, (1 / 3,) * 3),
    ],
    ids=str,
)
def test_what_it_makes_is_the_merge(
    engine: Engine, place: Path, method: Any, merging: Any, scales: Any
) -> None:
    merged = merge(plan(place, method, **merging), engine)
    assert merged.fidelity is not None
    assert merged.fidelity < 1e-5
    expected = engine.mixed_weights(dict(zip("abc", scales, strict=True)))
    assert {*merged.weights} == {*expected}
    for name, weight in merged.weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)


def test_one_that_trims_says_so(engine: Engine, place: Path) -> None:
    merged = merge(plan(place, "largest"), engine)
    (name, weight), *_ = merged.weights.items()
    changed = int((weight != engine.model.base_weight(name)).sum())
    assert 1 <= changed <= 9


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("doubled", "broken merge: its identity"),
        ("shifted", "broken merge: its no-op"),
        ("differing", "broken merge: its repetition"),
        ("raises", "raised SystemExit: bye"),
        ("flat", "returned a tensor of the shape"),
        ("number", "returned a int, no tensor"),
        ("unknown", r"returned NaN or infinity .* look for a division by 0"),
        ("half", r"returned torch\.float16 of tensors in float32.* compute in float32"),
        ("brain", r"returned torch\.bfloat16"),
        ("whole", r"returned torch\.int64"),
        ("array", r"returned a ndarray, no tensor .* return torch\.from_numpy"),
        ("nothing", "returned a NoneType, no tensor"),
        ("few", "is none of plain numbers"),
        ("empty", "is none of plain numbers"),
    ],
)
def test_what_is_no_merge_is_refused(engine: Engine, place: Path, method: str, says: str) -> None:
    with pytest.raises(GateError, match=says):
        merge(plan(place, method), engine)


def test_a_gate_says_so_too(pool_copy: Path) -> None:
    """Where it is first called, for the scales of its sum."""
    (pool_copy.parent / "ours.py").write_text(MODULE)
    settings = {**read_gate(pool_copy), "merge": {"methods": ["ours:unknown"]}}
    report = assess(settings, root=pool_copy.parent, cache=False)
    assert report.status == "error"
    assert "ours:unknown returned NaN or infinity" in report.findings[-1].message


def test_what_it_sets_of_torch_does_not_stay(engine: Engine, place: Path) -> None:
    merge(plan(place, "wide"), engine)
    assert torch.get_default_dtype() == torch.float32


def test_infinity_is_refused(engine: Engine, place: Path) -> None:
    with pytest.raises(GateError, match=r"broken merge|NaN or infinity"):
        [*merge(plan(place, "infinite"), engine).weights.values()]


@pytest.mark.parametrize(
    ("method", "merging", "says"),
    [
        ("man", {}, "cannot be imported"),
        ("value", {}, "is not callable"),
        ("three", {}, "is called with base and experts"),
        ({"method": "scaled", "scael": 1}, {}, "did you mean 'scale'"),
        ({"method": "summed", "weights": 1}, {}, "no parameter 'weights'"),
        ("drawing", {}, "needs share"),
        ({"method": "drawing", "share": 1, "name": 1}, {}, "no parameter 'name'"),
        ("mean", {"weights": {"a": 1, "b": 1, "c": 1}}, "takes no weights"),
        ("mean", {"route": "official"}, "mergekit has no merge method"),
    ],
    ids=str,
)
def test_errors_of_the_plan(place: Path, method: Any, merging: Any, says: str) -> None:
    with pytest.raises(GateError, match=says):
        plan(place, method, **merging)


@pytest.mark.parametrize("method", ["a:b:c", "a:", ":f", "a b:c"])
def test_what_is_no_name_of_a_function(place: Path, method: str) -> None:
    gate = {"base": "b", "experts": {"a": "x", "b": "y"}, "merge": {"methods": [method]}}
    with pytest.raises(GateError, match=r"write package\.module:function"):
        gate_from(gate, root=place)


def test_a_mergekit_file_names_none(place: Path) -> None:
    (place / "merge.yml").write_text(
        "merge_method: own_merges:mean\nbase_model: b\nmodels: [{model: b+x}, {model: b+y}]\n"
    )
    with pytest.raises(GateError, match="no method of mergekit's"):
        load_gate(place / "merge.yml")


def test_a_gate_sees_that_its_code_has_changed(pool_copy: Path, tmp_path: Path) -> None:
    """Nothing that a function made is taken from the cache; a run again gives the same."""
    code = pool_copy.parent / "ours.py"
    text = "def merged(base, experts):\n    return sum(experts.values()) / len(experts)\n"
    settings = {**read_gate(pool_copy), "budget": {"max_loss": 100.0}}
    write_gate(pool_copy, settings | {"merge": {"methods": ["ours:merged"]}})
    found = []
    for change in ("", "", "\n\nmerged.identity = False\n"):
        odd = text.replace(" / len(experts)", " / len(experts) * 0.9 + 0.1 * base")
        code.write_text((odd if change else text) + change)
        report = run_gate(load_gate(pool_copy), Options(cache=tmp_path))
        assert report.status != "error", report.findings
        (record,) = report.merges
        assert record.method == "ours:merged"
        found.append(record)
    assert found[0].digest == found[1].digest != found[2].digest
    linear = {**settings, "merge": {"methods": ["linear"]}}
    (mean,) = assess(linear, root=pool_copy.parent, cache=False).merges
    for own, other in zip(found[0].experts, mean.experts, strict=True):
        assert own.kl == pytest.approx(other.kl, abs=1e-5)


def test_it_is_written(pool_copy: Path, tmp_path: Path) -> None:
    text = "def one(base, experts):\n    return experts['a']\n"
    (pool_copy.parent / "ours.py").write_text(text)
    settings = {**read_gate(pool_copy), "merge": {"methods": ["ours:one"]}}
    gate, out = gate_from(settings, root=pool_copy.parent), tmp_path / "merged"
    write_merged(gate, None, device="cpu", fingerprints={}, target=out)
    written = load_file(out / "model.safetensors")
    own = engine_of(pool_copy).mixed_weights({"a": 1.0})
    for name, weight in own.items():
        torch.testing.assert_close(written[name], weight)
