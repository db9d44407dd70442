"""Verdicts and numbers in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from pytest_mergegate.common.values import Value

_WHY = {
    "needs_three_experts": "similarity is relative to the pool and needs at least three experts",
    "equidistant": "all experts are equally far apart, which says nothing about their conflicts",
    "expert_score_zero": "the expert itself scores zero on its examples",
    "zero_task_vectors": "neither expert changes the base",
    "zero_hidden_state": "a hidden state is zero and has no direction",
}


def verdict_text(
    budget: str,
    limit: float,
    value: Value,
    expert: str,
    method: str | None,
    status: str,
    detail: str,
) -> str:
    """One line: the value with its interval, the limit, and how they stand."""
    under = f" under {method}" if method else ""
    what = budget_name(budget)
    tail = f" ({detail})" if detail else ""
    if value.number is None:
        why = _WHY.get(value.reason or "", (value.reason or "").replace("_", " "))
        told = ("not_computed", "needs_stage", "baseline_", "too_few")
        why = detail if (value.reason or "").startswith(told) else why
        return f"{expert}: {what}{under} undecided: {why}"
    if math.isnan(limit):
        return f"{expert}: {what} {number_text(value.number)}{under} undecided: {detail}"
    unit = {"max_loss": " %", "max_loss_increase": " points"}.get(budget, "")
    shown, bound = distinct(value.number, limit)
    interval = ""
    if value.interval:
        low, high = (number_text(end) for end in value.interval)
        interval = f" [{low}, {high}]"
    relation = {"pass": "within", "fail": "over", "inconclusive": "undecided against"}[status]
    return f"{expert}: {what} {shown}{unit}{interval} {relation} {bound}{unit}{under}{tail}"


def budget_name(budget: str) -> str:
    """A budget in words: ``max_mds_increase`` is ``MDS increase``."""
    return budget.removeprefix("max_").replace("_", " ").replace("mds", "MDS")


def number_text(number: float, digits: int = 3) -> str:
    """A number for people: ``digits`` significant digits, ``inf`` spelled as the sign."""
    return "∞" if math.isinf(number) and number > 0 else f"{number + 0.0:.{digits}g}"


def distinct(a: float, b: float) -> tuple[str, str]:
    """Both numbers with as many digits as it takes to show that they differ."""
    for digits in range(3, 17):
        texts = number_text(a, digits), number_text(b, digits)
        if a == b or texts[0] != texts[1]:
            return texts
    return repr(a), repr(b)


def shorten(name: str, width: int) -> str:
    """``name`` in exactly ``width`` columns, cut in the middle where it is longer."""
    if cell_len(name) <= width:
        return set_cell_size(name, width)
    head = max(width // 2, 1)
    kept, tail = set_cell_size(name, head), max(width - head - 1, 0)
    end = name[len(name) - tail :] if tail > 0 else ""
    while cell_len(end) > tail:
        end = end[1:]
    return set_cell_size(f"{kept}…{end}", width)
