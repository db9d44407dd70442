"""Makes what ships of a bed from the reports of its gates.

A bed's folder has `bed.json`, `gating.json` and, for every pool, two reports:
`reports/POOL.data.json.gz`, whose gate gave the scores, and `reports/POOL.fresh.json.gz`, whose
gate measured the loss on examples that the first did not see. A line that ships has the scores of
the first and the losses of the second.
"""

from __future__ import annotations

import gzip
import importlib
import json
import math
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mergegate.gate.spec import PREDICTION
from pytest_mergegate.history.beds import load_beds
from pytest_mergegate.history.calibration.fit import calibrate
from pytest_mergegate.history.calibration.observations import is_collapse, observations
from pytest_mergegate.history.past import SCORES as FORETOLD
from pytest_mergegate.history.registry.lines import RegistryLine, line_id
from pytest_mergegate.metrics import certified_loss
from pytest_mergegate.metrics.ranking import auroc
from pytest_mergegate.report.recorded import lines_of
from pytest_mergegate.report.types import Report

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_mergegate.history.beds import Bed
    from pytest_mergegate.history.calibration.fit import Calibration

SHIPPED = Path(__file__).resolve().parents[1] / "pytest_mergegate" / "history" / "beds"
ROUNDING = 1e-9
"""Percent: what is lost to round-off."""
MEASURED = ("score_base", "score_expert", "score_merged", "loss", "loss_interval")
"""What a line takes from the gate on fresh examples."""


def ship(bed: Path, target: Path = SHIPPED) -> str:
    """Write NAME.registry.jsonl.gz and NAME.json; returns a line that says what."""
    gated, missing = _gated(bed)
    if not gated:
        raise SystemExit(f"{bed} has no pool that was gated twice")
    lines = [line for scored, fresh in gated for line in pairs_up(scored, fresh)]
    text = "".join(f"{line.to_json()}\n" for line in lines)
    packed = gzip.compress(text.encode(), 9, mtime=0)
    (target / f"{bed.name}.registry.jsonl.gz").write_bytes(packed)
    notes = about(bed, gated, lines, missing)
    (target / f"{bed.name}.json").write_text(json.dumps(notes, indent=1, ensure_ascii=False) + "\n")
    said = f"{bed.name}: {len(lines)} merges, {len(packed) / 1024:.0f} KiB"
    return said + (f"; not gated: {', '.join(missing)}" if missing else "")


def calibrations(beds: Iterable[Bed]) -> dict[str, Any]:
    """What gates predict losses by where a team has recorded none: nothing of single experts."""
    every = [one for bed in beds for one in observations(bed.lines, bed.name)]
    return {score: asdict(for_strangers(calibrate(every, score, PREDICTION))) for score in FORETOLD}


def for_strangers(calibration: Calibration) -> Calibration:
    """The same without the experts it was made of, whom no other team has."""
    effects = calibration.model.effects
    nobody = replace(effects.experts, known={})
    model = replace(calibration.model, effects=replace(effects, experts=nobody))
    return replace(calibration, model=model)


def ship_calibrations(target: Path = SHIPPED) -> None:
    """Write `calibrations.json`, by the beds that ship."""
    found = calibrations(load_beds())
    (target / "calibrations.json").write_text(f"{json.dumps(_rounded(found))}\n")


def _rounded(value: Any) -> Any:
    """Six digits: what is beyond them differs between machines."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def pairs_up(scored: Report, fresh: Report) -> list[RegistryLine]:
    """Lines with the scores of one report and the losses of the other."""
    measured = {line.label: line for line in lines_of(fresh)}
    merges = {merge.method: merge for merge in fresh.merges}
    found = []
    for line in lines_of(scored):
        other = measured.get(line.label)
        if other is None or line.pool != other.pool or line.weights != other.weights:
            raise SystemExit(f"{scored.gate}, {line.label}: the two gates are not of one merge")
        data = line.model_dump(mode="json", by_alias=True)
        losses = {e.name: e.model_dump(mode="json") for e in merges[line.label].experts}
        for expert in data["experts"]:
            loss = losses[expert["name"]]
            expert.update(_rounded({key: loss[key] for key in MEASURED}))
            expert.update(scored=loss["scored"], shared=0)  # all are fresh
        data["gate"] = "mergegate.yaml"
        data["id"] = line_id(data)
        found.append(RegistryLine.model_validate_json(json.dumps(data)))
    return found


def about(
    bed: Path,
    gated: Sequence[tuple[Report, Report]],
    lines: Sequence[RegistryLine],
    missing: Sequence[str],
) -> dict[str, Any]:
    """What there is to know of a bed beside its lines."""
    notes = json.loads((bed / "bed.json").read_text())
    titles = notes.get("families") or _families(bed.name)
    families = {name: title for title, of in titles.items() for name in of}
    experts = {
        name: {"family": one.get("family", families.get(name, "")), **one}
        for name, one in notes.pop("experts").items()
    }
    notes.pop("families", None)
    base = gated[0][0].base
    assert base is not None
    sizes = Counter({line.pool: len(line.experts) for line in lines}.values())
    return {
        "architecture": base.architecture,
        "parameters": base.parameters,
        "experts": experts,
        "pools": {str(size): sizes[size] for size in sorted(sizes)},
        "merges": len(lines),
        "not_gated": list(missing),
        "versions": lines[0].versions,
        "gating_seconds": _seconds(bed),
        "small_certificate": small_certificate(gated),
        "made": notes,
    }


def _families(bed: str) -> dict[str, Sequence[str]]:
    """Those that the bed's recipe names, for a bed that was trained before it noted them."""
    try:
        return dict(importlib.import_module(f"beds.{bed}").FAMILIES)
    except ModuleNotFoundError:
        return {}


def small_certificate(gated: Sequence[tuple[Report, Report]]) -> dict[str, Any]:
    """The other way round: the certificate on fresh examples against the loss on the first ones."""
    rows = []
    for scored, fresh in gated:
        for merge, other in zip(fresh.merges, scored.merges, strict=True):
            for one, measured in zip(merge.experts, other.experts, strict=True):
                if one.disagreement is not None and measured.loss is not None:
                    rows.append((one, measured))
    bad = [is_collapse(measured.loss or 0.0) for _, measured in rows]
    broken = [
        (measured.loss or 0.0)
        < certified_loss(one.disagreement_upper, measured.score_expert) - ROUNDING
        for one, measured in rows
        if one.disagreement_upper is not None and measured.score_expert
    ]
    ranked = auroc([one.disagreement for one, _ in rows], bad)
    return {
        "inputs": max((one.inputs or 0 for one, _ in rows), default=0),
        "points": len(rows),
        "auroc": None if math.isnan(ranked) else round(ranked, 4),
        "violated": sum(broken),
        "bounds": len(broken),
    }


def _gated(bed: Path) -> tuple[list[tuple[Report, Report]], list[str]]:
    """Both reports of every pool, and the pools that a gate refused or has not come to."""
    found, missing = [], []
    named = json.loads((bed / "gating.json").read_text()) if _has(bed, "gating.json") else {}
    files = (bed / "reports").glob("*.json.gz")
    for pool in sorted({file.name.rsplit(".", 3)[0] for file in files} | set(named)):
        both = [bed / "reports" / f"{pool}.{part}.json.gz" for part in ("data", "fresh")]
        reports = [_report(file) for file in both if file.exists()]
        if len(reports) < 2 or any(one.status == "error" or not one.merges for one in reports):
            missing.append(pool)
        else:
            found.append((reports[0], reports[1]))
    return found, missing


def _has(bed: Path, name: str) -> bool:
    return (bed / name).exists()


def _seconds(bed: Path) -> int | None:
    if not _has(bed, "gating.json"):
        return None
    said = json.loads((bed / "gating.json").read_text())
    return round(sum(entry.get("seconds", 0.0) for entry in said.values()))


def _report(path: Path) -> Report:
    return Report.from_json(gzip.decompress(path.read_bytes()).decode())
