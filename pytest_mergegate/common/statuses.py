"""What gates, findings and runs come to: statuses from best to worst, severities, exit codes."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Literal, get_args

Status = Literal["pass", "inconclusive", "fail", "error"]
"""What a gate comes to; a single verdict is never an error."""
STATUSES: tuple[Status, ...] = get_args(Status)
"""From the best to the worst."""
Severity = Literal["error", "warning", "note"]
"""What a finding weighs; an error keeps the gate from its verdicts."""


def worst(statuses: Iterable[Status], at_best: Status = "pass") -> Status:
    """The worst of ``statuses``, and nothing better than ``at_best``."""
    return max((at_best, *statuses), key=STATUSES.index)


class Exit(IntEnum):
    """pytest's exit codes, with the meanings they have for gates."""

    PASSED = 0
    NOT_PASSED = 1
    UNREADABLE = 2
    BAD_OPTIONS = 4
    NOTHING_GATED = 5
