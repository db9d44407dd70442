"""A plan for the pool that fails: what it proposes is gated for real, by every way there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_mergegate import assess
from pytest_mergegate.cli import main

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
pytestmark = pytest.mark.slow
RIVALS = {"reverse_upper", "reverse_shout"}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder that was written to, and the plan as JSON."""
    folder = tmp_path_factory.mktemp("plan")
    gate = QUICKSTART / "collapsing.mergegate.yaml"
    candidates = [f"{QUICKSTART}/adapters/reverse_upper_twin", f"{QUICKSTART}/adapters/cut*"]
    files = ["--write", f"{folder}/out", "--json", f"{folder}/plan.json"]
    code = main(["plan", str(gate), "--candidates", *candidates, "--verify", *files])
    assert code == 0
    return folder / "out", json.loads((folder / "plan.json").read_text("utf-8"))


def test_rivals_are_kept_apart(planned: tuple[Path, dict[str, Any]]) -> None:
    plan = planned[1]["plan"]
    assert len(plan["groups"]) == plan["at_least"] == 2
    for group in plan["groups"]:
        assert group["status"] == "pass"
        assert not set(group["experts"]) >= RIVALS
    assert len(plan["drop"]) == plan["drop_at_least"] == 1
    assert set(plan["drop"]) < RIVALS


def test_every_sharing_of_the_weights_is_compared(planned: tuple[Path, dict[str, Any]]) -> None:
    largest = max(planned[1]["plan"]["groups"], key=lambda group: len(group["experts"]))
    merges = {m["shares"]: m for m in largest["merges"] if m["method"] == "linear"}
    assert set(merges) == {"uniform", "optimal", "minimax"}
    assert merges["optimal"]["distortion"] == min(m["distortion"] for m in merges.values())


def test_a_sum_comes_out_as_forecast(planned: tuple[Path, dict[str, Any]]) -> None:
    for verified in planned[1]["verified"]:
        assert verified["status"] == "pass"
        for merged in verified["merged"]:
            assert merged["disagreement"] == merged["forecast_disagreement"]
            assert -merged["loss"] <= 10


def test_what_was_written_passes(planned: tuple[Path, dict[str, Any]]) -> None:
    gates = sorted(planned[0].glob("*.mergegate.yaml"))
    assert gates
    for gate in gates:
        report = assess(gate)
        assert report.status == "pass"
        assert [m.method for m in report.merges] == ["linear"]
        assert {v.budget for v in report.verdicts} == {"max_disagreement", "max_loss"}


def test_mergekit_s_files_are_the_same_merges(planned: tuple[Path, dict[str, Any]]) -> None:
    for config in sorted(planned[0].glob("*.mergekit.yaml")):
        twin = assess(config.with_name(config.name.replace("mergekit", "mergegate")))
        report = assess(config)
        assert report.status == "pass"
        assert [m.digest for m in report.merges] == [m.digest for m in twin.merges]


def test_mergekit_itself_takes_them(planned: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    config = sorted(planned[0].glob("*.mergekit.yaml"))[0]
    parsed = MergeConfiguration.model_validate(yaml.safe_load(config.read_text("utf-8")))
    options = MergeOptions(lora_merge_cache=str(tmp_path / "cache"), write_model_card=False)
    run_merge(parsed, str(tmp_path / "merged"), options)
    assert list((tmp_path / "merged").glob("*.safetensors"))


def test_candidates_in_both_orders(planned: tuple[Path, dict[str, Any]]) -> None:
    by_forecast, by_mds = planned[1]["plan"]["replacements"]
    assert (by_forecast["order"], by_mds["order"]) == ("forecast", "mds")
    assert by_forecast["replaced"] in RIVALS
    statuses = [stand["pool"]["status"] for stand in by_forecast["candidates"]]
    assert statuses == sorted(statuses, key=["pass", "inconclusive", "fail"].index)
    difficulties = [stand["mds"] for stand in by_mds["candidates"]]
    assert difficulties == sorted(difficulties)
    cut = next(s for s in by_forecast["candidates"] if s["name"] == "cut_upper")
    assert cut["pool"]["status"] == "pass"
