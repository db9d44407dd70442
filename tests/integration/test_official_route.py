"""mergekit's own ``run_merge`` against the same arithmetic in place, tensor by tensor."""

from __future__ import annotations

import gc
import json
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_of import engine_of
from mergekit import sparsify
from peft import PeftModel
from pools import Adapter, copy_pool, read_gate, write_base, write_gate, write_pool
from transformers import AutoModelForCausalLM

from pytest_mergegate import assess
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.weights.mixing import FactoredTensor
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.merging import in_place, mergekit_process, run_mergekit
from pytest_mergegate.merging.gate_methods import plan_methods
from pytest_mergegate.merging.merge import merge
from pytest_mergegate.merging.official import OfficialWeights, merge_officially, run_officially

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.merging.method import Method

NAMES = ("a", "b", "c")
TIES: dict[str, Any] = {"method": "ties", "density": 0.5}
NEAR = 2e-7
"""What two routes to the same number may differ by: the last bits of a weight."""
DETERMINISTIC = [
    "linear",
    "task_arithmetic",
    TIES,
    "karcher",
    "multislerp",
    {"method": "breadcrumbs", "density": 0.7, "gamma": 0.1},
    {"method": "breadcrumbs_ties", "density": 0.7, "gamma": 0.1},
    "della",
    "della_linear",
    "dare_linear",
    "dare_ties",
    {"method": "sce", "select_topk": 0.5},
    "model_stock",
    "ram",
    "ramplus_tl",
]
OF_TWO = ["slerp", {"method": "slerp", "t": 0.2}, "nuslerp"]


def plan(engine: Engine, method: Any, weights: Any = "uniform") -> Method:
    """The method of a gate on the official route."""
    names = engine.pool.names
    merging = {"methods": [method], "weights": weights, "route": "official"}
    spec = {"base": "base", "experts": {n: n for n in names}, "merge": merging}
    return plan_methods(gate_from(spec, root=Path()), names)[0]


def without(path: Path, name: str) -> Path:
    """A gate beside ``path`` on all experts but one."""
    gate = read_gate(path)
    del gate["experts"][name]
    return write_gate(path.with_name("fewer.yaml"), gate)


def write_checkpoints(folder: Path, seed: int) -> Path:
    """A base and three copies of it with every parameter moved."""
    base = write_base(folder / "base", seed)
    for k, name in enumerate(NAMES, start=1):
        torch.manual_seed(seed + k)
        model = AutoModelForCausalLM.from_pretrained(base)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
    gate = {"base": "base", "experts": {name: name for name in NAMES}}
    return write_gate(folder / "mergegate.yaml", gate)


def has_ties(path: Path) -> bool:
    """Whether round-off decides what TIES keeps somewhere: which of two changes at its cut, or
    the sign of a sum. Equal changes are common: each is a multiple of its weight's last bit.
    """
    engine = engine_of(path)
    method = plan(engine, TIES)
    for name in merge(replace(method, route="in_place"), engine).weights:
        base = engine.model.base_weight(name).float()
        rows = in_place.experts_rows(method, engine, name).values()
        changes = [row.put(torch.empty_like(base)) - base for row in rows]
        kept = []
        for change in changes:
            ordered = change.abs().flatten().sort(descending=True).values
            last = int(TIES["density"] * len(ordered))
            if ordered[last - 1] - ordered[last] < NEAR:
                return True
            kept.append(change.where(change.abs() >= ordered[last - 1], 0.0))
        total = torch.stack(kept).sum(dim=0).abs()
        if ((total > 0) & (total < NEAR)).any():
            return True
    return False


def without_ties(write: Callable[[Path, int], Path], folder: Path, seed: int) -> Path:
    """A pool, drawn again while it has ties."""
    for attempt in range(50):
        path = write(folder / f"draw{attempt}", seed + 1000 * attempt)
        if not has_ties(path):
            return path
    pytest.fail("fifty pools in a row with a tie")


@pytest.fixture(scope="module", params=["lora", "full"])
def pool(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> Path:
    """A pool in a folder whose name mergekit's own syntax cannot hold."""
    write = write_pool if request.param == "lora" else write_checkpoints
    return without_ties(write, tmp_path_factory.mktemp("a+b@c"), seed)


@pytest.fixture(scope="module")
def engine(pool: Path) -> Engine:
    return engine_of(pool)


@pytest.fixture(scope="module")
def pair(pool: Path) -> Engine:
    return engine_of(without(pool, "c"))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting one takes far longer than the merge; paths are unique, so no cache is hit."""

    def run(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        run_mergekit.main(json.loads(Path(command[-1]).read_text()))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(mergekit_process.subprocess, "run", run)


@pytest.fixture(scope="module")
def merged_by_peft(engine: Engine) -> dict[str, dict[str, torch.Tensor]]:
    """Every adapter's own parameters as PEFT adds them up for mergekit; empty for checkpoints."""
    own = {}
    for expert in engine.pool.experts:
        if expert.is_adapter:
            base = AutoModelForCausalLM.from_pretrained(engine.pool.base.path)
            merged = PeftModel.from_pretrained(base, expert.path).merge_and_unload()
            own[expert.name] = dict(merged.named_parameters())
    return own


@pytest.fixture
def of_the_same(
    merged_by_peft: dict[str, dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place too, the experts are to the last bit what mergekit has of PEFT.

    A method that trims is not continuous: where two entries at its threshold are as good as
    equal, round-off says which of them is kept.
    """
    ours = in_place.experts_rows

    def own(method: Method, engine: Engine, parameter: str) -> dict[str, FactoredTensor]:
        found = ours(method, engine, parameter)
        for name in found.keys() & merged_by_peft.keys():
            peft = merged_by_peft[name][parameter].detach()
            mine = found[name].put(torch.empty_like(peft))
            torch.testing.assert_close(mine, peft, rtol=1e-6, atol=1e-7)
            found[name] = FactoredTensor(peft)
        return found

    monkeypatch.setattr(in_place, "experts_rows", own)


def check_same(method: Method, engine: Engine) -> None:
    official = run_officially(method, engine)
    ours = merge(replace(method, route="in_place"), engine).weights
    assert set(ours) <= set(official)
    for name in official:
        expected = ours.get(name, engine.model.base_weight(name))
        torch.testing.assert_close(official[name], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("in_this_process", "of_the_same")
@pytest.mark.parametrize("method", DETERMINISTIC, ids=str)
def test_the_same_merge_as_in_place(engine: Engine, method: Any) -> None:
    check_same(plan(engine, method), engine)


@pytest.mark.usefixtures("in_this_process", "of_the_same")
@pytest.mark.parametrize("method", OF_TWO, ids=str)
def test_the_same_merge_of_two(pair: Engine, method: Any) -> None:
    check_same(plan(pair, method), pair)


@pytest.mark.usefixtures("in_this_process", "of_the_same")
@pytest.mark.parametrize("method", ["linear", TIES], ids=str)
def test_weights_of_each_expert(engine: Engine, method: Any) -> None:
    check_same(plan(engine, method, {"a": 0.2, "b": 0.5, "c": 0.4}), engine)


def same_mask(tensor: torch.Tensor, density: float, rescale_norm: Any = None) -> torch.Tensor:
    """In place of mergekit's draw: drops the same numbers wherever it is asked."""
    places = torch.arange(tensor.numel()).reshape(tensor.shape)
    mask = (torch.sin(places * 12.9898) * 43758.5453 % 1 < density).to(tensor.dtype)
    return sparsify.rescaled_masked_tensor(tensor, mask, rescale_norm)


@pytest.mark.usefixtures("in_this_process", "of_the_same")
@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_the_same_merge_given_the_same_mask(
    engine: Engine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparsify, "bernoulli", same_mask)
    check_same(plan(engine, {"method": name, "density": 0.4}), engine)


@pytest.fixture(scope="module")
def tiny(tiny_pool: Path) -> Engine:
    return engine_of(tiny_pool)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, empty at first."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


class TestRun:
    """The first of them starts mergekit as users do; the others, forks that have imported it."""

    def test_the_folder_goes_with_the_result(self, tiny: Engine, temporary: Path) -> None:
        merged = merge(plan(tiny, "task_arithmetic"), tiny)
        assert isinstance(merged.weights, OfficialWeights)
        assert sorted(merged.weights) == tiny.vectors.parameters()
        assert merged.fidelity is not None
        assert merged.fidelity < 1e-5
        (work,) = temporary.iterdir()
        assert [p.name for p in sorted(work.iterdir())] == ["job.json", "merged"]
        del merged
        gc.collect()
        assert not list(temporary.iterdir())

    @pytest.mark.usefixtures("forked_mergekit")
    def test_a_failure_is_one_line_and_leaves_nothing(self, tiny: Engine, temporary: Path) -> None:
        wrong = replace(plan(tiny, "ties"), parameters={"density": "many"})  # type: ignore[dict-item]
        with pytest.raises(GateError, match=r"own run of ties failed \(.*'many'") as caught:
            merge_officially(wrong, tiny)
        assert "Traceback" not in str(caught.value)
        assert not list(temporary.iterdir())

    @pytest.mark.usefixtures("forked_mergekit")
    def test_what_is_off_the_arithmetic_is_refused(
        self, tiny: Engine, temporary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = mergekit_process.configuration

        def heavier(*given: Any) -> dict[str, Any]:
            config = own(*given)
            config["models"][0]["parameters"]["weight"] *= 1.1
            return config

        monkeypatch.setattr(mergekit_process, "configuration", heavier)
        with pytest.raises(GateError, match="broken merge"):
            merge_officially(plan(tiny, "task_arithmetic"), tiny)

    @pytest.mark.usefixtures("forked_mergekit")
    def test_killed(
        self, tiny: Engine, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        script = tmp_path / "killed.py"
        script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "utf-8")
        monkeypatch.setattr(run_mergekit, "__file__", str(script))
        with pytest.raises(GateError, match="killed by signal 9"):
            merge_officially(plan(tiny, "linear"), tiny)
        assert not list(temporary.iterdir())

    def test_a_temporary_folder_that_mergekit_cannot_read(
        self, tiny: Engine, temporary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        odd = temporary / "a+b"
        odd.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(odd))
        with pytest.raises(GateError, match="set TMPDIR"):
            merge_officially(plan(tiny, "linear"), tiny)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_mergekit")
def test_what_no_expert_changes_is_in_it_where_it_differs(tiny: Engine) -> None:
    """An average that is not normalised scales the embedding, too."""
    half = plan(tiny, {"method": "linear", "normalize": False, "weight": 0.5})
    weights = run_officially(half, tiny)
    embedding = "model.embed_tokens.weight"
    assert embedding not in tiny.vectors.parameters()
    expected = 0.5 * tiny.model.base_weight(embedding)
    torch.testing.assert_close(merge_officially(half, tiny).weights[embedding], expected)
    assert set(weights) == set(tiny.model.parameters)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_mergekit")
def test_half_precision_is_near_enough(tiny_pool: Path, tmp_path: Path) -> None:
    gate = read_gate(tiny_pool) | {"dtype": "bfloat16"}
    engine = engine_of(write_gate(copy_pool(tiny_pool, tmp_path / "pool"), gate))
    for method in ("linear", TIES):
        assert merge_officially(plan(engine, method), engine).weights


@pytest.mark.slow
@pytest.mark.usefixtures("forked_mergekit")
def test_what_plain_lora_cannot_say(tmp_path: Path, seed: int) -> None:
    """Other adapters either merge as they do in place, or are refused by name."""
    dora = Adapter(lora={"use_dora": True})
    path = write_pool(tmp_path, seed, {"a": dora, "b": Adapter(), "c": Adapter()})
    engine = engine_of(path)
    check_same(plan(engine, "linear"), engine)


@pytest.mark.slow
@pytest.mark.usefixtures("any_base", "forked_mergekit")
def test_a_gate_on_the_official_route(tmp_path: Path, seed: int) -> None:
    """It says what the route in place says."""
    path = without_ties(write_pool, tmp_path, seed)
    reports = []
    for route in ("in_place", "official"):
        gate = read_gate(path) | {"merge": {"methods": ["linear", TIES], "route": route}}
        reports.append(assess(gate, root=path.parent, max_disagreement=1.0, cache=False))
    ours, theirs = reports
    assert theirs.status == "pass", theirs.findings
    for one, other in zip(ours.merges, theirs.merges, strict=True):
        for a, b in zip(one.experts, other.experts, strict=True):
            assert a.disagreement == b.disagreement
            assert a.kl == pytest.approx(b.kl, abs=1e-4)
