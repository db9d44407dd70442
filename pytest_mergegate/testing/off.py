"""What a run says that was given gate files and not told to run them."""

from collections.abc import Iterator

import pytest

from pytest_mergegate.common.plain_text import printable

PROPERTY = "mergegate-off"
"""Of an item of a gate file that was not run: the file, as it was named."""


class GatesOff:
    """Registered while the gates are off, in the controller: a gate file that was named is asked
    for, and skipping all of it is no pass."""

    def __init__(self) -> None:
        self._files: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the gate files of which items were skipped; they come from xdist's workers too."""
        said = (str(value) for name, value in report.user_properties if name == PROPERTY)
        self._files |= dict.fromkeys(said)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """A run that only skipped what it was asked for has gated nothing."""
        if self._files and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
        """Say which were not run, and what to add, behind all that pytest says."""
        yield
        for file in self._files:
            told = f"mergegate: {file} was NOT run: add --mergegate, or set mergegate = true"
            where = " under [tool.pytest] in pyproject.toml ([pytest] in pytest.ini)"
            terminalreporter.write_line(printable(told + where), red=True)
