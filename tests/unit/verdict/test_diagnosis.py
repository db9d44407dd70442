"""The likely cause and the ways out, on Gram matrices and distances made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pytest_mergegate.common.values import Value
from pytest_mergegate.gate.gatefile import Gate, gate_from
from pytest_mergegate.report import build
from pytest_mergegate.stages import pool_parts
from pytest_mergegate.verdict.causes import Cause
from pytest_mergegate.verdict.diagnosis import Diagnosis, diagnose
from pytest_mergegate.verdict.evidence import Case
from pytest_mergegate.verdict.judge import Judgement, Verdict
from pytest_mergegate.verdict.remedies import Remedy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

NAMES = ("a", "b", "c", "d")


def verdict(expert: str, status: Any, budget: str = "max_disagreement") -> Verdict:
    """One verdict under ``merge``."""
    return Verdict(
        budget=budget,
        limit=0.3,
        value=Value(number=0.5),
        expert=expert,
        method=None if budget == "max_mds" else "merge",
        status=status,
        basis="merged",
        message="",
    )


def run(
    root: Path,
    *verdicts: Verdict,
    gram: Any = None,
    scale: float = 0.25,
    distances: Any = None,
    degenerate: str | None = None,
    trials: Any = None,
    expert: Mapping[str, Any] | None = None,
    listed: Mapping[str, float] | None = None,
    **gate_settings: Any,
) -> tuple[Diagnosis, ...]:
    """Diagnose a pool of four with these numbers."""
    gate: Gate = gate_from(
        {"base": "base", "experts": {n: f"x/{n}" for n in NAMES}, **gate_settings}, root=root
    )
    hidden = SimpleNamespace(
        states=SimpleNamespace(names=NAMES, tasks=NAMES),
        scales={
            name: dict.fromkeys(NAMES, own)
            for name, own in {"merge": scale, **(listed or {})}.items()
        },
        grams=dict.fromkeys(NAMES, np.eye(4) if gram is None else np.array(gram, dtype=float)),
        distances=np.ones((4, 4)) - np.eye(4) if distances is None else np.array(distances),
        bounds=SimpleNamespace(
            weights=dict.fromkeys(NAMES, 0.25), minimax_weights=dict.fromkeys(NAMES, 0.25)
        ),
    )
    compared = SimpleNamespace(degenerate=degenerate, inputs=12, **(expert or {}))
    merge = SimpleNamespace(method=SimpleNamespace(label="merge"), expert=lambda name: compared)
    results = Case(
        pool=SimpleNamespace(names=NAMES, spec=gate.spec),  # type: ignore[arg-type]
        hidden=hidden,  # type: ignore[arg-type]
        merges=(merge,),  # type: ignore[arg-type]
    )
    judgement = Judgement(verdicts=verdicts, status="fail", method="merge")
    return diagnose(gate, results, judgement, trials)


def test_nothing_failed(tmp_path: Path) -> None:
    assert run(tmp_path, verdict("a", "pass"), verdict("b", "inconclusive")) == ()


def test_degenerate_output_is_named_first(tmp_path: Path) -> None:
    (diagnosis,) = run(tmp_path, verdict("a", "fail"), degenerate="loop")
    assert str(diagnosis.cause).startswith("degenerate output, most of its answers repeat")


def test_partners(tmp_path: Path) -> None:
    distances = [[0, 2, 1, 3], [2, 0, 1, 1], [1, 1, 0, 1], [3, 1, 1, 0]]
    (diagnosis,) = run(tmp_path, verdict("a", "fail"), distances=distances)
    assert (diagnosis.nearest, diagnosis.farthest) == ("c", "d")


def test_one_diagnosis_per_expert(tmp_path: Path) -> None:
    found = run(
        tmp_path, verdict("b", "fail"), verdict("b", "fail", "max_loss"), verdict("a", "fail")
    )
    assert [diagnosis.expert for diagnosis in found] == ["b", "a"]


@pytest.mark.parametrize(("limit", "helps"), [(4.0, True), (3.9, False)])
def test_leaving_one_out_helps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, helps: bool
) -> None:
    """Without d the similarities are ab 1, ac ½ and bc 0: c has a mean of ¼, so an MDS of 4; d's
    own probe, on which all are near, is left out with it."""
    distances = [[0, 1, 1.25, 9], [1, 0, 1.5, 9], [1.25, 1.5, 0, 8], [9, 9, 8, 0]]
    near = [[0, 1, 1, 9], [1, 0, 1, 9], [1, 1, 0, 8], [9, 9, 8, 0]]
    per_probe = np.array([distances, distances, distances, near])
    monkeypatch.setattr(pool_parts, "distances_per_probe", lambda *_: per_probe)
    (diagnosis,) = run(
        tmp_path,
        verdict("d", "fail", "max_mds"),
        distances=distances,
        budget={"max_mds": limit},
    )
    assert [remedy.drop for remedy in diagnosis.remedies] == ([("d",)] if helps else [])


def one_group(names: Iterable[str]) -> list[list[str]]:
    return [[*names]]


class TestLeavingOneOutOnTheProbes:
    """c spoils every merge that it is in; of the others, who pulls most is known by Gram and λ²."""

    GRAM = np.diag([1, 0.5, 3, 0.2])

    def tried(self, **unreadable: Any) -> Any:
        asked: list[dict[str, float]] = []

        def trial(scales: Mapping[str, float], of: Sequence[str]) -> Any:
            asked.append(dict(scales))
            rate = 0.9 if "c" in scales and len(scales) > 1 else 0.1
            return {n: unreadable.get(n, SimpleNamespace(rate=rate)) for n in of}

        return SimpleNamespace(trial=trial, quick_first=one_group, asked=asked)

    @pytest.mark.parametrize(("scale", "rest"), [(0.25, 1 / 3), (1.0, 1.0)])
    def test_shares_of_an_average_are_shared_out_again(
        self, tmp_path: Path, scale: float, rest: float
    ) -> None:
        trials = self.tried()
        (diagnosis,) = run(
            tmp_path, verdict("a", "fail"), gram=self.GRAM, scale=scale, trials=trials
        )
        (remedy,) = diagnosis.remedies
        assert remedy.text.startswith("leave c out: merge then changes at most 10% of the others'")
        three = [asked for asked in trials.asked if sorted(asked) == ["a", "b", "d"]]
        # as they are for the cause, and as they would be merged for the way out
        assert {round(share, 9) for asked in three for share in asked.values()} == {
            scale,
            round(rest, 9),
        }

    def test_of_the_other_methods_that_are_listed_too(self, tmp_path: Path) -> None:
        """The judged one loses whoever is left out; another one keeps all but c."""
        asked = []

        def trial(scales: Mapping[str, float], of: Sequence[str]) -> Any:
            asked.append(dict(scales))
            holds = "c" not in scales and {*scales.values()} == {0.7}
            return dict.fromkeys(of, SimpleNamespace(rate=0.1 if holds else 0.9))

        (diagnosis,) = run(
            tmp_path,
            verdict("a", "fail"),
            gram=self.GRAM,
            trials=SimpleNamespace(trial=trial, quick_first=one_group),
            listed={"again": 0.25, "sum": 0.7},
        )
        (remedy,) = diagnosis.remedies
        assert remedy.text.startswith("leave c out: sum then changes at most 10% of the others'")
        assert remedy.drop == ("c",)
        three = [scales for scales in asked if sorted(scales) == ["a", "b", "d"]]
        assert sum({*scales.values()} == {1 / 3} for scales in three) == 1  # "again" is no other

    def test_is_offered_within_the_limit_alone(self, tmp_path: Path) -> None:
        found = run(
            tmp_path,
            verdict("a", "fail"),
            gram=self.GRAM,
            trials=self.tried(),
            budget={"max_disagreement": 0.05},
        )
        assert [diagnosis.remedies for diagnosis in found] == [()]

    def test_what_cannot_be_read_helps_nobody(self, tmp_path: Path) -> None:
        trials = self.tried(d=None)
        (diagnosis,) = run(tmp_path, verdict("a", "fail"), gram=self.GRAM, trials=trials)
        assert not any("leave c out" in remedy.text for remedy in diagnosis.remedies)


@pytest.mark.parametrize(("select", "offered"), [("all", True), ("any", False)])
def test_methods_that_pass_are_offered_where_all_must(
    tmp_path: Path, select: str, offered: bool
) -> None:
    (diagnosis,) = run(
        tmp_path,
        verdict("a", "fail", "max_mds"),
        verdict("a", "pass"),
        merge={"select": select},
    )
    texts = [remedy.text for remedy in diagnosis.remedies]
    assert ("merge with merge, which passes" in texts) is offered


def test_finding_keeps_the_ways_out_apart() -> None:
    found = Diagnosis(
        expert="a",
        cause=Cause(kind="weight too small at 0.1", figures="all its answers"),
        nearest="b",
        farthest="c",
        remedies=(Remedy(text="x"), Remedy(text="y")),
    )
    diagnosis = build.diagnosis(found)
    finding = build.diagnosis_finding(diagnosis)
    assert finding.message == (
        "likely cause: weight too small at 0.1: all its answers; "
        "nearest partner b, farthest c (hidden-state distance)"
    )
    assert finding.fix == "x; or y"
    assert [remedy.text for remedy in build.remedies([found])] == ["x", "y"]
