"""The table of budgets: all that the package knows of a limit of the gate file, one row for each.

Every pytest session reads it for its options, so it imports nothing heavy; how a value is found is
named as ``module:function`` of this folder, and imported when it is first asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_mergegate.gate.option_table import cap_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_mergegate.gate.option_table import Option
    from pytest_mergegate.gate.options import Stage
    from pytest_mergegate.pool.pool import Pool
    from pytest_mergegate.verdict.evidence import Asked, Evidence

    Finder = Callable[[Asked], Evidence | None]


@dataclass(frozen=True, kw_only=True)
class BudgetKind:
    """One limit that a gate file may set."""

    name: str
    """As the gate file, markers, options and reports have it; the type is in ``gate.spec``."""
    quantity: str
    """The number that is limited, by its name in results and reports."""
    about: Literal["expert", "pair", "merge"]
    """Whether it is a property of an expert in the pool, of an expert's worst pair, or of what a
    merge method makes of an expert."""
    stage: Stage
    """The stage that decides it."""
    find: str | Finder
    """How its value is found once that stage has run; None for a value that is not there."""
    forecast: str | Finder | None = None
    """How its value is forecast where that stage may not run; None where it cannot be."""
    measured: bool = False
    """Whether it takes the last stage where an expert's examples have targets."""
    takes_targets: bool = False
    """Whether nothing else decides it."""
    from_baseline: bool = False
    """Whether the limit is on the increase over the baseline."""
    at_least: bool = False
    """Whether the limit is one that the value must reach, and not one that it must not exceed."""
    best: float = 0.0
    """The value of an expert that loses nothing; how near another is to the limit is told from
    there."""
    differing: Callable[[float, float], float] | None = None
    """The share of an expert's answers that may differ within a limit, by limit and own score;
    None where such a share says nothing of it."""
    calibrated: Literal["probes", "compared"] | None = None
    """For ``auto@RATE``: which count of a recorded merge says on how many inputs the quantity
    rests; None where the registry sets no such limit."""
    unplanned: str = ""
    """Why no plan can look ahead to it; empty where groups are held to it."""
    unit: str = ""
    """In messages."""
    title: str = ""
    """In tables, where that is not what messages say."""
    shown: tuple[float, str] = (1, "")
    """By what tables multiply it, and with which unit."""
    most: float = math.inf
    """The largest number that an option can set as its limit."""
    option: tuple[str, str] | None = None
    """Metavariable and help of the command-line option that tightens it in every gate."""

    @property
    def of_merges(self) -> bool:
        """Whether merge methods are judged by it."""
        return self.about == "merge"

    @property
    def words(self) -> str:
        """What is limited, in the words of messages."""
        plain = self.name.removeprefix("max_").removeprefix("min_")
        return plain.replace("_", " ").replace("mds", "MDS")

    @property
    def sign(self) -> str:
        """How a value within the limit stands to it, in tables."""
        return "≥" if self.at_least else "≤"

    def used(self, value: float, limit: float) -> float:
        """How much of the limit a value uses up: nothing where it is the best, and over 1 where it
        is not within the limit."""
        toward = -1.0 if self.at_least else 1.0
        spent, room = toward * (value - self.best), toward * (limit - self.best)
        return spent / room if room else spent

    @property
    def column_unit(self) -> str:
        """Of the column that shows the values as they are."""
        scale, unit = self.shown
        return unit.strip() if scale == 1 else ""

    def needs(self, pool: Pool, expert: str) -> Stage:
        """The stage that decides it for one expert."""
        scored = self.measured or pool.spec.experts[expert].min_score is not None
        return "eval" if scored and pool.labelled(expert) else self.stage


def _ratio(quantity: str) -> BudgetKind:
    return BudgetKind(
        name=f"max_{quantity}",
        quantity=quantity,
        about="pair",
        stage="conflict",
        find="evidence:worst_pair",
    )


_TABLE = (
    BudgetKind(
        name="max_mds",
        quantity="mds",
        about="expert",
        stage="hidden",
        find="evidence:difficulty",
        calibrated="probes",
        option=("N", "largest MDS allowed (a relative score of the pool)"),
    ),
    BudgetKind(
        name="max_loss",
        quantity="loss",
        about="merge",
        stage="merge",
        measured=True,
        find="losses:loss",
        forecast="losses:predicted_loss",
        differing=lambda limit, score: limit / 100 * score,
        unit=" %",
        title="loss of score",
        shown=(1, " %"),
        option=("PCT", "largest merging loss allowed, in percent"),
    ),
    BudgetKind(
        name="max_disagreement",
        quantity="disagreement",
        about="merge",
        stage="merge",
        find="evidence:disagreement",
        forecast="evidence:predicted_disagreement",
        differing=lambda limit, _: limit,
        calibrated="compared",
        shown=(100, " %"),
        most=1.0,
        option=(
            "F",
            "largest share of inputs that a merge may answer differently from its expert",
        ),
    ),
    BudgetKind(
        name="min_gain_kept",
        quantity="gain_kept",
        about="merge",
        stage="merge",
        measured=True,
        takes_targets=True,
        find="losses:gain_kept",
        differing=lambda limit, score: (1 - limit) * score,  # of a base that scores nothing
        at_least=True,
        best=1.0,
        unplanned="it takes what the base and the merge score",
    ),
    _ratio("magnitude_change_ratio"),
    _ratio("sign_change_ratio"),
    _ratio("conflicting_magnitude_ratio"),
    BudgetKind(
        name="max_mds_increase",
        quantity="mds",
        about="expert",
        stage="hidden",
        from_baseline=True,
        find="increases:mds_increase",
        unplanned="it is held against a baseline",
        title="increase of MDS",
    ),
    BudgetKind(
        name="max_loss_increase",
        quantity="loss",
        about="merge",
        stage="merge",
        measured=True,
        from_baseline=True,
        find="increases:loss_increase",
        unplanned="it is held against a baseline",
        unit=" points",
        title="increase of the loss",
        shown=(1, " %"),
    ),
)
BUDGETS = {kind.name: kind for kind in _TABLE}


def cap_options() -> tuple[Option, ...]:
    """The options that tighten a budget in every gate."""
    return tuple(
        cap_option(kind.name, *kind.option, kind.most) for kind in BUDGETS.values() if kind.option
    )


def kind_of(name: str) -> BudgetKind:
    """The row of a budget; of one that a report of another version names, what its name says."""
    plain = BudgetKind(name=name, quantity=name, about="expert", stage="preflight", find="")
    return BUDGETS.get(name, plain)


def limit_on(quantity: str) -> str:
    """The name of the budget that limits ``quantity`` itself, not its increase."""
    own = (k.name for k in _TABLE if k.quantity == quantity and not k.from_baseline)
    return next(own, f"max_{quantity}")


def set_limits(limits: Mapping[str, float]) -> Iterator[tuple[BudgetKind, float]]:
    """The rows of the limits that a gate sets, each with its limit, in the order of ``limits``."""
    return ((BUDGETS[name], limit) for name, limit in limits.items())


def judges_merges(limits: Mapping[str, float]) -> bool:
    """Whether any of ``limits`` is one that merges are judged by."""
    return any(kind.of_merges for kind, _ in set_limits(limits))


def increases(limits: Mapping[str, float]) -> list[str]:
    """Those of ``limits`` that are on an increase over the baseline."""
    return [kind.name for kind, _ in set_limits(limits) if kind.from_baseline]


def share_within(limits: Mapping[str, float], score: float) -> float:
    """The share of its answers that an expert with ``score`` may change within all of ``limits``
    that such a share says anything of; infinite where there is none."""
    shares = (kind.differing(limit, score) for kind, limit in set_limits(limits) if kind.differing)
    return min(shares, default=math.inf)
