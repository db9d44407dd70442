"""The numbers of experts that formats show, each with what stands beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from pytest_mergegate.common.wording import number_text

if TYPE_CHECKING:
    from pytest_mergegate.common.records import Interval
    from pytest_mergegate.report.types import (
        ExpertRecord,
        MergedExpertRecord,
        Report,
    )

NOT_RUN = "stage_not_run"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number of one expert, or why there is none."""

    value: float | None = None
    interval: Interval | None = None
    """A null end is infinite."""
    upper: float | None = None
    """What the number is at most, at the certificate's confidence."""
    reason: str = NOT_RUN
    note: str = ""
    """What else has to be said of it."""

    def times(self, factor: float) -> Estimate:
        """The same in another unit, ``factor`` of which make one of this."""

        def of(number: float | None) -> float | None:
            return None if number is None else number * factor

        ends = self.interval and (of(self.interval[0]), of(self.interval[1]))
        return Estimate(
            value=of(self.value), interval=ends, upper=of(self.upper), reason=self.reason
        )


def mds_of(expert: ExpertRecord) -> Estimate:
    """How hard an expert is to merge within its pool."""
    return Estimate(
        value=math.inf if expert.mds_infinite else expert.mds,
        interval=expert.mds_interval,
        reason=expert.mds_reason or NOT_RUN,
    )


def forecasts_of(report: Report, kind: str, method: str | None) -> dict[str, Estimate]:
    """The disagreement that is expected of every expert of which a forecast was made."""
    return {
        found.expert: Estimate(
            value=found.disagreement,
            interval=found.disagreement_interval,
            upper=found.disagreement_upper,
            reason=found.disagreement_reason or NOT_RUN,
        )
        for found in report.forecasts
        if (found.kind, found.method) == (kind, method)
    }


def disagreement_of(merged: MergedExpertRecord | None) -> Estimate:
    """How often the merge answers an expert's inputs differently."""
    if merged is None:
        return Estimate()
    return Estimate(
        value=merged.disagreement,
        interval=merged.disagreement_interval,
        upper=merged.disagreement_upper,
    )


def loss_of(merged: MergedExpertRecord | None) -> Estimate:
    """The loss in percent, positive where the merge is worse, as the budget has it."""
    if merged is None or merged.loss is None:
        return Estimate(reason=(merged and merged.loss_reason) or NOT_RUN)
    low, high = merged.loss_interval or (None, None)
    turned = (None if high is None else -high, None if low is None else -low)
    return Estimate(value=0.0 - merged.loss, interval=merged.loss_interval and turned)


def by_layer(report: Report, ratio: str) -> dict[tuple[str, str], list[float | None]]:
    """Of every pair of experts the number in each layer."""
    places = range(len(report.conflicts.layers) if report.conflicts else 0)
    rows = {(pair.a, pair.b): pair.layers.get(ratio, ()) for pair in report.pairs}
    return {p: [row[k] if k < len(row) else None for k in places] for p, row in rows.items()}


def mean_by_layer(ratio: str, report: Report) -> list[float | None]:
    """Over all pairs that have a number there."""
    layers = zip(*by_layer(report, ratio).values(), strict=True)
    known = ([value for value in layer if value is not None] for layer in layers)
    return [fmean(values) if values else None for values in known]


def score_text(merged: MergedExpertRecord | None) -> str | None:
    """The score of an expert alone, then of the merge; None where either is not known."""
    if merged is None or merged.score_expert is None or merged.score_merged is None:
        return None
    return f"{merged.score_expert:.2f} → {merged.score_merged:.2f}"


def number_beside(
    value: float, limit: float | None, digits: int = 2, *, apart: bool = False
) -> str:
    """A number with the digits it takes to stand on its own side of the limit.

    With ``apart`` also with those it takes not to look like the limit, where it is not.
    """
    value += 0.0
    while limit is not None and digits < 16:
        shown = float(f"{value:.{digits}f}")
        alike = apart and shown == limit != value
        if (shown <= limit) == (value <= limit) and not alike:
            break
        digits += 1
    return f"{value:.{digits}f}"


def span(ends: Interval | None, scale: float = 1, decimals: int | None = None) -> str | None:
    """An interval in brackets; a null end is infinite, a negative ``scale`` turns it round."""
    if ends is None:
        return None
    low = -math.inf if ends[0] is None else ends[0]
    high = math.inf if ends[1] is None else ends[1]
    low, high = sorted((low * scale, high * scale))
    return f"[{_end(low, decimals)}, {_end(high, decimals)}]"


def _end(end: float, decimals: int | None) -> str:
    if math.isinf(end):
        return "∞" if end > 0 else "−∞"
    return number_text(end) if decimals is None else f"{end + 0.0:.{decimals}f}"
