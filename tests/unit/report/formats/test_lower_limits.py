"""A limit that must be reached, through every format: nobody is over it, and the least is worst."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mergegate.cli.github import annotate, worst_expert
from pytest_mergegate.report.formats import html, markdown, sarif
from pytest_mergegate.report.formats.html_parts.tables import judged, moved
from pytest_mergegate.report.formats.junit import properties
from pytest_mergegate.report.formats.numbers import GAIN, columns
from pytest_mergegate.report.formats.reading import change_text, closest, headline
from pytest_mergegate.report.formats.terminal import Look, summary
from pytest_mergegate.report.types import ChangeRecord, Report
from report.formats.made import NAMES, merged, report, run, verdict

if TYPE_CHECKING:
    from pathlib import Path

KEPT = dict(zip(NAMES, (0.98, 0.6996, 0.2, 0.7004), strict=True))
"""Two of four are short of .7, one of them by less than two digits show."""


def verdicts(kept: dict[str, float]) -> list[dict[str, Any]]:
    found = []
    for name, gain in kept.items():
        status, words = ("pass", "at least") if gain >= 0.7 else ("fail", "below")
        message = f"{name}: gain kept {gain} {words} 0.7 under linear (measured on 64 examples)"
        given = {"budget": "min_gain_kept", "limit": 0.7, "value": gain, "basis": "measured"}
        found.append(verdict(name, status, **given, message=message, interval=(gain - 0.1, 1.1)))
    return found


def gated(kept: dict[str, float] = KEPT, **given: Any) -> Report:
    """A gate on the gain kept alone."""
    experts = [
        merged(name, 0.03, gain_kept=gain, gain_kept_interval=(gain - 0.1, 1.1))
        for name, gain in kept.items()
    ]
    merge = {"method": "linear", "parameters": {}, "weights": {}, "fidelity": 0.0}
    merge |= {"digest": "sha256:1", "experts": experts}
    short = [name for name, gain in kept.items() if gain < 0.7]
    return report(failing=short, **{"merges": [merge], "verdicts": verdicts(kept)} | given)


def test_the_table_says_what_must_be_reached_and_shows_who_does_not() -> None:
    gain = next(column for column in columns(gated()) if column.title == "gain")
    assert (gain.unit, gain.limit) == ("kept", "≥ 0.7")
    assert list(gain.cells.values()) == ["0.98", "0.6996", "0.20", "0.7004"]
    detailed = next(c for c in columns(gated(), detailed=True) if c.title == "gain")
    assert detailed.cells["reverse"] == "0.20 [0.1, 1.1]"


def test_a_report_without_it_has_no_column_of_it() -> None:
    assert all(column.title != "gain" for column in columns(report()))


def test_nobody_is_over_budget() -> None:
    shown = gated()
    assert headline(shown).startswith("2 of 4 experts not within budget under linear: first_last")
    assert html.GateView(shown, "pool", "g").headline.startswith("2 of 4 experts not within budget")
    also = gated(verdicts=[*verdicts(KEPT), verdict("reverse", "fail")])
    assert headline(also).startswith("2 of 4 experts over budget under linear")


def test_closest_to_its_limit_is_who_keeps_least() -> None:
    sound = gated(dict.fromkeys(NAMES, 0.98) | {"reverse": 0.75})
    found = closest(sound)
    assert found is not None
    assert found.expert == "reverse"
    assert "closest: reverse: gain kept 0.75 at least 0.7" in headline(sound)
    # beside a limit that must not be exceeded, each by its own measure
    either = gated(
        dict.fromkeys(NAMES, 0.98),
        verdicts=[*verdicts(dict.fromkeys(NAMES, 0.75)), verdict("shout", "pass", value=0.29)],
    )
    found = closest(either)
    assert found is not None
    assert found.budget == "max_disagreement"


def test_junit_has_the_least_of_the_pool() -> None:
    told = dict(properties(gated(), None))
    assert told["mergegate.min_gain_kept.value"] == "0.2"
    assert told["mergegate.min_gain_kept.expert"] == "reverse"
    assert told["mergegate.min_gain_kept.limit"] == "0.7"
    near = dict(properties(gated(), "first_last"))
    assert near["mergegate.min_gain_kept.value"] == "0.6996"


def test_sarif_names_the_budget() -> None:
    log = json.loads(sarif.render(run(gated())))["runs"][0]
    rule = next(r for r in log["tool"]["driver"]["rules"] if r["id"] == "budget/min_gain_kept")
    text = "The merge keeps every expert within the budget for gain kept"
    assert rule["shortDescription"]["text"] == text
    found = [r for r in log["results"] if r["ruleId"] == "budget/min_gain_kept"]
    assert [(r["level"], r["properties"]["value"]) for r in found] == [
        ("error", 0.6996),
        ("error", 0.2),
    ]


def test_the_pull_request_names_who_keeps_least(tmp_path: Path) -> None:
    found = run(gated())
    assert worst_expert(found) == "reverse"
    titles = [a.title for a in annotate(found, tmp_path) if "budget" in a.title]
    assert titles == ["reverse: not within budget", "first_last: not within budget"]
    assert worst_expert(run(gated(dict.fromkeys(NAMES, 0.98) | {"shout": 0.8}))) == "shout"


def test_markdown_and_terminal() -> None:
    assert "gain kept ≥ 0.7" in markdown.render(run(gated()))
    said = summary([gated()], Look(width=80, reasons=True))
    assert "≥ 0.7" in said
    assert "first_last: gain kept 0.6996 below 0.7 under linear" in said
    assert ">= 0.7" in summary([gated()], Look(width=80, encoding="ascii"))


def test_html_says_at_least() -> None:
    records = {v.expert: judged(v) for v in gated().verdicts}
    found = records["first_last"]
    assert (found.name, found.value, found.limit) == ("gain kept", "0.6996", "at least 0.7")
    assert found.fill == pytest.approx(100 * 0.6996 / 1.25)
    assert found.mark == pytest.approx(100 * 0.7 / 1.25)
    page = html.render(run(gated()))
    assert "limit at least 0.7" in page
    assert "Gain kept, 1 is all" in page
    assert GAIN == "min_gain_kept"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [(0.9, 0.4, "worse"), (0.4, 0.9, "better"), (0.4, None, "no longer known")],
)
def test_against_the_baseline_less_is_worse(before: float, after: float | None, words: str) -> None:
    change = ChangeRecord(
        quantity="gain_kept", expert="shout", method="linear", before=before, after=after
    )
    assert change_text(change).startswith(f"gain kept under linear: {before:g} → ")
    assert change_text(change).endswith(f"({words})")
    assert moved(change).quantity == "gain kept"
