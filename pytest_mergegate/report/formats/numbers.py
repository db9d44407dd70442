"""The numbers of experts that formats show, one by one and as columns of a table."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import fmean

from pytest_mergegate.common.records import Interval, value_of
from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.report.formats.reading import limit_of, merge_of, status_of
from pytest_mergegate.report.merge_records import ForecastRecord, MergedExpertRecord, MergeRecord
from pytest_mergegate.report.types import Report
from pytest_mergegate.verdict.budgets import kind_of, limit_on

NONE = "-"
VERDICT = "verdict"
DIFFICULTY = "merging difficulty (MDS)"
MDS, DISAGREEMENT, LOSS, GAIN = map(limit_on, ("mds", "disagreement", "loss", "gain_kept"))
"""Budgets whose values have columns of their own."""


def forecasts_of(report: Report, kind: str, method: str | None) -> dict[str, ForecastRecord]:
    """By expert, as far as a forecast was made."""
    return {f.expert: f for f in report.forecasts if (f.kind, f.method) == (kind, method)}


def loss_of(merged: MergedExpertRecord | None) -> Value:
    """The loss in percent, positive where the merge is worse, as the budget has it."""
    return value_of(merged, "loss").times(-1)


def by_layer(report: Report, ratio: str) -> dict[tuple[str, str], list[float | None]]:
    """Of every pair of experts the number in each layer."""
    places = range(len(report.conflicts.layers) if report.conflicts else 0)
    rows = {(pair.a, pair.b): pair.layers.get(ratio, ()) for pair in report.pairs}
    return {p: [row[k] if k < len(row) else None for k in places] for p, row in rows.items()}


def mean_by_layer(ratio: str, report: Report) -> list[float | None]:
    """Over all pairs that have a number there."""
    layers = zip(*by_layer(report, ratio).values(), strict=True)
    known = ([value for value in layer if value is not None] for layer in layers)
    return [fmean(values) if values else None for values in known]


def score_text(merged: MergedExpertRecord | None) -> str | None:
    """The score of an expert alone, then of the merge; None where either is not known."""
    if merged is None or merged.score_expert is None or merged.score_merged is None:
        return None
    return f"{merged.score_expert:.2f} → {merged.score_merged:.2f}"


def number_beside(
    value: float, limit: float | None, digits: int = 2, *, apart: bool = False
) -> str:
    """A number with the digits it takes to stand on its own side of the limit.

    With ``apart`` also with those it takes not to look like the limit, where it is not.
    """
    if math.isinf(value):
        return number_text(value)
    value += 0.0
    while limit is not None and digits < 16:
        shown = float(f"{value:.{digits}f}")
        alike = apart and shown == limit != value
        if (shown <= limit) == (value <= limit) and not alike:
            break
        digits += 1
    return f"{value:.{digits}f}"


def span(ends: Interval | None, scale: float = 1, decimals: int | None = None) -> str | None:
    """An interval in brackets; a null end is infinite, a negative ``scale`` turns it round."""
    if ends is None:
        return None
    low = -math.inf if ends[0] is None else ends[0]
    high = math.inf if ends[1] is None else ends[1]

    def text(end: float) -> str:
        if math.isinf(end):
            return "∞" if end > 0 else "−∞"
        return number_text(end) if decimals is None else f"{end + 0.0:.{decimals}f}"

    return f"[{', '.join(map(text, sorted((low * scale, high * scale))))}]"


SERIES = {
    "states": "forecast from states",
    "surrogate": "forecast by one forward pass",
    "merged": "certificate: merged answers differ",
    "upper": "certificate: at most",
    "loss": "measured loss of score",
}
"""What is told of an expert under a method: shares of its answers, except for the loss."""
Told = dict[str, dict[str, Value]]
"""By expert, then by series."""


def told_of(report: Report, method: str | None) -> Told:
    """What was forecast, certified and measured of every expert under one method."""
    merge = next((m for m in report.merges if m.method == method), None)
    merged = {expert.name: expert for expert in merge.experts} if merge else {}
    forecasts = {kind: forecasts_of(report, kind, method) for kind in ("states", "surrogate")}
    nothing = Value.missing("not_forecast")
    rows: Told = {}
    for name in report.expert_names:
        one = merged.get(name)
        rows[name] = {
            kind: value_of(of[name], "disagreement") if name in of else nothing
            for kind, of in forecasts.items()
        }
        rows[name]["merged"] = value_of(one, "disagreement")
        rows[name]["upper"] = value_of(one, "disagreement_upper")
        rows[name]["loss"] = loss_of(one)
    return rows


def damage_of(report: Report) -> dict[str, Told]:
    """The same in percent, by method: the judged one first."""
    known = [*(m.method for m in report.merges), *(f.method for f in report.forecasts)]
    methods = sorted(dict.fromkeys(known), key=lambda method: method != report.judged_method)
    return {
        method: {
            name: {kind: v if kind == "loss" else v.times(100) for kind, v in row.items()}
            for name, row in told_of(report, method).items()
        }
        for method in methods
    }


def worst_off(damage: Told) -> str:
    """The expert to which a merge does most."""

    def worst(name: str) -> float:
        known = (damage[name][kind].number for kind in ("merged", "loss", "surrogate", "states"))
        return next((number for number in known if number is not None), float("-inf"))

    return max(damage, key=worst)


def finite_ends(value: Value) -> tuple[float, float] | None:
    """Of the interval; None where one is infinite, which a plot cannot show."""
    ends = value.interval
    return ends if ends is not None and all(map(math.isfinite, ends)) else None


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: what, in which unit and against which limit, and a cell per expert."""

    title: str
    unit: str = ""
    limit: str = ""
    cells: dict[str, str]

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return set(self.cells.values()) <= {NONE}


def columns(
    report: Report, merge: MergeRecord | None = None, *, detailed: bool = False
) -> list[Column]:
    """What was computed of every expert, as deep as the gate went, the verdict, and behind it the
    merging difficulty where it is judged, or nothing deeper was.

    Of the judged merge unless another is given; in detail, the forecasts stand beside it.
    """
    shown = merge or merge_of(report)
    judged = shown is merge_of(report)
    told = told_of(report, shown.method if shown else report.judged_method)
    values = {kind: {name: row[kind] for name, row in told.items()} for kind in SERIES}
    found = []
    if judged:
        # budgets without a column of their own, by what was judged
        others = dict.fromkeys(v.budget for v in report.verdicts)
        for budget in (b for b in others if b not in (MDS, DISAGREEMENT, LOSS, GAIN)):
            numbers = {
                v.expert: value_of(v, "value")
                for v in report.verdicts
                if v.budget == budget and v.expert is not None
            }
            kind = kind_of(budget)
            found.append(_column(report, kind.words, kind.column_unit, budget, numbers))
    if detailed or shown is None:
        title = "predicted disagreement"
        states = _column(report, title, "from states", DISAGREEMENT, values["states"])
        surrogate = _column(report, title, "by surrogate", DISAGREEMENT, values["surrogate"])
        # stored states cry wolf: who did not ask for everything sees them where all else is lacking
        if detailed or surrogate.empty:
            found.append(replace(states, limit=""))
        found.append(surrogate)
    if shown is not None:
        found += _merged(report, shown, values, intervals=detailed)
        found += token_columns(report, shown) if detailed else []
    found = [column for column in found if not column.empty]
    if judged:
        statuses = {name: status_of(report, name) or NONE for name in report.expert_names}
        found.append(Column(title=VERDICT, cells=statuses))
        if detailed or shown is None or limit_of(report, MDS) is not None:
            of_each = {expert.name: value_of(expert, "mds") for expert in report.experts}
            difficulty = _column(report, DIFFICULTY, "", MDS, of_each, intervals=detailed)
            found += [difficulty] * (not difficulty.empty)
    return found


def _column(
    report: Report,
    title: str,
    unit: str,
    budget: str,
    values: Mapping[str, Value],
    *,
    digits: int = 2,
    intervals: bool = False,
) -> Column:
    """One of numbers, with the digits it takes to tell them from the budget's limit."""
    limit, kind = limit_of(report, budget), kind_of(budget)

    def cell(name: str) -> str:
        value = values.get(name)
        if value is None or value.number is None:
            return NONE
        text = number_beside(value.number, limit, digits, apart=kind.at_least)
        ends = span(value.interval) if intervals and math.isfinite(value.number) else None
        return f"{text} {ends}" if ends else text

    cells = {name: cell(name) for name in report.expert_names}
    shown = "" if limit is None else f"{kind.sign} {limit:g}"
    return Column(title=title, unit=unit, limit=shown, cells=cells)


def _merged(
    report: Report, merge: MergeRecord, values: Told, *, intervals: bool
) -> Iterator[Column]:
    """What a merge does; ``values`` are by series, then by expert."""
    differs = values["merged"]
    yield _column(report, "disagreement", "", DISAGREEMENT, differs, intervals=intervals)
    measured = _column(report, "loss", "%", LOSS, values["loss"], digits=1, intervals=intervals)
    yield measured
    if measured.empty and limit_of(report, LOSS) is not None:
        # those that are certified, and those that past merges predicted and that were judged
        certified = {
            found.expert: value_of(found, "loss").times(-1)
            for found in report.predictions
            if (found.source, found.method) == ("certificate", merge.method)
        }
        yield _column(report, "certified loss", "%, at most", LOSS, certified, digits=1)
        predicted = {
            v.expert: value_of(v, "value")
            for v in report.verdicts
            if (v.budget, v.basis, v.method) == (LOSS, "predicted", merge.method)
            and v.expert is not None
        }
        yield _column(report, "predicted loss", "%", LOSS, predicted, digits=1)
    merged = {expert.name: expert for expert in merge.experts}
    kept = {name: value_of(merged.get(name), "gain_kept") for name in report.expert_names}
    yield _column(report, "gain", "kept", GAIN, kept, intervals=intervals)
    scores = {name: score_text(merged.get(name)) or NONE for name in report.expert_names}
    yield Column(title="score", unit="alone → merged", cells=scores)


def token_columns(report: Report, merge: MergeRecord) -> list[Column]:
    """How a merge predicts the tokens of every expert's own answers, which no budget limits; none
    where no answer is a text."""
    merged = {expert.name: expert for expert in merge.experts}
    found = []
    for key, unit, same in (("token_agreement", "", 1.0), ("total_variation", "of tokens", 0.0)):
        values = {n: getattr(merged.get(n), key, None) for n in report.expert_names}
        cells = {  # nearly the same is not shown as the same
            name: NONE if v is None else number_beside(v, same, 3, apart=True)
            for name, v in values.items()
        }
        found.append(Column(title=key.replace("_", " "), unit=unit, cells=cells))
    return [column for column in found if not column.empty]


def layer_columns(report: Report) -> list[Column]:
    """The conflict in every layer, as means over the pairs; cells by the name of the layer."""
    layers = report.conflicts.layers if report.conflicts else ()
    columns = []
    for ratio in ("magnitude_change_ratio", "sign_change_ratio", "conflicting_magnitude_ratio"):
        means = mean_by_layer(ratio, report)
        cells = (NONE if mean is None else f"{mean:.3f}" for mean in means)
        found = dict(zip(layers, cells, strict=True))
        columns.append(Column(title=ratio.replace("_", " "), cells=found))
    return columns
