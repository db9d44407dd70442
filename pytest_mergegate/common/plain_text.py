"""The one exit for text: whatever a stranger wrote into it, whoever shows it reads only text."""

import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import TextIO

LONGEST = 900
"""Characters of one message; what a stranger made longer is cut."""
_JOINERS = "\u200c\u200d"
"""Without these two, words of some languages and many emoji fall apart."""
_STEERING = {"Cc", "Cf", "Cs", "Co", "Cn"}
# GitHub takes a line that begins with :: (after spaces, so a wrapped word too) and any ##[ within
# a line for a command; Azure ##vso[ and TeamCity ##teamcity[
_COMMAND = re.compile(r"(?<!\S)::(?=\S)|##(?=[a-z]*\[)", re.IGNORECASE)


def printable(line: str) -> str:
    """One line as it stands, spaces included, without what steers a terminal, turns the direction
    of writing, ends the line or is a command to a CI."""
    return _COMMAND.sub(lambda found: f"{found[0][0]} {found[0][0]}", _unsteered(line))


def printable_lines(text: str) -> str:
    """``text`` with its lines as they stand, each of them printable."""
    return "\n".join(map(printable, text.split("\n")))


def quoted_lines(text: str) -> str:
    """``text`` with its lines as they stand, without what steers a terminal or turns the direction
    of writing: word for word else, to be quoted where no line of it begins one of the output."""
    return "\n".join(map(_unsteered, text.split("\n")))


def clean(text: str) -> str:
    """``text`` on one line, each run of white space one space; printable."""
    return printable(" ".join(text.split()))


def cut(text: str, most: int = LONGEST) -> str:
    """``text`` cleaned, and cut where it is longer than ``most``."""
    plain = clean(text[: 4 * most])
    return plain if len(plain) <= most and len(text) <= 4 * most else f"{plain[: most - 1]}…"


def shown(text: str, length: int = 120) -> str:
    """A name that a stranger chose, fit for one line of a message."""
    text = text[: 4 * length]
    plain = printable(text if text.isprintable() else repr(text)[1:-1])
    return plain if len(plain) <= length else plain[: length - 3] + "..."


def say(lines: Iterable[str], stream: TextIO | None = None) -> None:
    """Write lines to standard output, or to ``stream``, in what it can show."""
    stream = sys.stdout if stream is None else stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    for line in lines:
        text = f"{printable(line)}\n"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def complain(lines: Iterable[str]) -> None:
    """Write lines to standard error, each with the command's name in front."""
    say((f"mergegate: {line}" for line in lines), sys.stderr)


def _unsteered(line: str) -> str:
    return line if line.isascii() and line.isprintable() else "".join(map(_plain, line))


def _plain(mark: str) -> str:
    if mark.isspace():
        return " "
    steers = unicodedata.category(mark) in _STEERING and mark not in _JOINERS
    return "\N{REPLACEMENT CHARACTER}" if steers else mark
