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
    for block in blocks:
        gate_from(yaml.safe_load(block), root=ROOT)


def test_every_code_has_its_line() -> None:
    shown = set(re.findall(r"MG\d{3}", (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")))
    sources = "".join(
        p.read_text(encoding="utf-8") for p in (ROOT / "pytest_mergegate").rglob("*.py")
    )
    assert set(re.findall(r"MG\d{3}", sources)) == shown
    assert len(preflight.RULES) == len([c for c in shown if c.startswith("MG10")])
