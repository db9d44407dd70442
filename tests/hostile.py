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
GOLDEN = {
    **HOSTILE,
    "nothing": "",
    "blanks": "   ",
    "half a pair": "x\ud800y",
    "markdown": "# x\n\n| a | b |\n|---|---|\n[x](https://evil.example) **b** ```d @everyone #12",
    "html": "<script>window.hacked = 1</script></pre><img src=x onerror='window.hacked = 2'>&lt;",
    "right to left": "السلام عليكم ok שלום",
    "wide": "日本語のテキスト👩‍🔬" * 8,
    "accents": "e\u0301" * 70,
    "long": "a" * 99_990 + " the end.",
    "a long word": "x" * 300,
    "lines": "\n".join(f"line {k}" for k in range(40)),
    "jinja": "{{ 7 * 7 }} {% raw %} ${x} %s %(x)s",
}
"""Answers that are hard to show."""
COMMAND = re.compile(r"^\s*::\S|##[a-z]*\[", re.MULTILINE | re.IGNORECASE)
"""What a CI takes for a command."""


def assert_plain(text: str) -> None:
    """Nothing but printable text in lines, none of them a command."""
    assert not COMMAND.search(text), text
    odd = [
        mark
        for mark in text
        if mark not in "\n\u200c\u200d" and unicodedata.category(mark) in ("Cc", "Cf", "Cs")
    ]
    assert not odd, text
    assert not set("\u2028\u2029\x85") & set(text)
