"""The cases behind a score, as people are told them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hostile import GOLDEN, HOSTILE, assert_plain
from rich.cells import cell_len

from pytest_mergegate.pool.examples import Example
from pytest_mergegate.report.changed import changed_records
from pytest_mergegate.report.formats.cases import (
    Piece,
    case_lines,
    compared_pieces,
    whole_lines,
)
from pytest_mergegate.report.formats.failures import failure_text
from pytest_mergegate.report.formats.terminal import Look, summary
from pytest_mergegate.report.merge_records import ChangedRecord
from pytest_mergegate.stages.merge_versus_experts import ChangedAnswer
from report.formats.made import NAMES, case, report, verdict, with_cases
from report.test_changed import compared

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS = ("the", "quick", "brown", "fox", "日本語", "naïve", "x\ny", "  ", "café", "🦊", "a" * 90)


def changed(**given: Any) -> ChangedRecord:
    """One case."""
    return ChangedRecord.model_validate(case(**given))


def _texts(seed: int, count: int) -> list[tuple[str, str]]:
    drawn, found = Random(seed), []
    for _ in range(count):
        words = [drawn.choice(WORDS) for _ in range(drawn.randint(0, 60))]
        other = [drawn.choice(WORDS) if drawn.random() < 0.2 else word for word in words]
        found.append((" ".join(words), " ".join(other)))
    return found


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_page(seed: int, width: int) -> None:
    for own, other in _texts(seed, 50):
        cases = [changed(input=own, expert=own, merged=other, target=own)] * 2
        for lines in (case_lines(cases, width, 4), whole_lines(cases, width)):
            for line in lines:
                assert cell_len(line) <= width, line


@pytest.mark.parametrize("width", [40, 80])
def test_the_place_where_answers_part_is_seen(seed: int, width: int) -> None:
    drawn = Random(seed)
    for _ in range(100):
        begin, rest = (drawn.randint(0, 400) * "ab" for _ in range(2))
        _, own, other = case_lines([changed(expert=f"{begin}X{rest}", merged=f"{begin}Y")], width)
        assert own.startswith("expert  ")
        assert other.startswith("merge   ")
        assert own.index("X") == other.index("Y")
        assert not rest or own.endswith("…") or own.endswith("b")


def test_a_short_target_of_long_answers_is_whole() -> None:
    _, target, *_ = case_lines([changed(expert="a" * 300, merged="a" * 299, target="right")], 80)
    assert target == "target        right"


def test_a_case_without_scores_or_target_has_no_room_for_them() -> None:
    assert [*case_lines([changed(score_expert=None, score_merged=None, target=None)], 80)] == [
        "input   in",
        "expert  own",
        "merge   other",
    ]


def test_a_case_with_everything() -> None:
    assert [*case_lines([changed(target="right", merged="")] * 2, 80, 4)][:4] == [
        "    1 input         in",
        "      target        right",
        "      expert  1.00  own",
        "      merge   0.00  (nothing)",
    ]


def test_the_ends_of_lines_are_signs_or_lines() -> None:
    said = changed(expert="a\n b", merged="a\nc")
    assert "expert  1.00  a↵ b" in [*case_lines([said], 80)]
    assert [*whole_lines([said], 80)][1:3] == ["expert  1.00  a", "               b"]


def test_whole_texts_lose_nothing(seed: int) -> None:
    for own, other in _texts(seed, 50):
        lines = [*whole_lines([changed(input=own, expert="", merged=other)], 60)]
        said = "".join(line[14:] for line in lines)
        texts = (text or "(nothing)" for text in (own, "", other))
        assert "".join(said.split()) == "".join("".join(texts).split())


@pytest.mark.parametrize("text", [*HOSTILE.values(), "::error::x", "x" * 60 + "::y"], ids=ascii)
@pytest.mark.parametrize("width", [40, 80])
def test_nothing_in_it_steers_anything(text: str, width: int) -> None:
    cases = [changed(input=text, expert=text, merged=f"x{text}", target=text)] * 2
    for lines in (case_lines(cases, width), whole_lines(cases, width)):
        for line in lines:
            assert_plain(line)


def test_golden_texts_are_harmless_and_can_be_read() -> None:
    """Set MERGEGATE_REWRITE_SNAPSHOTS=1 to rewrite the snapshot, then look at what changed."""
    said = []
    for name, text in GOLDEN.items():
        asked = Example.model_construct(input=text or "-", target=text, choices=None)
        own = ChangedAnswer(index=0, expert=text, merged=f"{text[:500]}!", distance=1.0, kl=0.5)
        cases = changed_records(compared(own), [asked], None, None, 3)
        said += [f"# {name}", *case_lines(cases, 80)]
    text = "".join(f"{line}\n" for line in said)
    assert_plain(text)
    file = Path(__file__).parent / "snapshots" / "cases-80.txt"
    if os.environ.get("MERGEGATE_REWRITE_SNAPSHOTS"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


class TestWhoIsToldWhat:
    def _said(self, failing: Sequence[str], verbosity: int = 0) -> str:
        made = with_cases(report(failing=failing), 3)
        return summary([made], Look(verbosity=verbosity, reasons=True, width=80))

    def test_all_cases_of_a_single_expert(self) -> None:
        said = self._said(["shout"])
        assert re.findall(r"input +(shout \d)", said) == ["shout 0", "shout 1", "shout 2"]
        assert "shown with -v\n" not in said.split("what changed most")[1]

    def test_one_each_of_the_first_three(self) -> None:
        said = self._said(NAMES)
        assert re.findall(r"input +(\w+ \d)", said) == ["rotate 0", "first_last 0", "reverse 0"]
        assert said.count("  2 more cases, shown with -v") == 3
        assert said.endswith("\n1 more expert, shown with -v\n")

    def test_everything_where_it_is_asked_for(self) -> None:
        said = self._said(NAMES, verbosity=1)
        assert len(re.findall(r"input +(\w+ \d)", said)) == 12
        assert "cases, shown with -v" not in said

    def test_who_is_over_budget_comes_before_who_is_undecided(self) -> None:
        statuses = dict.fromkeys(NAMES, "inconclusive") | {"shout": "fail"}
        made = with_cases(report(verdicts=[verdict(n, s) for n, s in statuses.items()]), 3)
        said = summary([made], Look(reasons=True, width=80))
        found = re.findall(r"input +(\w+ \d)", said)
        assert found == ["shout 0", "rotate 0", "first_last 0"]

    def test_nothing_of_experts_within_budget(self) -> None:
        assert "input  " not in self._said([])
        assert "what changed" not in self._said(["shout"]).split("shout: disagreement")[0]

    @pytest.mark.parametrize("whole", [False, True])
    def test_a_test_that_fails_is_told_the_same(self, whole: bool) -> None:
        made = with_cases(report(failing=NAMES), 3)
        said = summary([made], Look(verbosity=int(whole), reasons=True, width=80))
        for name in NAMES if whole else NAMES[:3]:
            own = failure_text(made, name, whole=whole)
            about = own.split("  what changed most")[-1].split("  likely cause")[0]
            assert about in said
            assert f"{name}: disagreement" in own
        of_pool = failure_text(made, None, whole=whole)
        for line in said.splitlines():
            if re.match(r" +(\d )?(input|expert|merge) ", line):
                assert f"  {line}" in of_pool.splitlines()


class TestPieces:
    def test_what_is_alike_is_alike_in_both(self, seed: int) -> None:
        for own, other in [*_texts(seed, 200), ("a b c", "a b c"), ("", ""), ("", "x")]:
            both = compared_pieces(own, other)
            assert ["".join(p.text for p in pieces) for pieces in both] == [own, other]
            alike = ["".join(p.text for p in pieces if not p.differs) for pieces in both]
            assert alike[0] == alike[1]
            differing = [p for pieces in both for p in pieces if p.differs]
            assert bool(differing) == (own != other)

    def test_short_answers_differ_between_what_they_share(self) -> None:
        own, other = compared_pieces("ADHH", "ADHH)!")
        assert own == [Piece("ADHH", False)]
        assert other == [Piece("ADHH", False), Piece(")!", True)]
        assert compared_pieces("AEIE", "AAEE") == (
            [Piece("A", False), Piece("EI", True), Piece("E", False)],
            [Piece("A", False), Piece("AE", True), Piece("E", False)],
        )

    def test_sentences_differ_by_words(self) -> None:
        own, other = compared_pieces(
            "A small fox jumps over the lazy dog.", "One small cat jumps over the idle dog."
        )
        assert [p.text for p in own if p.differs] == ["A", "fox", "lazy"]
        assert [p.text for p in other if p.differs] == ["One", "cat", "idle"]

    def test_what_was_left_out_is_not_compared(self) -> None:
        own, other = compared_pieces(
            "[… 300 characters left out …] abc [… 7 characters left out …]",
            "[… 300 characters left out …] abd",
        )
        assert [p.text for p in own if p.differs] == ["c"]
        assert [p.text for p in other if p.differs] == ["d"]

    def test_it_does_not_take_long(self) -> None:
        """Of a thousand characters, however they are chosen; a hundred cases are seconds else."""
        for one, other in (("! " * 500, "? " * 500), ("!?" * 500, "?!" * 500), ("a b " * 250, "b")):
            pieces = compared_pieces(one, f"{other}.")
            assert sum(len(p) for p in pieces) <= 6
