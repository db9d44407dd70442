"""Baselines: what is found in a file, what counts as moved, and what rewriting leaves alone."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.values import Value
from pytest_mergegate.report.baseline import read_baseline, update_baseline
from pytest_mergegate.report.merge_records import ChangedRecord, MergedExpertRecord, MergeRecord
from pytest_mergegate.report.pool_records import BaseRecord, ExpertRecord, PairRecord
from pytest_mergegate.report.types import Report
from pytest_mergegate.stages.pool_parts import PoolPart
from pytest_mergegate.verdict.budgets import BUDGETS
from pytest_mergegate.verdict.evidence import Asked
from pytest_mergegate.verdict.increases import (
    Earlier,
    increase_of_loss,
    mds_increase,
    moved,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_mergegate.verdict.evidence import Evidence

    Write = Callable[..., Report]

SETTINGS: dict[str, Any] = {
    "probes": {
        "drawn_per_task": 5,
        "seed": 0,
        "positions": "answer",
        "normalize": "unit",
        "max_answer_tokens": 16,
    },
    "certificate": {"per_task": 64, "max_per_task": None, "confidence": 0.95},
    "merge": {"weights": "uniform", "seed": 0, "route": "in_place"},
    "budget": {"max_mds": 3.0},
    "dtype": "float32",
    "trust_remote_code": False,
}


def report(gate: Path | str, *, mds: float = 1.5, status: Any = "pass", **parts: Any) -> Report:
    """A small report of a gate that went as far as the merge."""
    merged = MergedExpertRecord(
        name="a",
        reading="greedy",
        inputs=64,
        disagreement=0.1,
        disagreement_interval=None,
        disagreement_upper=0.2,
        kl=0.0,
        distortion=1.0,
        relative_distortion=0.5,
        degenerate=None,
        loss=-3.0,
        loss_interval=(-5.0, -1.0),
    )
    merge = MergeRecord(
        method="linear", parameters={}, weights={}, fidelity=0.0, digest="x", experts=(merged,)
    )
    base = BaseRecord(ref="base", fingerprint="sha256:0", architecture="Llama", parameters=1)
    expert = ExpertRecord(name="a", ref="a", fingerprint="sha256:1", kind="lora", mds=mds)
    whole = {
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {"python": "3.11"},
        "device": "cpu",
        "seconds": {"preflight": 1.0},
        "settings": SETTINGS,
        "base": base,
        "experts": (expert,),
        "pairs": (PairRecord(a="a", b="b", distance=0.5, hidden_similarity=0.5),),
        "merges": (merge,),
    }
    return Report(status=status, gate=str(gate), **(whole | parts))


@pytest.fixture
def gate(tmp_path: Path) -> Callable[[str], Path]:
    """Gate files, which must be there."""

    def write(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    return write


def entries(path: Path) -> dict[str, dict[str, Any]]:
    """The reports in a file, by gate."""
    return {r["gate"]: r for r in json.loads(path.read_text("utf-8"))["reports"]}


def update(path: Path, *reports: Report) -> tuple[str, ...]:
    """As a run of the gate files beside ``path`` would."""
    return update_baseline(read_baseline(path, path.parent), reports)


class TestMoved:
    @pytest.mark.parametrize(
        ("before", "after"),
        [(1.0, 1.0), (1.0, 1.00005), (0.0, 5e-7), (None, None), (-1.0000000000000009, -1.0)],
    )
    def test_round_off_is_none(self, before: float | None, after: float | None) -> None:
        assert moved(before, after) == 0

    def test_relative_to_the_size(self) -> None:
        assert moved(2.0, 4.0) == moved(4.0, 2.0) == 0.5
        assert moved(1000.0, 1001.0) < moved(1.0, 2.0)

    @pytest.mark.parametrize(("before", "after"), [(None, 1.0), (1.0, None)])
    def test_a_number_on_one_side_is_farthest(
        self, before: float | None, after: float | None
    ) -> None:
        assert moved(before, after) == float("inf")


class TestRewriting:
    def test_another_machine_finds_its_gates(
        self, tmp_path: Path, gate: Callable[[str], Path]
    ) -> None:
        path = tmp_path / "ci" / "baseline.json"
        update_baseline(read_baseline(path, tmp_path), [report(gate("pools/x.mergegate.yaml"))])
        assert list(entries(path)) == ["../pools/x.mergegate.yaml"]
        elsewhere = tmp_path / "elsewhere"
        (elsewhere / "ci").mkdir(parents=True)
        (elsewhere / "ci" / "baseline.json").write_bytes(path.read_bytes())
        moved_there = read_baseline(elsewhere / "ci" / "baseline.json", elsewhere)
        assert moved_there.entry(elsewhere / "pools" / "x.mergegate.yaml") is not None
        assert moved_there.entry(elsewhere / "ci" / "x.mergegate.yaml") is None

    def test_what_json_reports_hold_is_found_from_the_root(
        self, tmp_path: Path, gate: Callable[[str], Path]
    ) -> None:
        path = tmp_path / "ci" / "baseline.json"
        path.parent.mkdir()
        path.write_text(report("x.mergegate.yaml").to_json(), "utf-8")
        found = gate("x.mergegate.yaml")
        assert read_baseline(path, tmp_path).entry(found) is not None
        gate("ci/x.mergegate.yaml")  # now the entry may be this one's
        assert read_baseline(path, tmp_path).entry(found) is None

    def test_an_unchanged_gate_leaves_every_byte(
        self, tmp_path: Path, gate: Callable[[str], Path]
    ) -> None:
        path, file = tmp_path / "baseline.json", gate("x.mergegate.yaml")
        update(path, report(file))
        before = path.read_bytes()
        again = report(
            file,
            mds=1.5 + 1e-9,
            status="fail",
            created="2027-07-07T00:00:00+00:00",
            device="cuda",
            seconds={"preflight": 2.0},
            settings=SETTINGS | {"budget": {"max_mds": 1.0}},
        )
        assert update(path, again) == ("baseline baseline.json: 1 unchanged",)
        assert path.read_bytes() == before
        assert update(path, report(file, mds=1.6)) == ("baseline baseline.json: 1 rewritten",)
        assert path.read_bytes() != before

    def test_no_text_of_examples_is_committed(
        self, tmp_path: Path, gate: Callable[[str], Path]
    ) -> None:
        path, file = tmp_path / "baseline.json", gate("x.mergegate.yaml")
        merge = report(file).merges[0]
        case = ChangedRecord(input="zebra", expert="a", merged="b", distance=1.0, parts_at=0)
        expert = merge.experts[0].model_copy(update={"changed": (case,)})
        update(path, report(file, merges=(merge.model_copy(update={"experts": (expert,)}),)))
        assert "zebra" not in path.read_text()
        before = path.read_bytes()
        update(path, report(file))
        assert path.read_bytes() == before

    def test_unseen_gates_stay(self, tmp_path: Path, gate: Callable[[str], Path]) -> None:
        path = tmp_path / "baseline.json"
        files = {name: gate(f"{name}.mergegate.yaml") for name in "cab"}
        update(path, *(report(file) for file in files.values()))
        assert list(entries(path)) == [f"{name}.mergegate.yaml" for name in "abc"]
        before = entries(path)
        update(path, report(files["b"], mds=9.0))
        update(path)
        after = entries(path)
        assert after.pop("b.mergegate.yaml") != before.pop("b.mergegate.yaml")
        assert after == before

    @pytest.mark.parametrize(
        ("worse", "why"),
        [
            ({"status": "error"}, "could not be computed"),
            ({"pairs": (), "merges": ()}, "nothing to compare"),
            ({"merges": ()}, "did not go as deep"),
        ],
    )
    def test_a_good_entry_stays(
        self, tmp_path: Path, gate: Callable[[str], Path], worse: dict[str, Any], why: str
    ) -> None:
        path, file = tmp_path / "baseline.json", gate("x.mergegate.yaml")
        update(path, report(file))
        before = path.read_bytes()
        (told,) = update(path, report(file, mds=9.0, **worse))
        assert why in told
        assert path.read_bytes() == before

    def test_a_gate_without_a_file_gets_no_entry(self, tmp_path: Path) -> None:
        path = tmp_path / "baseline.json"
        (told,) = update(path, report("<mergeable>"))
        assert "without a file" in told
        assert not path.exists()

    def test_a_link_to_the_file_stays_one(
        self, tmp_path: Path, gate: Callable[[str], Path]
    ) -> None:
        (tmp_path / "kept.json").write_text(report("nothing.yaml").to_json(), "utf-8")
        link = tmp_path / "baseline.json"
        link.symlink_to("kept.json")
        update(link, report(gate("x.mergegate.yaml")))
        assert link.is_symlink()
        assert set(entries(tmp_path / "kept.json")) == {"nothing.yaml", "x.mergegate.yaml"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"schema": "pytest-mergegate/rep',
        "[]",
        '{"schema": "pytest-mergegate/report/2"}',
        "<<<<<<< HEAD\n{}\n",
        "[" * 100_000,
    ],
)
def test_what_is_no_baseline_is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text, "utf-8")
    with pytest.raises(GateError) as caught:
        read_baseline(path, tmp_path)
    said = str(caught.value)
    assert said.startswith("baseline.json: this is no baseline: ")
    assert "fix: " in said
    assert "\n" not in said
    with pytest.raises(GateError):
        update(path)
    assert path.read_text("utf-8") == text


class TestIncreases:
    @staticmethod
    def earlier(before: Value, after: Value) -> Earlier:
        """An expert with one MDS then, and another now."""
        import numpy as np

        common = PoolPart(
            names=("a",), distances=np.zeros((1, 1)), similarity=None, mds={"a": after}
        )
        return Earlier(experts=frozenset("a"), common=common, mds={"a": before})

    @staticmethod
    def found(earlier: Earlier | None, limit: float) -> Evidence:
        """The increase of the expert's MDS."""
        case: Any = SimpleNamespace(hidden=object(), earlier=earlier)
        found = mds_increase(
            Asked(
                case=case,
                kind=BUDGETS["max_mds_increase"],
                limit=limit,
                expert="a",
                method=None,
                mode="point",
                depth="hidden",
            )
        )
        assert found is not None
        return found

    def test_the_interval_takes_the_far_ends(self) -> None:
        before = Value(number=2.0, interval=(1.0, 3.0))
        after = Value(number=2.5, interval=(2.0, 4.0))
        found = self.found(self.earlier(before, after), 1.0)
        assert (found.value.number, found.value.interval) == (0.5, (-1.0, 3.0))
        assert found.basis == "hidden"

    def test_round_off_is_no_increase(self) -> None:
        pair = Value(number=2.0), Value(number=2.0 + 1e-9)
        assert self.found(self.earlier(*pair), 0.0).value.number == 0.0

    @pytest.mark.parametrize(
        "undefined", [Value.missing("equidistant"), Value(number=float("inf"))]
    )
    def test_what_is_undefined_on_either_side_is_undecided(self, undefined: Value) -> None:
        sound = Value(number=2.0)
        for pair in ((sound, undefined), (undefined, sound), (undefined, undefined)):
            assert self.found(self.earlier(*pair), 1e9).value.number is None

    def test_a_measured_and_a_certified_loss_never_meet(self) -> None:
        at = ("linear", "a")
        loss = Value(number=3.0)
        measured = Earlier(experts=frozenset("a"), measured={at: loss}, inputs={at: 64})
        certified = Earlier(experts=frozenset("a"), certified={at: loss}, inputs={at: 64})
        for basis, alike, other in (
            ("measured", measured, certified),
            ("certified", certified, measured),
        ):
            assert increase_of_loss(alike, "a", "linear", loss, basis, 64).value.number == 0.0
            assert increase_of_loss(other, "a", "linear", loss, basis, 64).value.number is None
        assert increase_of_loss(measured, "a", "ties", loss, "measured", 64).value.number is None
        assert (
            increase_of_loss(certified, "a", "linear", loss, "certified", 128).value.number is None
        )

    def test_nothing_to_compare_with(self) -> None:
        loss = Value(number=3.0)
        for nothing in (None, Earlier(reason="other probes"), Earlier(experts=frozenset("b"))):
            assert self.found(nothing, 1.0).value.number is None
            assert (
                increase_of_loss(nothing, "a", "linear", loss, "measured", 9).value.number is None
            )
