"""A pool of the quickstart as a bed: gated for real, kept, and not gated again."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
sys.path.append(str(ROOT / "benchmarks"))

from beds import gating  # noqa: E402

PAIR = ("reverse_upper", "reverse_shout")


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experts that want different answers; each task's examples halved."""
    bed = tmp_path_factory.mktemp("bed")
    shutil.copytree(QUICKSTART / "base", bed / "base")
    for part, chosen in (("data", slice(50)), ("fresh", slice(50, None))):
        (bed / part).mkdir()
        for name in PAIR:
            lines = (QUICKSTART / "data" / f"{name}.jsonl").read_text().splitlines()[chosen]
            (bed / part / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    for name in PAIR:
        shutil.copytree(QUICKSTART / "adapters" / name, bed / "adapters" / name)
    return bed


@pytest.mark.slow
def test_a_pool_is_gated_twice_and_both_reports_are_kept(bed: Path) -> None:
    said: list[str] = []
    methods = ("linear", {"method": "ties", "density": 0.5})
    first = gating.gate_all(bed, [PAIR], methods, said.append)
    entry = first["+".join(PAIR)]
    data, fresh = (
        gating.read_report(bed / "reports" / f"{'+'.join(PAIR)}.{part}.json.gz")
        for part in gating.PARTS
    )
    assert {forecast.kind for forecast in data.forecasts} == {"states", "surrogate"}
    assert len([f for f in data.forecasts if f.kind == "surrogate"]) == 4
    for report, inputs in ((data, 64), (fresh, 20)):
        assert report.settings["certificate"]["per_task"] == inputs
        assert [merge.method for merge in report.merges] == ["linear", "ties density=0.5"]
        assert all(expert.loss is not None for m in report.merges for expert in m.experts)
    # one tag cannot be given two answers
    assert all(1 <= bad <= of == 2 for bad, of in entry["collapsed"].values())
    assert "linear" in said[0]

    times = {file: file.stat().st_mtime_ns for file in (bed / "reports").iterdir()}
    again = gating.gate_all(bed, [PAIR], methods, said.append)
    assert again == first == json.loads((bed / "gating.json").read_text())
    assert times == {file: file.stat().st_mtime_ns for file in (bed / "reports").iterdir()}
