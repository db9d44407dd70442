"""How much a number of inputs promises, for `docs/choosing-a-budget.md`: from the bounds alone."""

from __future__ import annotations

import math

import numpy as np

from pytest_mergegate import metrics

INPUTS = (20, 32, 64, 128, 256, 512)
DIFFERENT = (0, 1, 2, 4)
LIMITS = (0.01, 0.02, 0.05, 0.1, 0.3)
RATES = (0, 0.01, 0.02, 0.05, 0.1)
LOST = 10
"""Percent that are lost in the example of a measured loss."""
EXAMPLES = (30, 100, 400, 1000)


def inputs_text() -> str:
    """What certificates of some sizes promise, and the width of a measured loss."""
    return "\n".join(
        [
            "What a certificate promises at 95 % where *k* of *n* answers were different:",
            "",
            *_promised(),
            "",
            "Read the other way round, the inputs that it takes until the bound is within a limit:",
            "",
            *_needed(),
            "",
            f"Where an expert that is always right lost {LOST} % under a metric that is 0 or 1,",
            f"the 95 % interval of that loss runs {_measured()}.",
        ]
    )


def _promised() -> list[str]:
    rows = [["inputs n", *[f"k = {k}" for k in DIFFERENT], "a tenth of n"]]
    for n in INPUTS:
        bounds = [metrics.disagreement_bound(k, n) for k in (*DIFFERENT, round(n / 10))]
        rows.append([str(n), *[f"{100 * bound:.1f} %" for bound in bounds]])
    return _lines(rows)


def _needed() -> list[str]:
    first, *others = [f"{100 * rate:g} %" for rate in RATES[1:]]
    rows = [["limit", "never different", f"{first} different", *others]]
    rows += [[f"{limit:g}", *[_until(rate, limit) for rate in RATES]] for limit in LIMITS]
    return _lines(rows)


def _until(rate: float, limit: float) -> str:
    """On how few inputs the bound at this rate is within the limit; nothing where on none."""
    return "" if rate >= limit else f"{metrics.inputs_needed(round(100 * rate), 100, limit):,}"


def _measured() -> str:
    told = []
    for n in EXAMPLES:
        merged = np.repeat([0.0, 1.0], [n * LOST // 100, n - n * LOST // 100])
        low, high = metrics.merging_loss_interval(merged, np.ones(n), binary=True)
        told.append(f"from {_whole(-high)} to {_whole(-low)} on {n:,}")
    return f"{', '.join(told[:-1])} and {told[-1]} examples"


def _whole(percent: float) -> str:
    return f"{math.floor(percent + 0.5):d}"


def _lines(rows: list[list[str]]) -> list[str]:
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return [head, f"|{'---|' * len(rows[0])}", *others]
