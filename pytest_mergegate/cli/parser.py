"""The parser of the command line, with pytest's exit code for bad options."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from pytest_mergegate.cli.exits import Exit
from pytest_mergegate.common.plain_text import cut


class Parser(argparse.ArgumentParser):
    """argparse's, but that its errors leave with the exit code for bad options."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and leave."""
        self.print_usage(sys.stderr)
        self.exit(Exit.BAD_OPTIONS, f"{self.prog}: error: {cut(message)}\n")


if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[Parser]
