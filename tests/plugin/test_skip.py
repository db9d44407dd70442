"""Without ``--mergegate`` nothing is gated, and nothing looks as if it had been."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from plugin.gates import Gates

REASON = "*merge gates are off; run pytest with --mergegate*"
MARKED = """
from pathlib import Path
from pytest_mergegate import mergeable

@mergeable("mergegate.yaml")
def test_pool(): Path("ran").touch()
"""


def test_marked_tests_are_skipped_with_the_reason(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing()
    pytester.makepyfile(MARKED)
    result = pytester.runpytest("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([REASON])
    assert not (pytester.path / "ran").exists()


def test_a_gate_file_that_nobody_named_is_not_collected(
    pytester: pytest.Pytester, gates: Gates
) -> None:
    gates.passing()
    pytester.makepyfile("def test_plain(): pass")
    pytester.runpytest(".").assert_outcomes(passed=1)


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
def test_a_gate_file_named_on_the_command_line_is_no_quiet_green(
    pytester: pytest.Pytester, gates: Gates, workers: tuple[str, ...]
) -> None:
    name = gates.failing()
    result = pytester.runpytest("-rs", *workers, name)
    result.assert_outcomes(skipped=4)
    result.stdout.fnmatch_lines(
        [REASON, f"mergegate: {name.name} was NOT run: add --mergegate, or *"]
    )
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_gate_file_that_was_not_run_leaves_a_failed_run_its_code(
    pytester: pytest.Pytester, gates: Gates
) -> None:
    test = pytester.makepyfile("def test_plain(): assert False")
    result = pytester.runpytest(str(test), gates.failing())
    result.assert_outcomes(skipped=4, failed=1)
    result.stdout.fnmatch_lines(["mergegate: * was NOT run: *"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_listing_a_gate_file_asks_for_no_gate(pytester: pytest.Pytester, gates: Gates) -> None:
    result = pytester.runpytest("--collect-only", gates.failing())
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*was NOT run*")


@pytest.mark.parametrize("fixture", ["merge_pool", "merge_report", "merged_model", "expert_model"])
def test_fixtures_skip(pytester: pytest.Pytester, gates: Gates, fixture: str) -> None:
    gates.passing()
    pytester.makepyfile(f"def test_own({fixture}): pass")
    result = pytester.runpytest("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([REASON])


def test_ini_turns_the_gates_on(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing()
    pytester.makepyfile(MARKED)
    pytester.makeini("[pytest]\nmergegate = true")
    pytester.runpytest().assert_outcomes(passed=5)
    assert (pytester.path / "ran").exists()


def test_a_marker_is_checked_even_when_the_gates_are_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from pytest_mergegate import mergeable

        @mergeable(max_mdss=3)
        def test_pool(): pass
        """
    )
    result = pytester.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_*::test_pool: *'max_mdss'*did you mean 'max_mds'?"])
