"""The house: how many rooms there are, how large modules and functions get, and who names what.

The arrows between rooms are import-linter's (``[tool.importlinter]`` in pyproject.toml).
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import pytest_mergegate

PACKAGE = Path(pytest_mergegate.__file__).parent
ROOT = Path(__file__).parents[3]
MODULES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py"))


def _place(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def test_few_entries_at_the_top() -> None:
    # a folder without modules is what Python left behind of one that is gone
    entries = [p for p in PACKAGE.iterdir() if p.is_file() or any(p.rglob("*.py"))]
    assert len(entries) <= 18


@pytest.mark.parametrize("module", MODULES, ids=_place)
def test_a_module_fits_on_a_few_screens(module: Path) -> None:
    source = module.read_text("utf-8")
    assert len(source.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(source))
    functions = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef))
    assert [f.name for f in functions if (f.end_lineno or 0) - f.lineno >= 60] == []


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module in MODULES:
        for node in ast.parse(module.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(_place(module))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_the_map_has_every_room() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    screen = text.split("```")[1]
    assert [room for room in ROOMS if f"{room}/" not in screen] == []


def test_tests_mirror_the_package() -> None:
    folders = {p.name for p in (ROOT / "tests" / "unit").iterdir() if p.is_dir()}
    assert set(ROOMS) - folders == {"testing"}  # pytest's side is tested in tests/plugin
