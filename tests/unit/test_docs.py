"""What README and docs show must be what the package takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pytest_mergegate import preflight
from pytest_mergegate.gatefile import gate_from

ROOT = Path(__file__).parents[2]
YAML = re.compile(r"```yaml\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/gate-file.md"])
def test_gate_files_shown_are_valid(page: str) -> None:
    blocks = YAML.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    for block in (block for block in blocks if "experts:" in block):
        gate_from(yaml.safe_load(block), root=ROOT)


FINDINGS = ROOT / "docs" / "findings"
CODE = re.compile(r"MG\d{3}")


def _codes() -> set[str]:
    sources = (p.read_text(encoding="utf-8") for p in (ROOT / "pytest_mergegate").rglob("*.py"))
    return {code for source in sources for code in CODE.findall(source)}


def test_every_code_has_a_page_and_its_line() -> None:
    index = FINDINGS.with_suffix(".md").read_text(encoding="utf-8")
    linked = re.findall(r"^\| \[(MG\d{3})\]\(findings/(MG\d{3})\.md\) \|", index, re.MULTILINE)
    assert all(name == page for name, page in linked)
    assert [name for name, _ in linked] == sorted(_codes())
    assert {page.stem for page in FINDINGS.iterdir()} == _codes()


@pytest.mark.parametrize("page", sorted(FINDINGS.iterdir()), ids=lambda page: page.stem)
def test_every_page_answers_the_same_questions(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.stem}: ")
    asked = re.findall(r"^\*\*(.+?)\.\*\* \S", text, re.MULTILINE)
    assert asked == ["What it is", "How to see it", "Why it matters", "How to fix it"]
    assert "ignore" in text.splitlines()[1]  # whether it can be softened
    assert set(CODE.findall(text)) <= _codes()


def test_every_rule_is_registered_and_has_one_code() -> None:
    modules = [rule.__module__.rpartition(".")[2] for rule in preflight.RULES]
    files = sorted(Path(preflight.__file__).parent.glob("mg*.py"))
    assert modules == [file.stem for file in files]
    for file in files:
        code = file.stem[:5].upper()
        source = file.read_text(encoding="utf-8")
        assert source.startswith(f'"""{code}: ')
        reported = set(re.findall(r'"(MG\d{3})"', source))
        assert reported == {code}
