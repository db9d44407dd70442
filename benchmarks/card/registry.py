"""What `docs/registry.md` says of the intervals' worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from card.beds import experts_of, pools_of
from card.losses import CONFIDENCE, predict, summary
from card.made import markdown, with_parts
from pytest_mergegate.history.study.tables import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from card.beds import Evidence
    from card.losses import Predictions, Split, Summary

FEWEST, MOST = 15, 24
"""How many merges a small registry has."""
DRAWS = 40
"""Small registries of each bed; with so many the means stand still to a point or two."""
SEED = 7
SPLITS = ("pools", "experts", "methods")


def with_worth(page: str, found: Evidence, predictions: Predictions) -> str:
    """The page with its part made anew."""
    return with_parts(page, worth_text(found, predictions))


def worth_text(found: Evidence, predictions: Predictions) -> str:
    """The table, and a sentence each on the surrogate and on small registries."""
    return "\n".join(
        [
            f"What it came to on {_count(found)} ([the beds that ship](validation.md)),",
            f"intervals at {CONFIDENCE:.0%}, from the disagreement{_inputs(found)}. Each bed is",
            "predicted from its own other merges. Pools are left out a fifth of them at a time,",
            "experts with every merge that has them, methods with all their parameters.",
            "",
            markdown(_table(predictions)),
            "",
            _surrogate_text(predictions),
            "",
            _small_text(found),
        ]
    )


def small_registries(found: Evidence) -> Split:
    """Some merges of a bed, drawn at random, and the bed's others; ``DRAWS`` times for each."""
    rng = np.random.default_rng(SEED)
    for of in found.observed.values():
        merges = list(dict.fromkeys(one.merge for one in of))
        for _ in range(DRAWS):
            size = int(rng.integers(FEWEST, MOST, endpoint=True))
            drawn = set(rng.choice(merges, size, replace=False).tolist())
            train = [one for one in of if one.merge in drawn]
            yield train, [one for one in of if one.merge not in drawn]


def worths(split: Split, score: str) -> Iterator[tuple[str, Summary]]:
    """The bed and the worth of each part of a split, in its order."""
    for part in predict(split, score):
        if part:
            yield part[0].bed, summary(part)


def _table(predictions: Predictions) -> Table:
    rows: list[list[Any]] = []
    for name in SPLITS:
        for bed in predictions.beds:
            worth = summary(predictions.of(name, "disagreement", bed))
            told = [f"{worth.width:.1f} points", f"{worth.error:.1f} points"]
            rows.append([name, bed, worth.losses, f"{worth.coverage:.0%}", *told])
    heads = ["left out", "bed", "losses", "covered", "mean width", "mean error"]
    return Table(key="worth", title="", columns=dict.fromkeys(heads), rows=rows)


def _count(found: Evidence) -> str:
    every = found.every
    pools, experts = set(pools_of(every)), set(experts_of(every))
    return f"{len(every)} losses of {len(pools)} pools and {len(experts)} experts"


def _inputs(found: Evidence) -> str:
    """On how many inputs a task answers were compared, where the merges say so."""
    asked = [point.line.settings.get("certificate", {}).get("per_task") for point in found.every]
    sizes = sorted({size for size in asked if size is not None})
    return f" on {_listed(map(str, sizes))} inputs" if sizes else ""


def _listed(parts: Iterable[str]) -> str:
    *before, last = parts
    return f"{', '.join(before)} and {last}" if before else last


def _surrogate_text(predictions: Predictions) -> str:
    of = [summary(predictions.of(split, "surrogate")) for split in SPLITS]
    return "\n".join(
        [
            f"From the surrogate, before any merge, over all beds: with {_listed(SPLITS)} left out",
            f"the intervals cover {_listed(f'{w.coverage:.0%}' for w in of)} and are",
            f"{_listed(f'{w.width:.0f}' for w in of)} points wide on average; mean errors are",
            f"{_listed(f'{w.error:.1f}' for w in of)} points.",
        ]
    )


def _small_text(found: Evidence) -> str:
    worth = list(worths(small_registries(found), "disagreement"))
    by_bed = {bed: [one for of, one in worth if of == bed] for bed in found.observed}
    widths = [f"{np.mean([w.width for w in of]):.0f}" for of in by_bed.values()]
    covered = [f"{np.mean([w.coverage for w in of]):.0%}" for of in by_bed.values()]
    least, most = np.quantile([one.coverage for _, one in worth], [0.05, 0.95])
    safe = ": with few merges they err on the safe side" if least >= CONFIDENCE else ""
    return "\n".join(
        [
            f"From {FEWEST} to {MOST} merges of a bed, drawn at random {DRAWS} times, intervals",
            f"for its other merges are {_listed(widths)} points wide on average",
            f"({_listed(by_bed)}) and cover {_listed(covered)}; nine draws in ten cover",
            f"{least:.0%} to {most:.0%}{safe}.",
        ]
    )
