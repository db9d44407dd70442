"""Modules of the user's own, as they are written."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.evaluation.own_metric import OwnMetric
from pytest_mergegate.pool.examples import Example

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


def test_a_metric_may_ask_for_the_inputs() -> None:
    chat = [{"role": "user", "content": "hello"}]
    rows = [{"input": "abc", "target": ["c", "b"]}, {"input": chat, "target": "hello"}]
    examples = [Example.model_validate(row) for row in rows]
    asked = OwnMetric(metric="mine:f", expert="a", examples=examples, numbers=[1, 2])
    seen = []

    def found(outputs: list[str], targets: list[str], inputs: list[object]) -> list[float]:
        seen.append((outputs, targets, inputs))
        return [float(target == output) for output, target in zip(outputs, targets, strict=True)]

    assert not asked.takes_model(found)
    assert asked.takes_model(lambda model, tokenizer, examples: [])
    assert asked.of_outputs(found, ["b", "bye"]).tolist() == [1.0, 0.0]
    assert seen[0] == (["b", "b", "bye"], ["c", "b", "hello"], ["abc", "abc", chat])


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


COUNTING = """
from pathlib import Path

with (Path(__file__).parent / "loads").open("a") as file:
    file.write("x")
kept = []

def f(outputs, targets):
    kept.extend(outputs)
    return len(kept)
"""


def test_a_module_is_imported_once_as_it_is_written(tmp_path: Path) -> None:
    """What it keeps for the expert serves the merge; what was changed since is read anew."""
    (tmp_path / "keeping.py").write_text(COUNTING)
    found = [metric("keeping:f").load(tmp_path)(["a"], ["b"]) for _ in range(3)]
    assert found == [1, 2, 3]
    assert (tmp_path / "loads").read_text() == "x"
    (tmp_path / "keeping.py").write_text(f"{COUNTING}\n# changed")
    assert metric("keeping:f").load(tmp_path)(["a"], ["b"]) == 1
    assert (tmp_path / "loads").read_text() == "xx"


def test_a_module_that_failed_is_imported_again(tmp_path: Path) -> None:
    text = "from pathlib import Path\nassert Path(__file__).with_name('there').exists()\n"
    (tmp_path / "waiting.py").write_text(f"{text}def f(o, t): return [1.0]")
    for _ in range(2):
        with pytest.raises(PoolError, match="cannot be imported"):
            metric("waiting:f").load(tmp_path)
    (tmp_path / "there").touch()
    assert metric("waiting:f").load(tmp_path)([], []) == [1.0]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ("00", "a str is no list of numbers"),
        ({0: 0.5, 1: 0.5}, "a dict is no list of numbers"),
        ({0.0, 1.0}, "a set is no list of numbers"),
        ([0.5, 2.0], "scored pair of outputs 2 as 2.0"),
        ([0.5], "returned 1 scores for 2 pairs of outputs"),
    ],
)
def test_a_distance_of_the_wrong_kind(found: object, says: str) -> None:
    own = OwnMetric(metric="my:far", expert="a", examples=[], numbers=(1, 2), kind="distance")
    with pytest.raises(PoolError) as caught:
        own.between(lambda outputs, others: found, ["a", "b"], ["c", "d"])
    assert says in caught.value.what


def test_errors_of_a_distance_can_be_told_without_text() -> None:
    own = OwnMetric(metric="my:far", expert="a", examples=[], numbers=(1,), kind="distance")
    for far in (lambda a, b: [1.0], lambda a, b: a, lambda a, b: []):
        with pytest.raises(PoolError) as caught:
            own.between(far, ["secret"], ["secret"])
        assert "secret" in caught.value.what
        assert "secret" not in caught.value.discreet
