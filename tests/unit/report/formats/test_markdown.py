"""The summary of a CI job and the comment on a pull request."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostile import GOLDEN, assert_plain
from markdown_it import MarkdownIt

from pytest_mergegate.common.plain_text import quoted_lines
from pytest_mergegate.report.formats.markdown import COMMENT_LIMIT, LIMIT, render
from pytest_mergegate.report.types import BaselineRecord
from report.formats.made import HOSTILE, NAMES, error, report, run, with_cases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.token import Token

    from pytest_mergegate.report.types import Report

PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")
OURS = {"<details>", "</details>", "<summary>", "</summary>", "<sub>", "</sub>"}


def tokens(text: str) -> list[Token]:
    """All of them, the inline ones too."""
    found = PARSER.parse(text)
    return [t for token in found for t in (token, *(token.children or ()))]


def cells(text: str) -> list[list[str]]:
    """The cells of every row of every table, as they are shown."""
    rows: list[list[str]] = []
    found = PARSER.parse(text)
    for token, content in itertools.pairwise(found):
        if token.type == "tr_open":
            rows.append([])
        if token.type in {"td_open", "th_open"}:
            rows[-1].append("".join(child.content for child in content.children or ()))
    return rows


def test_a_gate_that_fails() -> None:
    text = render(run(report()))
    assert text.startswith("## ❌ Merge gates: fail\n\n1 gate: 1 fail.\n")
    assert "### ❌ FAIL `gates/pool.mergegate.yaml`" in text
    head, *rows = cells(text)
    assert head[0] == "expert"
    assert head[1:] == ["disagreement ≤ 0.3", "loss %", "score alone → merged", "verdict"]
    assert [row[0] for row in rows] == list(NAMES)
    assert [row[-1] for row in rows] == ["✅ pass"] * 3 + ["❌ fail"]
    assert rows[-1][1] == "1.00"
    assert "- likely cause: interference with rotate" in text
    assert (
        "- shout: interference with rotate: without rotate, 0%\n\n**Try:** leave shout out" in text
    )
    assert "```text\nmergegate plan gates/pool.mergegate.yaml --write plan\n```" in text
    assert "█1.00 ▒0.50 ·0.00" in text
    link = "https://pytest-mergegate.github.io/pytest-mergegate/findings/MG118/"
    assert f"[MG118]({link})" in text
    assert "MG401" not in text  # the cause says it


@pytest.mark.parametrize(
    ("gates", "status"),
    [
        ([report(failing=())], "✅ Merge gates: pass"),
        ([report(failing=()), report()], "❌ Merge gates: fail"),
        ([report(), error()], "⛔ Merge gates: error"),
        ([report(failing=(), status="inconclusive")], "⚠️ Merge gates: inconclusive"),
        ([], "⚠️ Merge gates: inconclusive"),
    ],
)
def test_the_worst_comes_first(gates: Sequence[Report], status: str) -> None:
    assert render(run(*gates)).splitlines()[0] == f"## {status}"


def test_what_is_missing_is_no_pass() -> None:
    assert "no pass" in render(run())
    text = render(run(report(failing=()), complete=False))
    assert text.startswith("## ⚠️ Merge gates: inconclusive")
    assert "Not every gate that was asked for has reported" in text


def test_an_error_lists_its_problems_openly() -> None:
    text = render(run(error()))
    assert "MG001" in text
    assert "**Fix:** write smaller weights" in text
    assert "<details>" not in text


def test_hostile_names_are_only_shown() -> None:
    made = report(HOSTILE, failing=HOSTILE, gate="gates/<b>|`x`\n# y.mergegate.yaml")
    text = render(run(made, error("<img src=x> | @team/all #3 https://evil.example `")))
    html = [t.content for t in tokens(text) if t.type.startswith("html")]
    for content in html:
        for tag in OURS:
            content = content.replace(tag, "")
        assert "<" not in content, content
    links = [str(t.attrs["href"]) for t in tokens(text) if t.type == "link_open"]
    assert all(link.startswith("https://pytest-mergegate.github.io/") for link in links)
    assert not [t for t in tokens(text) if t.type == "image"]
    rows = cells(text)
    assert len({len(row) for row in rows}) == 1
    shown = [row[0] for row in rows[1 : 1 + len(HOSTILE)]]
    assert shown[:2] == [HOSTILE[0], HOSTILE[1]]
    assert shown[2] == HOSTILE[2].replace("\n", " ")
    prose = [t.content for t in tokens(text) if t.type == "text"]
    for mention in ("@everyone", "#12", "@team", "#3", "://evil", "GH-7", "www.evil"):
        assert not [line for line in prose if mention in line], mention
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_cases_are_folded_away_below_their_expert() -> None:
    text = render(run(with_cases(report(failing=NAMES[2:]), 2)))
    assert text.count("<summary>What changed most: 2 cases</summary>") == 2
    about = text.split("**`shout`**")[1].split("### ")[0]
    assert "    1 input         shout 0\n".strip() in about
    assert "  merge   0.00  other" in about
    assert "rotate 0" not in text  # which is within budget
    assert "What changed" not in render(run(report()))


@pytest.mark.parametrize("text", GOLDEN.values(), ids=GOLDEN)
def test_what_models_say_is_only_shown(text: str) -> None:
    quoted = quoted_lines(text)
    made = with_cases(report(), 3, expert=quoted, merged=f"{quoted}!", target=quoted)
    page = render(run(made))
    assert_plain(page)
    html = [t.content for t in tokens(page) if t.type.startswith("html")]
    for content in html:
        for tag in OURS:
            content = content.replace(tag, "")
        assert "<" not in content, content
    links = [str(t.attrs["href"]) for t in tokens(page) if t.type == "link_open"]
    assert all(link.startswith("https://pytest-mergegate.github.io/") for link in links)
    (block,) = (t for t in tokens(page) if t.type == "fence" and "expert  1.00" in t.content)
    assert len(block.content.splitlines()) == 12


def test_every_fold_is_closed() -> None:
    text = render(run(*[report(), report(failing=())] * 3))
    assert text.count("<details>") == text.count("</details>") > 3


@pytest.mark.parametrize("limit", [LIMIT, COMMENT_LIMIT, 20_000, 3_000])
def test_it_keeps_to_the_limit_and_says_what_is_cut(limit: int) -> None:
    names = [f"expert_{k}" for k in range(60)]
    gates = [report(names, failing=names[:30])] * 8 + [report(failing=())] * 300
    text = render(run(*gates), limit=limit)
    assert len(text.encode()) <= limit
    assert text.count("<details>") == text.count("</details>")
    assert text.startswith("## ❌ Merge gates: fail\n\n308 gates: 300 pass, 8 fail.")
    if limit < LIMIT:
        assert "_Left out for want of room: " in text
        assert "heatmaps" in text.splitlines()[4]
    # the verdicts of what failed go last of all
    assert text.count("### ❌ FAIL") == 8
    if "likely cause" not in text:
        assert "### ✅ PASS" not in text


def test_nothing_is_cut_that_fits() -> None:
    assert "Left out" not in render(run(report(), report(failing=())))


def test_the_largest_page_is_below_github_s_limit() -> None:
    gates = [report([f"e{k}" for k in range(60)])] * 120
    size = len(render(run(*gates)).encode())
    assert 500_000 < size < 1 << 20


def test_what_moved() -> None:
    changes = [
        {"quantity": "disagreement", "expert": "a|b", "method": "linear"}
        | {"before": 0.1, "after": 0.4},
        {"quantity": "distance", "expert": "rotate", "other": "shout", "before": 1.0, "after": 0.5},
    ]
    baseline = BaselineRecord.model_validate(
        {"path": "base.json", "comparable": True, "added": ("shout",), "removed": ("old",)}
        | {"changed": ("rotate",), "changes": changes}
    )
    text = render(run(report(baseline=baseline)))
    assert "- Added: `shout`\n- Removed: `old`\n- Changed: `rotate`" in text
    assert ["a|b", "disagreement under linear: 0.1 → 0.4 (worse)"] in cells(text)
    assert ["rotate and shout", "distance: 1 → 0.5 (closer)"] in cells(text)


def test_a_baseline_that_cannot_be_compared() -> None:
    baseline = BaselineRecord(path="base.json", comparable=False, reason="other probes")
    text = render(run(report(baseline=baseline)))
    assert "- Not comparable: other probes" in text


def test_the_snippet_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[4] / "docs" / "reports.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "report.json").write_text(report().to_json(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    known: dict[str, str] = {}
    exec(snippet, known)
    assert known["comment"].startswith("## ❌ Merge gates: fail")
