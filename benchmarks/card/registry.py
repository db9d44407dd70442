"""What `docs/registry.md` says of the intervals' worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from card.beds import experts_of, pools_of
from card.losses import CONFIDENCE, experts_out, pools_out
from card.made import markdown, with_parts
from pytest_mergegate.history.calibration.fit import calibrate
from pytest_mergegate.history.study.tables import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from card.beds import Evidence
    from card.losses import Split
    from pytest_mergegate.history.calibration.observations import Observation

FEWEST, MOST = 15, 24
"""How many merges a small registry has."""
DRAWS = 40
"""Small registries of each bed; with so many the means stand still to a point or two."""
SEED = 7
ROUNDED = 1e-3
"""Recorded numbers have six digits: a loss that is so close to its interval lies in it."""


@dataclass(frozen=True, kw_only=True)
class Worth:
    """How good the intervals of some held-out losses are, on average."""

    losses: int
    coverage: float
    width: float
    error: float
    """Of the predicted loss itself; absolute."""


def with_worth(page: str, found: Evidence) -> str:
    """The page with its part made anew."""
    return with_parts(page, worth_text(found))


def worth_text(found: Evidence) -> str:
    """The table, and a sentence each on the surrogate and on small registries."""
    return "\n".join(
        [
            f"What it came to on {_count(found)} ([the beds that ship](validation.md)),",
            f"intervals at {CONFIDENCE:.0%}, from the disagreement{_inputs(found)}. Each bed is",
            "foretold from its own other merges. Pools are left out a fifth of them at a time,",
            "experts with every merge that has them, methods with all their parameters.",
            "",
            markdown(_table(found)),
            "",
            _surrogate_text(found),
            "",
            _small_text(found),
        ]
    )


def methods_out(found: Evidence) -> Split:
    """Every method is held out once, whatever its parameters: trained on the bed's others."""
    for of in found.observed.values():
        for method in dict.fromkeys(one.method for one in of):
            train = [one for one in of if one.method != method]
            yield train, [one for one in of if one.method == method]


SPLITS: dict[str, Callable[[Evidence], Split]] = {
    "pools": pools_out,
    "experts": experts_out,
    "methods": methods_out,
}


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


def worths(split: Split, score: str) -> Iterator[tuple[str, Worth]]:
    """The bed and the worth of each part of a split, in its order."""
    for train, test in split:
        scored = [one for one in test if one.scores.get(score) is not None]
        if scored:
            yield test[0].bed, _worth(train, scored, score)


def _worth(train: Sequence[Observation], test: Sequence[Observation], score: str) -> Worth:
    fitted = calibrate(train, score, CONFIDENCE)
    covered, widths, errors = [], [], []
    for one in test:
        said = fitted.predict(one.label, one.expert, one.scores[score])
        covered.append(said.low - ROUNDED <= one.loss <= said.high + ROUNDED)
        widths.append(said.high - said.low)
        errors.append(abs(said.loss - one.loss))
    return Worth(
        losses=len(test),
        coverage=float(np.mean(covered)),
        width=float(np.mean(widths)),
        error=float(np.mean(errors)),
    )


def together(parts: Sequence[Worth]) -> Worth:
    """Of all their losses, each with the same weight."""
    counts = [part.losses for part in parts]
    return Worth(
        losses=sum(counts),
        coverage=float(np.average([part.coverage for part in parts], weights=counts)),
        width=float(np.average([part.width for part in parts], weights=counts)),
        error=float(np.average([part.error for part in parts], weights=counts)),
    )


def _table(found: Evidence) -> Table:
    rows: list[list[Any]] = []
    for name, split in SPLITS.items():
        parts = list(worths(split(found), "disagreement"))
        for bed in found.observed:
            worth = together([part for of, part in parts if of == bed])
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


def _surrogate_text(found: Evidence) -> str:
    of = [together([w for _, w in worths(s(found), "surrogate")]) for s in SPLITS.values()]
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
