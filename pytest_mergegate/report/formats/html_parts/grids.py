"""Pairs of experts in grids: how alike they are, and in which layers they conflict."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage

from pytest_mergegate.common.wording import number_text
from pytest_mergegate.report.formats.html_parts.charts import Chart, Variant, short
from pytest_mergegate.report.formats.html_parts.tables import missing
from pytest_mergegate.report.formats.numbers import by_layer, mean_by_layer
from pytest_mergegate.report.formats.reading import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.report.types import PairRecord, Report

Grid = list[list[float | None]]
MOST_PAIRS = 15
"""Rows of the plot of layers: the pairs with the most conflict somewhere."""


class PairQuantity(NamedTuple):
    """Something that is computed of every pair."""

    label: str
    top: float | None = 1.0
    """Where the colours, which begin at 0, end; None for where the numbers do."""
    diverging: bool = False
    """Whether the colours go as far to both sides of 0."""


QUANTITIES = {
    "hidden_similarity": PairQuantity("Hidden similarity"),
    "distance": PairQuantity("Distance", top=None),
    "cosine": PairQuantity("Cosine", diverging=True),
    "conflicting_magnitude_ratio": PairQuantity("Conflicting magnitude"),
    "sign_change_ratio": PairQuantity("Sign changes"),
    "magnitude_change_ratio": PairQuantity("Magnitude changes"),
}
LAYER_QUANTITIES = {key: QUANTITIES[key] for key in (*list(QUANTITIES)[3:], "cosine")}
"""What is computed of every layer, in the order shown."""


def similarity_chart(report: Report, key: str) -> Chart | None:
    """Every pair, those alike side by side; None where there is no pair."""
    if not report.pairs:
        return None
    names = [report.expert_names[place] for place in clustered(report)]
    known = [q for q in QUANTITIES if any(getattr(p, q) is not None for p in report.pairs)]
    why = {q: getattr(report.pairs[0], f"{q}_reason") for q in QUANTITIES if q not in known}
    return Chart(
        key=key,
        toggle="Quantity",
        variants=tuple(_of_pairs(report, quantity, names) for quantity in known),
        absent=tuple((QUANTITIES[q].label, missing(reason)) for q, reason in why.items()),
    )


def clustered(report: Report) -> tuple[int, ...]:
    """The places of the experts, those with close hidden states (or task vectors) together."""
    names = report.expert_names
    pairs = {frozenset((pair.a, pair.b)): pair for pair in report.pairs}
    apart = [_apart(pairs.get(frozenset(two))) for two in combinations(names, 2)]
    known = [distance for distance in apart if distance is not None]
    if len(names) < 3 or len(known) < len(apart):
        return tuple(range(len(names)))
    tree = linkage(np.asarray(known), method="average", optimal_ordering=True)
    return tuple(int(place) for place in leaves_list(tree))


def _apart(pair: PairRecord | None) -> float | None:
    if pair is None or (pair.distance is None and pair.cosine is None):
        return None
    return max(1 - (pair.cosine or 0.0) if pair.distance is None else pair.distance, 0.0)


def _of_pairs(report: Report, quantity: str, names: Sequence[str]) -> Variant:
    pairs = {frozenset((pair.a, pair.b)): pair for pair in report.pairs}
    cells = [[(a, b, pairs.get(frozenset((a, b)))) for b in names] for a in names]
    values: Grid = [[getattr(pair, quantity, None) for *_, pair in row] for row in cells]
    readings = [[_pair_reading(quantity, *cell) for cell in row] for row in cells]
    labels = [short(name) for name in names]
    return _variant(quantity, values, readings, labels, labels, row_height=26)


def _variant(
    quantity: str,
    values: Grid,
    readings: list[list[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    row_height: int,
    close: bool = False,
) -> Variant:
    """A grid with labels that Plotly may be shown; ``close`` colours span just what was found."""
    label, top, diverging = QUANTITIES[quantity]
    known = [value for row in values for value in row if value is not None]
    low, high = min(known), max(known)
    limits = (low, high) if close else (0, top or high or 1.0)
    if diverging:
        widest = max(-low, high) or 1.0
        limits = (-widest, widest)
    data = {
        "kind": "grid",
        "values": values,
        "texts": [[None if v is None else f"{v + 0.0:.2f}" for v in row] for row in values],
        "readings": readings,
        "rows": rows,
        "columns": columns,
        "limits": limits,
        "scale": "diverging" if diverging else "sequential",
        "height": 90 + min(max(row_height * len(rows), 44 * min(len(rows), 8)), 1000),
    }
    return Variant(key=quantity, label=label, data=data, extremes=(low, high))


def _reading(where: str, quantity: str, value: float | None, why: str) -> str:
    if value is None:
        return f"{where}: {missing(why)}"
    return f"{where}: {QUANTITIES[quantity].label.lower()} {number_text(value)}"


def _pair_reading(quantity: str, a: str, b: str, pair: PairRecord | None) -> str:
    if a == b:
        return f"{a}: itself"
    value = getattr(pair, quantity, None)
    why = "no_such_pair" if pair is None else getattr(pair, f"{quantity}_reason")
    error = getattr(pair, f"{quantity}_standard_error", None)
    sampled = "" if error is None else f" ± {number_text(error)} (standard error)"
    return _reading(f"{a} and {b}", quantity, value, why) + sampled


def layers_chart(report: Report, key: str) -> Chart | None:
    """The pairs that conflict most, layer by layer; None where no layer has a number."""
    found = {quantity: _of_layers(report, quantity) for quantity in LAYER_QUANTITIES}
    variants = tuple(variant for variant in found.values() if variant is not None)
    why = missing("no layer has it")
    absent = tuple((QUANTITIES[q].label, why) for q, variant in found.items() if variant is None)
    return Chart(key=key, toggle="Quantity", variants=variants, absent=absent) if variants else None


def layer_labels(layers: Sequence[str]) -> list[str]:
    """Layers without what all of their names begin with."""
    parts = [layer.split(".") for layer in layers]
    while len(parts) > 1 and all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    return [".".join(p) for p in parts]


def _of_layers(report: Report, quantity: str) -> Variant | None:
    rows = by_layer(report, quantity)
    known = {pair: [v for v in row if v is not None] for pair, row in rows.items()}
    worst = sorted((pair for pair in rows if known[pair]), key=lambda pair: -max(known[pair]))
    if not worst or report.conflicts is None:
        return None
    layers = report.conflicts.layers
    shown = worst[:MOST_PAIRS]
    mean = f"mean of {plural(len(rows), 'pair')}"
    names = [mean, *(f"{a} – {b}" for a, b in shown)]
    values = [mean_by_layer(quantity, report), *(rows[pair] for pair in shown)]
    why = "neither expert changes it"
    readings = [
        [_reading(f"{name}, {layers[k]}", quantity, v, why) for k, v in enumerate(row)]
        for name, row in zip(names, values, strict=True)
    ]
    labels = [mean, *(f"{short(a, 16)} –<br>{short(b, 16)}" for a, b in shown)]
    columns = [short(label) for label in layer_labels(layers)]
    return _variant(quantity, values, readings, labels, columns, row_height=36, close=True)
