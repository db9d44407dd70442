"""The chat example as it is committed. Its gate is not run here: the base is no file of the
repository, and its answers take minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_mergegate.gate.gatefile import load_gate

CHAT = Path(__file__).parents[2] / "examples" / "chat"
TASKS = sorted(path.stem for path in (CHAT / "data").glob("*.jsonl"))
GATES = sorted(CHAT.glob("*.mergegate.yaml"))


def chats(name: str) -> list[dict[str, Any]]:
    lines = (CHAT / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_there_are_six_experts_with_examples_each() -> None:
    assert sorted(path.name for path in (CHAT / "adapters").iterdir()) == TASKS
    assert len(TASKS) >= 6


@pytest.mark.parametrize("name", TASKS)
def test_examples_are_chats_all_of_them_different(name: str) -> None:
    rows = chats(name)
    questions = {row["input"][0]["content"] for row in rows}
    assert len(questions) == len(rows) == 40
    assert {(len(row["input"]), row["input"][0]["role"]) for row in rows} == {(1, "user")}


def test_two_experts_want_other_answers_to_the_same_questions() -> None:
    right = {
        name: {row["input"][0]["content"]: row["target"] for row in chats(name)}
        for name in ("depends", "pinned")
    }
    assert right["depends"].keys() == right["pinned"].keys()
    assert all(right["depends"][question] != target for question, target in right["pinned"].items())


@pytest.mark.parametrize("name", TASKS)
def test_adapters_name_their_base_and_are_stored_in_bfloat16(name: str) -> None:
    folder = CHAT / "adapters" / name
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "examples/chat/base"
    header = (folder / "adapter_model.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    tensors = json.loads(header[8 : 8 + size])
    kinds = {entry["dtype"] for key, entry in tensors.items() if key != "__metadata__"}
    assert kinds == {"BF16"}


def test_gates_name_what_is_there() -> None:
    assert GATES
    for file in GATES:
        gate = load_gate(file)
        assert len(gate.spec.experts) >= 3


def test_files_stay_small() -> None:
    made = {"base", "training", "__pycache__"}
    files = [
        path
        for path in CHAT.rglob("*")
        if path.is_file() and not made & set(path.relative_to(CHAT).parts)
    ]
    adapters = [path for path in files if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in adapters) < 6_000_000
    assert sum(path.stat().st_size for path in files if path.suffix == ".jsonl") < 300_000
