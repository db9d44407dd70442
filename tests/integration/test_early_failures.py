"""An expert that a merge breaks beyond doubt is asked few of its inputs; nothing passes on few."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pools import read_jsonl, write_gate, write_jsonl

from pytest_mergegate import assess

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_mergegate.report.merge_records import MergedExpertRecord
    from pytest_mergegate.report.types import Report

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
WEIGHTS = {"rotate_upper": 0.45, "first_last": 0.45, "reverse_shout": 0.1}
"""Which two of them survive."""
BROKEN = "reverse_shout"
PROMISED = ("inputs", "disagreement", "disagreement_interval", "disagreement_upper", "cut")
PROMISED += ("scored", "score_merged", "loss", "loss_interval", "gain_kept", "gain_kept_interval")
EARLY = 1 - 0.05 / 5


def gate_on(
    folder: Path, budget: dict[str, float], *, labelled: bool = True, count: int = 40, **more: Any
) -> Path:
    experts: dict[str, Any] = {}
    for name in WEIGHTS:
        rows = read_jsonl(QUICKSTART / "data" / f"{name}.jsonl")[:count]
        own = [row if labelled else {"input": row["input"]} for row in rows]
        examples = write_jsonl(folder / f"{name}.jsonl", own)
        experts[name] = {"path": str(QUICKSTART / "adapters" / name), "examples": str(examples)}
    given = {
        "base": str(QUICKSTART / "base"),
        "experts": experts,
        "probes": {"max_answer_tokens": 16},
        "merge": {"methods": ["linear"], "weights": WEIGHTS},
        "budget": budget,
    }
    return write_gate(folder / "mergegate.yaml", given | more)


def merged(report: Report) -> dict[str, MergedExpertRecord]:
    return {expert.name: expert for expert in report.merges[0].experts}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Report]:
    """A gate with a cache for the whole module."""
    cache = tmp_path_factory.mktemp("cache")

    def gate(budget: dict[str, float], **more: Any) -> Report:
        options = {"cache": cache} | {k: more.pop(k) for k in ("baseline",) if k in more}
        return assess(gate_on(tmp_path_factory.mktemp("gate"), budget, **more), **options)

    return gate


@pytest.mark.parametrize(
    ("budget", "labelled", "count", "look"),
    [
        ({"max_disagreement": 0.3}, False, 40, 16),
        ({"max_disagreement": 0.3}, True, 40, 16),
        ({"max_loss": 10}, True, 40, 16),
        ({"min_gain_kept": 0.7}, True, 64, 16),
    ],
)
def test_a_clear_failure_takes_few_inputs(
    run: Callable[..., Report], budget: dict[str, float], *, labelled: bool, count: int, look: int
) -> None:
    run = partial(run, budget, labelled=labelled, count=count)
    report, whole = run(), run(certificate={"sequential": False})
    assert report.status == whole.status == "fail"
    statuses = [(v.expert, v.status) for v in report.verdicts]
    assert statuses == [(v.expert, v.status) for v in whole.verdicts]
    for name, expert in merged(report).items():
        full = merged(whole)[name]
        if name != BROKEN:
            for key in PROMISED:  # a pass rests on what it always rested on
                assert getattr(expert, key) == getattr(full, key)
            assert expert.kl == pytest.approx(full.kl, rel=1e-5, abs=1e-9)
            continue
        assert (expert.inputs, full.inputs) == (look, count)
        if labelled and "max_disagreement" not in budget:
            assert (expert.scored, expert.shared, full.scored) == (look, look, count)
    plain = run(certificate={"per_task": look, "confidence": EARLY, "sequential": False})
    # the same inputs at the same confidence
    assert merged(report)[BROKEN].disagreement_interval == (
        merged(plain)[BROKEN].disagreement_interval
    )


def test_the_message_says_on_how_many_inputs(run: Callable[..., Report]) -> None:
    report = run({"max_disagreement": 0.3})
    (said,) = [v.message for v in report.verdicts if v.expert == BROKEN]
    assert "on 16 of 40 inputs, which leave no doubt" in said
    assert merged(report)[BROKEN].changed  # with cases


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"certificate": {"sequential": False}}, id="asked for"),
        pytest.param({"certificate": {"per_task": 31}}, id="few inputs"),
        # what a registry learns must not depend on how a merge did
        pytest.param({"certificate": {"per_task": 32}, "count": 62}, id="a loss of its own"),
    ],
)
def test_all_inputs_are_looked_at(run: Callable[..., Report], more: dict[str, Any]) -> None:
    report = run({"max_loss": 10}, **more)
    asked = more.get("certificate", {}).get("per_task", 40)
    assert {expert.inputs for expert in merged(report).values()} == {asked}
    assert {expert.scored for expert in merged(report).values()} == {more.get("count", 40)}


def test_a_baseline_is_compared_with_all_inputs(run: Callable[..., Report], tmp_path: Path) -> None:
    budget = {"max_disagreement": 0.3}
    baseline = tmp_path / "baseline.json"
    baseline.write_text(run(budget).to_json(), encoding="utf-8")
    assert {e.inputs for e in merged(run(budget, baseline=baseline)).values()} == {40}
    assert merged(run(budget))[BROKEN].inputs == 16  # whatever is kept of other runs


def test_a_loss_on_few_inputs_is_none_to_increase_from(
    tmp_path: Path,
) -> None:
    """Any report is a baseline, and that of an early failure has scored few of the inputs."""
    gate, baseline = gate_on(tmp_path, {"max_loss": 10}), tmp_path / "baseline.json"
    baseline.write_text(assess(gate, cache=False).to_json(), encoding="utf-8")
    gate_on(tmp_path, {"max_loss_increase": 60})
    found = assess(gate, cache=False, baseline=baseline)
    said = {v.expert: (v.status, v.message) for v in found.verdicts}
    assert said[BROKEN][0] == "inconclusive"
    assert "measured on 40 inputs, and on 16 in the baseline" in said[BROKEN][1]
    assert {said[name][0] for name in WEIGHTS if name != BROKEN} == {"pass"}


def test_other_limits_are_another_question(run: Callable[..., Report]) -> None:
    """Nothing that was kept of a failure stands for what another limit asks."""
    inputs = partial(lambda **budget: merged(run(budget))[BROKEN].inputs)
    assert [inputs(max_disagreement=limit) for limit in (0.3, 0.999, 0.3)] == [16, 40, 16]
    assert json.loads(run({"max_disagreement": 0.999}).to_json())["status"] == "fail"
