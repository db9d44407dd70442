"""How alike the experts are: every pair in a grid, those alike side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage

from pytest_mergegate.common.wording import number_text
from pytest_mergegate.report.formats.html_parts.figures import missing
from pytest_mergegate.report.formats.html_parts.plots import Chart, Grid, Variant, heatmap, short

if TYPE_CHECKING:
    from pytest_mergegate.report.pool_records import PairRecord
    from pytest_mergegate.report.types import Report


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something that is computed of every pair."""

    key: str
    label: str
    unit: str
    how: str
    low: float | None = 0
    """Where the colours begin and end; None for where the numbers do."""
    high: float | None = 1


QUANTITIES = (
    Quantity(
        key="hidden_similarity",
        label="Hidden similarity",
        unit="share from 0 to 1, relative to this pool",
        how="1 is the pair of experts that compute most alike on the probes, 0 the pair least "
        "alike. Relative to the pool: do not compare it between pools.",
    ),
    Quantity(
        key="distance",
        label="Distance",
        unit="distance of hidden states, normalised as the settings say",
        how="How far apart two experts' hidden states are on the same probes, on average. 0 is "
        "the same; larger is harder to merge.",
        high=None,
    ),
    Quantity(
        key="cosine",
        label="Cosine",
        unit="cosine from −1 to 1",
        how="The angle between the two changes of the weights: 1 is the same direction, 0 "
        "unrelated, −1 opposite.",
        low=None,
        high=None,
    ),
    Quantity(
        key="conflicting_magnitude_ratio",
        label="Conflicting magnitude",
        unit="share of the change, from 0 to 1",
        how="The share of the two changes' magnitude that sits on weights which they move in "
        "opposite directions. Dense changes that have nothing in common come to about 0.5.",
    ),
    Quantity(
        key="sign_change_ratio",
        label="Sign changes",
        unit="share of the weights, from 0 to 1",
        how="The share of adapted weights that the two experts move in opposite directions. "
        "Dense changes that have nothing in common come to about 0.5.",
    ),
    Quantity(
        key="magnitude_change_ratio",
        label="Magnitude changes",
        unit="ratio from 0 to 1",
        how="The size of the difference between the two changes, as a share of their sizes: 0 is "
        "the same change, 1 opposite ones, or changes of different weights.",
    ),
)


def similarity_chart(report: Report, key: str) -> Chart | None:
    """The grid, or None where there is no pair."""
    if not report.pairs:
        return None
    order = clustered(report)
    known = [q for q in QUANTITIES if any(getattr(p, q.key) is not None for p in report.pairs)]
    absent = [q for q in QUANTITIES if q not in known]
    return Chart(
        key=key,
        toggle="Quantity",
        variants=tuple(_variant(report, quantity, order) for quantity in known),
        order=order,
        absent=tuple((q.label, reason(report.pairs[0], q.key)) for q in absent),
    )


def reason(pair: PairRecord, key: str) -> str:
    """Why ``pair`` has no such number."""
    return missing(getattr(pair, f"{key}_reason"))


def clustered(report: Report) -> tuple[int, ...]:
    """The places of the experts, those with close hidden states (or task vectors) together."""
    names = report.expert_names
    pairs = {frozenset((pair.a, pair.b)): pair for pair in report.pairs}
    condensed: list[float] = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            pair = pairs.get(frozenset((a, b)))
            apart = None if pair is None else pair.distance
            if apart is None and pair is not None and pair.cosine is not None:
                apart = 1 - pair.cosine
            if apart is None:
                return tuple(range(len(names)))
            condensed.append(max(apart, 0.0))
    if len(names) < 3:
        return tuple(range(len(names)))
    tree = linkage(np.asarray(condensed), method="average", optimal_ordering=True)
    return tuple(int(place) for place in leaves_list(tree))


def _variant(report: Report, quantity: Quantity, order: tuple[int, ...]) -> Variant:
    names = [report.expert_names[place] for place in order]
    pairs = {frozenset((pair.a, pair.b)): pair for pair in report.pairs}
    cells = [[pairs.get(frozenset((a, b))) if a != b else None for b in names] for a in names]
    values: Grid = [[_value(cell, quantity) for cell in row] for row in cells]
    readings = tuple(
        tuple(_reading(cell, quantity, a, b) for cell, b in zip(row, names, strict=True))
        for row, a in zip(cells, names, strict=True)
    )
    labels = [short(name) for name in names]
    known = [value for row in values for value in row if value is not None]
    return Variant(
        label=quantity.label,
        unit=f"{quantity.label}: {quantity.unit}",
        how=quantity.how,
        alternative=f"{quantity.label} of {len(report.pairs)} pairs of {len(names)} experts, from "
        f"{number_text(min(known))} to {number_text(max(known))}. The table below has every "
        "number.",
        figure=heatmap(
            values,
            rows=labels,
            columns=labels,
            limits=colour_limits(quantity, known),
            scale="diverging" if quantity.low is None else "sequential",
        ),
        readings=readings,
    )


def colour_limits(quantity: Quantity, known: list[float]) -> tuple[float, float]:
    """Where the colours begin and end; about zero, as far to both sides."""
    if quantity.low is None:
        widest = max(map(abs, known)) or 1.0
        return -widest, widest
    return quantity.low, quantity.high or max(known) or 1.0


def _value(pair: PairRecord | None, quantity: Quantity) -> float | None:
    found: float | None = None if pair is None else getattr(pair, quantity.key)
    return found


def _reading(pair: PairRecord | None, quantity: Quantity, a: str, b: str) -> str:
    if pair is None:
        return f"{a}: itself" if a == b else f"{a} and {b}: {missing('no_such_pair')}"
    value = getattr(pair, quantity.key)
    if value is None:
        return f"{a} and {b}: {reason(pair, quantity.key)}"
    error = getattr(pair, f"{quantity.key}_standard_error", None)
    sampled = "" if error is None else f" ± {number_text(error)} (standard error)"
    return f"{a} and {b}: {quantity.label.lower()} {number_text(value)}{sampled}"
