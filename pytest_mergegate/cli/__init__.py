"""The command ``mergegate``: the gates outside a test suite, with pytest's exit codes."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

_COMMANDS = ("check", "init", "plan", "calibrate", "study", "report", "github", "cache", "schema")
"""A subcommand is a module here with ``add_to`` and ``run``, and its name in this list."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. Without ``arguments`` it is the process's."""
    code = _run(arguments)
    if arguments is None:
        # or the interpreter looks for garbage in all of torch to end: a fifth of a small gate
        gc.freeze()
    return code


def subcommands() -> Iterator[ModuleType]:
    """The modules of the subcommands, in the order in which ``--help`` lists them."""
    return (import_module(f"{__name__}.{name}") for name in _COMMANDS)


def _run(arguments: Sequence[str] | None) -> int:
    from pytest_mergegate.cli.parser import Parser
    from pytest_mergegate.common.errors import GateError, UsageError
    from pytest_mergegate.common.plain_text import complain
    from pytest_mergegate.common.statuses import Exit

    parser = Parser(prog="mergegate", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    for command in subcommands():
        command.add_to(commands)
    chosen = parser.parse_args(arguments)
    try:
        code = int(chosen.run(chosen))
        sys.stdout.flush()
        return code
    except UsageError as error:
        parser.error(str(error))
    except GateError as error:  # a file that an option names
        complain(str(error).splitlines())
        return Exit.UNREADABLE
    except BrokenPipeError:  # whoever read along has heard enough; what is left to say is lost
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.UNREADABLE
    except KeyboardInterrupt:
        complain(["interrupted"])
        return Exit.UNREADABLE
