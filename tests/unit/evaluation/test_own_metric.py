"""Modules of the user's own, as they are written."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.evaluation.own_metric import OwnMetric

if TYPE_CHECKING:
    from pathlib import Path

DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Score:
    value: float

def ones(outputs, targets):
    return [Score(1.0).value for _ in outputs]
"""


def metric(name: str) -> OwnMetric:
    return OwnMetric(metric=name, expert="a", examples=[], numbers=[])


def test_a_module_with_a_dataclass(tmp_path: Path) -> None:
    (tmp_path / "with_class.py").write_text(DATACLASS)
    assert metric("with_class:ones").load(tmp_path)(["x"], ["y"]) == [1.0]


def test_two_gates_have_modules_of_one_name(tmp_path: Path) -> None:
    for name, score in (("one", 0.0), ("two", 1.0)):
        (tmp_path / name).mkdir()
        text = f"def f(outputs, targets): return [{score}]"
        (tmp_path / name / "mine.py").write_text(text)
    found = [metric("mine:f").load(tmp_path / name)([], []) for name in ("one", "two", "one")]
    assert found == [[0.0], [1.0], [0.0]]


@pytest.mark.parametrize("then", ["", "raise SystemExit(3)"])
def test_a_module_that_leaves_the_path_itself(tmp_path: Path, then: str) -> None:
    text = f"import sys\nsys.path.remove({str(tmp_path)!r})\ndef f(o, t): return []\n{then}"
    (tmp_path / "leaving.py").write_text(text)
    before = list(sys.path)
    if then:
        with pytest.raises(PoolError, match="cannot be imported"):
            metric("leaving:f").load(tmp_path)
    else:
        assert metric("leaving:f").load(tmp_path)([], []) == []
    assert sys.path == before
