"""The validation card: its parts on drawn beds, what ships of a real one, and the card itself."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydantic import TypeAdapter
from unit.history.study.making import drawn_bed

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
sys.path.append(str(ROOT / "benchmarks"))

import shipping  # noqa: E402
import validation  # noqa: E402
from beds.gating import gate  # noqa: E402
from card.alarms import MISS_RATE, default_alarms, is_broken, left_out  # noqa: E402
from card.baselines import baselines  # noqa: E402
from card.beds import Evidence, evidence  # noqa: E402
from card.losses import Predictions, beds_out, experts_out, pools_out, summary  # noqa: E402
from card.page import page  # noqa: E402
from card.replication import Replication  # noqa: E402
from card.targets import targets  # noqa: E402

from pytest_mergegate.history.beds import bed_names, load_bed, load_beds  # noqa: E402
from pytest_mergegate.history.calibration.fit import Calibration  # noqa: E402
from pytest_mergegate.history.calibration.observations import is_collapse  # noqa: E402
from pytest_mergegate.history.registry.lines import RegistryLine, line_id  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

EXPERTS = ("rotate_upper", "first_last", "reverse_upper", "reverse_shout")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
BEDS = [drawn_bed("one", letters="abcdefghi", seed=1), drawn_bed("two", letters="abcdefgh", seed=2)]


@pytest.fixture(scope="module")
def drawn() -> Evidence:
    return evidence(BEDS)


@pytest.fixture(scope="module")
def predictions(drawn: Evidence) -> Predictions:
    return Predictions(drawn)


def test_nothing_of_what_is_held_out_is_trained_on(drawn: Evidence) -> None:
    every = sum(len(of) for of in drawn.observed.values())
    for split in (pools_out, experts_out, beds_out):
        held = 0
        for train, test in split(drawn):
            held += len(test)
            assert train
            assert not {one.merge for one in train} & {one.merge for one in test}
            if split is pools_out:
                assert not {one.pool for one in train} & {one.pool for one in test}
            if split is experts_out:
                (expert,) = {one.expert for one in test}
                pools = [one.pool.split("|")[1:] for one in train if one.bed == test[0].bed]
                assert not any(expert in pool for pool in pools)
            if split is beds_out:
                assert not {one.bed for one in train} & {one.bed for one in test}
        assert held == every


def test_intervals_cover_what_is_held_out(predictions: Predictions) -> None:
    found = summary(predictions.of("pools", "disagreement"))
    assert 0.8 <= found.coverage <= 1
    assert found.error < found.constant / 3
    both = [len(predictions.of("beds", "disagreement", bed)) for bed in ("one", "two")]
    assert sum(both) == len(predictions.of("beds", "disagreement"))


def test_thresholds_come_from_the_other_beds(drawn: Evidence) -> None:
    found = left_out(drawn, "beds", "disagreement")
    assert list(found) == ["one", "two"]
    threshold, alarms = found["one"]
    assert threshold is not None
    bad = [p for p in drawn.beds["two"] if is_collapse(p.loss)]
    missed = np.mean([(p.expert.score("disagreement") or 0) < threshold for p in bad])
    assert missed <= MISS_RATE
    assert alarms.collapsed == sum(is_collapse(p.loss) for p in drawn.beds["one"])
    assert 0 < alarms.caught <= alarms.collapsed
    for split in ("pools", "experts"):
        every = left_out(drawn, split, "disagreement")
        assert {bed: a.collapsed + a.kept for bed, (_, a) in every.items()} == {
            bed: len(points) for bed, points in drawn.beds.items()
        }
        assert every["one"][1].missed < 3 * MISS_RATE


def test_the_past_is_that_of_other_pools(drawn: Evidence) -> None:
    point = drawn.every[0]
    for past in baselines(drawn):
        others = [
            other.loss
            for other in drawn.beds[point.bed]
            if other.name == point.name
            and other.pool != point.pool
            and (other.method == point.method or not past.by_method)
        ]
        assert past.of([point])[0] == pytest.approx(-np.mean(others))


def test_default_alarms_are_counts(drawn: Evidence) -> None:
    parts = [default_alarms(points) for points in drawn.beds.values()]
    assert parts[0] + parts[1] == default_alarms(drawn.every)
    assert parts[0].missed < 0.2


def test_the_bound_is_held_against_the_loss(drawn: Evidence) -> None:
    point = drawn.every[0]
    assert is_broken(point) is False
    scores = point.expert.scores | {"disagreement_upper": 0.05}
    expert = point.expert.model_copy(update={"scores": scores})
    bound = type(point)(**{**vars(point), "expert": expert, "loss": -6.0})
    assert is_broken(bound) is True
    assert is_broken(type(point)(**{**vars(bound), "loss": -5.0})) is False


def test_targets_are_judged_bed_by_bed(drawn: Evidence, predictions: Predictions) -> None:
    found = {target.what: target for target in targets(drawn, predictions)}
    assert found["Evidence"].met is False  # too few experts
    surrogate = next(t for what, t in found.items() if "surrogate" in what)
    assert surrogate.met is True
    states = next(t for what, t in found.items() if "states" in what)
    assert states.met is False  # drawn at random
    assert "one 0." in states.measured
    alone = evidence(BEDS[1:])
    unmeasured = [t for t in targets(alone, Predictions(alone)) if t.met is None]
    assert [t.what.rsplit(", ", 1)[1] for t in unmeasured] == ["beds left out"]


def test_claims_of_the_paper_are_counted(drawn: Evidence) -> None:
    claims = Replication(drawn).claims()
    assert len(claims) == 5
    task_decides = claims[0]
    found = re.findall(r"(\w+): method p (\S+), task p (\S+?)(?:;|$)", task_decides[2])
    assert [bed for bed, _, _ in found] == ["one", "two"]
    # hardness belongs to the experts, and every method is the same
    assert all(float(task) < 0.05 for _, _, task in found)
    holds = sum(float(method) >= 0.05 for _, method, _ in found)
    assert task_decides[3] == {2: "yes", 1: "on 1 of 2 beds", 0: "no"}[holds]
    assert claims[3][1] == "4 of 4 groups have p < 0.05 and r < 0"


@pytest.mark.slow
def test_the_page_of_drawn_beds(
    drawn: Evidence, predictions: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("card.ranks.RESAMPLES", 20)
    protocol = tmp_path / "PROTOCOL.md"
    protocol.write_text("# A title\n\nA line.\n")
    text = page("a command", protocol, drawn, predictions)
    assert "Written by `a command`" in text
    assert "> **A title**\n>\n>\n> A line." in text
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text)
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bed of four of the quickstart's experts, two pools gated; each task's examples halved."""
    bed = tmp_path_factory.mktemp("beds") / "tried"
    bed.mkdir()
    shutil.copytree(QUICKSTART / "base", bed / "base")
    for part, chosen in (("data", slice(50)), ("fresh", slice(50, None))):
        (bed / part).mkdir()
        for name in EXPERTS:
            lines = (QUICKSTART / "data" / f"{name}.jsonl").read_text().splitlines()[chosen]
            (bed / part / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    for name in EXPERTS:
        shutil.copytree(QUICKSTART / "adapters" / name, bed / "adapters" / name)
    experts = {name: {"seed": k, "score": 1.0, "base": 0.0} for k, name in enumerate(EXPERTS)}
    notes = {"experts": experts, "families": {"all": EXPERTS}, "seconds": 1}
    (bed / "bed.json").write_text(json.dumps(notes))
    methods = ("linear", {"method": "task_arithmetic", "weight": 1.0})
    for group in (EXPERTS, EXPERTS[2:]):
        gate(bed, group, methods)
    refused = {"a+b": {"size": 2, "seconds": 1.5, "error": "MG001 why"}}
    (bed / "gating.json").write_text(json.dumps(refused))
    return bed


@pytest.mark.slow
def test_what_ships_has_the_scores_of_one_gate_and_the_losses_of_the_other(
    gated: Path, tmp_path: Path
) -> None:
    said = shipping.ship(gated, tmp_path)
    assert said.startswith("tried: 4 merges")
    assert "not gated: a+b" in said
    packed = (tmp_path / "tried.registry.jsonl.gz").read_bytes()
    lines = _lines(packed)
    about = json.loads((tmp_path / "tried.json").read_text())
    assert about["pools"] == {"2": 1, "4": 1}
    assert about["architecture"] == "LlamaForCausalLM"
    assert about["experts"]["first_last"]["family"] == "all"
    assert about["gating_seconds"] == 2
    assert about["small_certificate"]["points"] == 12
    pool = "+".join(EXPERTS)
    reports = [
        json.loads(gzip.decompress((gated / "reports" / f"{pool}.{part}.json.gz").read_bytes()))
        for part in ("data", "fresh")
    ]
    line = next(line for line in lines if len(line.experts) == 4 and line.method == "linear")
    scored, fresh = (
        {one["name"]: one for one in report["merges"][0]["experts"]} for report in reports
    )
    for expert in line.experts:
        assert expert.loss == pytest.approx(fresh[expert.name]["loss"], rel=1e-5)
        assert expert.scores["disagreement"] == scored[expert.name]["disagreement"]
        assert expert.scores["surrogate"] is not None
    assert shipping.ship(gated, tmp_path) == said
    assert (tmp_path / "tried.registry.jsonl.gz").read_bytes() == packed


def _lines(packed: bytes) -> Sequence[RegistryLine]:
    text = gzip.decompress(packed).decode()
    for line in text.splitlines():
        assert json.loads(line)["id"] == line_id(json.loads(line))
    return [RegistryLine.model_validate_json(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", bed_names())
def test_what_ships_is_a_registry(name: str) -> None:
    bed = load_bed(name)
    assert len(bed.lines) == bed.about["merges"]
    assert len({line.id for line in bed.lines}) == len(bed.lines)
    assert {one.name for line in bed.lines for one in line.experts} <= set(bed.about["experts"])
    file = ROOT / "pytest_mergegate" / "history" / "beds" / f"{name}.registry.jsonl.gz"
    assert len(_lines(file.read_bytes())) == len(bed.lines)


def test_what_ships_is_small() -> None:
    files = (ROOT / "pytest_mergegate" / "history" / "beds").glob("*.gz")
    assert 0 < sum(file.stat().st_size for file in files) < 1_500_000


@pytest.mark.slow
def test_what_gates_foretell_by_is_of_the_beds_that_ship() -> None:
    kept = json.loads(
        (ROOT / "pytest_mergegate" / "history" / "beds" / "calibrations.json").read_text()
    )
    made = shipping.calibrations(load_beds())
    assert list(kept) == list(made)
    for score, calibration in made.items():
        for key in ("merges", "observations", "groups", "source", "confidence"):
            assert kept[score][key] == calibration[key], key
        read = TypeAdapter(Calibration).validate_python
        again, expected = read(kept[score]), read(calibration)
        for value in (0.0, 0.1, 0.3, 0.5, 1.0):
            one, other = (each.predict("linear", "?", value) for each in (again, expected))
            told = [[each.loss, each.low, each.high] for each in (one, other)]
            assert told[0] == pytest.approx(told[1], abs=0.05)


@pytest.mark.slow
def test_the_card_is_what_the_shipped_merges_give() -> None:
    """Word for word, and number for number up to what another machine rounds otherwise."""
    again = "run: python benchmarks/validation.py"
    for path, made in validation.pages().items():
        kept = path.read_text("utf-8")
        assert NUMBER.sub("#", kept) == NUMBER.sub("#", made), again
        pairs = list(zip(NUMBER.findall(kept), NUMBER.findall(made), strict=True))
        far = [(a, b) for a, b in pairs if abs(float(a) - float(b)) > 0.011 * max(1, abs(float(a)))]
        assert not far, again
