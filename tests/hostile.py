"""What strangers might write, and what no output may hold of it."""

from __future__ import annotations

import re
import unicodedata

HOSTILE = {
    "escape": "x\x1b[31mred\x1b]0;title\x07",
    "command": "x\n::error file=a::forged",
    "command after a space": "x ::set-output name=a::b",
    "old command": "x ##[error]forged",
    "azure": "x ##vso[task.setvariable variable=a]b",
    "team city": "##teamcity[testFinished name='x']",
    "direction": "\u202egnorw\u202c \u2066x",
    "bell and backspace": "x\x07\x08\x08y",
    "carriage return": "passed\rfailed",
    "other line ends": "x\u2028::error::y\u2029z\x85w",
    "C1": "x\x9b31m",
    "tag": "x\U000e0041y",
}
COMMAND = re.compile(r"^\s*::\S|##[a-z]*\[", re.MULTILINE | re.IGNORECASE)
"""What a CI takes for a command."""


def assert_plain(text: str) -> None:
    """Nothing but printable text in lines, none of them a command."""
    assert not COMMAND.search(text), text
    odd = [
        mark for mark in text if mark != "\n" and unicodedata.category(mark) in ("Cc", "Cf", "Cs")
    ]
    assert not odd, text
    assert not set("\u2028\u2029\x85") & set(text)
