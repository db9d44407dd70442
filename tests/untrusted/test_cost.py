"""A small file may not cost much: time and memory stay in proportion to what was sent."""

from __future__ import annotations

import json
import resource
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pools import read_gate, write_gate
from safetensors.torch import load_file, save_file

from pytest_mergegate import assess
from pytest_mergegate.common.errors import GateFileError
from untrusted.suite import CONFIG, WEIGHTS, checked, configure, expert, mergegate, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS, MEGABYTES = 6, 600
"""Of a busy machine; without the limits, each takes minutes or gigabytes."""


@pytest.fixture(autouse=True)
def _in_proportion() -> Iterator[None]:
    started, before = time.process_time(), _peak()
    yield
    assert time.process_time() - started < SECONDS
    assert _peak() - before < MEGABYTES


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# Configurations of adapters

LISTS: dict[str, dict[str, Any]] = {
    "layers_pattern, many names": {"layers_to_transform": [0], "layers_pattern": ["x"] * 100_000},
    "layers_pattern, many others": {
        "layers_to_transform": [0],
        "layers_pattern": [f"x{k}" for k in range(60_000)],
    },
    "layers_pattern, expressions": {
        "layers_to_transform": [0],
        "layers_pattern": [f"(x|y)+{k}" for k in range(30_000)],
    },
    "layers_pattern, a long one": {"layers_to_transform": [0], "layers_pattern": "x" * 300_000},
    "modules_to_save": {"modules_to_save": [f"x{k}" for k in range(300_000)]},
    "modules_to_save, the same": {"modules_to_save": ["x"] * 500_000},
    "rank_pattern": {"rank_pattern": {f"x{k}": 4 for k in range(100_000)}},
    "alpha_pattern": {"alpha_pattern": {f"x{k}": 4 for k in range(100_000)}},
    "trainable_token_indices": {
        "trainable_token_indices": {f"x{k}": 0 for k in range(270_000)}
    },
}  # fmt: skip


@pytest.mark.parametrize("settings", LISTS.values(), ids=LISTS)
def test_lists_of_names(gate: Path, settings: dict[str, Any]) -> None:
    configure(expert(gate), **settings)
    found = refused(gate, "MG001")
    assert "b/" in found.message or CONFIG in found.message
    assert next(key for key in reversed(settings)) in found.message or "mapping" in found.message


def test_many_modules_against_many_names(gate: Path) -> None:
    """Neither is long by itself."""
    named = {f"base_model.model.m{k}.weight": torch.zeros(1) for k in range(6000)}
    save_file(named, expert(gate) / WEIGHTS)
    configure(expert(gate), modules_to_save=[f"x{k}" for k in range(2000)])
    assert "2000 names, for 6000 tensors" in refused(gate, "MG001").message


def test_lists_of_sound_length(gate: Path) -> None:
    names = [f"layers.{k}.norm" for k in range(500)]
    configure(
        expert(gate),
        modules_to_save=names,
        rank_pattern={f"layers.{k}.none": 4 for k in range(500)},
        layers_pattern=["layers", "h"],
    )
    assert checked(gate, stage="preflight").status == "inconclusive"


def _other_method(gate: Path, kind: str, **settings: Any) -> None:
    import peft
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    for file in expert(gate).iterdir():
        file.unlink()
    base = AutoModelForCausalLM.from_pretrained(gate.parent / "base")
    config = getattr(peft, kind)(task_type="CAUSAL_LM", **settings)
    model = get_peft_model(base, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    model.save_pretrained(expert(gate))


@pytest.mark.parametrize(
    ("kind", "stored", "claimed"),
    [
        ("LoHaConfig", {"r": 2}, {"r": 16_000}),
        ("LoHaConfig", {"r": 2}, {"rank_pattern": {"q_proj": 16_000}}),
        ("LoKrConfig", {"r": 2}, {"r": 16_000, "decompose_factor": 2}),
        ("AdaLoraConfig", {"init_r": 4, "total_step": 10}, {"init_r": 16_000}),
        ("HRAConfig", {"r": 2}, {"r": 16_000}),
        ("VeraConfig", {"r": 8}, {"r": 16_000}),
    ],
    ids=str,
)
def test_ranks_beyond_what_is_stored(
    gate: Path, kind: str, stored: dict[str, Any], claimed: dict[str, Any]
) -> None:
    _other_method(gate, kind, target_modules=["q_proj", "v_proj", "up_proj"], **stored)
    size = (expert(gate) / WEIGHTS).stat().st_size
    configure(expert(gate), **claimed)
    before = _peak()
    found = refused(gate, "MG002")
    assert "its configuration says" in found.message, "before anything of that size is made"
    assert size < 100_000
    assert _peak() - before < 200


@pytest.mark.parametrize("rank", [3, 10**6])
def test_the_rank_of_a_lora_is_what_is_stored(gate: Path, rank: int) -> None:
    configure(expert(gate), r=rank)
    assert f"r={rank}" in refused(gate, "MG104").message


# YAML

LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 10)]
)
MERGED = "\n".join(
    ["a0: &a0 {x0: 1, y0: 2}"]
    + [f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 10)}], x{k}: 1}}" for k in range(1, 10)]
)
ALIASES = {
    "lists": LAUGHS,
    "mappings": LAUGHS.replace("[", "{p: [").replace("]", "]}"),
    "merge keys": MERGED,
    "one long text": f"a: &a {'x' * 200_000}\nb: [{', '.join(['*a'] * 10_000)}]",
    "itself": "a: &a [*a]",
    "itself, as a mapping": "a: &a {b: *a}",
    "keys": "a0: &a0 [x, x]\n? [*a0, *a0]\n: 1",
    "many nodes": "a: [" + "x, " * 160_000 + "x]",
    "large": "#" * (600 << 10),
}


@pytest.mark.parametrize("text", ALIASES.values(), ids=ALIASES)
@pytest.mark.parametrize("kind", ["gate", "mergekit"])
def test_yaml(gate: Path, text: str, kind: str) -> None:
    head = "merge_method: linear\n" if kind == "mergekit" else gate.read_text()
    gate.write_text(f"{head}\n{text}\n")
    with pytest.raises(GateFileError, match=r"mergegate.yaml") as raised:
        assess(gate)
    assert len(str(raised.value)) < 2000


def test_few_aliases_are_fine(gate: Path) -> None:
    settings = read_gate(gate)
    settings["ignore"] = {"MG204": "few"}
    text = write_gate(gate, settings).read_text()
    gate.write_text(text.replace("MG204: few", "MG204: &why few\n  MG205: *why"))
    assert checked(gate, stage="preflight").status == "inconclusive"


@pytest.mark.parametrize("count", [100, 5000])
def test_many_problems_are_a_short_text(
    gate: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    gate.write_text(gate.read_text() + "\n".join(f"key{k}: 1" for k in range(count)))
    assert mergegate("check", gate) == 2
    out = capsys.readouterr().out
    assert "more problems" in out
    assert len(out) < 50_000


def test_a_long_value_is_cut(gate: Path) -> None:
    write_gate(gate, read_gate(gate) | {"dtype": "x" * 400_000})
    with pytest.raises(GateFileError) as raised:
        assess(gate)
    assert len(str(raised.value)) < 2000


# Examples

ROWS: dict[str, tuple[Callable[[Path], object], str]] = {
    "many": (lambda f: f.write_text('{"input": "x"}\n' * 1_000_000), "over 100000 lines"),
    "many empty": (lambda f: f.write_bytes(b"\n" * 60_000_000), "over 100000 lines"),
    "long": (lambda f: f.write_text(json.dumps({"input": "x" * (20 << 20)})), "characters"),
    "long target": (
        lambda f: f.write_text(json.dumps({"input": "x", "target": "y" * (20 << 20)})),
        "characters",
    ),
    "many choices": (
        lambda f: f.write_text(json.dumps({"input": "x", "choices": list(map(str, range(10**6)))})),
        "characters",
    ),
    "sparse": (lambda f: _sparse(f, 4 << 30), "over 128 MiB"),
}  # fmt: skip


def _sparse(file: Path, size: int) -> None:
    with file.open("wb") as opened:
        opened.truncate(size)


@pytest.mark.parametrize(("write", "says"), ROWS.values(), ids=ROWS)
def test_examples(gate: Path, write: Callable[[Path], object], says: str) -> None:
    write(gate.parent / "data" / "b.jsonl")
    assert says in refused(gate, "MG201").message


# Side files

SIDE: dict[str, tuple[str, bytes]] = {
    "tokenizer of lists": ("tokenizer.json", b'{"x": [' + b"[]," * 15_000_000 + b"[]]}"),
    "tokenizer of numbers": ("tokenizer.json", b'{"x": [' + b"1," * 25_000_000 + b"1]}"),
    "deep tokenizer": ("tokenizer.json", b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "words": ("vocab.txt", b"\n" * 60_000_000),
}


@pytest.mark.parametrize(("name", "content"), SIDE.values(), ids=SIDE)
def test_side_files(gate: Path, name: str, content: bytes) -> None:
    if name == "vocab.txt":
        for file in (gate.parent / "base").glob("tokenizer*"):
            file.unlink()
        (gate.parent / "base" / "vocab.txt").write_text("x\ny\n")
    (expert(gate) / name).write_bytes(content)
    report = checked(gate, stage="preflight")
    assert report.status == "error"
    said = [f for f in report.findings if f.severity == "error" and f.expert == "b"]
    assert [name in f.message for f in said] == [True], said


# Shapes


@pytest.mark.parametrize(
    "shape", [[2**62, 0], [0, 2**62], [2**31, 2**31, 0], [2**45, 0, 1]], ids=str
)
@pytest.mark.parametrize("key", [None, "base_model.model.x.lora_A.weight"])
def test_shapes_without_elements(gate: Path, shape: list[int], key: str | None) -> None:
    tensors = load_file(expert(gate) / WEIGHTS)
    key = key or next(iter(tensors))
    header: dict[str, Any] = {}
    data, at = b"", 0
    for name, tensor in tensors.items():
        if name == key:
            continue
        raw = tensor.numpy().tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(raw)],
        }
        data, at = data + raw, at + len(raw)
    header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at]}
    raw = json.dumps(header).encode()
    (expert(gate) / WEIGHTS).write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    found = refused(gate, "MG001")
    assert f"the impossible shape {shape}" in found.message
    assert key in found.message


@pytest.mark.parametrize("entry", ["1", "{}", '""'])
@pytest.mark.parametrize("key", ["input", "choices", "target"])
def test_lists_in_an_example(gate: Path, key: str, entry: str) -> None:
    text = "[" + ",".join([entry] * 200_000) + "]"
    row = f'"{key}": {text}' if key == "input" else f'"input": "x", "{key}": {text}'
    (gate.parent / "data" / "b.jsonl").write_text(f"{{{row}}}\n")
    assert f"{key} has 200000 entries" in refused(gate, "MG201").message


def test_a_name_as_long_as_many(gate: Path) -> None:
    configure(expert(gate), modules_to_save=["x" * 3_000_000])
    tensors = {f"base_model.model.m{k}.lora_A.weight": torch.zeros(1, 1) for k in range(2_000)}
    save_file(tensors, expert(gate) / WEIGHTS)
    assert "holds 1 names, for 2000 tensors" in refused(gate, "MG001").message
