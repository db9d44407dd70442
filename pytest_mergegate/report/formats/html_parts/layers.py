"""Where in the model the experts conflict."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from pytest_mergegate.common.wording import number_text
from pytest_mergegate.report.formats.html_parts.figures import missing
from pytest_mergegate.report.formats.html_parts.plots import Chart, Grid, Variant, heatmap, short
from pytest_mergegate.report.formats.html_parts.similarity import (
    QUANTITIES,
    Quantity,
    colour_limits,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.report.pool_records import PairRecord
    from pytest_mergegate.report.types import Report

MOST_PAIRS = 15
"""Rows of the plot: the pairs with the most conflict somewhere."""
_KEYS = ("conflicting_magnitude_ratio", "sign_change_ratio", "magnitude_change_ratio", "cosine")
LAYER_QUANTITIES = tuple(q for key in _KEYS for q in QUANTITIES if q.key == key)
"""What is computed of every layer, in the order shown."""


def layers_chart(report: Report, key: str) -> Chart | None:
    """The grid, or None where no layer has a number."""
    if report.conflicts is None or not report.conflicts.layers:
        return None
    variants = [_variant(report, quantity) for quantity in LAYER_QUANTITIES]
    known = tuple(variant for variant in variants if variant is not None)
    absent = [q for q, v in zip(LAYER_QUANTITIES, variants, strict=True) if v is None]
    if not known:
        return None
    return Chart(
        key=key,
        toggle="Quantity",
        variants=known,
        absent=tuple((q.label, missing("no layer has it")) for q in absent),
    )


def layer_labels(layers: tuple[str, ...]) -> list[str]:
    """Layers without what all of their names begin with."""
    parts = [layer.split(".") for layer in layers]
    shared = 0
    while len(parts) > 1 and all(len(p) > shared + 1 for p in parts):
        if len({p[shared] for p in parts}) > 1:
            break
        shared += 1
    return [".".join(p[shared:]) for p in parts]


def mean_by_layer(report: Report, key: str) -> list[float | None]:
    """Over all pairs that have a number there."""
    layers = report.conflicts.layers if report.conflicts else ()
    columns = [[_at(pair, key, place) for pair in report.pairs] for place in range(len(layers))]
    return [_mean(column) for column in columns]


def worst_pairs(report: Report, key: str) -> list[PairRecord]:
    """Those with the largest number in any layer, and that number known."""
    known = [pair for pair in report.pairs if list(_known(pair, key))]
    return sorted(known, key=lambda pair: -max(_known(pair, key)))[:MOST_PAIRS]


def _variant(report: Report, quantity: Quantity) -> Variant | None:
    pairs = worst_pairs(report, quantity.key)
    assert report.conflicts is not None
    layers = report.conflicts.layers
    if not pairs:
        return None
    count = len(report.pairs)
    names = [f"mean of {count} pair{'s' * (count != 1)}"]
    names += [f"{pair.a} – {pair.b}" for pair in pairs]
    labels = [names[0], *(f"{short(p.a, 16)} –<br>{short(p.b, 16)}" for p in pairs)]
    values: Grid = [mean_by_layer(report, quantity.key)]
    values += [[_at(pair, quantity.key, k) for k in range(len(layers))] for pair in pairs]
    readings = tuple(
        tuple(_reading(name, quantity, *at) for at in zip(layers, row, strict=True))
        for name, row in zip(names, values, strict=True)
    )
    known = [value for row in values for value in row if value is not None]
    low, high = colour_limits(quantity, known)
    return Variant(
        label=quantity.label,
        unit=f"{quantity.label} by layer: {quantity.unit}",
        how=f"{quantity.how} {_colours(quantity)}{_left_out(count, len(pairs))}",
        alternative=f"{quantity.label} in {len(layers)} layers, from {number_text(min(known))} to "
        f"{number_text(max(known))}. The table below has the means.",
        figure=heatmap(
            values,
            rows=labels,
            columns=[short(label) for label in layer_labels(layers)],
            limits=(low, high) if quantity.low is None else (min(known), max(known)),
            scale="diverging" if quantity.low is None else "sequential",
            row_height=36,
        ),
        readings=readings,
    )


def _colours(quantity: Quantity) -> str:
    if quantity.low is None:
        return ""
    return "The colours span what was found, so that small differences show. "


def _left_out(count: int, shown: int) -> str:
    if shown == count:
        return ""
    return f"Shown are {shown} of {count} pairs, those with the largest number in any layer."


def _reading(name: str, quantity: Quantity, layer: str, value: float | None) -> str:
    if value is None:
        return f"{name}, {layer}: {missing('neither expert changes it')}"
    return f"{name}, {layer}: {quantity.label.lower()} {number_text(value)}"


def _at(pair: PairRecord, key: str, place: int) -> float | None:
    row = pair.layers.get(key, ())
    return row[place] if place < len(row) else None


def _known(pair: PairRecord, key: str) -> Iterable[float]:
    return (value for value in pair.layers.get(key, ()) if value is not None)


def _mean(column: Iterable[float | None]) -> float | None:
    known = [value for value in column if value is not None]
    return fmean(known) if known else None
