"""Ways to have none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from plugin.gates import Gates


def test_no_plugin_no_options(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.passing()
    off = ("-p", "no:mergegate")
    result = pytester.runpytest(*off, "--mergegate")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unrecognized arguments: --mergegate"])
    pytester.makepyfile("def test_plain(): pass\ndef test_own(merge_report): pass")
    result = pytester.runpytest(*off)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'merge_report' not found"])


def test_collect_only_gates_nothing(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.failing()
    gates.unreadable("b.mergegate.yaml")
    result = pytester.runpytest("--mergegate", "--collect-only", "--mergegate-report=json")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*8 tests collected*"])
    result.stdout.no_fnmatch_line("*merge gates*")
    assert not list(pytester.path.glob("*.json"))


def test_collect_only_still_reads_gate_files(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.malformed()
    result = pytester.runpytest("--mergegate", "--collect-only")
    assert result.ret == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize("option", ["--fixtures", "--fixtures-per-test", "--cache-show"])
def test_listing_gates_nothing(pytester: pytest.Pytester, gates: Gates, option: str) -> None:
    gates.passing()
    result = pytester.runpytest("--mergegate", option, "--mergegate-report=json")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*no gate ran*")
    assert not list(pytester.path.glob("*.json"))
