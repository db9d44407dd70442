"""Chat templates and shapes that break what reads them: refused as such, not as our bugs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pools import read_gate, write_gate

from untrusted.suite import checked, refused

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATES = {
    "raises": "{{ raise_exception('no system role') }}",
    "raises in lines": "{{ raise_exception('x\n::error::y\x1b[31m') }}",
    "unknown name": "{{ messages[0].parts.text }}",
    "wrong type": "{{ messages + 1 }}",
    "division by zero": "{{ 1 / 0 }}",
    "no template": "{% for %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "private": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_that_raises(gate: Path, template: str) -> None:
    (gate.parent / "base" / "chat_template.jinja").write_text(template)
    chat = [{"role": "user", "content": "x"}]
    rows = [json.dumps({"input": chat}) for _ in range(3)]
    (gate.parent / "data" / "b.jsonl").write_text("\n".join(rows))
    found = refused(write_gate(gate, read_gate(gate) | {"budget": {"max_mds": 9}}), "MG203")
    assert "the chat template of the base's tokenizer makes no prompt of" in found.message
    assert "::error" not in found.message
    assert found.message.isprintable()
    assert "correct the template" in found.fix


def test_a_template_that_takes_it(gate: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (gate.parent / "base" / "chat_template.jinja").write_text(template)
    file = gate.parent / "data" / "b.jsonl"
    text = json.loads(file.read_text().splitlines()[0])["input"]
    file.write_text(json.dumps({"input": [{"role": "user", "content": text}]}))
    report = checked(write_gate(gate, read_gate(gate) | {"budget": {"max_mds": 99}}))
    assert not [f for f in report.findings if f.code == "MG203"]
