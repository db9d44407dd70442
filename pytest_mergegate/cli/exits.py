"""Exit codes."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """pytest's exit codes, with the meanings they have for gates."""

    PASSED = 0
    NOT_PASSED = 1
    UNREADABLE = 2
    BAD_OPTIONS = 4
    NOTHING_GATED = 5
