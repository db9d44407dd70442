"""The command ``mergegate``: the gates outside a test suite, with pytest's exit codes."""

import argparse
import gc
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from pytest_mergegate.common.errors import GateError, UsageError, no_torch
from pytest_mergegate.common.plain_text import complain, cut
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.option_table import Given, Option, read_options
from pytest_mergegate.gate.options import Options
from pytest_mergegate.verdict.budgets import cap_options

_COMMANDS = {
    "check": (
        "run gates",
        ". No hook of a pytest plugin is called: pytest --mergegate does that.",
    ),
    "init": ("write a gate file for a folder of adapters or checkpoints", "."),
    "plan": (
        "say which merges of a pool would pass",
        ": in how few groups, what to leave out, what to put in its place. Nothing is merged; "
        "exits 0 where merges were found that are forecast to pass, else 1.",
    ),
    "calibrate": (
        "predict losses from recorded merges",
        "Predict from the merges in registries: losses with intervals, and thresholds that "
        "control misses.",
    ),
    "study": (
        "print the paper's tables on recorded merges",
        "Tables 1 to 6 and Figure 1 of the paper, on the beds that ship with the package or on "
        "registries of your own.",
    ),
    "show": (
        "show the cases behind an expert's scores",
        " that a JSON report holds: inputs that merges answer differently, with what the expert "
        "says and what they say.",
    ),
    "ask": (
        "ask base, expert and merges the same",
        "Ask the base, an expert and the gate's merges the same, and print their answers below "
        "each other. Merges are made in memory, and nothing is judged.",
    ),
    "convert": (
        "repair or convert an adapter's files",
        "Write an adapter's weights in the form that PEFT saves and a gate reads: under PEFT's "
        "names, where exactly one reading of others fits the base, and as safetensors, where there "
        "is adapter_model.bin alone, which no gate ever loads.",
    ),
    "report": ("write a JSON report in other formats", "; exits 0 whatever the verdict."),
    "github": (
        "tell GitHub Actions what a check found",
        "Writes the job's summary, annotations and outputs from the reports of a check, and what "
        "is to be said on the pull request. Exits 0 once that is done.",
    ),
    "cache": ("show or clear kept results", "."),
    "schema": (
        "print the JSON Schema of gate files",
        ", for editors: mergegate schema > schema.json, and in the gate file the comment "
        "yaml-language-server: $schema=schema.json",
    ),
}
"""A subcommand is a module here with ``add_to`` and ``run``, and its row: what the command's help
says of it, and its own help, which may begin with the same words."""


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
        asked = value is not None
        value = value if asked else option.default
        return [Given(value, f"--{option.name}", Path.cwd(), asked)]

    return read_options(given, cap_options())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. Without ``arguments`` it is the process's."""
    code = _run(arguments)
    if arguments is None:
        # or the interpreter looks for garbage in all of torch to end: a fifth of a small gate
        gc.freeze()
    return code


def add_commands(parser: Parser, given: Collection[str] = tuple(_COMMANDS)) -> None:
    """Declare the subcommands, in the order in which ``--help`` lists them; of those that are not
    ``given`` no module is imported, and no more than the name is known."""
    commands = parser.add_subparsers(dest="command", required=True, parser_class=type(parser))
    for name, (text, more) in _COMMANDS.items():
        about = more if more[0].isupper() else text[0].upper() + text[1:] + more
        command = commands.add_parser(name, help=text, description=about)
        if name in given:
            module = import_module(f"{__name__}.{name}")
            command.set_defaults(run=module.run)
            module.add_to(command)


def _run(arguments: Sequence[str] | None) -> int:
    parser = Parser(prog="mergegate", description=__doc__)
    told = f"pytest-mergegate {version('pytest-mergegate')}"
    parser.add_argument("--version", action="version", version=told, help="print the version")
    add_commands(parser, sys.argv if arguments is None else arguments)
    chosen = parser.parse_args(arguments)
    try:
        code = int(chosen.run(chosen))
        sys.stdout.flush()
        return code
    except UsageError as error:
        parser.error(str(error))
    except GateError as error:  # a file that an option names
        complain(str(error).splitlines())
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        complain([str(no_torch())])
    except BrokenPipeError:  # whoever read along has heard enough; what is left to say is lost
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        complain(["interrupted"])
    return Exit.UNREADABLE
