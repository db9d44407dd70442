"""Recall and false alarms at a limit, and whether the certificate's bound held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from card.losses import FROM, SPLITS
from card.made import markdown
from card.scores import SCORES, Score, collapses_of, scores_of
from pytest_mergegate.history.calibration.observations import COLLAPSE
from pytest_mergegate.history.calibration.performance import miss_controlled
from pytest_mergegate.history.study.tables import Table
from pytest_mergegate.metrics import Undefined, certified_loss, disagreement_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from card.beds import Evidence
    from pytest_mergegate.history.study.losses import Point

DEFAULT = 0.3
"""The disagreement that a gate without a budget allows."""
MISS_RATE = 0.05
DISAGREEMENT = SCORES[0]
UPPER = Score(field="disagreement_upper", label="the bound on it")
ROUNDING = 1e-3
"""Percent: recorded numbers have six digits."""


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """What a limit does on some points: counts, that those of several beds may be added."""

    caught: int
    collapsed: int
    false: int
    kept: int

    def __add__(self, other: Alarms) -> Alarms:
        return Alarms(**{key: value + getattr(other, key) for key, value in vars(self).items()})

    @property
    def missed(self) -> float:
        """The share of collapses that raised no alarm."""
        return 1 - self.caught / self.collapsed if self.collapsed else float("nan")

    @property
    def false_rate(self) -> float:
        """The share of kept points that raised one."""
        return self.false / self.kept if self.kept else float("nan")

    def cells(self) -> list[str | None]:
        """Recall and false-alarm rate, with Clopper-Pearson's intervals."""
        return [_rate(self.caught, self.collapsed), _rate(self.false, self.kept)]


def _rate(count: int, of: int) -> str | None:
    if not of:
        return None
    low, high = disagreement_interval(count, of)
    return f"{count / of:.1%} ({low:.1%} to {high:.1%})"


def alarms_at(points: Sequence[Point], raised: np.ndarray) -> Alarms:
    """Counts of one set of points."""
    return _counts(raised, collapses_of(points))


def _counts(raised: np.ndarray, bad: np.ndarray) -> Alarms:
    return Alarms(
        caught=int((raised & bad).sum()),
        collapsed=int(bad.sum()),
        false=int((raised & ~bad).sum()),
        kept=int((~bad).sum()),
    )


def default_alarms(points: Sequence[Point], score: Score = DISAGREEMENT) -> Alarms:
    """Of a gate without a budget; 64 inputs never disagree on just its limit."""
    known = score.known(points)
    return alarms_at(known, score.of(known) >= DEFAULT)


def left_out(found: Evidence, split: str, field: str) -> dict[str, tuple[float | None, Alarms]]:
    """By bed: what thresholds do that those give who were not left out.

    With the threshold, where all points of the bed have the same.
    """
    result: dict[str, tuple[float | None, Alarms]] = {}
    for train, test in SPLITS[split](found):
        of = [one for one in test if field in one.scores]
        try:
            threshold = miss_controlled(train, field, MISS_RATE)
        except Undefined:
            continue
        raised = np.array([threshold.blocks(one.scores[field]) for one in of], dtype=bool)
        bad = np.array([one.collapsed for one in of], dtype=bool)
        for bed in dict.fromkeys(one.bed for one in of):
            _, before = result.get(bed, (None, Alarms(caught=0, collapsed=0, false=0, kept=0)))
            value = threshold.value if split == "beds" else None
            result[bed] = value, before + _counts(raised, bad)
    return result


def alarms_part(found: Evidence) -> str:
    """The default limit, point by point."""
    return "\n\n".join(
        [
            "## Alarms",
            "Where nothing else is said, intervals are Clopper-Pearson's at 95 %; they take points "
            "for independent, and points share pools and experts, so the true ones are wider.",
            f"### The default gate: a disagreement of {DEFAULT} or more on 64 inputs",
            _default(found),
            _beside(found),
        ]
    )


def thresholds_part(found: Evidence) -> str:
    """Every score's own threshold."""
    return "\n\n".join(
        [
            f"### Thresholds that should miss at most {MISS_RATE:.0%}",
            "Each score's threshold is the one that recorded collapses give "
            "(`calibration.miss_controlled`): those of the other beds, or, for the scores that a "
            "gate rests on and MDS, those of the bed's own merges without the pools (a fifth at a "
            "time), or without every merge of the expert, that it is tried on.",
            *(_controlled(found, split) for split in ("beds", "pools", "experts")),
        ]
    )


def _default(found: Evidence) -> str:
    rows: list[list[Any]] = []
    for score in (DISAGREEMENT, UPPER):
        for bed, points in found.columns.items():
            kinds = {
                "pairs": [p for p in points if p.size == 2],
                "larger pools": [p for p in points if p.size > 2],
                "both": points,
            }
            for kind, of in kinds.items():
                if of and (score is DISAGREEMENT or kind == "both"):
                    rows.append([score.label, bed, kind, *default_alarms(of, score).cells()])
    heads = ["number", "bed", "pools", "collapses caught", "kept points that raise an alarm"]
    return markdown(Table(key="d", title="", columns=dict.fromkeys(heads), rows=rows, labels=3))


def _beside(found: Evidence) -> str:
    """How far off the mistakes are."""
    known = DISAGREEMENT.known(found.every)
    raised, bad = DISAGREEMENT.of(known) >= DEFAULT, collapses_of(known)
    told = []
    for what, which in (("false alarms", raised & ~bad), ("missed collapses", ~raised & bad)):
        losses = [-known[k].loss for k in np.flatnonzero(which)]
        if losses:
            told.append(
                f"The {len(losses)} {what} lost {np.median(losses):.0f} % in the median "
                f"({min(losses):.0f} to {max(losses):.0f} %; collapses begin at {-COLLAPSE:.0f} %)."
            )
    return " ".join(told)


def _controlled(found: Evidence, split: str) -> str:
    rows: list[list[Any]] = []
    scores = scores_of(found.every)
    for score in scores if split == "beds" else [s for s in scores if s.field in FROM]:
        of = left_out(found, split, score.field)
        for bed, (threshold, alarms) in of.items():
            rows.append([score.label, bed, threshold, *alarms.cells()])
        if len(of) > 1:
            both = [alarms for _, alarms in of.values()]
            rows.append([score.label, "all", None, *sum(both[1:], start=both[0]).cells()])
    if not rows:
        return f"#### Left out: {split}\n\nThere is one bed: nothing can be left out."
    columns = {"score": None, "bed": None, "threshold": 3, "collapses caught": None}
    columns["kept points that raise an alarm"] = None
    if split != "beds":
        del columns["threshold"]
        rows = [[score, bed, *cells] for score, bed, _, *cells in rows]
    table = Table(key="controlled", title="", columns=columns, rows=rows)
    return f"#### Left out: {split}\n\n{markdown(table)}"


def certificate_part(found: Evidence) -> str:
    """How often a loss was worse than the certificate's bound."""
    rows: list[list[Any]] = []
    for bed, points in found.columns.items():
        broken = [(point, broke) for point in points if (broke := is_broken(point)) is not None]
        between = [b for p, b in broken if 0 < (p.expert.score("disagreement") or 0) < 1]
        experts = {(p.bed, p.name) for p, broke in broken if broke}
        cells = [_share([broke for _, broke in broken]), _share(between), len(experts)]
        rows.append([bed, *cells])
    heads = ["bed", "violated", "violated where some answers differed, not all", "experts"]
    table = Table(key="bound", title="", columns=dict.fromkeys(heads), rows=rows)
    return "\n\n".join(
        [
            "## The certificate",
            "It says at 95 % confidence that no expert loses more than it states. Here it is held "
            "against the loss that was measured on 100 examples which it had not seen. It speaks "
            "of the expected loss; that of 100 examples has an error of its own, which is counted "
            "against the bound. All gates ask an expert the same inputs, so these are far fewer "
            "independent trials than points: the last column says on how many experts.",
            markdown(table),
            _small(found),
        ]
    )


def _small(found: Evidence) -> str:
    """The certificate of few inputs, judged the other way round."""
    told = []
    for bed, about in found.about.items():
        one = about.get("small_certificate")
        if one:
            told.append(
                f"{bed}: violated {one['violated']} of {one['bounds']} times, AUROC of its "
                f"disagreement {one['auroc']:.3f} (inputs a task: {one['inputs']})"
            )
    if not told:
        return ""
    head = "The small certificate, drawn from the fresh examples and held against the loss on the "
    return f"{head}first ones: {'; '.join(told)}."


def is_broken(point: Point) -> bool | None:
    """Whether the loss was worse than the bound; None where there is no bound."""
    upper, own = point.expert.score("disagreement_upper"), point.expert.score_expert
    if upper is None or not own or not 0 < own <= 1:
        return None
    return point.loss < certified_loss(min(upper, 1.0), own) - ROUNDING


def _share(broken: Sequence[bool]) -> str | None:
    return f"{sum(broken)} of {len(broken)} ({np.mean(broken):.1%})" if broken else None
