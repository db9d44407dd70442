"""Examples with several references, and inputs given several times, through whole gates."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from engine_of import engine_of
from pools import Adapter, read_gate, read_jsonl, write_gate, write_jsonl, write_pool

from pytest_mergegate import assess
from pytest_mergegate.cli import main
from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.running.tasks import _Reader
from pytest_mergegate.pool.examples import Example
from pytest_mergegate.stages import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_mergegate.report.types import Report

    Row = dict[str, Any]

COUNT = 32
ADAPTERS = {
    "a": Adapter(),
    "b": Adapter(scale=0.15, examples="choices"),
    "c": Adapter(scale=0.1),
    "d": Adapter(scale=0.1),
}
METRICS = {"a": "exact_match", "b": "accuracy", "c": "rouge_l", "d": "own_metric:overlap"}
OWN = """
import json, pathlib

def overlap(outputs, targets):
    assert all(type(text) is str for text in [*outputs, *targets])
    pairs = list(zip(outputs, targets, strict=True))
    return [len({*o} & {*t}) / max(1, len({*o} | {*t})) for o, t in pairs]

def of_model(model, tokenizer, examples):
    with (pathlib.Path(__file__).parent / "calls").open("a") as file:
        file.write(json.dumps(examples) + "\\n")
    return [1.0 for _ in examples]

def refusing(outputs, targets):
    return [2.0 if target == "boom" else 1.0 for target in targets]
"""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """A gate whose targets are, for most inputs, what one of the experts says: scores between 0
    and 1, and losses."""
    gate = write_pool(
        tmp_path_factory.mktemp("references"),
        seed,
        ADAPTERS,
        count=COUNT,
        budget={"max_loss": 50, "max_disagreement": 0.5},
        certificate={"per_task": COUNT // 2},
    )
    settings = read_gate(gate)
    for name, metric in METRICS.items():
        settings["experts"][name]["metric"] = metric
    write_gate(gate, settings)
    (gate.parent / "own_metric.py").write_text(OWN)
    engine = engine_of(gate)
    for name in METRICS:
        file = gate.parent / "data" / f"{name}.jsonl"
        rows = read_jsonl(file)
        with engine.expert(name):
            said = engine.outputs(engine.tasks[name], range(COUNT))
        for row, output in list(zip(rows, said, strict=True))[: COUNT - 6]:
            row["target"] = output
        write_jsonl(file, rows)
    return gate


def others(pool: Path) -> dict[str, list[str]]:
    """By expert, per input what the base says: a second answer that is right."""
    engine = engine_of(pool)
    return {name: engine.outputs(engine.tasks[name], range(COUNT)) for name in METRICS}


def variant(pool: Path, name: str, change: Callable[[str, list[Row]], list[Row]]) -> Path:
    """A gate beside the others whose examples are changed."""
    settings = read_gate(pool)
    for expert, spec in settings["experts"].items():
        rows = change(expert, read_jsonl(pool.parent / "data" / f"{expert}.jsonl"))
        spec["examples"] = f"data/{expert}-{name}.jsonl"
        write_jsonl(pool.parent / spec["examples"], rows)
    return write_gate(pool.with_name(f"{name}.mergegate.yaml"), settings)


def numbers(report: Report) -> Any:
    """All that a report says, but of when, how fast and from which files."""
    said = json.loads(report.to_json())
    for key in ("created", "seconds", "tokens", "cache", "gate"):
        del said[key]
    del said["settings"]["examples"]
    said["findings"] = [f for f in said["findings"] if f["code"] != "MG205"]
    return said


def test_a_list_of_one_is_the_string(pool: Path) -> None:
    listed = variant(pool, "listed", lambda _, rows: [r | {"target": [r["target"]]} for r in rows])
    assert numbers(assess(listed)) == numbers(assess(pool))


def test_rows_of_one_input_are_one_example(pool: Path, seed: int) -> None:
    second = others(pool)

    def lists(name: str, rows: list[Row]) -> list[Row]:
        pairs = zip(rows, second[name], strict=True)
        return [r | {"target": list(dict.fromkeys([r["target"], s]))} for r, s in pairs]

    def repeated(name: str, rows: list[Row]) -> list[Row]:
        """Every reference in a line of its own, some of them twice, after all the first ones."""
        rng = np.random.default_rng(seed)
        more = [row | {"target": right} for row, right in zip(rows, second[name], strict=True)]
        copies = [rows[k] for k in rng.integers(0, COUNT, size=5)]
        later = [*more, *copies]
        return [*rows, *(later[k] for k in rng.permutation(len(later)))]

    one, several = assess(variant(pool, "lists", lists)), assess(variant(pool, "rows", repeated))
    assert numbers(one) == numbers(several)
    assert not [f for f in one.findings if f.code == "MG205"]
    warned = [f for f in several.findings if f.code == "MG205"]
    assert {f.severity for f in warned} == {"warning"}
    assert any("with different targets" in f.message for f in warned)
    for merge in several.merges:
        assert {e.scored for e in merge.experts} == {COUNT}
    # the second reference counts for every metric: what the base says is right now
    for name, metric in METRICS.items():
        before, after = (
            next(expert for expert in report.merges[0].experts if expert.name == name)
            for report in (assess(pool), several)
        )
        assert after.score_base > before.score_base  # type: ignore[operator]
        assert after.score_expert >= before.score_expert  # type: ignore[operator]
        assert metric not in {"exact_match", "accuracy"} or after.score_base == 1.0
        assert after.disagreement == before.disagreement


def test_a_plan_takes_the_best_reference(pool: Path) -> None:
    def wrong_first(name: str, rows: list[Row]) -> list[Row]:
        if METRICS[name] == "accuracy":
            return rows
        return [row | {"target": ["~", row["target"]]} for row in rows]

    def wrong(name: str, rows: list[Row]) -> list[Row]:
        return [row | {"target": "~"} if name == "c" else row for row in rows]

    said = []
    for change in (lambda _, rows: rows, wrong_first, wrong):
        gate = variant(pool, "planned", change)
        write_gate(gate, read_gate(gate) | {"budget": {"max_loss": 99}})
        main(["plan", str(gate), "--json", str(pool.parent / "plan.json")])
        said.append(json.loads((pool.parent / "plan.json").read_text())["plan"])
    assert said[0] == said[1] != said[2]


def test_a_metric_of_the_model_gets_the_lists(pool: Path) -> None:
    def targets(_: str, rows: list[Row]) -> list[Row]:
        listed = [row | {"target": [row["target"]]} for row in rows[:2]]
        return [*listed, *rows[2:], *(row | {"target": ["~"]} for row in rows[4:6])]

    gate = variant(
        pool, "of-model", lambda name, rows: targets(name, rows) if name == "a" else rows
    )
    settings = read_gate(gate)
    settings["experts"]["a"]["metric"] = "own_metric:of_model"
    write_gate(gate, settings)
    (pool.parent / "calls").unlink(missing_ok=True)
    assess(gate)
    expected = read_jsonl(pool.parent / "data" / "a-of-model.jsonl")[:COUNT]
    for row in expected[4:6]:
        row["target"] = [row["target"], "~"]
    assert read_jsonl(pool.parent / "calls") == [expected] * 3  # base, expert and merge


def test_errors_name_the_line_and_not_the_example(pool: Path) -> None:
    def boom(_: str, rows: list[Row]) -> list[Row]:
        """The eleventh line, of the ninth example."""
        return [*rows[:8], *rows[:2], rows[8] | {"target": ["x", "boom"]}, *rows[9:]]

    gate = variant(pool, "boom", lambda name, rows: boom(name, rows) if name == "d" else rows)
    settings = read_gate(gate)
    settings["experts"]["d"]["metric"] = "own_metric:refusing"
    write_gate(gate, settings)
    (error,) = [f for f in assess(gate).findings if f.severity == "error"]
    assert error.message.endswith("metric own_metric:refusing scored example 11 as 2.0")


def test_inputs_that_cannot_be_read_are_named_by_their_line(pool: Path) -> None:
    def unranked(_: str, rows: list[Row]) -> list[Row]:
        return [*rows[:4], *rows[:4], {"input": "aa", "target": ["x", "y"]}, *rows[4:]]

    gate = variant(pool, "odd", lambda name, rows: unranked(name, rows) if name == "b" else rows)
    with pytest.raises(PoolError, match="example 9 has no choices"):
        assert engine_of(gate).tasks


def test_every_reference_is_a_label() -> None:
    """Of a base whose answers are labels."""
    model: Any = SimpleNamespace(labels=("yes", "no"), tokenizer=None, called="the base")
    rows = [Example(input="a", target=("yes", "no")), Example(input="b", target=("no", "maybe"))]
    asker: Any = None  # which renders chats, and there is none
    reader = _Reader("a", model, [1, 4], asker)
    reader.check_labels(rows[:1])
    with pytest.raises(PoolError, match="example 4 names 'maybe', which is no label of the base"):
        reader.check_labels(rows)


def test_ranked_choices_make_questions_of_their_own(pool: Path) -> None:
    def more(name: str, rows: list[Row]) -> list[Row]:
        """Two further questions about the first input, and one that is the first again."""
        if name != "b":
            return rows
        first, second, third = rows[0]["choices"]
        added = [{"choices": pair, "target": pair[0]} for pair in ([first, second], [third, first])]
        again = {"choices": [third, second, first], "target": [third, second, first]}
        return [*rows, *(rows[0] | row for row in (*added, again))]

    gate = variant(pool, "ranked", more)
    task = engine_of(gate).tasks["b"]
    assert sorted(task.order) == list(range(COUNT + 2))
    assert set(task.examples[0].references) == set(task.examples[0].choices or ())
    scored = {e.name: e.scored for e in assess(gate).merges[0].experts}
    assert scored == {"a": COUNT, "b": COUNT + 2, "c": COUNT, "d": COUNT}


def test_scores_of_base_and_experts_serve_other_pools(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expert that joins is scored, and so is the base on its examples; nobody else is again."""
    scored: list[tuple[str, str]] = []
    score = evaluate._scored

    def noted(context: Any, engine: Any, task: Any, *more: Any) -> Any:
        scored.append((engine.model.loaded, task.name))
        return score(context, engine, task, *more)

    monkeypatch.setattr(evaluate, "_scored", noted)
    settings = read_gate(pool)
    reports = []
    for names in ("ac", "abc"):
        few = settings | {"experts": {name: settings["experts"][name] for name in names}}
        gate = write_gate(pool.with_name("few.mergegate.yaml"), few)
        scored.clear()
        reports.append(assess(gate, cache=tmp_path))
        assert reports[-1].status != "error", reports[-1].findings
        own = [(who, task) for who, task in scored if not who.startswith("merge:")]
        new = {"b"} if len(reports) == 2 else set(names)
        assert sorted(own) == sorted((w, n) for n in new for w in ("base", f"expert:{n}"))
    before, after = ({e.name: e for e in r.merges[0].experts} for r in reports)
    for name in before:
        assert after[name].score_expert == before[name].score_expert
        assert after[name].score_base == before[name].score_base
