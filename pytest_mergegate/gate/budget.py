"""The section of a gate file that sets limits."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Self, TypeVar

from pydantic import AfterValidator, Discriminator, Tag, WithJsonSchema

from pytest_mergegate.gate.sections import NonNegative, Probability, Section

_AUTO = "auto@"
_AUTOMATIC = re.compile(r"^auto@0?\.\d*[1-9]\d*$")


def _miss_rate(text: str) -> str:
    """``auto@RATE``, the rate between 0 and 1."""
    if not _AUTOMATIC.match(text):
        raise ValueError(
            f"{text!r} is no limit: write {_AUTO}RATE with a rate between 0 and 1, such as "
            f"{_AUTO}0.1 for a limit that misses at most 10 % of collapses"
        )
    return text


def _kind_of_limit(value: object) -> str:
    return "<auto>" if isinstance(value, str) and value.startswith("auto") else "<number>"


Automatic = Annotated[
    str,
    AfterValidator(_miss_rate),
    WithJsonSchema({"type": "string", "pattern": _AUTOMATIC.pattern}),
]
"""``auto@RATE``: the limit that misses at most this share of the registry's collapses."""
_Number = TypeVar("_Number")
_OrAutomatic = Annotated[
    Annotated[_Number, Tag("<number>")] | Annotated[Automatic, Tag("<auto>")],
    Discriminator(_kind_of_limit),
]


class Budget(Section):
    """Limits; a limit that is absent is not judged."""

    # what is done with each limit stands in the table of verdict.budgets
    OF_MERGES: ClassVar = frozenset(
        {"max_disagreement", "max_loss", "max_loss_increase", "min_gain_kept"}
    )
    """Those on what a merge does, for which the inputs of the certificate are compared."""

    max_mds: _OrAutomatic[NonNegative] | None = None
    """MDS, relative to the pool: compare it only within one pool. ``auto@0.1`` is the limit that
    misses at most 10 % of the collapses in the registry."""
    max_disagreement: _OrAutomatic[Probability] | None = None
    """Share of an expert's own inputs that the merge may answer differently; or ``auto@RATE``."""
    max_loss: NonNegative | None = None
    """Percent, a positive number: 10 allows a loss down to -10 %."""
    min_gain_kept: Probability | None = None
    """Share of what an expert adds to its base that the merge must keep: 1 is all of it, and the
    base itself keeps 0. It is measured on examples with targets, and says what ``max_loss`` hides
    where the base is good already."""
    max_magnitude_change_ratio: Probability | None = None
    """Of the expert's worst pair; like the two below, no forecast of a collapse by itself."""
    max_sign_change_ratio: Probability | None = None
    max_conflicting_magnitude_ratio: Probability | None = None
    max_mds_increase: NonNegative | None = None
    """Over the MDS in the baseline."""
    max_loss_increase: NonNegative | None = None
    """Percentage points over the loss in the baseline."""

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by budget name; NaN, which nothing is within, for one that is
        still to be found."""
        return {
            name: math.nan if isinstance(limit, str) else float(limit)
            for name, limit in self
            if limit is not None
        }

    @property
    def automatic(self) -> dict[str, float]:
        """The miss rates of the limits that are still to be found, by budget name."""
        return {
            name: float(limit.removeprefix(_AUTO)) for name, limit in self if isinstance(limit, str)
        }

    def capped(self, caps: Mapping[str, float]) -> Self:
        """This budget, tightened (never loosened) by ``caps``; one that is still to be found stays
        so."""
        limits = self.model_dump(exclude_none=True)
        for name, cap in caps.items():
            known = limits.get(name, cap)
            limits[name] = known if isinstance(known, str) else min(cap, known)
        return type(self)(**limits)
