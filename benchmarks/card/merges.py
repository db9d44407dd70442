"""What the default gate does to whole merges, and what its alarms are worth."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from card.alarms import DEFAULT, DISAGREEMENT, UPPER
from card.beds import EVERY, pools_of
from card.made import markdown
from card.rates import LEAST_POOLS, errors_of, precision_range
from card.scores import collapses_of
from pytest_mergegate.history.study.tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from card.beds import Evidence
    from card.rates import Errors
    from card.scores import Score
    from pytest_mergegate.history.study.losses import Point

BASE_RATES = (0.05, 0.20, 0.50)
FEW = 0.1
"""Of the clean merges: a smaller share of them says little."""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """One merge of one pool, as a gate judges it."""

    pool: str
    size: int
    lossful: bool
    """An expert of it collapsed."""
    alarm: bool
    """An expert of it is over the limit."""


def merges_of(points: Sequence[Point], score: Score = DISAGREEMENT) -> list[Merge]:
    """Those of which every expert's loss and score are known."""
    by_line: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        by_line[point.bed, point.line.id].append(point)
    return [
        Merge(
            pool=of[0].pool,
            size=of[0].size,
            lossful=bool(collapses_of(of).any()),
            alarm=bool((score.of(of) >= DEFAULT).any()),
        )
        for of in by_line.values()
        if len(score.known(of)) == of[0].size
    ]


def merge_errors(merges: Sequence[Merge]) -> Errors:
    """False alarms per clean merge, and lossful merges without an alarm."""
    raised = np.array([merge.alarm for merge in merges], dtype=bool)
    bad = np.array([merge.lossful for merge in merges], dtype=bool)
    return errors_of(raised, bad, [merge.pool for merge in merges])


def point_errors(points: Sequence[Point]) -> Errors:
    """The same of experts, one by one."""
    known = DISAGREEMENT.known(points)
    return errors_of(DISAGREEMENT.of(known) >= DEFAULT, collapses_of(known), pools_of(known))


def merges_part(found: Evidence) -> str:
    """By pool size, and how little is known of large pools."""
    return "\n\n".join(
        part
        for part in (
            "### The same, merge by merge",
            "A gate fails a merge where one expert of it is over the limit. A merge is *clean* "
            "where no expert of it collapsed, and *lossful* where one did. Intervals are the wider "
            "ends of Clopper-Pearson's and of a bootstrap over pools; there is none where there "
            f"are fewer than {LEAST_POOLS} pools.",
            _table(found),
            f"{few_text(found)} {_left_out(found)}".strip(),
            "### What an alarm is worth",
            "The chance that an alarm of the default gate is a true one, if so many of the merges "
            "(or points) that it sees were bad. It is r·b / (r·b + f·(1-b)), from the share r of "
            "the bad that is caught here and the share f of the others that raises an alarm here, "
            "at a base rate of b; in brackets with the bad ends of both intervals, and with the "
            f"good ones. Here {_bad_shares(found)}. Both shares are taken to stay what they are "
            "here; where more losses lie near the limit, both are worse.",
            _worth(found),
        )
        if part
    )


def _table(found: Evidence) -> str:
    rows: list[list[Any]] = []
    for score in (DISAGREEMENT, UPPER):
        for bed, points in found.columns.items():
            merges = merges_of(points, score)
            sizes = {f"of {n}": [m for m in merges if m.size == n] for n in _sizes(merges)}
            for kind, of in {**sizes, "all": merges}.items():
                if score is DISAGREEMENT or kind == "all":
                    rows.append([score.label, bed, kind, *_cells(merge_errors(of))])
    heads = ["number", "bed", "pools", "clean merges that raise an alarm"]
    heads.append("lossful merges that raise none")
    return markdown(Table(key="merges", title="", columns=dict.fromkeys(heads), rows=rows))


def _cells(errors: Errors) -> list[str | None]:
    return [None if rate is None else rate.shown() for rate in (errors.false, errors.missed)]


def _sizes(merges: Sequence[Merge]) -> list[int]:
    return sorted({merge.size for merge in merges})


def few_text(found: Evidence) -> str:
    """How many of the clean merges say anything of larger pools."""
    clean = [merge for merge in merges_of(found.every) if not merge.lossful]
    large = [merge for merge in clean if merge.size > 2]
    told = ", ".join(
        f"{sum(merge.size == n for merge in clean)} of {n}"
        for n in _sizes(merges_of(found.every))
        if n > 2
    )
    counted = f"{len(large)} of {len(clean)} clean merges have more than two experts ({told})"
    if len(large) < FEW * len(clean):
        return f"Only {counted}: of false alarms in larger pools little is known."
    return f"{counted}."


def _left_out(found: Evidence) -> str:
    gone = len({(p.bed, p.line.id) for p in found.every}) - len(merges_of(found.every))
    return f"Left out: {gone} merges with an expert whose loss is not known." if gone else ""


def _bad_shares(found: Evidence) -> str:
    lossful = np.mean([merge.lossful for merge in merges_of(found.every)])
    return (
        f"{lossful:.0%} of the merges are lossful, {collapses_of(found.every).mean():.0%} of the "
        "points collapsed"
    )


def _worth(found: Evidence) -> str:
    rows: list[list[Any]] = []
    for what in ("merge", "point"):
        for bed, points in found.columns.items():
            errors = point_errors(points) if what == "point" else merge_errors(merges_of(points))
            rows.append([what, bed, *(_precision(errors, base) for base in BASE_RATES)])
    heads = ["per", "bed", *(f"{base:.0%} are bad" for base in BASE_RATES)]
    table = Table(key="worth", title="", columns=dict.fromkeys(heads), rows=rows, labels=2)
    return markdown(table)


def _precision(errors: Errors, base: float) -> str | None:
    values = precision_range(errors, base)
    if values is None or None in values:
        return None
    point, *ends = (f"{value:.0%}" for value in values)
    return f"{point} ({' to '.join(ends)})" if ends else point


def short_lines(found: Evidence) -> list[str]:
    """What a reader must know of it."""
    every = merge_errors(merges_of(found.every))
    told = []
    if every.false is not None and every.missed is not None:
        told.append(
            "Of whole merges, the default gate raises a false alarm on "
            f"{every.false.value:.1%} of the clean ones{_by_bed(found)}, and misses "
            f"{every.missed.value:.1%} of those in which an expert collapsed."
        )
    return [*told, few_text(found)]


def _by_bed(found: Evidence) -> str:
    rates = {
        bed: rate.value
        for bed, points in found.columns.items()
        if bed != EVERY and (rate := merge_errors(merges_of(points)).false)
    }
    if len(rates) < 2:
        return ""
    return f" ({', '.join(f'{bed} {rate:.1%}' for bed, rate in rates.items())})"
