"""``mergegate schema``: the JSON Schema of gate files, for editors."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from pytest_mergegate.commands.exits import Exit

if TYPE_CHECKING:
    import argparse

    from pytest_mergegate.commands.parser import Commands


def add_to(commands: Commands) -> None:
    """Declare the command."""
    text = "print the JSON Schema of gate files"
    commands.add_parser("schema", help=text).set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """Print it; returns the exit code."""
    from pytest_mergegate.spec import GateSpec

    sys.stdout.write(json.dumps(GateSpec.model_json_schema(), indent=2) + "\n")
    return Exit.PASSED
