"""The parser of the command line: the options that the command shares with pytest, and errors."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from pytest_mergegate.common.plain_text import cut
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.option_table import Given, Option, read_options
from pytest_mergegate.gate.options import Options
from pytest_mergegate.verdict.budgets import cap_options


class Parser(argparse.ArgumentParser):
    """argparse's, but that its errors leave with the exit code for bad options."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and leave."""
        self.print_usage(sys.stderr)
        self.exit(Exit.BAD_OPTIONS, f"{self.prog}: error: {cut(message)}\n")

    def add_options(self, options: Iterable[Option], **told: str) -> None:
        """Declare options that pytest has too; ``told`` is what this command says of some."""
        for option in options:
            about = told.get(option.key, option.help)
            self.add_argument(f"--{option.name}", **option.declaration | {"help": about})


def options_of(chosen: argparse.Namespace) -> Options:
    """The options that the user chose; defaults for those that a command does not have.

    Raises UsageError.
    """

    def given(option: Option) -> list[Given]:
        value = getattr(chosen, option.key, None)
        value = option.default if value is None else value
        return [Given(value, f"--{option.name}", Path.cwd())]

    return read_options(given, cap_options())
