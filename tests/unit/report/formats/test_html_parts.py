"""What the HTML report says, before any of it is drawn."""

from __future__ import annotations

import re

import pytest

from pytest_mergegate.report.formats import html
from pytest_mergegate.report.formats.html_parts.charts import layer_labels, literal, short
from pytest_mergegate.report.formats.html_parts.tables import judged, moved
from pytest_mergegate.report.formats.numbers import span
from pytest_mergegate.report.formats.reading import finding_page
from pytest_mergegate.report.types import ChangeRecord, Collected, VerdictRecord
from report.formats.made import error, report


def verdict(**changes: object) -> VerdictRecord:
    """One of disagreement, that fails."""
    given = {
        "budget": "max_disagreement",
        "limit": 0.3,
        "value": 0.5,
        "expert": "a",
        "method": "linear",
        "basis": "merged",
        "status": "fail",
        "message": "a: disagreement",
    }
    return VerdictRecord.model_validate(given | changes)


def test_a_verdict_has_its_unit() -> None:
    said = judged(verdict(interval=(0.25, None)))
    assert (said.value, said.limit, said.interval) == ("50 %", "30 %", "[25, ∞]")


def test_a_value_just_over_its_limit_does_not_look_like_it() -> None:
    said = judged(verdict(value=0.30001))
    assert said.value != said.limit
    assert float((said.value or "").removesuffix(" %")) > 30


@pytest.mark.parametrize("budget", ["max_mds", "max_loss", "max_mds_increase"])
def test_no_value_is_no_number(budget: str) -> None:
    said = judged(verdict(budget=budget, value=None, value_reason="stage_not_run"))
    assert (said.value, said.reason, said.fill) == (None, "stage_not_run", None)


def test_an_infinite_value_fills_its_bar() -> None:
    said = judged(verdict(budget="max_mds", value=None, limit=3.0, value_infinite=True))
    assert (said.value, said.fill) == ("∞", 100)


def test_a_limit_of_zero_divides_nothing() -> None:
    assert judged(verdict(budget="max_mds", limit=0.0, value=0.0)).fill is None


def test_a_loss_turns_its_interval_round() -> None:
    assert span((-15.0, -4.0), -1, decimals=1) == "[4.0, 15.0]"
    assert span((None, -4.0), -1) == "[4, ∞]"
    assert span(None) is None


def test_layers_lose_what_they_share() -> None:
    assert layer_labels(("model.layers.0", "model.layers.11")) == ["0", "11"]
    assert layer_labels(("model.embed", "lm_head")) == ["model.embed", "lm_head"]
    assert layer_labels(("model.layers.0",)) == ["model.layers.0"]


def test_a_loss_that_grew_is_shown_growing() -> None:
    change = ChangeRecord(quantity="loss", expert="a", method="linear", before=-1.0, after=-2.0)
    said = moved(change)
    assert (said.before, said.after, said.change) == ("1 %", "2 %", "+1 percentage points")


def test_a_number_that_was_not_there_is_none() -> None:
    said = moved(ChangeRecord(quantity="distance", expert="a", other="b", before=None, after=0.2))
    assert (said.about, said.before, said.after, said.change) == ("a – b", None, "0.2", None)


def test_plotly_is_given_no_markup() -> None:
    assert literal("<b>$x$ &lt;") == "&lt;b&gt;&#36;x&#36; &amp;lt;"
    assert short("x" * 50) == "x" * 19 + "…"
    assert short("") == "(unnamed)"


def test_an_error_hides_what_was_not_computed() -> None:
    """The problem, its page and its fix; no seven sections that say that there is nothing."""
    page = html.render(Collected(reports=(error(),)))
    shown = re.findall(r'<section id="[^"]*-([a-z]+)"', page)
    assert shown == ["findings", "provenance"]
    assert page.count(f'href="{finding_page("MG001")}"') == 2
    assert "0 experts" not in page
    whole = html.render(Collected(reports=(report(),)))
    assert len(re.findall(r'<section id="[^"]*-([a-z]+)"', whole)) == 10
