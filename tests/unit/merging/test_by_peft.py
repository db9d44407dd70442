"""``route: peft``: what PEFT makes of a pool, judged as it is and written as one adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_of import engine_of
from peft import LoraConfig, PeftModel, get_peft_model
from pools import Adapter, read_gate, write_jsonl, write_pool
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from variants import load

from pytest_mergegate import assess
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.gate.merge_methods import METHODS
from pytest_mergegate.merging import build, by_peft
from pytest_mergegate.merging.build import write_merged
from pytest_mergegate.merging.gate_methods import plan_methods
from pytest_mergegate.merging.merge import effective_scales, merge
from pytest_mergegate.report.recorded import lines_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.merging.method import Method

NAMES = ("a", "b", "c")
WEIGHTS = {"a": 0.5, "b": 0.3, "c": -0.4}
TYPES = [name.removeprefix("peft_") for name, row in METHODS.items() if row.by_peft]


@pytest.fixture(scope="module")
def engine(tiny_pool: Path) -> Engine:
    """The tiny pool, loaded."""
    return engine_of(tiny_pool)


@pytest.fixture(scope="module")
def by_hand(tiny_pool: Path) -> Any:
    """The pool's adapters in PEFT, as a user loads them."""
    folder = tiny_pool.parent
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    model = PeftModel.from_pretrained(base, folder / "adapters" / "a", adapter_name="a")
    for name in NAMES[1:]:
        model.load_adapter(folder / "adapters" / name, adapter_name=name)
    return model


def plan(root: Path, method: Any, weights: Any = "uniform") -> Method:
    experts = {name: f"x/{name}" for name in NAMES}
    merging = {"methods": [method], "weights": weights, "route": "peft"}
    gate = gate_from({"base": "base", "experts": experts, "merge": merging}, root=root)
    return plan_methods(gate, NAMES)[0]


def deltas(model: Any, name: str) -> dict[str, torch.Tensor]:
    """What an adapter in a PEFT model changes, by parameter of the base."""
    found = {}
    for path, module in model.base_model.model.named_modules():
        if name in getattr(module, "lora_A", {}):
            found[f"{path}.weight"] = module.get_delta_weight(name).detach()
    return found


@pytest.mark.parametrize("kind", [kind for kind in TYPES if not kind.startswith("dare")])
def test_it_is_what_peft_makes(engine: Engine, by_hand: Any, tmp_path: Path, kind: str) -> None:
    given: dict[str, Any] = {"density": 0.6} if METHODS[f"peft_{kind}"].trims else {}
    if kind.endswith("svd"):
        given["svd_rank"] = 5
    merged = merge(plan(tmp_path, {"method": kind, **given}, WEIGHTS), engine)
    if kind in by_hand.peft_config:
        by_hand.delete_adapter(kind)
    by_hand.add_weighted_adapter(
        [*NAMES], [*WEIGHTS.values()], kind, combination_type=kind, **given
    )
    expected = deltas(by_hand, kind)
    assert {*merged.weights} == {*expected}
    for name, delta in expected.items():
        moved = merged.weights[name] - engine.model.base_weight(name)
        error = float((moved - delta).norm())
        assert error <= 1e-5 * float(delta.norm()) + 1e-6 * float(merged.weights[name].norm())


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind.startswith("dare")])
def test_what_is_drawn_hangs_on_the_seed(engine: Engine, tmp_path: Path, kind: str) -> None:
    planned = plan(tmp_path, {"method": kind, "density": 0.5})
    merged = merge(planned, engine)
    name, weight = next(iter(merged.weights.items()))
    engine.kept.clear()
    again, other = (merge(m, engine).weights for m in (planned, with_seed(planned, 7)))
    assert torch.equal(weight, again[name])
    assert not torch.equal(weight, other[name])


def with_seed(method: Method, seed: int) -> Method:
    return type(method)(**{**method.plain, "seed": seed})


def test_how_far_it_is_off_the_sum(engine: Engine, tmp_path: Path) -> None:
    found = {kind: merge(plan(tmp_path, kind), engine).fidelity for kind in TYPES}
    ranks = 12  # of three adapters of rank 4
    whole = merge(plan(tmp_path, {"method": "svd", "svd_rank": ranks}), engine).fidelity
    assert found["cat"] is not None
    assert found["linear"] is not None
    assert found["svd"] is not None
    assert whole is not None
    assert found["cat"] < 1e-5
    assert whole < 1e-5
    assert 0.01 < found["svd"] < found["linear"]
    assert found["ties"] is None


def test_the_scale_of_a_sum(engine: Engine, tmp_path: Path) -> None:
    scales = effective_scales(plan(tmp_path, {"method": "cat", "weight": 0.5}), engine)
    assert scales == pytest.approx(dict.fromkeys(NAMES, 0.5), rel=1e-4)


def test_tensors_that_were_renamed_are_put_where_they_are_read(
    engine: Engine, pool_copy: Path, tmp_path: Path
) -> None:
    """PEFT leaves out what it does not know, and an expert with it."""
    file = pool_copy.parent / "adapters" / "c" / "adapter_model.safetensors"
    stored = {k.removeprefix("base_model.model."): t for k, t in load_file(file).items()}
    save_file(stored, file, {"format": "pt"})
    planned = plan(tmp_path, {"method": "ties", "density": 0.6})
    found, wanted = (merge(planned, e).weights for e in (engine_of(pool_copy), engine))
    assert {*found} == {*wanted}
    for name, weight in wanted.items():
        assert torch.equal(weight, engine.model.base_weight(name)) is False
        torch.testing.assert_close(found[name], weight)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """A pool with rsLoRA, and of other ranks and modules."""
    adapters = {
        "a": Adapter(lora={"use_rslora": True}),
        "b": Adapter(lora={"r": 6, "target_modules": ["q_proj", "down_proj"]}),
        "c": Adapter(lora={"use_rslora": True}),
    }
    return write_pool(tmp_path_factory.mktemp("uneven"), seed, adapters)


def report(pool: Path, *methods: Any, **more: Any) -> Any:
    merging = {"route": "peft", "methods": [*methods], "select": "all"}
    settings = {**read_gate(pool), "merge": merging, **more}
    return assess(settings, root=pool.parent, stage="merge", cache=False)


def test_known_errors_show(uneven: Path) -> None:
    """rsLoRA adapters get another scale by cat; svd cuts."""
    found = report(uneven, "cat", "svd")
    assert found.status != "error", found.findings
    cat, svd = found.merges
    assert cat.fidelity > 0.1
    assert svd.fidelity > 0.01
    told = [f.message for f in found.findings if f.code == "MG309"]
    assert [message.partition(":")[0] for message in told] == ["peft_cat", "peft_svd"]
    assert "% off the weighted sum" in told[0]


def test_what_peft_refuses_is_told_in_its_words(uneven: Path) -> None:
    found = report(uneven, "linear")
    assert found.status == "error"
    assert "PEFT's add_weighted_adapter refuses peft_linear" in found.findings[-1].message
    assert "same r value" in found.findings[-1].message


def test_a_full_checkpoint_is_refused(pool_copy: Path) -> None:
    folder = pool_copy.parent
    own = AutoModelForCausalLM.from_pretrained(folder / "base")
    PeftModel.from_pretrained(own, folder / "adapters" / "a").merge_and_unload().save_pretrained(
        folder / "whole"
    )
    experts = {**read_gate(pool_copy)["experts"]}
    experts["a"] = {**experts["a"], "path": "whole"}
    found = report(pool_copy, "cat", experts=experts)
    assert found.status == "error"
    assert "merges LoRA adapters, and a is a full checkpoint" in found.findings[-1].message


def test_reports_and_records_tell_it_from_mergekits(tiny_pool: Path) -> None:
    found = report(tiny_pool, "linear", {"method": "ties", "density": 0.5})
    linear, ties = found.merges
    assert (linear.method, ties.method) == ("peft_linear", "peft_ties density=0.5")
    assert ties.fidelity_reason == "only_in_peft"
    scored = linear.model_copy(
        update={"experts": tuple(e.model_copy(update={"loss": 0.0}) for e in linear.experts)}
    )
    (line,) = lines_of(found.model_copy(update={"merges": (scored,)}))
    assert line.method == "peft_linear"


class TestWriting:
    @pytest.fixture
    def gate(self, tiny_pool: Path) -> Any:
        merging = {"route": "peft", "methods": [{"method": "cat", "weight": 0.5}]}
        return gate_from({**read_gate(tiny_pool), "merge": merging}, root=tiny_pool.parent)

    def test_one_adapter(self, gate: Any, engine: Engine, tmp_path: Path) -> None:
        out = tmp_path / "merged"
        write_merged(gate, None, device="cpu", fingerprints={}, target=out)
        files = {"adapter_config.json", "adapter_model.safetensors"}
        assert {file.name for file in out.iterdir()} == files
        base = AutoModelForCausalLM.from_pretrained(gate.root / "base")
        model = PeftModel.from_pretrained(base, out).eval()
        expected = build.build_merged_model(gate, None, "cpu")
        ids = torch.arange(2, 12)[None]
        with torch.inference_mode():
            found, wanted = model(input_ids=ids).logits, expected(input_ids=ids).logits
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)

    def test_another_one_is_not_left_there(
        self, gate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = by_peft.copy_adapter

        def damaged(merged: Any, folder: Path) -> None:
            own(merged, folder)
            file = folder / "adapter_model.safetensors"
            tensors = load_file(file)
            key = next(key for key in tensors if "lora_B" in key)
            save_file({**tensors, key: tensors[key] * 1.01}, file)

        monkeypatch.setattr(build, "copy_adapter", damaged)
        with pytest.raises(GateError, match="has other numbers"):
            write_merged(gate, None, device="cpu", fingerprints={}, target=tmp_path / "merged")
        assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("merging", "says"),
    [
        ({"route": "peft", "methods": ["slerp"]}, "slerp is no combination type of PEFT's"),
        ({"route": "peft", "methods": ["tise"]}, "did you mean 'ties'"),
        ({"methods": ["peft_cat"]}, "write route: peft and method: cat"),
        ({"route": "peft", "methods": [{"method": "cat", "density": 1}]}, "no parameter 'density'"),
        ({"route": "peft", "methods": [{"method": "svd", "svd_rank": 1.5}]}, "does not take"),
    ],
    ids=str,
)
def test_errors(tmp_path: Path, merging: Any, says: str) -> None:
    experts = {name: f"x/{name}" for name in NAMES}
    with pytest.raises(GateError, match=says):
        plan_methods(
            gate_from({"base": "b", "experts": experts, "merge": merging}, root=tmp_path), NAMES
        )


def test_a_gate_without_methods_takes_the_exact_one(tmp_path: Path) -> None:
    experts = {name: f"x/{name}" for name in NAMES}
    data = {"base": "b", "experts": experts, "merge": {"route": "peft"}}
    (method,) = gate_from(data, root=tmp_path).spec.merge.methods
    assert method.method == "peft_cat"


def test_a_mergekit_configuration_is_not_peft_s(tmp_path: Path) -> None:
    data = {
        "merge_method": "linear",
        "models": [{"model": "b+x", "parameters": {"weight": 1}}, {"model": "b+y"}],
        "mergegate": {"merge": {"route": "peft"}},
    }
    with pytest.raises(GateError, match="merged by mergekit, not by PEFT"):
        gate_from(data, root=tmp_path)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3_images"])
def test_other_layers_and_names(
    random_base: Callable[[str], tuple[Path, Any]], tmp_path: Path, seed: int, architecture: str
) -> None:
    """Weights that are stored transposed, and names that transformers changes when it loads."""
    base, _ = random_base(architecture)
    for k, name in enumerate("ab"):
        torch.manual_seed(seed + k)
        lora = LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(load(base, architecture), lora)
        model.save_pretrained(tmp_path / name, save_embedding_layers=False)
    experts = {name: {"path": str(tmp_path / name)} for name in "ab"}
    for name in "ab":
        write_jsonl(tmp_path / f"{name}.jsonl", [{"input": "ab"}, {"input": "b"}])
        experts[name]["examples"] = f"{name}.jsonl"
    merging = {"route": "peft", "methods": ["cat"]}
    data = {"base": str(base), "experts": experts, "merge": merging, "probes": {"per_task": 2}}
    gate, out = gate_from(data, root=tmp_path), tmp_path / "merged"
    write_merged(gate, None, device="cpu", fingerprints={}, target=out)
    assert (out / "adapter_model.safetensors").is_file()
