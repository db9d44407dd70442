"""What pytest's own output and the summary say, and do not say twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugin.gates import CHEAP

if TYPE_CHECKING:
    import pytest

    from plugin.gates import Gates


def test_the_pool_leaves_the_numbers_to_its_experts(
    pytester: pytest.Pytester, gates: Gates
) -> None:
    gates.failing()
    lines = pytester.runpytest("--mergegate").outlines
    assert "3 of 3 experts not within budget: a, b, c" in lines
    assert sum(line.strip().startswith("a: conflicting magnitude ratio") for line in lines) == 1


def test_the_pool_alone_says_them(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.failing()
    result = pytester.runpytest("--mergegate", "mergegate.yaml::pool")
    result.stdout.fnmatch_lines(["3 of 3 experts not within budget: a, b, c", "  a: conflicting *"])


def test_paths_start_at_the_rootdir(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing("sub/mergegate.yaml")
    result = pytester.runpytest("--mergegate")
    result.stdout.fnmatch_lines(["PASS sub/mergegate.yaml: *"])


def test_the_ratio_that_was_judged_is_in_the_table(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.write(budget={CHEAP: 0.0})
    result = pytester.runpytest("--mergegate")
    result.stdout.fnmatch_lines(["*conflicting", "*magnitude", "*ratio", "expert*≤ 0  verdict"])
    result.stdout.no_fnmatch_line("* (fix: *")
