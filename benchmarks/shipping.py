"""Makes what ships of a bed from the reports of its gates.

A bed's folder has `bed.json` and, for every pool, two reports: `reports/POOL.data.json.gz`, whose
gate gave the scores, and `reports/POOL.fresh.json.gz`, whose gate measured the loss on examples that
the first did not see. A line that ships has the scores of the first and the losses of the second.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mergegate.registry.lines import RegistryLine, line_id, lines_of
from pytest_mergegate.report.types import Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SHIPPED = Path(__file__).resolve().parents[1] / "pytest_mergegate" / "beds"
MEASURED = ("score_base", "score_expert", "score_merged", "loss", "loss_interval")
"""What a line takes from the gate on fresh examples."""


def ship(bed: Path, target: Path = SHIPPED) -> str:
    """Write NAME.registry.jsonl.gz and NAME.json; returns a line that says what."""
    lines, missing = [], list[str]()
    for scored, fresh in _reports(bed / "reports", missing):
        lines += pairs_up(scored, fresh)
    if not lines:
        raise SystemExit(f"{bed} has no pool that was gated twice")
    text = "".join(f"{line.to_json()}\n" for line in lines)
    packed = gzip.compress(text.encode(), 9, mtime=0)
    (target / f"{bed.name}.registry.jsonl.gz").write_bytes(packed)
    notes = about(json.loads((bed / "bed.json").read_text()), lines, missing)
    (target / f"{bed.name}.json").write_text(json.dumps(notes, indent=1, ensure_ascii=False) + "\n")
    return f"{bed.name}: {len(lines)} merges, {len(packed) / 1024:.0f} KiB" + (
        f"; not gated: {', '.join(missing)}" if missing else ""
    )


def pairs_up(scored: Report, fresh: Report) -> list[RegistryLine]:
    """Lines with the scores of one report and the losses of the other."""
    measured = {line.label: line for line in lines_of(fresh)}
    found = []
    for line in lines_of(scored):
        other = measured.get(line.label)
        if other is None or line.pool != other.pool or line.weights != other.weights:
            raise SystemExit(f"{scored.gate}, {line.label}: the two gates are not of one merge")
        data = line.model_dump(mode="json", by_alias=True)
        losses = {expert.name: expert.model_dump(mode="json") for expert in other.experts}
        for expert in data["experts"]:
            expert.update({key: losses[expert["name"]][key] for key in MEASURED})
        data["gate"] = "mergegate.yaml"
        data["id"] = line_id(data)
        found.append(RegistryLine.model_validate_json(json.dumps(data)))
    return found


def about(
    bed: Mapping[str, Any], lines: Sequence[RegistryLine], missing: Sequence[str]
) -> dict[str, Any]:
    """What there is to know of a bed beside its lines."""
    pools = {line.pool: len(line.experts) for line in lines}
    family = {name: title for title, of in bed.get("families", {}).items() for name in of}
    experts = {
        name: {"family": one.get("family", family.get(name, "")), **one}
        for name, one in bed["experts"].items()
    }
    kept = {key: value for key, value in bed.items() if key not in {"experts", "families"}}
    sizes = Counter(pools.values())
    return {
        "experts": experts,
        **kept,
        "versions": lines[0].versions,
        "pools": {str(size): sizes[size] for size in sorted(sizes)},
        "merges": len(lines),
        "not_gated": list(missing),
    }


def _reports(folder: Path, missing: list[str]) -> Iterator[tuple[Report, Report]]:
    for path in sorted(folder.glob("*.data.json.gz")):
        other = path.with_name(path.name.replace(".data.", ".fresh."))
        pool = path.name.removesuffix(".data.json.gz")
        if not other.exists():
            missing.append(pool)
            continue
        both = [_report(each) for each in (path, other)]
        if any(report.status == "error" or not report.merges for report in both):
            missing.append(pool)
            continue
        yield both[0], both[1]


def _report(path: Path) -> Report:
    data = json.loads(gzip.decompress(path.read_bytes()))
    return Report.model_validate_json(json.dumps(data["reports"][0] if "reports" in data else data))
