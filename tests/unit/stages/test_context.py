"""What a comparison of a merge with the experts is kept under."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_mergegate.engine.running.cache import Cache
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.gate.options import Options
from pytest_mergegate.stages.context import Clock, Context
from pytest_mergegate.verdict.evidence import budget_questions

SEQUENTIAL = {"certificate": {"per_task": 8, "max_per_task": 32}}


def key(
    root: Path,
    settings: dict[str, Any],
    *,
    drawn: int = 5,
    examples: str = "x",
    inputs: int = 16,
    may_end_early: bool = True,
) -> Any:
    """That of a gate with these settings."""
    told = {"base": "base", "experts": {"a": {"path": "a"}, "b": {"path": "b"}}, **settings}
    gate = gate_from(told, root=root)
    pool: Any = SimpleNamespace(
        names=("a", "b"),
        spec=gate.spec,
        labelled=lambda _: False,
        examples_fingerprint={"a": examples},
    )
    cache, questions = (
        Cache(folder=None),
        budget_questions(gate.spec, pool, may_end_early=may_end_early),
    )
    context = Context(gate, pool, Options(), cache, Clock(), lambda: questions)
    context.workspace = SimpleNamespace(  # type: ignore[assignment]
        key=lambda kind, **more: {"kind": kind, **more},
        models={"a": "1"},
        draws=dict.fromkeys("ab", SimpleNamespace(order=range(inputs))),
        per_task=drawn,
        probing=gate.spec.probes.drawn,
    )
    return context.key("merge")


def test_the_clock_tells_of_what_began_first_first() -> None:
    clock = Clock()
    with clock.timed("merge"), clock.timed("eval"):
        pass
    assert list(clock.seconds) == list(clock.tokens) == ["merge", "eval"]


def of_a(**more: Any) -> dict[str, Any]:
    return {"experts": {"a": {"path": "a", **more}, "b": {"path": "b"}}}


@pytest.mark.parametrize(
    "change",
    [
        of_a(metric="accuracy"),
        of_a(stop=["."]),
        {"probes": {"seed": 1}},
        {"probes": {"max_answer_tokens": 3}},
        {"certificate": {"per_task": 7}},
        {"certificate": {"confidence": 0.9}},
        {"merge": {"methods": ["linear", "ties"]}},
    ],
    ids=str,
)
def test_holds_all_that_it_depends_on(tmp_path: Path, change: dict[str, Any]) -> None:
    assert key(tmp_path, change) != key(tmp_path, {})


def test_holds_what_was_drawn_and_from_where(tmp_path: Path) -> None:
    assert key(tmp_path, {}, drawn=10) != key(tmp_path, {}) != key(tmp_path, {}, examples="y")


@pytest.mark.parametrize("change", [{"budget": {"max_loss": 20}}, of_a(score=0.5)], ids=str)
def test_what_decides_how_far_to_look_counts_where_that_is_open(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    loss = {"budget": {"max_loss": 10}}
    assert key(tmp_path, loss | change) == key(tmp_path, loss)
    assert key(tmp_path, SEQUENTIAL | loss | change) != key(tmp_path, SEQUENTIAL | loss)


def test_a_limit_counts_where_an_expert_may_fail_early(tmp_path: Path) -> None:
    """An expert that fails on its first inputs under one limit may not fail under another."""
    whole = {"certificate": {"sequential": False}}
    strict, loose = ({"budget": {"max_disagreement": limit}} for limit in (0.1, 0.5))
    assert key(tmp_path, strict, inputs=32) != key(tmp_path, loose, inputs=32)
    assert key(tmp_path, strict, inputs=31) == key(tmp_path, loose, inputs=31)
    assert key(tmp_path, strict | whole, inputs=99) == key(tmp_path, loose | whole, inputs=99)
    kept = [key(tmp_path, limit, inputs=99, may_end_early=False) for limit in (strict, loose)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("change", [of_a(min_score=0.5, score=0.6), {"judge": "bound"}], ids=str)
def test_a_judgement_alone_is_no_part_of_it(tmp_path: Path, change: dict[str, Any]) -> None:
    assert key(tmp_path, change) == key(tmp_path, {})
