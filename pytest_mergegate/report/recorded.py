"""What a report gives to the registry: one line for every merge whose loss was measured."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pytest_mergegate.common.errors import GateError, first_line
from pytest_mergegate.gate.merge_section import MergeSpec
from pytest_mergegate.gate.sections import reading_text
from pytest_mergegate.history.registry.appending import append_lines, unwritten
from pytest_mergegate.history.registry.lines import SCHEMA, RegistryLine, line_id
from pytest_mergegate.report.formats.numbers import forecasts_of
from pytest_mergegate.report.merge_records import MergedExpertRecord, MergeRecord
from pytest_mergegate.report.pool_records import ExpertRecord
from pytest_mergegate.report.types import Report

_RATIOS = ("magnitude_change_ratio", "sign_change_ratio", "conflicting_magnitude_ratio", "cosine")


class Kept(NamedTuple):
    """What became of the losses that a run measured."""

    notes: tuple[str, ...] = ()
    """What was written, and where."""
    problems: tuple[str, ...] = ()
    """Why they are not kept."""


def keep_losses(path: Path, reports: Iterable[Report]) -> Kept:
    """Append the losses that gates have measured.

    A gate in error has measured nothing that holds.
    """
    sound = (report for report in reports if report.status != "error")
    attributes = path.parent / ".gitattributes"
    had = _size(attributes)
    try:
        count = append_lines(path, [line for report in sound for line in lines_of(report)])
    except GateError as error:
        return Kept(problems=(str(error),))
    except ValueError as error:  # names that are no text
        return Kept(problems=(str(unwritten(path, first_line(error))),))
    if not count:
        return Kept()
    merges = f"{count} merge{'s' * (count != 1)}"
    beside = ", and how git merges it to .gitattributes" if _size(attributes) != had else ""
    told = f"wrote the measured losses of {merges} to {path.name}{beside} (--no-registry: none)"
    return Kept(notes=(told,))


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def lines_of(report: Report) -> tuple[RegistryLine, ...]:
    """One line for every merge of a report that measured a loss."""
    if report.merged is not None:  # made by nobody knows which method
        return ()
    measured = [m for m in report.merges if any(e.loss is not None for e in m.experts)]
    return tuple(_line(report, merge) for merge in measured)


def _line(report: Report, merge: MergeRecord) -> RegistryLine:
    assert report.base is not None
    settings = report.settings
    asked = settings["merge"]
    # what scores depend on beside pool and method
    kept = {name: settings[name] for name in ("dtype", "probes", "certificate", "conflict")}
    kept |= {name: asked[name] for name in ("seed", "route")}
    records = {expert.name: expert for expert in report.experts}
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "base": report.base.fingerprint,
        "method": MergeSpec.model_validate(asked).method_called(merge.method).method,
        "label": merge.method,
        "parameters": merge.parameters,
        "weights": {name: _round(weight) for name, weight in merge.weights.items()},
        "settings": kept,
        "versions": report.versions,
        "distances": [_round(pair.distance) for pair in report.pairs],
        "experts": [_expert(report, merge, one, records[one.name]) for one in merge.experts],
    }
    identified = {**data, "id": line_id(data), "created": report.created, "gate": report.gate}
    return RegistryLine.model_validate_json(json.dumps(identified))


def _expert(
    report: Report, merge: MergeRecord, one: MergedExpertRecord, record: ExpertRecord
) -> dict[str, Any]:
    scores = _scores(report, merge, one, record)
    # a loss on inputs that were compared too is no evidence of what a disagreement costs
    measured = one.apart or one
    how = report.settings.get("reading", {}).get(one.name)
    most = report.settings.get("probes", {}).get("max_answer_tokens")
    return {
        "name": one.name,
        "fingerprint": record.fingerprint,
        "examples": report.settings.get("examples", {}).get(one.name),
        "metric": report.settings.get("metric", {}).get(one.name, "exact_match"),
        "reading": reading_text(how, most) if how and most else None,
        "compared": one.inputs,
        "compared_by": one.compared_by,
        "scored": one.apart.examples if one.apart else one.scored,
        "shared": 0 if one.apart else one.shared,
        "scores": {name: _round(value) for name, value in scores.items() if value is not None},
        "infinite": ["mds"] if record.mds_infinite else [],
        "score_base": _round(measured.score_base),
        "score_expert": _round(measured.score_expert),
        "score_merged": _round(measured.score_merged),
        "loss": _round(measured.loss),
        "loss_interval": measured.loss_interval and [_round(end) for end in measured.loss_interval],
        "gain_kept": _round(measured.gain_kept),
    }


def _scores(
    report: Report, merge: MergeRecord, one: MergedExpertRecord, record: ExpertRecord
) -> dict[str, float | None]:
    pairs = [pair for pair in report.pairs if one.name in (pair.a, pair.b)]
    states, surrogate = (
        forecasts_of(report, kind, merge.method).get(one.name) for kind in ("states", "surrogate")
    )
    return {
        "disagreement": one.disagreement,
        "disagreement_upper": one.disagreement_upper,
        "kl": one.kl,
        "token_agreement": one.token_agreement,
        "total_variation": one.total_variation,
        "relative_distortion": one.relative_distortion,
        "surrogate": surrogate.disagreement if surrogate else None,
        "surrogate_kl": surrogate.kl if surrogate else None,
        "states": states.disagreement if states else None,
        "states_kl": states.kl if states else None,
        "mds": record.mds,
        "mean_distance": _mean(pair.distance for pair in pairs),
        "shift": record.shift,
        "norm": record.norm,
        **{name: _mean(getattr(pair, name) for pair in pairs) for name in _RATIOS},
    }


def _mean(values: Iterable[float | None]) -> float | None:
    found = list(values)
    known = [value for value in found if value is not None]
    return statistics.fmean(known) if known and len(known) == len(found) else None


def _round(value: float | None) -> float | None:
    """Six digits: what is beyond them differs between machines, and makes lines long."""
    return None if value is None else float(f"{value:.6g}")
