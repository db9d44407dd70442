"""mergekit configurations as gate files: what they become, and every error with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pytest_mergegate.common.errors import GateFileError
from pytest_mergegate.gate.gatefile import Gate, gate_from, load_gate

if TYPE_CHECKING:
    from pathlib import Path

TIES = """\
merge_method: ties
base_model: base
models:
  - model: base+x/a
    parameters: {weight: 0.5}
  - model: base+x/b
    parameters: {weight: 0.3}
parameters: {density: 0.5, normalize: true}
dtype: bfloat16
"""


def load(folder: Path, text: str) -> Gate:
    """The gate of ``text`` as a file."""
    file = folder / "merge.yml"
    file.write_text(text, encoding="utf-8")
    return load_gate(file)


def problems(folder: Path, text: str) -> list[str]:
    """The lines of the error that ``text`` gives."""
    with pytest.raises(GateFileError) as caught:
        load(folder, text)
    return str(caught.value).split("\n")


def config(method: str, *models: str, **more: Any) -> str:
    """A configuration with one weight for all where it takes any."""
    return yaml.safe_dump(
        {"merge_method": method, "models": [{"model": m} for m in models], **more}, sort_keys=False
    )


def test_a_plain_file_is_a_gate_s_own_method(tmp_path: Path) -> None:
    gate = load(tmp_path, TIES)
    spec = gate.spec
    assert spec.base == "base"
    assert {name: e.path for name, e in spec.experts.items()} == {"a": "x/a", "b": "x/b"}
    (method,) = spec.merge.methods
    assert (method.method, method.parameters) == ("ties", {"density": 0.5, "normalize": True})
    assert (spec.merge.weights, spec.merge.route) == ({"a": 0.5, "b": 0.3}, "in_place")
    assert spec.dtype == "bfloat16"
    assert gate.mergekit is not None
    assert gate.mergekit.why_official is None
    assert gate.mergekit.written == {"a": "base+x/a", "b": "base+x/b"}
    assert gate.where("experts", "b") == "merge.yml:6"
    assert gate.where("merge", "methods", 0) == "merge.yml:1"


def test_paths_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As mergekit reads them, where nothing lies beside the file."""
    for name in ("base", "x/a", "x/b", "sub/x/b"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path)
    gate = load(tmp_path / "sub", TIES)
    assert gate.spec.base == "../base"
    assert {n: e.path for n, e in gate.spec.experts.items()} == {"a": "../x/a", "b": "x/b"}


def test_a_mapping_is_as_good_as_a_file(tmp_path: Path) -> None:
    gate = gate_from(yaml.safe_load(TIES), root=tmp_path)
    assert list(gate.spec.experts) == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"parameters": {"density": [0.1, 0.9]}}, "density is no single number"),
        ({"parameters": {"normalize": "yes please"}}, "normalize is no single number"),
        ({"tokenizer_source": "union"}, "it builds a tokenizer"),
        ({"tokenizer": {"source": "base"}}, "it builds a tokenizer"),
        ({"out_dtype": "float16"}, "out_dtype is another than dtype"),
        ({"merge_method": "linear"}, "linear averages the base in"),
        ({"merge_method": "nuslerp"}, "nuslerp is given a base"),
        ({"merge_method": "sce"}, "sce takes no weights"),
        ({"base_model": None}, "it has no base_model"),
    ],
    ids=str,
)
def test_what_mergekit_itself_must_run(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    gate = gate_from({**yaml.safe_load(TIES), **change}, root=tmp_path)
    assert gate.mergekit is not None
    assert gate.mergekit.why_official == why
    assert gate.spec.merge.route == "official"
    assert gate.spec.merge.weights == "uniform"
    models = [entry["model"] for entry in gate.mergekit.config["models"]]
    assert models == [{"expert": "a"}, {"expert": "b"}]


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"weight": {"value": 0.3}}, "weight is no single number"),
        ({"weight": 0.3, "density": 0.9}, "density differs from model to model"),
        ({}, "a model has no weight"),
    ],
    ids=str,
)
def test_settings_of_one_model(tmp_path: Path, own: dict[str, Any], why: str) -> None:
    data = yaml.safe_load(TIES)
    data["models"][1]["parameters"] = own
    gate = gate_from(data, root=tmp_path)
    assert gate.mergekit is not None
    assert gate.mergekit.why_official == why


def test_a_common_setting_of_all_models_is_the_method_s(tmp_path: Path) -> None:
    data = yaml.safe_load(TIES)
    for entry in data["models"]:
        entry["parameters"]["density"] = 0.2
    gate = gate_from(data, root=tmp_path)
    assert gate.spec.merge.methods[0].parameters["density"] == 0.2


def test_the_base_among_the_models_is_no_expert(tmp_path: Path) -> None:
    data = yaml.safe_load(TIES)
    data["models"].insert(0, {"model": "base"})
    gate = gate_from(data, root=tmp_path)
    assert list(gate.spec.experts) == ["a", "b"]
    assert gate.mergekit is not None
    assert gate.mergekit.why_official is None
    assert gate.mergekit.config["models"][0] == {"model": {"expert": None}}


def test_slices(tmp_path: Path) -> None:
    sources = [{"model": m, "layer_range": [0, 4]} for m in ("org/a@main", "org/b")]
    data = {
        "merge_method": "slerp",
        "base_model": "org/b",
        "slices": [{"sources": sources}],
        "parameters": {"t": 0.5},
        "mergegate": {"base": "org/base"},
    }
    gate = gate_from(data, root=tmp_path)
    # slerp walks from base_model, which is an expert
    assert list(gate.spec.experts) == ["b", "a"]
    assert gate.spec.base == "org/base"
    assert gate.mergekit is not None
    assert gate.mergekit.why_official == "it has slices"
    assert gate.mergekit.config["base_model"] == {"expert": "b"}


def test_slerp_of_two_models_is_plain(tmp_path: Path) -> None:
    text = config("slerp", "base+a", "base+b", base_model="base+b", parameters={"t": 0.3})
    gate = load(tmp_path, text)
    assert list(gate.spec.experts) == ["b", "a"]
    assert gate.spec.merge.methods[0].parameters == {"t": 0.3}
    assert gate.spec.merge.route == "in_place"


def test_a_base_by_another_name(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    text = config("linear", "base+x", "copy+y", "org/base+z", parameters={"weight": 1})
    gate = load(tmp_path, text)
    assert gate.spec.base == "base"
    assert gate.mergekit is not None
    assert gate.mergekit.other_bases == {"y": str(tmp_path / "copy"), "z": "org/base"}


def test_one_adapter_is_baked(tmp_path: Path) -> None:
    gate = load(tmp_path, config("passthrough", "base+x/a"))
    assert {name: expert.path for name, expert in gate.spec.experts.items()} == {"a": "x/a"}
    assert (gate.spec.base, gate.spec.merge.route) == ("base", "in_place")
    assert gate.spec.merge.methods[0].parameters == {}
    scaled = load(tmp_path, config("passthrough", "base+x/a", parameters={"scale": 0.5}))
    assert scaled.mergekit is not None
    assert scaled.mergekit.why_official == "it scales what no expert changes, too"


@pytest.mark.parametrize("method", ["arcee_fusion", "nearswap"])
def test_one_model_into_another(tmp_path: Path, method: str) -> None:
    more = {"parameters": {"t": 0.1}} if method == "nearswap" else {}
    text = config(method, "base+a", "base+b", base_model="base+b", **more)
    gate = load(tmp_path, text)
    assert list(gate.spec.experts) == ["b", "a"]  # into the first
    assert gate.spec.merge.methods[0].parameters == more.get("parameters", {})
    assert gate.spec.merge.route == "in_place"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            {"base_model": "x", "gate_mode": "hidden", "experts": [{"source_model": "y"}]},
            "a mergekit-moe configuration: it makes a mixture of experts",
        ),
        ({"genome": {"models": ["x", "y"]}, "tasks": []}, "a configuration of mergekit-evolve"),
    ],
    ids=["moe", "evolve"],
)
def test_what_other_commands_of_mergekit_take(tmp_path: Path, data: Any, says: str) -> None:
    (line,) = problems(tmp_path, yaml.safe_dump(data))
    assert line.startswith(f"merge.yml:1: this is {says}")
    assert "(fix: " in line


def test_an_average_that_is_no_average_scales_everything(tmp_path: Path) -> None:
    text = config("linear", "base+a", "base+b", parameters={"weight": 0.6, "normalize": False})
    gate = load(tmp_path, text)
    assert gate.mergekit is not None
    assert gate.mergekit.why_official == "it scales what no expert changes, too"


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (("x/a", "y/a"), ["x-a", "y-a"]),
        (("base+a", "org/b@v1"), ["a", "b"]),
        (("p/x/a", "q/x/a"), ["x-a", "x-a-2"]),
        (("pool", "b"), ["pool-expert", "b"]),
    ],
    ids=str,
)
def test_names(tmp_path: Path, models: tuple[str, ...], names: list[str]) -> None:
    assert list(load(tmp_path, config("linear", *models)).spec.experts) == names


def test_a_folder_with_a_plus_in_its_name(tmp_path: Path) -> None:
    for name in ("ba+se", "x+y", "b"):
        (tmp_path / name).mkdir()
    gate = load(tmp_path, config("linear", "ba+se+x+y", "ba+se+b"))
    assert gate.spec.base == "ba+se"
    assert [e.path for e in gate.spec.experts.values()] == ["x+y", "b"]


class TestExamples:
    def test_places(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            (tmp_path / name).mkdir()
        for file in ("data/a.jsonl", "examples/a.jsonl", "examples/b.jsonl", "c/examples.jsonl"):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
        gate = load(tmp_path, config("linear", "base+a", "base+b", "base+c", "base+d"))
        found = {name: gate.spec.examples_of(name) for name in gate.spec.experts}
        assert found == {
            "a": "data/a.jsonl",
            "b": "examples/b.jsonl",
            "c": "c/examples.jsonl",
            "d": None,
        }

    def test_the_file_s_own_word_comes_first(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "a.jsonl").touch()
        own = {
            "examples": "x/{name}.jsonl",
            "experts": {"b": {"examples": "b.jsonl", "metric": "rouge_l", "score": 0.5}},
            "budget": {"max_mds": 3},
            "merge": {"seed": 4},
        }
        gate = load(tmp_path, config("linear", "base+a", "base+b", mergegate=own))
        assert gate.spec.examples_of("a") == "x/a.jsonl"
        assert gate.spec.examples_of("b") == "b.jsonl"
        assert gate.spec.experts["b"].metric == "rouge_l"
        assert gate.spec.budget.limits == {"max_mds": 3}
        assert gate.spec.merge.seed == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("merge_method: ties\nmodel: []\n", "merge.yml:2: unknown key 'model' (fix: did you mean"),
        ("merge_method: ties\n", "merge.yml:1: exactly one of models and slices"),
        ("merge_method: 3\nmodels: [{model: a}]\n", "merge.yml:1: merge_method must be a name"),
        ("models:\n- a\nmerge_method: ties\n", "merge.yml:2: models: 'a' is no mapping"),
        ("models:\n- {modle: a}\nmerge_method: x\n", "merge.yml:2: unknown key 'models.0.modle'"),
        ("merge_method: x\nmodels: 3\n", "merge.yml:2: models must be a list"),
        ("merge_method: x\nmodels:\n- model: [a]\n", "merge.yml:3: a model must be a path"),
        ("modules: {}\nmerge_method: ties\n", "merge.yml:1: modules: is not supported"),
        (
            "slices:\n- sources:\n  - {model: a, layer_range: 3}\nmerge_method: slerp\n",
            "merge.yml:3: layer_range must be",
        ),
        (
            "merge_method: ties\nbase_model: x\nmodels: [{model: a}]\n",
            "merge.yml:3: a merge takes at least two experts, the gate has 1",
        ),
        (
            "merge_method: linear\nmodels:\n- model: a\n- model: a\n",
            "merge.yml:2: models lists a twice",
        ),
        (
            "merge_method: ties\nmodels:\n- model: x\n- model: y\nbase_model: a+b\n",
            "merge.yml:5: base_model is an adapter",
        ),
        (
            "merge_method: ties\nmodels:\n- model: x\n- model: y\ntokenizer_source: z\n",
            "merge.yml:5: 'z' is neither union, nor base",
        ),
        (
            "merge_method: linear\nmodels:\n- model: x\n",
            "merge.yml:2: a merge takes at least two experts",
        ),
        (
            "merge_method: slerp\nbase_model: x\nmodels:\n- model: x\n- model: y\n- model: z\n",
            "merge.yml:1: slerp merges exactly two models, the file has 3 (fix: write merge_",
        ),
        (
            "merge_method: linear\nmodels:\n- model: x\n- model: y\ndtype: float12\n",
            "merge.yml:5: dtype: input should be 'float32'",
        ),
    ],
    ids=lambda value: value.partition(":")[2].strip()[:30],
)
def test_errors(tmp_path: Path, text: str, says: str) -> None:
    assert any(line.startswith(says) for line in problems(tmp_path, text))


PAIR = "merge_method: linear\nmodels:\n- model: base+a\n- model: base+b\nmergegate:\n"


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ("  budgt: {}", "merge.yml:6: unknown key 'mergegate.budgt' (fix: did you mean 'budget'?)"),
        ("  budget: {max_mds: many}", "merge.yml:6: budget.max_mds: "),
        ("  budget:\n    max_mdss: 1", "merge.yml:7: unknown key 'budget.max_mdss' (fix: did you"),
        ("  experts: {aa: {}}", "merge.yml:6: no model of the file is called 'aa' (fix: did you "),
        ("  experts: {a: {path: x}}", "merge.yml:6: unknown key 'mergegate.experts.a.path'"),
        ("  experts: {a: {metric: f1}}", "merge.yml:6: experts.a.metric: unknown metric 'f1'"),
        ("  merge: {weights: uniform}", "merge.yml:6: unknown key 'mergegate.merge.weights'"),
        ("  base: other", "merge.yml:6: the base is base already"),
        ("  [a]", "merge.yml:5: mergegate must be a mapping"),
        ("  experts: [a]", "merge.yml:6: mergegate.experts must be a mapping"),
        ("  merge: linear", "merge.yml:6: mergegate.merge must be a mapping"),
    ],
    ids=lambda value: value.strip()[:30],
)
def test_errors_of_its_own_section(tmp_path: Path, own: str, says: str) -> None:
    found = problems(tmp_path, f"{PAIR}{own}\n")
    assert any(line.startswith(says) for line in found), found


def test_the_route_in_place_cannot_be_forced(tmp_path: Path) -> None:
    text = TIES.replace("0.3", "[0.3, 0.1]") + "mergegate: {merge: {route: in_place}}\n"
    (line,) = problems(tmp_path, text)
    assert line.startswith("merge.yml:10: this configuration cannot be merged in place: weight is")


@pytest.mark.parametrize("given", [3, "x", [1]], ids=str)
def test_parameters_are_a_mapping(tmp_path: Path, given: object) -> None:
    said = f"parameters must be a mapping, not {given!r} (fix: write {{weight: 0.5}}, say)"
    text = config("linear", "base+a", "base+b", parameters=given)
    assert problems(tmp_path, text)[0].endswith(f": {said}")
    data = yaml.safe_load(text) | {"parameters": {}}
    data["models"][1]["parameters"] = given
    assert problems(tmp_path, yaml.safe_dump(data))[0].endswith(f": {said}")


def test_a_tokenizer_of_no_name(tmp_path: Path) -> None:
    text = config("linear", "base+a", "base+b", tokenizer={"source": [1]}, tokenizer_source=[2])
    first, second = problems(tmp_path, text)
    assert "[2] is neither union, nor base, nor a model" in first
    assert "[1] is neither union, nor base, nor a model" in second


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody_of_that_name/a", "/" + "a" * 5000], ids=len)
def test_a_model_that_no_folder_can_be_called(tmp_path: Path, name: str) -> None:
    gate = load(tmp_path, config("ties", name, "b", base_model="base"))
    assert {expert.path for expert in gate.spec.experts.values()} == {name, "b"}
    gate = load(tmp_path, config("ties", "a", "b", base_model=name))
    assert gate.spec.base == name


@pytest.mark.parametrize("base", [3, ["x"]], ids=str)
def test_a_base_that_is_no_text(tmp_path: Path, base: object) -> None:
    (told,) = problems(tmp_path, config("linear", "a", "b", mergegate={"base": base}))
    assert f"base: input should be a valid string, not {base!r}" in told
