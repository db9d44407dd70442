"""What keeps a gate from its verdicts is seen by the first stage, without torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.preflight.runnable import unrunnable
from pytest_mergegate.stages.preflight import load_pool

if TYPE_CHECKING:
    from .files import Files

CHAT = [{"role": "user", "content": "hello"}]


def found(files: Files, inputs: dict[str, Any], **budget: float) -> list[tuple[str, str | None]]:
    """Codes and experts, where each expert has one example with that input; None for no file."""
    experts = {}
    for name, text in inputs.items():
        experts[name] = {"path": name}
        if text is not None:
            path = files.folder / f"{name}.jsonl"
            path.write_text(json.dumps({"input": text}) + "\n", encoding="utf-8")
            experts[name]["examples"] = path.name
    spec = {"base": "base", "experts": experts} | ({"budget": budget} if budget else {})
    pool = load_pool(gate_from(spec, root=files.folder))
    return [(finding.code, finding.expert) for finding in unrunnable(pool)]


def test_an_expert_without_examples(files: Files) -> None:
    assert found(files, {"a": "x", "b": None, "c": "x"}) == [("MG202", "b")]
    ratio = {"max_sign_change_ratio": 0.5}
    assert found(files, {"a": None, "b": None, "c": None}, **ratio) == []  # needs no input


@pytest.mark.parametrize("where", [None, "chat_template.jinja", "tokenizer_config.json", "broken"])
def test_chats_without_a_template(files: Files, where: str | None) -> None:
    written = {
        "chat_template.jinja": "{{ messages }}",
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}),
        "broken": "{",  # the tokenizer itself is to say so
    }
    if where is not None:
        name = "tokenizer_config.json" if where == "broken" else where
        (files.base / name).write_text(written[where], encoding="utf-8")
    expected = [] if where else [("MG203", "b")]
    assert found(files, {"a": "x", "b": CHAT, "c": "x"}) == expected


def test_mds_of_two(files: Files) -> None:
    assert found(files, {"a": "x", "b": "y"}, max_mds=3.0) == [("MG207", None)]
    assert found(files, {"a": "x", "b": "y"}, max_disagreement=0.3) == []
    assert found(files, {"a": "x", "b": "y", "c": "z"}, max_mds=3.0) == []
