"""``mergegate cache``: show or clear kept results."""

import argparse
from pathlib import Path

from pytest_mergegate.cli import Parser
from pytest_mergegate.common.plain_text import complain, say
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.engine.running.cache import Cache
from pytest_mergegate.gate.option_table import OPTIONS, Given, parse_cache


def add_to(cache: Parser) -> None:
    """Declare the arguments."""
    cache.add_options([OPTIONS["cache"]], cache="the folder (default: the user's own)")
    cache.add_argument("--clear", action="store_true", help="remove them all")


def run(chosen: argparse.Namespace) -> int:
    """Show or clear; returns the exit code. Raises UsageError."""
    folder = parse_cache(Given(chosen.cache, "--cache", Path.cwd()) if chosen.cache else None)
    if folder is None:
        complain(["there is no home folder; name one with --cache DIR"])
        return Exit.BAD_OPTIONS
    cache = Cache(folder=folder)
    try:
        usage = cache.clear() if chosen.clear else cache.usage()
    except OSError as error:
        complain([f"the cache {folder} cannot be used ({error.strerror})"])
        return Exit.UNREADABLE
    removed = "removed " if chosen.clear else ""
    say([f"{usage.folder}: {removed}{usage.entries} entries, {usage.size / (1 << 20):.1f} MB"])
    return Exit.PASSED
