"""Losses predicted by the calibration: whether the intervals cover, and how far off they are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from card.made import markdown
from card.scores import SCORES
from pytest_mergegate.history.calibration.fit import calibrate, folds
from pytest_mergegate.history.study.tables import Table
from pytest_mergegate.metrics import Undefined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from card.beds import Evidence
    from pytest_mergegate.history.calibration.observations import Observation

    Split = Iterator[tuple[Sequence[Observation], Sequence[Observation]]]
CONFIDENCE = 0.90
FROM = ("disagreement", "surrogate", "states", "mds")
TRIED = {"pools": FROM, "experts": FROM[:2], "beds": FROM}
"""What takes long is tried from the scores that a gate rests on."""
PARTS = 5
"""Pools are left out a fifth of them at a time."""
LABELS = {score.field: score.label for score in SCORES}


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """One loss that was held out, and what was predicted for it."""

    bed: str
    merge: str
    method: str
    loss: float
    point: float
    low: float
    high: float
    constant: float
    """The mean of the losses that were not held out."""
    expert_mean: float
    """The expert's mean among those; the constant where it has none."""

    @property
    def covered(self) -> bool:
        """Whether the loss lies in the interval; recorded numbers have six digits."""
        return self.low - 1e-3 <= self.loss <= self.high + 1e-3


def pools_out(found: Evidence) -> Split:
    """Every pool is held out once, a share of the pools at a time; trained on the bed's others."""
    for of in found.observed.values():
        parts = folds(of, "pools")
        for k in range(PARTS):
            yield _split(of, np.any(parts[k::PARTS], axis=0).tolist())


def experts_out(found: Evidence) -> Split:
    """Every expert is held out once: trained on the bed's merges that do not have it."""
    for of in found.observed.values():
        for expert in dict.fromkeys(one.expert for one in of):
            has = {one.merge for one in of if one.expert == expert}
            train = [one for one in of if one.merge not in has]
            yield train, [one for one in of if one.expert == expert]


def methods_out(found: Evidence) -> Split:
    """Every method is held out once, whatever its parameters: trained on the bed's others."""
    for of in found.observed.values():
        for method in dict.fromkeys(one.method for one in of):
            train = [one for one in of if one.method != method]
            yield train, [one for one in of if one.method == method]


def beds_out(found: Evidence) -> Split:
    """Every bed is held out once: trained on the others."""
    if len(found.observed) > 1:
        for bed, of in found.observed.items():
            train = [one for name, o in found.observed.items() if name != bed for one in o]
            yield train, of


SPLITS: dict[str, Callable[[Evidence], Split]] = {
    "pools": pools_out,
    "experts": experts_out,
    "beds": beds_out,
}
WAYS = SPLITS | {"methods": methods_out}
"""With what only the page on registries has."""


def _split(
    of: Sequence[Observation], out: Sequence[bool]
) -> tuple[list[Observation], list[Observation]]:
    pairs = list(zip(of, out, strict=True))
    return [one for one, held in pairs if not held], [one for one, held in pairs if held]


def predict(split: Split, score: str) -> Iterator[list[Predicted]]:
    """The held-out losses of each part whose score is known, where the rest can be fitted."""
    for train, test in split:
        of = [one for one in test if one.scores.get(score) is not None]
        try:
            fitted = calibrate(train, score, CONFIDENCE)
        except Undefined:
            continue
        constant, means = _means([one for one in train if score in one.scores])
        part = []
        for one in of:
            said = fitted.predict(one.label, one.expert, one.scores[score])
            part.append(
                Predicted(
                    bed=one.bed,
                    merge=f"{one.bed} {one.merge}",
                    method=one.label,
                    loss=one.loss,
                    point=said.loss,
                    low=said.low,
                    high=said.high,
                    constant=constant,
                    expert_mean=means.get(one.expert, constant),
                )
            )
        yield part


def _means(train: Sequence[Observation]) -> tuple[float, dict[str, float]]:
    losses = defaultdict(list)
    for one in train:
        losses[one.expert].append(one.loss)
    means = {expert: float(np.mean(of)) for expert, of in losses.items()}
    return float(np.mean([one.loss for one in train])), means


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How good some of them are."""

    losses: int
    coverage: float
    by_merge: float
    """The mean over merges of the share covered."""
    width: float
    error: float
    """Mean absolute."""
    constant: float
    expert_mean: float


def summary(of: Sequence[Predicted]) -> Summary:
    """Means over the losses, except for ``by_merge``."""
    merges = defaultdict(list)
    for one in of:
        merges[one.merge].append(one.covered)
    return Summary(
        losses=len(of),
        coverage=float(np.mean([one.covered for one in of])),
        by_merge=float(np.mean([np.mean(covered) for covered in merges.values()])),
        width=float(np.mean([one.high - one.low for one in of])),
        error=float(np.mean([abs(one.loss - one.point) for one in of])),
        constant=float(np.mean([abs(one.loss - one.constant) for one in of])),
        expert_mean=float(np.mean([abs(one.loss - one.expert_mean) for one in of])),
    )


class Predictions:
    """What was predicted under every split from every score; computed once."""

    def __init__(self, found: Evidence) -> None:
        self.beds = tuple(found.beds)
        self._of = lru_cache(maxsize=None)(
            lambda split, score: [*chain.from_iterable(predict(WAYS[split](found), score))]
        )

    def of(self, split: str, score: str, bed: str | None = None) -> list[Predicted]:
        """All of them, or those of one bed."""
        return [one for one in self._of(split, score) if bed in (None, one.bed)]


def losses_part(predictions: Predictions) -> str:
    """Coverage, width and error."""
    return "\n\n".join(
        [
            "## Losses predicted",
            "The calibration (`calibrate`) predicts an expert's loss from a score, its method and "
            f"what is known of the expert, with a {CONFIDENCE:.0%} interval. Held out are pools "
            "(a fifth of them at a time), experts (with every merge that has them) or beds; the "
            "fit has the rest of the bed, or for beds the other beds. Errors are mean absolute "
            "ones in points of loss, beside those of a constant (the mean of what the fit had) and "
            "of the expert's own mean.",
            *(_split_part(predictions, split) for split in SPLITS),
            _methods_part(predictions),
        ]
    )


def _split_part(predictions: Predictions, split: str) -> str:
    rows: list[list[Any]] = []
    for score in TRIED[split]:
        beds: list[str | None] = [*predictions.beds, None] if len(predictions.beds) > 1 else []
        for bed in beds or predictions.beds:
            of = predictions.of(split, score, bed)
            if of:
                rows.append([LABELS[score], bed or "all", *_cells(summary(of))])
    if not rows:
        return f"### Left out: {split}\n\nThere is one bed: nothing can be left out."
    columns: dict[str, int | None] = {"from": None, "bed": None, "losses": None, "covered": None}
    columns |= {"covered, by merge": None, "mean width": 1, "error": 1, "constant": 1}
    columns["expert's mean"] = 1
    table = Table(key=split, title="", columns=columns, rows=rows, labels=2)
    return f"### Left out: {split}\n\n{markdown(table)}"


def _cells(found: Summary) -> list[Any]:
    return [
        found.losses,
        f"{found.coverage:.1%}",
        f"{found.by_merge:.1%}",
        found.width,
        found.error,
        found.constant,
        found.expert_mean,
    ]


def _methods_part(predictions: Predictions) -> str:
    split = "beds" if len(predictions.beds) > 1 else "pools"
    of = predictions.of(split, "disagreement")
    rows: list[list[Any]] = []
    for method in dict.fromkeys(one.method for one in of):
        rows.append([method, *_cells(summary([one for one in of if one.method == method]))])
    columns: dict[str, int | None] = {"method": None, "losses": None, "covered": None}
    columns |= {"covered, by merge": None, "mean width": 1, "error": 1, "constant": 1}
    columns["expert's mean"] = 1
    table = Table(key="methods", title="", columns=columns, rows=rows)
    told = f"### From the disagreement, {split} left out, method by method"
    return f"{told}\n\n{markdown(table)}"
