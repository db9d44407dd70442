"""Bad input gives one clear line (what, where, how to fix) and status ``error``; no traceback."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pools import (
    Adapter,
    edit_adapter_config,
    examples,
    read_gate,
    read_jsonl,
    write_adapter,
    write_base,
    write_gate,
    write_jsonl,
    write_tokenizer,
)
from safetensors.torch import load_file, save_file
from transformers import OPTConfig, OPTForCausalLM

from pytest_mergegate import assess
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.metrics import disagreement_bound
from pytest_mergegate.report.formats.terminal import Look, summary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_mergegate.report.types import FindingRecord, Report


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Q_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def error(gate: Path, **settings: Any) -> FindingRecord:
    """The one error of a gate that cannot be computed."""
    report = assess(gate, **settings)
    assert report.status == "error"
    assert not report.verdicts
    errors = [finding for finding in report.findings if finding.severity == "error"]
    assert len(errors) == 1, [finding.message for finding in errors]
    assert "\n" not in errors[0].message
    assert "Traceback" not in errors[0].message
    return errors[0]


def edit_gate(gate: Path, **changes: Any) -> None:
    """Replace keys of a gate file."""
    write_gate(gate, read_gate(gate) | changes)


def edit_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Load a safetensors file, change its tensors in place, and save it."""
    tensors = load_file(file)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


# Experts


def _missing(b: Path) -> None:
    shutil.rmtree(b)


def _empty(b: Path) -> None:
    shutil.rmtree(b)
    b.mkdir()


def _no_config(b: Path) -> None:
    (b / CONFIG).unlink()


def _bad_json(b: Path) -> None:
    (b / CONFIG).write_text('{"r": 4')


def _config_is_list(b: Path) -> None:
    (b / CONFIG).write_text("[]")


def _no_weights(b: Path) -> None:
    (b / WEIGHTS).unlink()


def _pickle(b: Path) -> None:
    torch.save(load_file(b / WEIGHTS), b / "adapter_model.bin")
    (b / WEIGHTS).unlink()


def _full_checkpoint(b: Path) -> None:
    shutil.rmtree(b)
    shutil.copytree(b.parent.parent / "base", b)


def _lfs_pointer(b: Path) -> None:
    (b / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def _prefix(b: Path) -> None:
    edit_tensors(b / WEIGHTS, lambda t: t.update({f"x.{name}": t.pop(name) for name in list(t)}))


def _other_modules(b: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace("self_attn", "attention")] = tensors.pop(name)

    edit_tensors(b / WEIGHTS, rename)


def _half_a_pair(b: Path) -> None:
    edit_tensors(b / WEIGHTS, lambda t: t.pop(Q_A))


def _factors_apart(b: Path) -> None:
    edit_tensors(b / WEIGHTS, lambda t: t.update({Q_A: t[Q_A][:3]}))


def _wrong_shape(b: Path) -> None:
    edit_tensors(b / WEIGHTS, lambda t: t.update({Q_A: t[Q_A][:, :31]}))


def _no_tensors(b: Path) -> None:
    edit_tensors(b / WEIGHTS, lambda t: t.clear())


def _other_rank(b: Path) -> None:
    edit_adapter_config(b, r=8)


def _no_alpha(b: Path) -> None:
    edit_adapter_config(b, lora_alpha=None)


def _targets_more(b: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "layers.1.mlp" in name]:
            del tensors[name]

    edit_tensors(b / WEIGHTS, drop)


def _targets_less(b: Path) -> None:
    edit_adapter_config(b, target_modules=["q_proj"])


def _another_task(b: Path) -> None:
    edit_adapter_config(b, task_type="SEQ_CLS")


def _base_layer(b: Path) -> None:
    head = torch.zeros(31, 32)
    edit_tensors(
        b / WEIGHTS, lambda t: t.update({"base_model.model.lm_head.base_layer.weight": head})
    )


def _overflow(b: Path) -> None:
    edit_tensors(
        b / WEIGHTS, lambda t: t.update({k: torch.full_like(v, 1e30) for k, v in t.items()})
    )


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        pytest.param(_missing, "MG001", "no directory 'adapters/b'", id="missing folder"),
        pytest.param(_empty, "MG001", "b/ is empty", id="empty folder"),
        pytest.param(_no_config, "MG001", f"no {CONFIG}", id="no config"),
        pytest.param(_bad_json, "MG001", "not JSON", id="config not JSON"),
        pytest.param(_config_is_list, "MG001", "not a JSON object", id="config a list"),
        pytest.param(_no_weights, "MG001", f"no {WEIGHTS}", id="no weights"),
        pytest.param(_pickle, "MG001", "never loaded", id="pickle"),
        pytest.param(_full_checkpoint, "MG107", "the checkpoint changes nothing", id="the base"),
        pytest.param(_lfs_pointer, "MG001", "not a readable safetensors", id="LFS pointer"),
        pytest.param(_prefix, "MG102", "does not begin with 'base_model.model.'", id="prefix"),
        pytest.param(_half_a_pair, "MG103", "has only lora_B", id="half a pair"),
        pytest.param(_factors_apart, "MG104", "do not fit", id="factors apart"),
        pytest.param(_wrong_shape, "MG104", "B·A is [32, 31]", id="wrong shape"),
        pytest.param(_no_tensors, "MG102", "no tensors", id="no tensors"),
        pytest.param(_other_rank, "MG104", "has rank 4", id="other rank"),
        pytest.param(_no_alpha, "MG104", "lora_alpha=None", id="no alpha"),
        pytest.param(_targets_more, "MG103", "have no tensors", id="targets without tensors"),
        pytest.param(_targets_less, "MG103", "not targeted", id="tensors without target"),
        pytest.param(_another_task, "MG101", "SEQ_CLS", id="another task"),
        pytest.param(_base_layer, "MG103", "has only base_layer.weight", id="base layer alone"),
        pytest.param(_overflow, "MG105", "overflows", id="product overflows"),
    ],
)
def test_expert(pool_copy: Path, spoil: Callable[[Path], None], code: str, says: str) -> None:
    spoil(pool_copy.parent / "adapters" / "b")
    found = error(pool_copy)
    assert (found.code, found.expert) == (code, "b")
    assert says in found.message
    assert found.fix


def test_modules_unknown_to_the_base(pool_copy: Path) -> None:
    _other_modules(pool_copy.parent / "adapters" / "b")
    report = assess(pool_copy)
    assert report.status == "error"
    errors = [(f.code, f.expert) for f in report.findings if f.severity == "error"]
    assert errors == [("MG102", "b"), ("MG103", "b")]
    assert "the base has 'model.layers.0.self_attn." in report.findings[0].message


@pytest.mark.parametrize("keep", [0, 4, 8, 60, 0.5, 0.99], ids=str)
def test_truncated_adapter(pool_copy: Path, keep: float) -> None:
    weights = pool_copy.parent / "adapters" / "b" / WEIGHTS
    data = weights.read_bytes()
    weights.write_bytes(data[: int(keep if keep == int(keep) else keep * len(data))])
    found = error(pool_copy)
    assert (found.code, found.expert) == ("MG001", "b")
    assert "not a readable safetensors file" in found.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_not_finite(pool_copy: Path, dtype: torch.dtype, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)
        tensors[Q_A][1, 2] = value

    edit_tensors(pool_copy.parent / "adapters" / "b" / WEIGHTS, spoil)
    found = error(pool_copy)
    assert (found.code, found.expert) == ("MG105", "b")
    assert Q_A in found.message


def test_not_finite_cannot_be_ignored(pool_copy: Path) -> None:
    edit_tensors(
        pool_copy.parent / "adapters" / "b" / WEIGHTS,
        lambda t: t.update({Q_A: torch.full_like(t[Q_A], float("nan"))}),
    )
    edit_gate(pool_copy, ignore={"MG105": "I know"})
    assert error(pool_copy).code == "MG105"


def test_unchecked_dtype(pool_copy: Path) -> None:
    edit_tensors(
        pool_copy.parent / "adapters" / "b" / WEIGHTS,
        lambda t: t.update({Q_A: t[Q_A].to(torch.float8_e4m3fn)}),
    )
    found = error(pool_copy)
    assert found.expert == "b"
    assert "F8_E4M3" in found.message


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        pytest.param("peft_type", "PROMPT_TUNING", id="prompt tuning"),
        pytest.param("peft_type", "NEW", id="unknown method"),
        pytest.param("peft_type", None, id="no method"),
        pytest.param("peft_type", 3, id="a number for a method"),
        pytest.param("layer_replication", [[0, 2], [1, 2]], id="layer_replication"),
        pytest.param("alora_invocation_tokens", [3], id="activated lora"),
        pytest.param("init_lora_weights", "loftq", id="loftq"),
        pytest.param("init_lora_weights", "unheard_of", id="unknown initialisation"),
    ],
)
def test_more_than_a_change_of_weights(pool_copy: Path, setting: str, value: object) -> None:
    edit_adapter_config(pool_copy.parent / "adapters" / "b", **{setting: value})
    edit_gate(pool_copy, ignore={"MG002": "I know"})
    found = error(pool_copy)
    assert (found.code, found.expert) == ("MG002", "b")
    assert f"{setting}={value!r}" in found.message


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        pytest.param("use_dora", True, "no lora_magnitude_vector", id="dora"),
        pytest.param("modules_to_save", ["lm_head"], "'lm_head.weight'", id="modules_to_save"),
        pytest.param("modules_to_save", ["norm"], "layernorm.weight'", id="norms to save"),
        pytest.param("lora_bias", True, "down_proj.bias'", id="lora_bias"),
        pytest.param("layers_to_transform", [0], "not targeted", id="other layers"),
        pytest.param("target_parameters", ["model.norm.weight"], "no tensors", id="a parameter"),
        pytest.param("target_modules", "(q_proj", "is not valid", id="invalid expression"),
    ],
)
def test_settings_of_other_weights(pool_copy: Path, setting: str, value: object, says: str) -> None:
    adapter = pool_copy.parent / "adapters" / "b"
    targeted = json.loads((adapter / "adapter_config.json").read_text("utf-8"))["target_modules"]
    # to PEFT, layers_to_transform says nothing of modules that are named in full
    last = sorted({name.rpartition(".")[2] for name in targeted})
    edit_adapter_config(adapter, **{"target_modules": last, setting: value})
    found = error(pool_copy)
    assert found.expert == "b"
    assert says in found.message


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        pytest.param("bias", "all", id="biases of a model without any"),
        pytest.param("fan_in_fan_out", True, id="transposed, as PEFT ignores it"),
        pytest.param("lora_dropout", 0.5, id="dropout"),
        pytest.param("inference_mode", False, id="training"),
        pytest.param("use_rslora", None, id="null"),
    ],
)
def test_settings_without_effect(pool_copy: Path, setting: str, value: object) -> None:
    before = assess(pool_copy, stage="conflict")
    edit_adapter_config(pool_copy.parent / "adapters" / "b", **{setting: value})
    after = assess(pool_copy, stage="conflict")
    assert not [f for f in after.findings if f.severity == "error"]
    assert after.pairs == before.pairs


def test_identical_experts(pool_copy: Path) -> None:
    adapters = pool_copy.parent / "adapters"
    shutil.copy(adapters / "a" / WEIGHTS, adapters / "b" / WEIGHTS)
    edit_adapter_config(adapters / "b", lora_dropout=0.5)
    found = error(pool_copy)
    assert (found.code, found.expert) == ("MG106", "b")
    assert "'a'" in found.message


def test_everything_wrong_is_told_at_once(pool_copy: Path) -> None:
    adapters = pool_copy.parent / "adapters"
    _no_weights(adapters / "a")
    _bad_json(adapters / "b")
    (pool_copy.parent / "data" / "c.jsonl").unlink()
    report = assess(pool_copy)
    assert report.status == "error"
    assert [f.expert for f in report.findings if f.severity == "error"] == ["a", "b", "c"]


# The base


def _base_missing(base: Path) -> None:
    shutil.rmtree(base)


def _base_empty(base: Path) -> None:
    shutil.rmtree(base)
    base.mkdir()


def _base_no_weights(base: Path) -> None:
    (base / "model.safetensors").unlink()


def _base_pickle(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


def _base_truncated(base: Path) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _base_bad_json(base: Path) -> None:
    (base / "config.json").write_text("{")


def _base_bad_setting(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))


def _base_unknown(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "nothing"}))


def _base_lacks_tensor(base: Path) -> None:
    edit_tensors(base / "model.safetensors", lambda t: t.pop("model.norm.weight"))


def _base_more_tensors(base: Path) -> None:
    edit_tensors(base / "model.safetensors", lambda t: t.update({"extra.bias": torch.zeros(3)}))


def _base_nan(base: Path) -> None:
    edit_tensors(base / "model.safetensors", lambda t: t["model.norm.weight"].fill_(float("nan")))


def _base_no_tokenizer(base: Path) -> None:
    (base / "tokenizer.json").unlink()
    (base / "tokenizer_config.json").unlink()


def _base_bad_tokenizer(base: Path) -> None:
    (base / "tokenizer.json").write_text('{"model": 3}')


def _base_shards_missing(base: Path) -> None:
    (base / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(_base_missing, "no directory 'base'", id="missing"),
        pytest.param(_base_empty, "no config.json", id="empty"),
        pytest.param(_base_no_weights, "no weights", id="no weights"),
        pytest.param(_base_pickle, "pickle", id="pickle"),
        pytest.param(_base_truncated, "not a readable safetensors", id="truncated"),
        pytest.param(_base_shards_missing, "model-00001-of-00002.safetensors", id="shard missing"),
        pytest.param(
            _base_bad_json, "base/config.json:1: config.json is not JSON", id="config not JSON"
        ),
        pytest.param(_base_bad_setting, "does not load", id="bad setting"),
        pytest.param(_base_unknown, "does not load", id="unknown model type"),
        pytest.param(_base_lacks_tensor, "missing and would be random", id="lacks a tensor"),
        pytest.param(_base_more_tensors, "not in the model", id="a tensor too many"),
        pytest.param(_base_nan, "NaN or infinity", id="nan"),
        pytest.param(_base_no_tokenizer, "tokenizer", id="no tokenizer"),
        pytest.param(_base_bad_tokenizer, "tokenizer does not load", id="bad tokenizer"),
    ],
)
def test_base(pool_copy: Path, spoil: Callable[[Path], None], says: str) -> None:
    spoil(pool_copy.parent / "base")
    found = error(pool_copy)
    assert found.expert is None
    assert says in found.message


def test_file_in_place_of_a_folder(pool_copy: Path) -> None:
    edit_gate(pool_copy, base="base/config.json")
    assert "is a file, not a directory" in error(pool_copy).message


# Examples


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "b.jsonl: the file of examples is empty", id="empty"),
        pytest.param('{"input": "a"}\n{"input": \n', "b.jsonl:2: not JSON", id="cut line"),
        pytest.param('{"input": "a"}\n\n["a"]\n', "b.jsonl:3: ", id="not an object"),
        pytest.param('{"prompt": "a"}\n', "b.jsonl:1: input", id="unknown key"),
        pytest.param('{"input": ""}\n', "b.jsonl:1: input is empty", id="empty input"),
        pytest.param('{"input": 3}\n', "b.jsonl:1: input", id="not a string"),
        pytest.param('{"input": "a", "input": "b"}\n', "'input' is given twice", id="twice"),
        pytest.param('{"input": "\\ud800"}\n', "surrogates not allowed", id="half a character"),
        pytest.param(f'{{"input": {"1" * 5000}}}\n', "b.jsonl:1: ", id="a long number"),
        pytest.param(
            '{"input": "a", "target": "a"}\n{"input": "b"}\n',
            "b.jsonl:2: 1 of 2",
            id="partly labelled",
        ),
        pytest.param('{"input": "a", "choices": ["a"]}\n', "b.jsonl:1: choices", id="one choice"),
        pytest.param(
            '{"input": "a", "choices": ["a", "b"], "target": "c"}\n',
            "none of the choices",
            id="target no choice",
        ),
    ],
)
def test_examples(pool_copy: Path, text: str, says: str) -> None:
    (pool_copy.parent / "data" / "b.jsonl").write_text(text)
    found = error(pool_copy)
    assert (found.code, found.expert) == ("MG201", "b")
    assert says in found.message


def test_examples_not_text(pool_copy: Path) -> None:
    (pool_copy.parent / "data" / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "b.jsonl: not UTF-8" in error(pool_copy).message


def test_examples_missing(pool_copy: Path) -> None:
    (pool_copy.parent / "data" / "b.jsonl").unlink()
    found = error(pool_copy)
    assert found.expert == "b"
    assert "mergegate.yaml:" in found.message


def test_no_examples_where_states_are_needed(pool_copy: Path) -> None:
    settings = read_gate(pool_copy)
    del settings["experts"]["b"]["examples"]
    write_gate(pool_copy, settings)
    found = error(pool_copy)
    assert (found.code, found.expert) == ("MG202", "b")
    assert "experts.b.examples" in found.fix


def test_no_examples_where_weights_decide(pool_copy: Path) -> None:
    settings = read_gate(pool_copy)
    for expert in settings["experts"].values():
        del expert["examples"]
    write_gate(pool_copy, settings | {"budget": {"max_sign_change_ratio": 1.0}})
    assert assess(pool_copy).status == "pass"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"input": "x" * 64}, "has 64 tokens, the base reads 64", id="too long"),
        pytest.param({"input": [{"role": "user", "content": "a"}]}, "no chat template", id="chat"),
    ],
)
def test_input_the_base_cannot_read(pool_copy: Path, changes: dict[str, Any], says: str) -> None:
    file = pool_copy.parent / "data" / "b.jsonl"
    rows = read_jsonl(file)
    rows[1] |= changes
    write_jsonl(file, rows)
    found = error(pool_copy)
    assert (found.code, found.expert) == ("MG203", "b")
    assert "example 2" in found.message
    assert says in found.message


def test_answers_end_where_positions_do(tmp_path: Path, seed: int) -> None:
    """A base with learned positions has no embedding beyond them."""
    base = tmp_path / "base"
    config = OPTConfig(
        vocab_size=write_tokenizer(base),
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=12,
        pad_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(seed)
    OPTForCausalLM(config).save_pretrained(base)
    for name in "ab":
        lora = {"target_modules": ["q_proj", "fc1"]}
        write_adapter(base, tmp_path / name, seed + ord(name), Adapter(lora=lora))
        rows = [{"input": "x" * length} for length in (1, 5, 10, 11)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    gate = {"base": "base", "experts": {"a": "a", "b": "b"}, "examples": "{name}.jsonl"}
    report = assess(write_gate(tmp_path / "mergegate.yaml", gate))
    assert report.status in {"inconclusive", "fail"}  # four inputs pass nothing
    assert [expert.inputs for expert in report.merges[0].experts] == [4, 4]


def test_choices_missing_for_accuracy(pool_copy: Path) -> None:
    settings = read_gate(pool_copy)
    settings["experts"]["b"]["metric"] = "accuracy"
    write_gate(pool_copy, settings)
    assert "has no choices" in error(pool_copy).message


def test_choices_too_long(pool_copy: Path) -> None:
    rows = [{"input": "x" * 60, "choices": ["a", "bcdef"], "target": "a"}]
    write_jsonl(pool_copy.parent / "data" / "b.jsonl", rows)
    settings = read_gate(pool_copy)
    settings["experts"]["b"]["metric"] = "accuracy"
    write_gate(pool_copy, settings)
    assert "has 65 tokens, the base reads 64" in error(pool_copy).message


def test_choices_that_look_the_same(pool_copy: Path) -> None:
    file = pool_copy.parent / "data" / "b.jsonl"
    # letters that the tokenizer does not know are one and the same to it
    write_jsonl(file, [{"input": "a", "choices": ["A", "B"], "target": "A"}])
    settings = read_gate(pool_copy)
    settings["experts"]["b"]["metric"] = "accuracy"
    write_gate(pool_copy, settings)
    assert "cannot tell apart" in error(pool_copy).message


# Merges and metrics


@pytest.mark.parametrize(
    ("methods", "says"),
    [
        pytest.param(["tise"], "did you mean 'ties'?", id="method"),
        pytest.param(["passthrough"], "does not fit a pool of", id="no merge of a pool"),
        pytest.param(
            [{"method": "ties", "densty": 0.5}], "did you mean 'density'?", id="parameter"
        ),
        pytest.param([{"method": "ties", "density": 2}], "between 0 and 1", id="range"),
    ],
)
def test_merge_method(pool_copy: Path, methods: list[Any], says: str) -> None:
    edit_gate(pool_copy, merge={"methods": methods})
    line = pool_copy.read_text().split("\n").index("  methods:") + 2
    found = error(pool_copy)
    assert found.message.startswith(f"mergegate.yaml:{line}: ")
    assert says in f"{found.message} {found.fix}"


def test_merge_whose_states_overflow(pool_copy: Path) -> None:
    """Every weight is finite, no state is: there is nothing to compare."""
    edit_gate(pool_copy, merge={"methods": [{"method": "task_arithmetic", "weight": 1e36}]})
    found = error(pool_copy)
    assert found.code == "MG105"
    assert "task_arithmetic weight=1e+36" in found.message


METRIC_FILE = """
def raising(outputs, targets):
    return [1.0 / (target != "boom") for target in targets]
def short(outputs, targets):
    return [1.0] * (len(outputs) - 1)
def nan(outputs, targets):
    return [float("nan") if target == "boom" else 1.0 for target in targets]
def percent(outputs, targets):
    return [100 if target == "boom" else 1 for target in targets]
def nothing(outputs, targets):
    return None
def exits(outputs, targets):
    raise SystemExit(0)
def skips(outputs, targets):
    __import__("pytest").skip("not today")
def huge(outputs, targets):
    return [10 ** 400] * len(outputs)
def moody(outputs, targets, calls=[0]):
    calls[0] += 1
    return [0.5 + 1e-3 * calls[0]] * len(outputs)
number = 3
"""


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        pytest.param("raising", "raised ZeroDivisionError", id="raises"),
        pytest.param("raising", "(example 3: output ", id="names the example"),
        pytest.param("short", "5 scores for 6 examples", id="wrong length"),
        pytest.param("nan", "scored example 3 as nan", id="nan"),
        pytest.param("percent", "scored example 3 as 100", id="percent"),
        pytest.param("nothing", "raised TypeError", id="returns nothing"),
        pytest.param("exits", "raised SystemExit", id="exits"),
        pytest.param("skips", "raised Skipped", id="skips"),
        pytest.param("huge", "scored example 1 as 1000", id="overflows"),
        pytest.param("moody", "when asked again", id="not deterministic"),
        pytest.param("number", "is not callable", id="not callable"),
        pytest.param("absent", "cannot be imported", id="no such function"),
    ],
)
def test_metric(pool_copy: Path, metric: str, says: str) -> None:
    (pool_copy.parent / "own_metric.py").write_text(METRIC_FILE)
    file = pool_copy.parent / "data" / "b.jsonl"
    rows = read_jsonl(file)
    rows[2]["target"] = "boom"
    write_jsonl(file, rows)
    settings = read_gate(pool_copy)
    settings["experts"]["b"]["metric"] = f"own_metric:{metric}"
    write_gate(pool_copy, settings | {"budget": {"max_loss": 10}})
    found = error(pool_copy)
    assert (found.code, found.expert) == ("MG301", "b")
    assert says in found.message


@pytest.mark.parametrize(
    "text", ["def f(:", "raise ValueError(1)", "import sys; sys.exit(0)"], ids=str
)
def test_metric_module_that_cannot_be_imported(pool_copy: Path, text: str) -> None:
    (pool_copy.parent / "own_metric.py").write_text(text)
    settings = read_gate(pool_copy)
    settings["experts"]["b"]["metric"] = "own_metric:f"
    write_gate(pool_copy, settings | {"budget": {"max_loss": 10}})
    assert "cannot be imported" in error(pool_copy).message


def test_each_gate_has_the_metric_beside_it(pool_copy: Path) -> None:
    """Two modules of one name: the second gate must not be scored with the first one's."""
    for name in "abc":  # enough to judge a score by
        write_jsonl(pool_copy.parent / "data" / f"{name}.jsonl", examples(name, "plain", 30, 1))
    other = pool_copy.parent.parent / "other"
    shutil.copytree(pool_copy.parent, other)
    found = []
    for root, score in ((pool_copy.parent, 1.0), (other, 0.0)):
        (root / "statistics.py").write_text(f"def f(o, t): return [{score}] * len(o)")
        gate = root / pool_copy.name
        settings = read_gate(gate)
        for expert in settings["experts"].values():
            expert["metric"] = "statistics:f"
        write_gate(gate, settings | {"budget": {"max_loss": 100}})
        found.append(assess(gate).merges[0].experts[0].score_merged)
    assert found == [1.0, 0.0]


def test_a_bug_of_ours_is_an_error_with_a_report(
    pool_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise IndexError("oh")

    monkeypatch.setattr("pytest_mergegate.report.gating.judge", broken)
    found = error(pool_copy, stage="conflict")
    assert found.code == "MG900"
    assert "IndexError: oh" in found.message


def test_no_verdict_stands_beside_an_error_that_came_after_it(
    pool_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_gate(pool_copy, budget={"max_sign_change_ratio": 1.0})
    assert assess(pool_copy, stage="conflict").status == "pass"

    def broken(*_: object) -> None:
        raise GateError("oh")

    monkeypatch.setattr("pytest_mergegate.report.gating.find_warnings", broken)
    report = assess(pool_copy, stage="conflict")
    assert (report.status, report.verdicts) == ("error", ())
    assert [found.message for found in report.findings if found.severity == "error"] == ["oh"]


# What a certificate stands on


def test_cut_answers_are_not_certified(pool_copy: Path) -> None:
    """Answers that agree for one token say nothing of the rest."""
    probes = read_gate(pool_copy)["probes"] | {"max_answer_tokens": 1}
    edit_gate(pool_copy, probes=probes, budget={"max_disagreement": 1.0})
    report = assess(pool_copy)
    cut = [expert for merge in report.merges for expert in merge.experts if expert.cut]
    assert cut
    for expert in cut:
        differing = round(expert.disagreement * expert.inputs)
        assert expert.disagreement_upper == pytest.approx(
            disagreement_bound(differing + expert.cut, expert.inputs)
        )
    # MG306 where most of the expert's own answers do not end, else MG302
    told = [f.expert for f in report.findings if f.code in ("MG302", "MG306")]
    assert len(told) == len(set(told))
    assert {expert.name for expert in cut} <= set(told)


def test_few_inputs_are_told(pool_copy: Path) -> None:
    """Six inputs without a difference may hide a disagreement of 39 %."""
    limits = {"max_disagreement": 0.3}
    edit_gate(pool_copy, merge={"methods": [{"method": "task_arithmetic", "weight": 1e-4}]})
    settings = read_gate(pool_copy)
    tensors = {f"adapters/{name}": 2e-2 for name in "abc"}
    for folder, scale in tensors.items():
        edit_tensors(
            pool_copy.parent / folder / WEIGHTS,
            lambda t, scale=scale: t.update({k: v * scale for k, v in t.items()}),
        )
    write_gate(pool_copy, settings | {"budget": limits})
    report = assess(pool_copy)
    assert report.status == "inconclusive"
    assert all("fewer than 30 pass on their bound" in v.message for v in report.verdicts)
    assert {f.expert for f in report.findings if f.code == "MG303"} == {"a", "b", "c"}
    assert "6 distinct inputs" in next(f.message for f in report.findings if f.code == "MG204")
    count = sum(f.severity == "warning" for f in report.findings)
    assert f"; {count} warnings, shown with -v" in summary([report], Look())
    assert "MG303 a: " in summary([report], Look(verbosity=1))


def test_metric_module_missing(pool_copy: Path) -> None:
    settings = read_gate(pool_copy)
    settings["experts"]["b"]["metric"] = "no_such_module_here:score"
    write_gate(pool_copy, settings | {"budget": {"max_loss": 10}})
    assert "cannot be imported" in error(pool_copy).message


def test_no_such_device(pool_copy: Path) -> None:
    assert "'abacus'" in error(pool_copy, device="abacus").message


# Pools at the edge of what is defined


def _pair(gate: Path, **budget: float) -> Report:
    settings = read_gate(gate)
    experts = {name: settings["experts"][name] for name in "ab"}
    write_gate(gate, settings | {"experts": experts, "budget": budget})
    return assess(gate)


def test_two_experts_have_no_difficulty(pool_copy: Path) -> None:
    report = _pair(pool_copy, max_mds=1e9)
    assert report.status == "inconclusive"
    assert {v.value_reason for v in report.verdicts} == {"needs_three_experts"}


def test_two_experts_can_be_gated(pool_copy: Path) -> None:
    report = _pair(pool_copy)
    assert {v.budget for v in report.verdicts} == {"max_disagreement"}
    assert all(v.value is not None for v in report.verdicts)
    assert report.status in {"pass", "fail", "inconclusive"}  # six inputs may be too few


def test_equidistant_experts_are_no_pass(pool_copy: Path) -> None:
    adapters = pool_copy.parent / "adapters"
    for name in "abc":  # experts that change nothing, each in its own way
        edit_tensors(
            adapters / name / WEIGHTS,
            lambda t: t.update({k: torch.zeros_like(v) for k, v in t.items() if "lora_B" in k}),
        )
    budget = {"max_mds": 1e9, "max_sign_change_ratio": 1}
    edit_gate(pool_copy, budget=budget)
    assert {finding.code for finding in assess(pool_copy).findings} == {"MG107"}
    edit_gate(pool_copy, budget=budget, ignore={"MG107": "to see what the metrics say"})
    report = assess(pool_copy)
    assert report.status == "inconclusive"
    assert {v.value_reason for v in report.verdicts} == {"equidistant", "zero_task_vectors"}


def test_tiny_task_vectors_are_faithful(pool_copy: Path) -> None:
    """Round-off of a merge must not be taken for a broken one."""
    for name in "abc":
        edit_tensors(
            pool_copy.parent / "adapters" / name / WEIGHTS,
            lambda t: t.update({k: v * 4e-4 for k, v in t.items() if "lora_B" in k}),
        )
    edit_gate(pool_copy, budget={"max_disagreement": 0.0})
    report = assess(pool_copy)
    assert report.status == "inconclusive"  # six inputs pass no limit of 0
    assert [expert.disagreement for expert in report.merges[0].experts] == [0, 0, 0]


@pytest.mark.parametrize("stage", ["hidden", "merge"])
def test_experts_that_answer_like_their_base_pass_nothing(pool_copy: Path, stage: Any) -> None:
    """A merge that forgets such an expert is one with it: no difference on 40 inputs."""
    for name in "abc":
        edit_tensors(
            pool_copy.parent / "adapters" / name / WEIGHTS,
            lambda t: t.update({k: v * 4e-4 for k, v in t.items() if "lora_B" in k}),
        )
        write_jsonl(pool_copy.parent / "data" / f"{name}.jsonl", examples(name, "choices", 40, 1))
    settings = read_gate(pool_copy)
    for expert in settings["experts"].values():
        expert["metric"] = "accuracy"  # ranks choices: no answer is ever cut
    write_gate(pool_copy, settings | {"budget": {"max_disagreement": 0.3}})
    report = assess(pool_copy, stage=stage)
    assert all((expert.base_disagreement or 0) <= 0.05 for expert in report.experts)
    assert {v.status for v in report.verdicts} == {"inconclusive"}
    assert all("a pass would say nothing of the merge" in v.message for v in report.verdicts)


def test_adapter_of_another_size_of_base(pool_copy: Path, seed: int) -> None:
    wide = write_base(pool_copy.parent / "wide", seed, hidden_size=48)
    shutil.rmtree(pool_copy.parent / "adapters" / "b")
    write_adapter(wide, pool_copy.parent / "adapters" / "b", seed, Adapter())
    report = assess(pool_copy)
    codes = {f.code for f in report.findings if f.severity == "error"}
    assert report.status == "error"
    assert codes == {"MG101", "MG104"}


def test_ignored_finding_is_a_warning(pool_copy: Path) -> None:
    _another_task(pool_copy.parent / "adapters" / "b")
    edit_gate(pool_copy, ignore={"MG101": "a label"}, budget={"max_sign_change_ratio": 1.0})
    report = assess(pool_copy)
    assert report.status == "pass"
    assert [(f.code, f.severity) for f in report.findings] == [("MG101", "warning")]
    assert "a label" in report.findings[0].fix


@pytest.mark.parametrize("stage", ["preflight", "conflict", "hidden", "merge"])
def test_stage_cap_is_no_pass(tiny_pool: Path, stage: Any) -> None:
    report = assess(tiny_pool, stage=stage, max_loss=100)
    assert report.status == "inconclusive"
    assert {v.value_reason for v in report.verdicts} == {"needs_stage_eval"}
