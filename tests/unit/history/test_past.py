"""What past merges say to whom: no number of one comparison of answers speaks of another's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from unit.history.registry.making import made

from pytest_mergegate.engine.running.cache import Cache
from pytest_mergegate.history.calibration.observations import observations
from pytest_mergegate.history.past import Past
from pytest_mergegate.history.registry.lines import RegistryLine
from pytest_mergegate.history.registry.reading import read_registry
from pytest_mergegate.history.study.losses import points_of

if TYPE_CHECKING:
    from pathlib import Path

READING = "none stop=[] max_answer_tokens=64"
OWN = "ours:apart"


def lines(comparison: str | None, loss: float, count: int = 30, **of: Any) -> list[RegistryLine]:
    """Merges of one kind, all with this loss; without a comparison as older versions wrote them."""
    known = {"metric": "rouge_l", "reading": READING, "shared": 0, "compared": 64, **of}
    return [
        made(
            "ab",
            losses={"a": loss - k / 1000, "b": loss},
            scores={n: {"disagreement": (k + j) / count} for j, n in enumerate("ab")},
            settings={"seed": k},
            compared_by=comparison,
            **known,
        )
        for k in range(count)
    ]


def past(path: Path, *recorded: RegistryLine) -> Past:
    path.write_text("".join(f"{line.to_json()}\n" for line in recorded), encoding="utf-8")
    return Past(path, Cache(folder=None))


@pytest.mark.parametrize("comparison", ["exact", "rouge_l", OWN])
def test_each_comparison_hears_of_its_own_alone(tmp_path: Path, comparison: str) -> None:
    """The same merges under three comparisons, each with a loss of its own."""
    losses = {"exact": -1.0, "rouge_l": -40.0, OWN: -90.0}
    of = past(tmp_path / "r", *(line for by, loss in losses.items() for line in lines(by, loss)))
    found, inputs = of.like("base", "rouge_l", READING, comparison, 0.9)
    for calibrations in (found, of.compared_by(comparison)):
        calibration = calibrations["disagreement"]
        assert (calibration.merges, calibration.observations) == (30, 60)
        assert calibration.predict("linear", "a", 0.5).loss == pytest.approx(
            losses[comparison], abs=0.1
        )
    assert inputs == 64


def test_a_line_that_does_not_say_was_compared_exactly(tmp_path: Path) -> None:
    old = lines(None, -1.0)
    assert all(expert.compared_by == "exact" for line in old for expert in line.experts)
    of = past(tmp_path / "r", *old)
    assert of.compared_by("exact")["disagreement"].merges == 30
    assert of.compared_by("rouge_l") == {}
    assert of.like("base", "rouge_l", READING, "rouge_l", 0.9) == ({}, 0)
    # not even where its reading is said to be the same
    assert of.like("base", "rouge_l", f"{READING} compare=rouge_l", "rouge_l", 0.9) == ({}, 0)


def test_what_ships_was_compared_exactly(tmp_path: Path) -> None:
    of = past(tmp_path / "r")
    assert set(of.shipped("exact")) == {"disagreement", "surrogate", "states"}
    assert of.shipped("rouge_l") == of.shipped(OWN) == {}


def test_a_merge_measured_again_in_another_way_takes_nothing_away(tmp_path: Path) -> None:
    first = lines("exact", -1.0, created="2026-01-01T00:00:00+00:00")
    again = lines("rouge_l", -2.0, created="2026-02-01T00:00:00+00:00")
    found = observations([*first, *again])
    assert {one.compared_by for one in found} == {"exact", "rouge_l"}
    assert len(found) == 120
    assert len({one.merge for one in found}) == 30
    assert len(points_of("r", [*first, *again])) == 60  # whose losses hang on no comparison


def test_of_one_merge_each_expert_counts_once_for_each_comparison() -> None:
    """Measured exactly, then one of the two by ROUGE-L: of the other the later is told."""
    first = made("ab", losses={"a": -1.0, "b": -2.0}, created="2026-01-01", compared_by="exact")
    data = json.loads(first.to_json()) | {"created": "2026-02-01"}
    for expert, loss, by in zip(data["experts"], (-3.0, -4.0), ("exact", "rouge_l"), strict=True):
        expert |= {"loss": loss, "compared_by": by}
    later = RegistryLine.model_validate_json(json.dumps(data))
    for lines_ in ([first, later], [later, first]):
        found = {(o.name, o.compared_by): o.loss for o in observations(lines_)}
        assert found == {("a", "exact"): -3.0, ("b", "exact"): -2.0, ("b", "rouge_l"): -4.0}
        assert len(observations(lines_)) == 3
    twins = made("ab", losses={"a": -1.0, "b": -2.0}, created="2026-01-01")
    data = json.loads(twins.to_json())
    data["experts"][1]["fingerprint"] = "a"  # a copy of the first under another name
    assert len(observations([RegistryLine.model_validate_json(json.dumps(data))])) == 2


def test_lines_are_written_as_they_were_made(tmp_path: Path) -> None:
    """An older line, too, keeps its id, though lines of today say more."""
    path = tmp_path / "r"
    past(path, *lines(None, -1.0, 3), *lines("rouge_l", -1.0, 3))
    found = read_registry(path)
    assert found.problems == ()
    assert ["compared_by" in line.to_json() for line in found.lines] == [False] * 3 + [True] * 3
