"""Answers that are sentences: a merge that says the same in other words, and one that does not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from naive import common_words, rouge_distance
from pools import Adapter, never_end, read_gate, write_gate, write_pool
from talkers import LENGTH, reworded, sentences, write_talkers

from pytest_mergegate import assess
from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.evaluation.own_metric import OwnMetric

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.report.merge_records import MergedExpertRecord
    from pytest_mergegate.report.types import Report

pytestmark = pytest.mark.slow

EVERY = 6
"""One word in so many is another one."""
LIMIT = 0.6


@pytest.fixture(scope="module")
def rewording(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """The merge says what the expert says, except for one word in six."""
    said = sentences(seed)
    spoken = {"plain": said, "reworded": reworded(said, EVERY, seed)}
    return write_talkers(tmp_path_factory.mktemp("rewording"), seed, spoken)


@pytest.fixture(scope="module")
def nonsense(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """The merge says something else."""
    spoken = {"plain": sentences(seed), "other": sentences(seed + 9)}
    return write_talkers(tmp_path_factory.mktemp("nonsense"), seed, spoken)


def asked(gate: Path, **plain: Any) -> Report:
    """The report on the gate where the first expert's answers are compared so."""
    settings = read_gate(gate)
    settings["experts"]["plain"] |= plain
    settings["budget"] = {"max_disagreement": LIMIT}
    return assess(write_gate(gate.with_name("asked.mergegate.yaml"), settings))


def of_plain(report: Report) -> MergedExpertRecord:
    return next(e for e in report.merges[0].experts if e.name == "plain")


def test_other_words_pass_where_the_same_words_are_not_asked_for(
    rewording: Path, seed: int
) -> None:
    exact, soft = asked(rewording), asked(rewording, compare="rouge_l")
    assert (exact.status, soft.status) == ("fail", "pass")
    assert of_plain(exact).disagreement > 0.8
    said = sentences(seed)
    pairs = zip(said, reworded(said, EVERY, seed), strict=True)
    naive = [rouge_distance(common_words(a, b), LENGTH, LENGTH) for a, b in pairs]
    found = of_plain(soft)
    assert found.compared_by == "rouge_l"
    (message,) = (v.message for v in soft.verdicts if v.expert == "plain")
    assert "mean distance by rouge_l on 40 inputs" in message
    assert found.disagreement == pytest.approx(np.mean(naive))
    assert found.disagreement <= 4 / EVERY / (1 + 3 / EVERY) + 1e-9  # of one word in six
    assert found.cut == 0
    # the other expert is what the merge is, and exactly so
    assert next(e for e in soft.merges[0].experts if e.name == "reworded").disagreement == 0


def test_the_same_text_in_other_tokens_is_the_same(tmp_path: Path, seed: int) -> None:
    """What a metric does not read, such as a special token at the end, is no other answer."""
    said = sentences(seed)
    spoken = {"plain": said, "padded": [[*answer, "<pad>"] for answer in said]}
    gate = write_talkers(tmp_path / "padded", seed, spoken)
    report = asked(gate)
    assert report.status == "pass"
    found = of_plain(report)
    assert (found.disagreement, found.changed) == (0, ())
    assert found.token_agreement is not None
    assert found.token_agreement < 1
    # where one more word is read, every answer is another one
    spoken["padded"] = [[*answer, answer[0]] for answer in said]
    assert of_plain(asked(write_talkers(tmp_path / "longer", seed, spoken))).disagreement == 1


def test_something_else_fails_whatever_is_asked_for(nonsense: Path) -> None:
    exact, soft = asked(nonsense), asked(nonsense, compare="rouge_l")
    assert (exact.status, soft.status) == ("fail", "fail")
    assert of_plain(soft).disagreement > LIMIT
    for report in (exact, soft):  # mixed states give no text: of texts, groups are run
        assert report.plan is not None
        assert report.plan.at_least == 2
        assert [group.experts for group in report.plan.groups] == [("plain",), ("other",)]


def test_a_metric_of_texts_compares_texts(rewording: Path) -> None:
    report = asked(rewording, metric="rouge_l")
    assert of_plain(report).compared_by == "rouge_l"
    (states,) = (f for f in report.forecasts if (f.expert, f.kind) == ("plain", "states"))
    assert states.compared_by == "rouge_l"
    assert states.disagreement_reason == "states_give_no_text"
    assert states.kl is not None


OWN = """
def first_words(outputs, others):
    return [float(a.split()[:1] != b.split()[:1]) for a, b in zip(outputs, others)]

def beyond(outputs, others):
    return [1.5 for _ in outputs]

def raising(outputs, others):
    raise RuntimeError("no distance")

def short(outputs, others):
    return []
"""


def test_a_distance_of_the_team_s_own(rewording: Path) -> None:
    (rewording.parent / "own.py").write_text(OWN)
    found = of_plain(asked(rewording, distance="own:first_words"))
    assert found.compared_by == "own:first_words"
    assert found.disagreement == 0  # the first word is never another one
    assert found.disagreement_upper > 0


def test_an_output_is_not_away_from_itself() -> None:
    own = OwnMetric(metric="own:far", expert="a", examples=(), numbers=(1, 2), kind="distance")
    with pytest.raises(PoolError, match=r"distance own:far is 0\.5 between 'x' and itself"):
        own.between(lambda a, b: [0.5 for _ in a], ["y", "x"], ["z", "x"])


@pytest.mark.parametrize("name", ["beyond", "raising", "short", "missing"])
def test_a_distance_that_is_none_is_an_error(rewording: Path, name: str) -> None:
    (rewording.parent / "own.py").write_text(OWN)
    report = asked(rewording, distance=f"own:{name}")
    assert report.status == "error"
    assert any(f"distance own:{name}" in finding.message for finding in report.findings)


def test_a_certified_loss_rests_on_the_distance_that_bounds_the_metric(rewording: Path) -> None:
    settings = read_gate(rewording)
    for expert in settings["experts"].values():
        expert |= {"metric": "rouge_l", "score": 0.9}
    settings["budget"] = {"max_loss": 90}
    report = assess(write_gate(rewording.with_name("certified.mergegate.yaml"), settings))
    assert report.status == "pass"
    (verdict,) = (v for v in report.verdicts if v.expert == "plain")
    assert verdict.value == pytest.approx(100 * of_plain(report).disagreement_upper / 0.9)
    # ROUGE-L does not bound what an exact match may lose
    for expert in settings["experts"].values():
        expert |= {"metric": "exact_match", "compare": "rouge_l"}
    report = assess(write_gate(rewording.with_name("certified.mergegate.yaml"), settings))
    assert report.status == "inconclusive"
    assert all("does not bound" in v.message for v in report.verdicts)


def test_a_base_that_answers_like_the_expert_leaves_it_open(tmp_path: Path, seed: int) -> None:
    said = sentences(seed)
    spoken = {"near": reworded(said, 2 * EVERY, seed + 1), "plain": said}
    spoken["reworded"] = reworded(said, EVERY, seed)
    gate = write_talkers(tmp_path, seed, spoken)
    settings = read_gate(gate)
    settings["base"] = settings["experts"].pop("near")["path"]
    settings["merge"]["weights"].pop("near")
    report = asked(write_gate(gate, settings), compare="rouge_l")
    (verdict,) = (v for v in report.verdicts if v.expert == "plain")
    assert of_plain(report).disagreement_upper < LIMIT
    assert verdict.status == "inconclusive"
    assert "the base by itself" in verdict.message


class TestLimitOnAnswers:
    def test_is_raised_until_the_experts_end(self, tmp_path: Path, seed: int) -> None:
        said = sentences(seed, 8, 90)
        gate = write_talkers(tmp_path, seed, {"plain": said, "other": reworded(said, 9, seed)})
        report = self._run(gate)
        assert report.settings["probes"]["answer_limit"] == 128
        assert all(e.cut == 0 for e in report.merges[0].experts)
        again = self._run(gate)
        assert again.cache.misses == 0
        assert again.merges == report.merges
        for positions in ("last", "mean"):  # where no answer is forced, to read states
            elsewhere = self._run(gate, positions=positions)
            assert elsewhere.settings["probes"]["answer_limit"] == 128
            assert all(e.cut == 0 for e in elsewhere.merges[0].experts)
            assert self._run(gate, positions=positions).cache.misses == 0
        capped = self._run(gate, max_answer_tokens=64)
        assert capped.settings["probes"]["answer_limit"] == 64
        assert {e.cut for e in capped.merges[0].experts} == {8}

    @pytest.mark.parametrize(
        ("metric", "limit"), [("exact_match", 256), ("rouge_l", 256), ("accuracy", 64)]
    )
    def test_is_raised_for_answers_that_are_read_alone(
        self, tmp_path: Path, seed: int, metric: str, limit: int
    ) -> None:
        """None of these experts ever ends, and of ranked choices no answer is read."""
        gate = write_pool(tmp_path, seed, dict.fromkeys("ab", Adapter(examples="choices")))
        never_end(tmp_path / "base", positions=200)
        settings = read_gate(gate)
        settings |= {"probes": {"per_task": 2}, "certificate": {"per_task": 4}}
        for expert in settings["experts"].values():
            expert["metric"] = metric
        report = assess(write_gate(gate, settings), max_disagreement=0.5)
        assert report.settings["probes"]["answer_limit"] == limit

    @staticmethod
    def _run(gate: Path, **probes: Any) -> Report:
        settings = read_gate(gate)
        for expert in settings["experts"].values():
            expert["compare"] = "rouge_l"
        settings["probes"] = {"per_task": 2, **probes}
        settings["certificate"] = {"per_task": 8}
        path = write_gate(gate.with_name("long.mergegate.yaml"), settings)
        return assess(path, cache=gate.parent / "cache")


def test_the_stop_strings_of_the_base_end_answers(rewording: Path, seed: int) -> None:
    """As those of the expert do; without either, answers go on."""
    word = sentences(seed)[0][4]
    whole = asked(rewording, compare="rouge_l")
    own = asked(rewording, compare="rouge_l", stop=[word])
    settings = rewording.parent / "base" / "generation_config.json"
    before = settings.read_text()
    settings.write_text(json.dumps(json.loads(before) | {"stop_strings": word}))
    try:
        of_base = asked(rewording, compare="rouge_l")
    finally:
        settings.write_text(before)
    assert of_plain(of_base).disagreement == of_plain(own).disagreement
    assert of_plain(of_base).disagreement != of_plain(whole).disagreement
