"""Adapters and examples from strangers: refused in one clear line, soon, and nothing is run."""

from __future__ import annotations

import json
import os
import pickle
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from pools import Adapter, read_gate, write_adapter, write_gate
from safetensors.torch import load_file, save_file

from pytest_mergegate import assess
from pytest_mergegate.common.errors import GateFileError
from untrusted.suite import CONFIG, SECONDS, WEIGHTS, checked, configure, expert, refused

if TYPE_CHECKING:
    from collections.abc import Callable


# Pickles


class Payload:
    """What a hostile pickle runs when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("file", ["adapter_model.bin", WEIGHTS, "adapter_model.pt"])
@pytest.mark.parametrize("zipped", [False, True])
def test_pickle(gate: Path, marker: Path, file: str, zipped: bool) -> None:
    (expert(gate) / WEIGHTS).unlink()
    if zipped:
        torch.save({"x": Payload(marker)}, expert(gate) / file)
    else:
        (expert(gate) / file).write_bytes(pickle.dumps({"x": Payload(marker)}))
    found = refused(gate, "MG001")
    assert "never loaded" in found.message


def test_pickle_is_live(marker: Path) -> None:
    """The payload of the tests above does what it is meant to."""
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()
    marker.unlink()


@pytest.mark.parametrize("kind", ["pytorch_model.bin", "model.safetensors"])
def test_pickle_as_checkpoint(gate: Path, marker: Path, kind: str) -> None:
    for file in expert(gate).iterdir():
        file.unlink()
    (expert(gate) / "config.json").write_text((gate.parent / "base" / "config.json").read_text())
    torch.save({"x": Payload(marker)}, expert(gate) / kind)
    assert "never loaded" in refused(gate, "MG001").message


# Code by name


@pytest.fixture
def evil(marker: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module on the path that leaves the marker when it is imported."""
    folder = marker.parent / "modules"
    folder.mkdir()
    (folder / "evil_module.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.syspath_prepend(folder)
    return "evil_module"


@pytest.mark.parametrize(
    "method", [{}, {"use_dora": True}, {"init_lora_weights": "pissa"}], ids=str
)
def test_no_module_is_imported(gate: Path, evil: str, method: dict[str, Any]) -> None:
    configure(
        expert(gate),
        auto_mapping={"base_model_class": "Evil", "parent_library": evil},
        megatron_config={"tensor_model_parallel_size": 1},
        megatron_core=evil,
        **method,
    )
    checked(gate, max_disagreement=1.0)


def test_no_module_is_imported_by_another_method(gate: Path, evil: str, seed: int) -> None:
    from peft import IA3Config, get_peft_model
    from transformers import AutoModelForCausalLM

    for file in expert(gate).iterdir():
        file.unlink()
    base = AutoModelForCausalLM.from_pretrained(gate.parent / "base")
    get_peft_model(base, IA3Config(task_type="CAUSAL_LM")).save_pretrained(expert(gate))
    mapping = {"base_model_class": "Evil", "parent_library": evil}
    configure(expert(gate), auto_mapping=mapping, megatron_core=evil, megatron_config={})
    checked(gate, max_disagreement=1.0)


def test_code_of_an_expert_is_not_run(gate: Path, marker: Path) -> None:
    for name in ("custom.py", "modeling.py", "__init__.py", "conftest.py"):
        (expert(gate) / name).write_text(f"open({str(marker)!r}, 'w')\n")
    configure(expert(gate), auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    checked(gate)


@pytest.mark.parametrize("tag", ["os.system", "subprocess.check_output"])
def test_yaml_tags(gate: Path, tag: str) -> None:
    gate.write_text(gate.read_text() + f"\nignore: !!python/object/apply:{tag} ['touch marker']\n")
    with pytest.raises(GateFileError, match="not allowed here: could not determine a constructor"):
        assess(gate)
    with pytest.raises(yaml.YAMLError):
        read_gate(gate)


def test_names_are_never_seen_by_a_shell(gate: Path) -> None:
    settings = read_gate(gate)
    names = {}
    for name, evil in zip(
        "abc", ["$(touch marker)", "; touch marker #", "`touch marker` | x"], strict=True
    ):
        (gate.parent / "adapters" / name).rename(gate.parent / "adapters" / evil)
        names[evil] = {**settings["experts"][name], "path": f"adapters/{evil}"}
    report = checked(write_gate(gate, settings | {"experts": names}))
    assert report.status != "error"
    assert [e.name for e in report.experts] == list(names)


@pytest.mark.parametrize(
    "path",
    [
        "$(touch marker)/x",
        "x/y@--upload-pack=touch marker",
        "-o/x",
        "adapters/b;touch marker",
        "git+ssh://x/y",
        "file:///etc",
        "http://localhost/x",
    ],
)
def test_paths_that_are_none(gate: Path, path: str) -> None:
    settings = read_gate(gate)
    settings["experts"]["b"]["path"] = path
    refused(write_gate(gate, settings), "MG001")


# Ways out


def _config_linked(b: Path, secret: Path) -> None:
    (b / CONFIG).unlink()
    (b / CONFIG).symlink_to(secret / "secret.txt")


def _weights_linked(b: Path, secret: Path) -> None:
    (b / WEIGHTS).rename(secret / WEIGHTS)
    (b / WEIGHTS).symlink_to(secret / WEIGHTS)


def _weights_linked_relative(b: Path, secret: Path) -> None:
    (b / WEIGHTS).rename(secret / WEIGHTS)
    (b / WEIGHTS).symlink_to(f"../../../secret/{WEIGHTS}")


def _folder_linked(b: Path, secret: Path) -> None:
    (b / "more").symlink_to(secret)


def _nested(b: Path, secret: Path) -> None:
    (b / "deep" / "er").mkdir(parents=True)
    (b / "deep" / "er" / "x.json").symlink_to(secret / "secret.txt")


def _expert_linked(b: Path, secret: Path) -> None:
    b.rename(secret / "b")
    b.symlink_to(secret / "b")


def _parent_linked(b: Path, secret: Path) -> None:
    b.rename(secret / "b")
    b.parent.joinpath("b").symlink_to("../out/b")
    (b.parent.parent / "out").symlink_to(secret)


def _device(b: Path, secret: Path) -> None:
    (b / WEIGHTS).unlink()
    (b / WEIGHTS).symlink_to("/dev/zero")


def _process(b: Path, secret: Path) -> None:
    (b / "x").symlink_to("/proc/self/environ")


@pytest.mark.parametrize(
    "lead_out",
    [
        _config_linked,
        _weights_linked,
        _weights_linked_relative,
        _folder_linked,
        _nested,
        _expert_linked,
        _parent_linked,
        _device,
        _process,
    ],
)
def test_symlink_out(gate: Path, lead_out: Callable[[Path, Path], None]) -> None:
    lead_out(expert(gate), gate.parent.parent / "secret")
    found = refused(gate, "MG003")
    assert "leaves the repository" in found.message
    assert "mergegate.yaml:" in found.message


def test_link_within_the_repository_is_fine(gate: Path) -> None:
    expert(gate).rename(gate.parent / "shared")
    expert(gate).symlink_to("../shared")
    assert checked(gate).status in {"pass", "fail", "inconclusive"}


@pytest.mark.parametrize("target", ["../../secret/secret.txt", "/etc/passwd"])
def test_examples_linked_out(gate: Path, target: str) -> None:
    file = gate.parent / "data" / "b.jsonl"
    file.unlink()
    file.symlink_to(target)
    assert "leaves the repository" in refused(gate, "MG003").message


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_fifo(gate: Path, file: str) -> None:
    (expert(gate) / file).unlink()
    os.mkfifo(expert(gate) / file)
    assert "FIFO" in refused(gate, "MG001").message


def test_fifo_of_examples(gate: Path) -> None:
    file = gate.parent / "data" / "b.jsonl"
    file.unlink()
    os.mkfifo(file)
    refused(gate, "MG201")


@pytest.mark.parametrize(
    "name", ["../../../secret/x.safetensors", "/etc/x.safetensors", "..", "x/y.safetensors"]
)
def test_shard_index_leads_out(gate: Path, name: str) -> None:
    for file in expert(gate).iterdir():
        file.unlink()
    save_file({"x": torch.ones(2)}, gate.parent.parent / "secret" / "x.safetensors")
    (expert(gate) / "config.json").write_text((gate.parent / "base" / "config.json").read_text())
    index = {"metadata": {}, "weight_map": {"x": name}}
    (expert(gate) / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "is not the name of a file beside it" in refused(gate, "MG001").message


def test_base_named_by_an_adapter_stays_inside(gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a base in the gate file, the adapters name one; they may not reach out for it."""
    monkeypatch.delenv("CI", raising=False)  # where they name none
    base = gate.parent.parent / "secret" / "base"
    (gate.parent / "base").rename(base)
    settings = read_gate(gate)
    del settings["base"]
    for name in "abc":
        configure(gate.parent / "adapters" / name, base_model_name_or_path=str(base))
    found = refused(write_gate(gate, settings), "MG003", None)
    assert "outside of the repository" in found.message


# Headers


def header(b: Path, content: Any, data: bytes = b"") -> None:
    """Replace the weights by a file of ``content`` (JSON, or the bytes themselves)."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (b / WEIGHTS).write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def spans(*ranges: tuple[int, int]) -> dict[str, Any]:
    return {
        f"base_model.model.x{k}.lora_{'AB'[k % 2]}.weight": {
            "dtype": "U8",
            "shape": [stop - start],
            "data_offsets": [start, stop],
        }
        for k, (start, stop) in enumerate(ranges)
    }


def _oversized_length(b: Path) -> None:
    (b / WEIGHTS).write_bytes((2**63 - 1).to_bytes(8, "little") + (b / WEIGHTS).read_bytes()[8:])


def _length_of_everything(b: Path) -> None:
    with (b / WEIGHTS).open("wb") as file:  # sparse: ten gigabytes that take no room
        file.write((10 << 30).to_bytes(8, "little") + b"{")
        file.truncate((10 << 30) + 8)


def _terabytes(b: Path) -> None:
    header(b, {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})


def _crowded(b: Path) -> None:
    header(b, b'{"a":[' + b"[]," * 5_000_000 + b"[]]}")


def _many_tensors(b: Path) -> None:
    entry = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    header(b, ("{" + ",".join(entry % k for k in range(210_000)) + "}").encode())


def _twice(b: Path) -> None:
    entry = json.dumps(next(iter(spans((0, 4)).values())))
    header(b, f'{{"x": {entry}, "x": {entry}}}'.encode(), bytes(4))


HEADERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "oversized length": (_oversized_length, "truncated"),
    "length of everything": (_length_of_everything, "32 MiB"),
    "terabytes": (_terabytes, "truncated"),
    "overlap": (lambda b: header(b, spans((0, 12), (8, 16)), bytes(16)), "overlap"),
    "gap": (lambda b: header(b, spans((0, 4), (8, 16)), bytes(16)), "gap"),
    "bytes at the end": (lambda b: header(b, spans((0, 4)), bytes(16)), "belong to no tensor"),
    "same key twice": (_twice, "given twice"),
    "deep": (lambda b: header(b, b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "too deeply"),
    "huge number": (lambda b: header(b, b'{"x": ' + b"9" * 1_000_000 + b"}"), "digits"),
    "crowded": (_crowded, "too many entries"),
    "many tensors": (_many_tensors, "210000 tensors"),
    "text": (lambda b: (b / WEIGHTS).write_text("x" * 10_000), "truncated"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "says"), HEADERS.values(), ids=HEADERS)
def test_header(gate: Path, spoil: Callable[[Path], None], says: str) -> None:
    spoil(expert(gate))
    found = refused(gate, "MG001")
    assert "not a readable safetensors file" in found.message
    assert says in found.message


@pytest.mark.parametrize("name", ["x\n::error::", "\x1b[31mx", "y" * 3000, "\u202ex"], ids=ascii)
def test_names_of_tensors(gate: Path, name: str) -> None:
    tensors = load_file(expert(gate) / WEIGHTS)
    tensors[name] = tensors.pop(next(iter(tensors)))
    save_file(tensors, expert(gate) / WEIGHTS)
    found = refused(gate, "MG001")
    assert found.message.isprintable()
    assert "is no name of a tensor" in found.message


# Configurations


CONFIGS = {
    "deep list": b'{"r": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep object": b'{"r":' * 100_000 + b"1" + b"}" * 100_000,
    "a little deep": b'{"use_dora": ' + b"[" * 900 + b"]" * 900 + b"}",
    "huge integer": b'{"peft_type": "LORA", "r": ' + b"9" * 1_000_000 + b"}",
    "NaN": b'{"peft_type": "LORA", "r": 4, "lora_alpha": NaN}',
    "not UTF-8": b'{"r": "\xff"}',
    "twice": b'{"r": 4, "r": 8}',
    "large": b'{"r": "' + b"x" * (65 << 20) + b'"}',
}  # fmt: skip


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
def test_configuration(gate: Path, content: bytes) -> None:
    (expert(gate) / CONFIG).write_bytes(content)
    assert CONFIG in refused(gate, "MG001").message


VALUES: list[dict[str, Any]] = [
    {"r": {}}, {"r": []}, {"r": "4"}, {"r": -1}, {"r": 1e308}, {"lora_alpha": 10**400},
    {"lora_alpha": 1e400}, {"lora_alpha": []}, {"peft_type": ["LORA"]}, {"peft_type": {}},
    {"use_dora": {}}, {"use_rslora": "x"}, {"target_modules": {"a": 1}}, {"target_modules": [1]},
    {"target_modules": 3}, {"exclude_modules": [[]]}, {"layers_to_transform": ["x"]},
    {"layers_to_transform": {}}, {"rank_pattern": []}, {"rank_pattern": {"": []}},
    {"alpha_pattern": {"q_proj": "x"}}, {"alpha_pattern": 3}, {"modules_to_save": 3},
    {"modules_to_save": [{}]}, {"init_lora_weights": []}, {"init_lora_weights": {"x": 1}},
    {"base_model_name_or_path": 3}, {"base_model_name_or_path": "\0"}, {"bias": []},
    {"trainable_token_indices": {"a": ["x"]}}, {"layer_replication": [[0, 10**9]]},
    {"layers_pattern": 3}, {"revision": {}}, {"task_type": []},
]  # fmt: skip


@pytest.mark.parametrize("values", VALUES, ids=str)
def test_values_of_the_wrong_type_are_no_bug_of_ours(gate: Path, values: dict[str, Any]) -> None:
    configure(expert(gate), **values)
    checked(gate, stage="preflight")


PATTERNS = {
    "alternation": r"(.|..)+[!?]",
    "nested": r"((\w|\.|\w\w)+)+[!?]$",
    "unrolled": "(?:(?:(?:(?:a{99}){99}){99}){99}){99}",
    "count": "a{999999999}",
    "invalid": "(",
    "long": "x|" * 100_000,
    "recursive": "(?R)",
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize(
    "key", ["target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"]
)
def test_expression(gate: Path, key: str, pattern: str) -> None:
    configure(expert(gate), **{key: {pattern: 4} if key.endswith("pattern") else pattern})
    started = time.monotonic()
    found = refused(gate, "MG001")
    assert time.monotonic() - started < SECONDS / 2
    assert "the expression" in found.message
    assert "name the modules plainly" in found.fix


def test_many_slow_expressions(gate: Path) -> None:
    slow = {f"(.|..)+[!?]{k}": 4 for k in range(5000)}
    configure(expert(gate), rank_pattern=slow, alpha_pattern=slow)
    refused(gate, "MG001")


def test_adapters_that_are_fine_stay_fine(gate: Path, seed: int) -> None:
    """The suite refuses for the reasons given, not everything."""
    lora = {"target_modules": r".*\.(q|v)_proj", "rank_pattern": {r".*\.1\..*": 2}}
    for file in expert(gate).iterdir():
        file.unlink()
    write_adapter(gate.parent / "base", expert(gate), seed, Adapter(lora=lora))
    report = checked(gate)
    assert report.status in {"pass", "fail", "inconclusive"}
    assert not [f for f in report.findings if re.fullmatch("MG0..|MG1..", f.code)]
