"""How well each score ranks what collapsed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from card.baselines import baselines
from card.beds import experts_of, pools_of
from card.made import markdown
from card.scores import SCORES, collapses_of, losses_of, scores_of
from pytest_mergegate.history.study.losses import methods_of
from pytest_mergegate.history.study.tables import Table
from pytest_mergegate.metrics import Undefined
from pytest_mergegate.metrics.ranking import Ranked, auroc, spearman
from pytest_mergegate.metrics.resampling import cluster_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import NDArray

    from card.baselines import Past
    from card.beds import Evidence
    from card.scores import Score
    from pytest_mergegate.history.study.losses import Point

    Ranks = Score | Past

RESAMPLES = 1000
FEW = 10
"""Points of a kind: an AUROC of fewer says little."""
MAIN = ("disagreement", "surrogate", "states", "mds")


@dataclass(frozen=True, kw_only=True)
class WorstHit:
    """Whether a score names the expert that lost most."""

    hit: float
    """1 or 0; where several share the highest score, the share of them that lost most"""
    chance: float
    """What drawing an expert at random would score"""


def worst_hit(scores: NDArray[np.float64], losses: NDArray[np.float64]) -> WorstHit:
    """Whether the highest score is that of the worst loss (losses are negative percent).

    Raises Undefined where all losses are equal.
    """
    worst, named = losses == losses.min(), scores == scores.max()
    if worst.all():
        raise Undefined("no_worst_task", "every expert lost the same")
    return WorstHit(hit=float(worst[named].mean()), chance=float(worst.mean()))


def rank(score: Ranks, points: Sequence[Point]) -> float | None:
    """AUROC; None where the score, or one kind of point, does not exist."""
    known = score.known(points)
    bad = collapses_of(known)
    return None if len(set(bad.tolist())) < 2 else auroc(score.of(known), bad)


def ranks_part(found: Evidence) -> str:
    """AUROC and average precision of every score."""
    return "\n\n".join(
        [
            "## How well each score ranks the collapses",
            "AUROC: the chance that a collapsed point gets a worse score than a kept one; 0.5 is a "
            "coin. In brackets the 95 % interval of a bootstrap that draws pools and experts anew, "
            "each by itself: the points of a pool come and go together, and so do an expert's. A "
            "constant has 0.5. The last two rows are what other pools of an expert predict, "
            "without any score.",
            _ranks(found, Ranked.auroc),
            "Average precision (AUPRC), with the same intervals. A score that says nothing has the "
            "base rate of the points that it is known of, which stands in the last column: MDS is "
            "known of larger pools only.",
            _ranks(found, Ranked.auprc),
            _intervals(found),
            *(_by_method(found, bed) for bed in found.beds),
            f"In brackets where fewer than {FEW} points collapsed, or fewer than {FEW} did not.",
        ]
    )


def interval(
    statistic: Callable[[NDArray[np.float64]], float], *clusters: Sequence[Hashable]
) -> tuple[float, float]:
    """95 % bootstrap interval: the points of one cluster come and go together."""
    return cluster_interval(statistic, *clusters, resamples=RESAMPLES)


def _ranks(found: Evidence, statistic: Callable[..., float]) -> str:
    rows: list[list[Any]] = []
    for score in (*scores_of(found.every), *baselines(found)):
        cells = []
        for points in found.columns.values():
            known = score.known(points)
            values, bad = score.of(known), collapses_of(known)
            if len(set(bad.tolist())) < 2:
                cells.append(None)
                continue
            point = partial(statistic, Ranked(values, bad))
            low, high = interval(point, pools_of(known), experts_of(known))
            cells.append(f"{point():.3f} ({low:.3f} to {high:.3f})")
        rows.append([score.label, score.needs, *cells, base_rates(score, found)])
    rates = "base rate of its points" + (": " + ", ".join(found.columns)) * (len(found.columns) > 1)
    heads = dict.fromkeys(["score", "needs", *found.columns, rates])
    return markdown(Table(key="ranks", title="", columns=heads, rows=rows, labels=2))


def base_rates(score: Ranks, found: Evidence) -> str:
    """How many of the points that have the score collapsed, by bed and of all."""
    known = [score.known(points) for points in found.columns.values()]
    return " / ".join(f"{collapses_of(of).mean():.3f}" if of else "-" for of in known)


def _intervals(found: Evidence) -> str:
    """How much the clusters matter."""
    rows: list[list[Any]] = []
    points = found.every
    for score in (s for s in SCORES if s.field in MAIN):
        known = score.known(points)
        bad = collapses_of(known)
        if len(set(bad.tolist())) < 2:
            continue
        ways = [pools_of(known)], [experts_of(known)], [pools_of(known), experts_of(known)]
        ranked = Ranked(score.of(known), bad)
        found_ones = [interval(ranked.auroc, *way) for way in ways]
        rows.append([score.label, *(f"{low:.3f} to {high:.3f}" for low, high in found_ones)])
    heads = dict.fromkeys(["score", "over pools", "over experts", "over both"])
    told = markdown(Table(key="ways", title="", columns=heads, rows=rows))
    return f"The interval of the AUROC over all points, by what is drawn anew:\n\n{told}"


def _by_method(found: Evidence, bed: str) -> str:
    points = found.beds[bed]
    methods = methods_of(points)
    rows: list[list[Any]] = []
    for score in (*scores_of(found.every), *baselines(found)):
        cells = []
        for method in methods:
            of = [point for point in points if point.method == method]
            value, bad = rank(score, of), collapses_of(score.known(of))
            few = len(bad) > 0 and min(bad.sum(), (~bad).sum()) < FEW
            shown = None if value is None else f"({value:.3f})" if few else f"{value:.3f}"
            cells.append(shown)
        rows.append([score.label, *cells])
    table = Table(key="m", title="", columns=dict.fromkeys(["score", *methods]), rows=rows)
    return f"### {bed}: AUROC method by method\n\n{markdown(table)}"


def within_part(found: Evidence) -> str:
    """Whether a score orders the experts of one merge."""
    rows: list[list[Any]] = []
    for score in scores_of(found.every):
        orders = {bed: _spearman(score, points) for bed, points in found.beds.items()}
        hits = {bed: _hits(score, points) for bed, points in found.beds.items()}
        cells: list[str | None] = []
        for bed in found.columns:
            chosen = [bed] if bed in found.beds else list(found.beds)
            cells.append(_mean_order([value for name in chosen for value in orders[name]]))
            cells.append(_mean_hit([hit for name in chosen for hit in hits[name]]))
        rows.append([score.label, *cells])
    heads = ["score"]
    for bed in found.columns:
        heads += [f"{bed}: Spearman", f"{bed}: worst named"]
    table = Table(key="within", title="", columns=dict.fromkeys(heads), rows=rows)
    return "\n\n".join(
        [
            "## Within one merge",
            "Spearman: the rank correlation of score and loss over the experts of one merge, the "
            "mean over all merges of three experts and more in which both vary (their number in "
            "brackets); 1 where the riskier always loses more. Worst named: in what share of the "
            "merges (pairs too) the expert with the highest score is the one that lost most, and "
            "in brackets what drawing one at random would reach; ties count as drawing among them.",
            markdown(table),
        ]
    )


def _merges(score: Score, points: Sequence[Point]) -> list[list[Point]]:
    merges: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        merges.setdefault((point.pool, point.method), []).append(point)
    return [of for of in merges.values() if len(score.known(of)) == len(of) > 1]


def _spearman(score: Score, points: Sequence[Point]) -> list[float]:
    found = []
    for of in _merges(score, points):
        if len(of) > 2:
            try:
                found.append(spearman(score.of(of), -losses_of(of)))
            except Undefined:
                continue
    return found


def _mean_order(found: Sequence[float]) -> str | None:
    return f"{np.mean(found):.2f} ({len(found)})" if found else None


def _hits(score: Score, points: Sequence[Point]) -> list[WorstHit]:
    found = []
    for of in _merges(score, points):
        try:
            found.append(worst_hit(score.of(of), losses_of(of)))
        except Undefined:
            continue
    return found


def _mean_hit(found: Sequence[WorstHit]) -> str | None:
    if not found:
        return None
    hit, chance = (np.mean([getattr(one, key) for one in found]) for key in ("hit", "chance"))
    return f"{hit:.2f} ({chance:.2f})"
