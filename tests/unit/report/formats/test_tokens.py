"""Token agreement and total variation are shown where answers are texts, and there alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.report.formats import html, markdown
from pytest_mergegate.report.formats.numbers import columns
from pytest_mergegate.report.formats.terminal import Look, summary
from report.formats.made import NAMES, merged, report, run

if TYPE_CHECKING:
    from pytest_mergegate.report.types import Report

TITLES = {"token agreement", "total variation"}


def generative(*texts: str) -> Report:
    """Of all experts, those in ``texts`` answer in sentences."""
    experts = [
        merged(name, 0.03, **{"token_agreement": 0.987, "total_variation": 0.0214})
        if name in texts
        else merged(name, 0.03)
        for name in NAMES
    ]
    merge = {"method": "linear", "parameters": {}, "weights": {}, "fidelity": 0.0}
    return report(failing=(), merges=[merge | {"digest": "sha256:1", "experts": experts}])


def test_stand_among_the_details() -> None:
    shown = generative(*NAMES[:2])
    assert not TITLES & {column.title for column in columns(shown)}
    found = {c.title: list(c.cells.values()) for c in columns(shown, detailed=True)}
    assert found["token agreement"] == ["0.987", "0.987", "-", "-"]
    assert found["total variation"] == ["0.021", "0.021", "-", "-"]
    assert "0.987" in summary([shown], Look(verbosity=1, width=120))
    assert "0.987" not in summary([shown], Look(width=120))
    page = markdown.render(run(shown))
    assert "<summary>Token by token, on the experts' own answers</summary>" in page
    assert f"| `{NAMES[0]}` | 0.987 | 0.021 |" in page
    assert "Token by token under linear" in (text := html.render(run(shown)))
    assert '<td class="number">0.987</td>' in text
    assert "are the merge's first choice, too" in text.replace("&#39;", "'")


def test_classifiers_have_none() -> None:
    shown = generative()
    assert not TITLES & {column.title for column in columns(shown, detailed=True)}
    assert "Token by token" not in markdown.render(run(shown)) + html.render(run(shown))
