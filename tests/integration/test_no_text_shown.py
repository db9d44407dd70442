"""With ``certificate.shown: 0`` no text of an example, and no answer, is in any report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from naive import Naive
from pools import edit_adapter_config, read_gate, read_jsonl, write_gate, write_jsonl

from pytest_mergegate import assess
from pytest_mergegate.report.formats import html, json, markdown, sarif
from pytest_mergegate.report.formats.failures import failure_text
from pytest_mergegate.report.formats.junit import properties
from pytest_mergegate.report.formats.terminal import Look, summary
from pytest_mergegate.report.types import Collected

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_mergegate.report.types import Report

SECRET = "zebrazebra"
METRICS = f"""
def raising(outputs, targets):
    raise ValueError(f"cannot score {{outputs[0]}} against {{targets[0]}}")

def short(outputs, targets):
    return [1.0 for target in targets if "{SECRET}" not in target]

def telling(outputs, targets):
    return list(targets)

def unequal(outputs, others):
    return [0.5 for _ in outputs]
"""


def _every_format(report: Report) -> str:
    found = Collected(reports=(report,))
    written = [form.render(found) for form in (html, json, markdown, sarif)]
    shown = [summary([report], Look(verbosity=2, reasons=True)), failure_text(report, None)]
    for name in (*report.expert_names, "b", None):
        shown.append(failure_text(report, name))
        shown += [text for _, text in properties(report, name)]
    return "\n".join(written + shown)


@pytest.fixture
def gate(pool_copy: Path) -> Path:
    """Every expert's first example holds the secret, which it merges badly enough to be shown."""
    for name in "abc":
        file = pool_copy.parent / "data" / f"{name}.jsonl"
        rows = read_jsonl(file)
        rows[0] = {"input": f"{name}:{SECRET}=", "target": f"{SECRET}{name}"}
        write_jsonl(file, rows)
    (pool_copy.parent / "telling.py").write_text(METRICS)
    return pool_copy


def _with(gate: Path, shown: int, **expert: Any) -> Path:
    settings = read_gate(gate)
    settings["certificate"] = {"shown": shown}
    settings["budget"] = {"max_disagreement": 0.1, "max_loss": 1}
    settings["experts"]["b"] |= expert
    return write_gate(gate, settings)


def test_a_gate_that_fails(gate: Path) -> None:
    naive = Naive(gate)
    said = {
        naive.text(answer, name)
        for name in naive.names
        for answer in naive.answers[name]
        if len(naive.text(answer, name)) > 3  # which are no words of ours
    }
    told = assess(_with(gate, 6), cache=False)
    assert told.status != "error"
    text = _every_format(told)
    assert SECRET in text
    assert any(answer in text for answer in said)
    report = assess(_with(gate, 0), cache=False)
    assert any(expert.disagreement for expert in report.merges[0].experts)
    text = _every_format(report)
    assert SECRET not in text
    assert not [answer for answer in said if f'"{answer}"' in text or f" {answer}\n" in text]


def _target(gate: Path) -> None:
    file = gate.parent / "data" / "b.jsonl"
    rows = [row | {"choices": ["x", "y"]} for row in read_jsonl(file)]
    write_jsonl(file, rows)


def _template(gate: Path) -> None:
    file = gate.parent / "data" / "b.jsonl"
    chats = [
        row | {"input": [{"role": "user", "content": row["input"]}]} for row in read_jsonl(file)
    ]
    write_jsonl(file, chats)
    template = "{{ raise_exception('no ' + messages[0]['content']) }}"
    (gate.parent / "base" / "chat_template.jinja").write_text(template)


def _adapter(gate: Path) -> None:
    edit_adapter_config(gate.parent / "adapters" / "b", peft_type="NONE_SUCH")


@pytest.mark.parametrize(
    ("expert", "spoil", "code"),
    [
        pytest.param({"metric": "telling:raising"}, None, "MG301", id="a metric that raises"),
        pytest.param({"metric": "telling:short"}, None, "MG301", id="too few scores"),
        pytest.param({"metric": "telling:telling"}, None, "MG301", id="text as a score"),
        pytest.param({"distance": "telling:unequal"}, None, "MG301", id="a distance"),
        pytest.param({}, _template, "MG203", id="a chat template"),
        pytest.param({}, _target, "MG201", id="a target that is no choice"),
        pytest.param({}, _adapter, "MG002", id="an error about something else"),
    ],
)
def test_what_cannot_be_computed(
    gate: Path, expert: dict[str, Any], spoil: Callable[[Path], None] | None, code: str
) -> None:
    if spoil is not None:
        spoil(gate)
    told, report = (assess(_with(gate, shown, **expert), cache=False) for shown in (3, 0))
    for found in (told, report):
        assert found.status == "error"
        assert [f.code for f in found.findings if f.severity == "error"] == [code]
    if "metric" in expert:
        assert SECRET in _every_format(told)
    assert SECRET not in _every_format(report)
    (about,) = (f for f in report.findings if f.severity == "error")
    assert about.expert == "b"
    assert about.fix
