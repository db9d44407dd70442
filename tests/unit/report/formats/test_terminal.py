"""What people read at a terminal, at every verbosity and width, with and without colour.

Set MERGEGATE_REWRITE_SNAPSHOTS=1 to rewrite the snapshots, then look at what changed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from pytest_mergegate.report.formats.failures import failure_text
from pytest_mergegate.report.formats.terminal import Look, progress_bar, summary
from pytest_mergegate.report.types import BaselineRecord
from report.formats.made import HOSTILE, NAMES, error, expert, finding, report, verdict

SNAPSHOTS = Path(__file__).parent / "snapshots"
ANSI = re.compile(r"\x1b\[[0-9;]*m")
BASELINE = BaselineRecord.model_validate(
    {
        "path": "baseline.json",
        "comparable": True,
        "added": ("shout",),
        "changes": [
            {"quantity": "mds", "expert": "rotate", "before": 1.2, "after": 1.42},
            {"quantity": "loss", "expert": "rotate", "method": "linear"}
            | {"before": -9.0, "after": -3.0},
            {"quantity": "hidden_similarity", "expert": "rotate", "other": "reverse"}
            | {"before": None, "after": 0.5},
        ],
    }
)


def gates() -> tuple[Any, ...]:
    passing = report(failing=(), gate="gates/fine.mergegate.yaml")
    return report(baseline=BASELINE), passing, error()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("verbosity", [-1, 0, 1, 2])
def test_snapshots(verbosity: int, width: int) -> None:
    said = summary(gates(), Look(verbosity=verbosity, width=width, reasons=True))
    file = SNAPSHOTS / f"terminal{verbosity:+}-{width}.txt"
    if os.environ.get("MERGEGATE_REWRITE_SNAPSHOTS"):
        file.write_text(said, encoding="utf-8")
    assert said == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("verbosity", [-1, 0, 1, 2])
def test_colour_says_nothing_that_words_do_not(verbosity: int, width: int) -> None:
    plain = summary(gates(), Look(verbosity=verbosity, width=width))
    coloured = summary(gates(), Look(verbosity=verbosity, width=width, color=True))
    assert "\x1b[31mFAIL" in coloured
    assert "\x1b" not in plain
    bare = [line.rstrip() for line in ANSI.sub("", coloured).splitlines()]
    assert bare == plain.splitlines()


def test_each_verbosity_says_more() -> None:
    said = [summary(gates(), Look(verbosity=v, reasons=True)) for v in (-1, 0, 1, 2)]
    counts = [len(text.splitlines()) for text in said]
    assert counts == sorted(set(counts))
    assert "PASS" not in said[0]
    assert said[0].splitlines()[0].startswith("FAIL gates/pool.mergegate.yaml: 1 of 4 experts")
    assert "why" not in said[0]
    assert "why under linear:\n  shout: interference with rotate: without rotate, 0%" in said[1]
    assert "likely cause" not in said[1]
    assert "likely cause: interference" in said[2]
    assert "try: leave shout out" in said[1]
    assert "\n  mergegate plan gates/pool.mergegate.yaml --write plan\n" in said[1]
    assert "1 most alike" not in said[1]
    assert "1 most alike" in said[2]
    assert "cache: hits 3, misses 4" in said[2]
    assert "cache: hits 3, misses 4" not in said[1]
    assert "conflict by layer" in said[3]
    assert "conflict by layer" not in said[2]


def test_causes_are_told_once_for_all_that_share_them() -> None:
    names = [f"expert_{k}" for k in range(10)]
    said = summary([report(names, failing=names[1:])], Look(reasons=True, width=120))
    assert said.count("interference with expert_0") == 1
    assert "  9 experts: interference with expert_0 (expert_1, expert_2, " in said
    assert said.count("try: ") == 1


def test_quiet_says_nothing_where_all_passed() -> None:
    assert summary([report(failing=())], Look(verbosity=-1)) == ""


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_number_is_wrapped_or_cut(width: int) -> None:
    names = [f"an_expert_with_quite_a_long_name_{k}" for k in range(5)]
    made = report(names, failing=(names[0],))
    said = summary([made], Look(verbosity=1, width=width))
    numbers = ("1.42 [1.3, ∞]", "100.0 [98, 102]", "0.03 [0, 1]", "1.00 → 0.97")
    assert all(number in said for number in numbers)
    _, *rest = (line for line in said.splitlines() if "(fix:" not in line)
    assert all(cell_len(line) <= width for line in rest), max(rest, key=cell_len)
    assert all(re.search(rf"^an_.*_{k} ", said, re.MULTILINE) for k in range(5))


def test_a_value_just_over_its_limit_shows_that_it_is() -> None:
    made = report(
        verdicts=[verdict(n, "fail", value=0.3004, limit=0.3) for n in NAMES],
        merges=[
            report().merges[0].model_dump()
            | {
                "experts": [
                    e.model_dump() | {"disagreement": 0.3004} for e in report().merges[0].experts
                ]
            }
        ],
    )
    assert "0.3004 " in summary([made], Look(width=120))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "no-such-encoding"])
def test_an_encoding_that_cannot_show_it(encoding: str) -> None:
    said = summary(gates(), Look(verbosity=1, encoding=encoding, reasons=True))
    assert said.isascii()
    assert "# 1 most alike" in said
    assert "1.00 -> 0.00" in said
    assert "\\u" not in said


def test_hostile_names_steer_nothing() -> None:
    made = report(HOSTILE, failing=HOSTILE)
    said = summary([made], Look(verbosity=2, reasons=True, width=120))
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "<script>alert(1)</script>" in said
    assert not any(line.startswith("break [x]") for line in said.splitlines())
    table = said.splitlines()[1 : said.splitlines().index("")]
    assert sum("fail" in line for line in table) == len(HOSTILE)


@pytest.mark.parametrize("computing", ["x", ["x"], 1, None, {"bfloat16\x1b[31m": "float32\u202e"}])
def test_a_stranger_may_say_anything_of_what_was_computed_in(computing: Any) -> None:
    made = report(settings={"computing": computing})
    said = summary([made], Look(verbosity=2, reasons=True, width=120))
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert ("computed in" in said) == isinstance(computing, dict)


def test_sixty_experts() -> None:
    names = [f"expert_{k}" for k in range(60)]
    said = summary([report(names, failing=names)], Look(width=80))
    assert "60 of 60 experts over budget under linear: expert_0, " in said
    assert "and 56 more" in said.splitlines()[0]
    assert all(any(line.startswith(f"{name} ") for line in said.splitlines()) for name in names)


def test_nothing_known() -> None:
    bare = expert("a", mds=None, mds_interval=None)
    made = report(("a", "b"), failing=(), experts=[bare, expert("b", mds=None, mds_infinite=True)])
    said = summary([made], Look(verbosity=1, width=120))
    assert re.search(r"^a .* -$", said, re.MULTILINE)
    assert re.search(r"^b .* ∞$", said, re.MULTILINE)


def test_an_error_tells_every_problem() -> None:
    problems = [finding("MG000", "error", None, f"problem {k}") for k in range(3)]
    said = summary([error(findings=problems)], Look())
    assert (
        said.splitlines()[0] == "ERROR gates/broken.mergegate.yaml: 3 problems, nothing was judged"
    )
    assert said.splitlines()[3] == "  MG000 problem 2 (fix: write smaller weights)"


def test_no_verdict_is_never_told_as_a_pass() -> None:
    made = report(status="inconclusive", verdicts=(), failing=())
    said = summary([made], Look())
    assert said.startswith("INCONCLUSIVE gates/pool.mergegate.yaml: no budget was judged")
    swapped = report(status="inconclusive", failing=())
    assert "within budget" not in summary([swapped], Look()).splitlines()[0]


def test_paths_start_at_the_root(tmp_path: Path) -> None:
    made = report(gate=str(tmp_path / "sub" / "mergegate.yaml"))
    assert summary([made], Look(root=tmp_path)).startswith("FAIL sub/mergegate.yaml: ")
    assert str(tmp_path) in summary([made], Look(root=tmp_path / "other"))


def test_what_moved() -> None:
    said = summary([report(baseline=BASELINE)], Look(verbosity=1, width=120))
    assert "baseline baseline.json: added: shout" in said
    assert "  rotate: MDS: 1.2 → 1.42 (worse)" in said
    assert "  rotate: loss under linear: 9 % → 3 % (better)" in said
    assert "  rotate and reverse: hidden similarity: - → 0.5 (not known before)" in said
    other = BaselineRecord(path="b.json", comparable=False, reason="other probes")
    told = summary([report(baseline=other)], Look(verbosity=1))
    assert "baseline b.json: not comparable: other probes" in told


class TestFailureText:
    def test_of_an_expert(self) -> None:
        text = failure_text(report(), "shout")
        assert text.splitlines()[0].startswith("shout: disagreement 1.0 over 0.3")
        assert text.splitlines()[1].startswith("  likely cause: interference with rotate")
        assert "try:" not in text  # the pool's says it once

    def test_of_the_pool(self) -> None:
        text = failure_text(report(), None)
        lines = text.splitlines()
        assert lines[0] == "1 of 4 experts not within budget: shout"
        assert "  method ties density=0.5: largest disagreement 1, worst loss 100 %" in lines
        told = ["  why under linear:", "  try: leave shout out", "  shout: disagreement"]
        places = [k for start in told for k, line in enumerate(lines) if line.startswith(start)]
        assert len(places) == 3
        assert places == sorted(places)

    def test_of_the_pool_beside_its_experts(self) -> None:
        text = failure_text(report(), None, brief=True)
        assert text.startswith("1 of 4 experts not within budget: shout\n  method linear")
        assert "shout: disagreement" not in text


def test_a_line_for_each_stage_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log of CI says where hours go; a run of seconds leaves no line in it."""
    for short, lines in ((1e9, []), (0.0, ["conflict", "merge linear"])):
        monkeypatch.setattr("pytest_mergegate.report.formats.terminal.SHORT", short)
        with progress_bar() as tell:
            for what, fraction in (("conflict", 0.0), ("conflict", 0.5), ("merge linear", 0.0)):
                tell(what, fraction)
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.splitlines() == [f"mergegate: {line} (after 0 s)" for line in lines]
