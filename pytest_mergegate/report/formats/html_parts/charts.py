"""Plots as data, which the page's script draws: how alike experts are, and what merging does."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage

from pytest_mergegate.common.wording import number_text
from pytest_mergegate.report.formats.html_parts.tables import damage_text, missing
from pytest_mergegate.report.formats.numbers import (
    SERIES,
    Told,
    by_layer,
    damage_of,
    finite_ends,
    mean_by_layer,
)
from pytest_mergegate.report.formats.reading import limit_of, plural
from pytest_mergegate.report.pool_records import PairRecord
from pytest_mergegate.report.types import Report
from pytest_mergegate.verdict.budgets import kind_of, limit_on

Grid = list[list[float | None]]
MOST_PAIRS = 15
"""Rows of the plot of layers: the pairs with the most conflict somewhere."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One figure of a plot that can show several."""

    key: str
    label: str
    data: dict[str, Any]
    """What the script draws from."""
    extremes: tuple[float, float] = (0.0, 0.0)
    """The smallest and the largest number of a grid."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A plot with what it can be switched between."""

    key: str
    variants: tuple[Variant, ...]
    toggle: str = ""
    """What the variants differ in."""
    absent: tuple[tuple[str, str], ...] = ()
    """Variants that have no number, and why."""


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


def literal(text: str) -> str:
    """``text`` so that Plotly, which reads tags, entities and formulas, shows it as it is."""
    return html.escape(text, quote=False).replace("$", "&#36;")


def short(text: str, longest: int = 20) -> str:
    """``text`` for an axis."""
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return literal(cut) or "(unnamed)"


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

    def apart(pair: PairRecord | None) -> float | None:
        if pair is None or (pair.distance is None and pair.cosine is None):
            return None
        return max(1 - (pair.cosine or 0.0) if pair.distance is None else pair.distance, 0.0)

    names = report.expert_names
    pairs = {frozenset((pair.a, pair.b)): pair for pair in report.pairs}
    distances = [apart(pairs.get(frozenset(two))) for two in combinations(names, 2)]
    known = [distance for distance in distances if distance is not None]
    if len(names) < 3 or len(known) < len(distances):
        return tuple(range(len(names)))
    tree = linkage(np.asarray(known), method="average", optimal_ordering=True)
    return tuple(int(place) for place in leaves_list(tree))


def _of_pairs(report: Report, quantity: str, names: Sequence[str]) -> Variant:
    pairs = {frozenset((pair.a, pair.b)): pair for pair in report.pairs}

    def reading(a: str, b: str) -> str:
        if a == b:
            return f"{a}: itself"
        pair = pairs.get(frozenset((a, b)))
        why = "no_such_pair" if pair is None else getattr(pair, f"{quantity}_reason")
        error = getattr(pair, f"{quantity}_standard_error", None)
        sampled = "" if error is None else f" ± {number_text(error)} (standard error)"
        return _reading(f"{a} and {b}", quantity, getattr(pair, quantity, None), why) + sampled

    values = [[getattr(pairs.get(frozenset((a, b))), quantity, None) for b in names] for a in names]
    readings = [[reading(a, b) for b in names] for a in names]
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


def damage_chart(report: Report, key: str) -> Chart | None:
    """A variant per method, or None where nothing was forecast or merged."""
    limits = {
        of: limit * kind_of(limit_on(of)).shown[0]
        for of in ("disagreement", "loss")
        if (limit := limit_of(report, limit_on(of))) is not None
    }
    variants = []
    for method, damage in damage_of(report).items():
        points = {kind: _points(damage, kind) for kind in SERIES}
        data = {
            "kind": "damage",
            "rows": [short(name) for name in damage],
            "series": [[kind, SERIES[kind], found] for kind, found in points.items() if found],
            "limits": limits,
            "height": 150 + (56 if len(damage) <= 10 else 36) * len(damage),
        }
        if data["series"]:
            variants.append(Variant(key=method, label=method, data=data))
    return Chart(key=key, toggle="Method", variants=tuple(variants)) if variants else None


def _points(damage: Told, kind: str) -> list[dict[str, Any]]:
    """The experts that have a number of this kind, by their rows."""
    return [
        {
            "row": place,
            "value": row[kind].number,
            "ends": finite_ends(row[kind]) or (row[kind].number, row[kind].number),
            "text": literal(f"{name}: {SERIES[kind]} {damage_text(row[kind])}"),
        }
        for place, (name, row) in enumerate(damage.items())
        if row[kind].number is not None
    ]


def distortion_chart(report: Report, key: str) -> Chart | None:
    """The curve, or None where the hidden states were not compared."""
    if report.plan is None or not report.plan.curve:
        return None
    curve = report.plan.curve
    uniform = report.bounds.uniform_distortion if report.bounds else None
    data = {
        "kind": "distortion",
        "models": [point.models for point in curve],
        "values": [point.distortion for point in curve],
        "texts": [
            f"{plural(p.models, 'merged model')}: distortion {number_text(p.distortion)}"
            for p in curve
        ],
        "uniform": uniform,
        "note": None if uniform is None else f"one model, equal shares: {number_text(uniform)}",
        "height": 320,
    }
    return Chart(key=key, variants=(Variant(key=key, label="Distortion", data=data),))
