"""Whole gates on encoder-decoders, classifiers and headless models, against PEFT's own forward."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, LABELS
from naive import Tie, best
from peft import LoraConfig, PeftModel, get_peft_model
from pools import read_gate, read_jsonl, words, write_gate, write_jsonl
from transformers import (
    AutoTokenizer,
)
from variants import AUTO

from pytest_mergegate import assess

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pytest_mergegate.report.types import Report

NAMES = ("a", "b", "c")
COUNT = 12
LONGEST = 6
END = 1


def write_pool(
    folder: Path, architecture: str, seed: int, own_head: str | None = None, **budget: float
) -> Path:
    """A gate of three adapters made by PEFT, with examples that have no targets.

    ``own_head`` is a module that all but the first train as a whole.
    """
    family = ARCHITECTURES[architecture].family
    (folder / "base").mkdir(parents=True)
    base = ARCHITECTURES[architecture].write(folder / "base", seed)
    task_type = "SEQ_2_SEQ_LM" if family == "seq2seq" else None
    for k, name in enumerate(NAMES, start=1):
        torch.manual_seed(seed + k)
        config = LoraConfig(
            task_type=task_type, r=4, lora_alpha=8, target_modules="all-linear",
            init_lora_weights=False, modules_to_save=[own_head] if own_head and k > 1 else None,
        )  # fmt: skip
        model = get_peft_model(AUTO[family].from_pretrained(base), config)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter.data, std=0.12)
            elif "modules_to_save" in key:
                parameter.data += 0.3 * torch.randn_like(parameter)
        model.save_pretrained(folder / name, save_embedding_layers=False)
        rows = [{"input": f"{name}:{word}="} for word in words(COUNT, seed + k)]
        write_jsonl(folder / f"{name}.jsonl", rows)
    gate = {
        "base": "base",
        "experts": {name: {"path": name, "examples": f"{name}.jsonl"} for name in NAMES},
        "probes": {"per_task": COUNT, "max_answer_tokens": LONGEST},
        "certificate": {"per_task": COUNT},
        "budget": budget,
        "ignore": {"MG114": "one task, the same labels"},
    }
    return write_gate(folder / "mergegate.yaml", gate)


@dataclass(frozen=True, kw_only=True)
class Naive:
    """A pool by PEFT alone, one input at a time, in float64."""

    folder: Path
    family: str

    def base(self) -> Any:
        return AUTO[self.family].from_pretrained(self.folder / "base").double().eval()

    def expert(self, name: str) -> Any:
        return PeftModel.from_pretrained(self.base(), self.folder / name).double().eval()

    def merged(self) -> Any:
        """The plain average of the experts' weights."""
        dense = [self.expert(name).merge_and_unload().state_dict() for name in NAMES]
        model = self.base()
        model.load_state_dict({k: sum(d[k] for d in dense) / len(dense) for k in dense[0]})
        return model

    def inputs(self, name: str) -> list[Tensor]:
        tokenizer = AutoTokenizer.from_pretrained(self.folder / "base")
        rows = read_jsonl(self.folder / f"{name}.jsonl")
        return [torch.tensor([tokenizer(row["input"])["input_ids"]]) for row in rows]

    @torch.no_grad()
    def answer(self, model: Any, ids: Tensor) -> list[int]:
        """A label, or greedy tokens with everything run again for each."""
        if self.family == "classifier":
            return [best(model(input_ids=ids).logits[0])]
        answer: list[int] = []
        while len(answer) < LONGEST and END not in answer:
            written = torch.tensor([[model.config.decoder_start_token_id, *answer]])
            logits = model(input_ids=ids, decoder_input_ids=written).logits
            answer.append(best(logits[0, -1]))
        return answer

    def disagreement(self, model: Any, name: str) -> float:
        own, inputs = self.expert(name), self.inputs(name)
        return sum(self.answer(model, x) != self.answer(own, x) for x in inputs) / len(inputs)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pool, what the package says of it, and what the slow way does."""

    gate: Path
    report: Report
    naive: Naive
    expected: dict[str, float]
    base: dict[str, float]


POOLS = [("t5", None), ("bart", None), ("llama_classifier", None), ("bert_classifier", None),
         ("bert_classifier", "classifier"), ("roberta_classifier", "out_proj")]  # fmt: skip


@pytest.fixture(scope="module", params=POOLS, ids=lambda pool: " own ".join(filter(None, pool)))
def case(request: pytest.FixtureRequest, tmp_path_factory: Any, seed: int) -> Case:
    """A fresh pool; drawn again where an answer hangs on round-off."""
    architecture, own_head = request.param
    for attempt in range(10):
        folder, drawn = tmp_path_factory.mktemp("pool") / "gate", seed + 1000 * attempt
        gate = write_pool(folder, architecture, drawn, own_head, max_disagreement=0.5)
        naive = Naive(folder=folder, family=ARCHITECTURES[architecture].family)
        try:
            merged = naive.merged()
            expected = {name: naive.disagreement(merged, name) for name in NAMES}
            alone = {name: naive.disagreement(naive.base(), name) for name in NAMES}
        except Tie:
            continue
        report = assess(gate)
        return Case(gate=gate, report=report, naive=naive, expected=expected, base=alone)
    pytest.fail("ten pools in a row with a tie: answers are decided by round-off")


def test_disagreement_is_that_of_peft(case: Case) -> None:
    report = case.report
    found = {expert.name: expert.disagreement for expert in report.merges[0].experts}
    assert found == pytest.approx(case.expected)
    uppers = {expert.name: expert.disagreement_upper for expert in report.merges[0].experts}
    base = {expert.name: expert.base_disagreement for expert in report.experts}
    assert base == pytest.approx(case.base)
    assert {v.expert: v.status for v in report.verdicts} == {
        name: "fail"
        if value > 0.5
        else ("pass" if uppers[name] <= 0.5 < base[name] else "inconclusive")
        for name, value in case.expected.items()
    }
    reading = "labels" if case.naive.family == "classifier" else "greedy"
    assert {expert.reading for expert in report.merges[0].experts} == {reading}
    assert {forecast.reading for forecast in report.forecasts} == {reading}
    assert all(forecast.disagreement is not None for forecast in report.forecasts)


def test_divergence_and_forecast_of_labels(case: Case) -> None:
    """Each expert's states go through its own head, weight and bias; a mix through the mix."""
    naive = case.naive
    if naive.family != "classifier":
        pytest.skip("no labels")
    base, merged = naive.base(), naive.merged()
    experts = {name: naive.expert(name).merge_and_unload() for name in NAMES}
    for name in NAMES:
        found = next(e for e in case.report.merges[0].experts if e.name == name)
        forecast = next(f for f in case.report.forecasts if f.expert == name)
        real, mixed = [], []
        for x in naive.inputs(name):
            own = logits(experts[name], x)
            real.append(divergence(own, logits(merged, x)))
            # one merge of all: a third of each shift of the state, through the merged head
            state = (
                states(base, x) + sum(states(e, x) - states(base, x) for e in experts.values()) / 3
            )
            mixed.append(divergence(own, head(merged)(state)))
        assert found.kl == pytest.approx(np.mean(real), rel=1e-3, abs=1e-6)
        assert forecast.kl == pytest.approx(np.mean(mixed), rel=1e-3, abs=1e-6)


@torch.no_grad()
def logits(model: Any, x: Tensor) -> Tensor:
    found: Tensor = model(input_ids=x).logits
    return found


def head(model: Any) -> Any:
    layer = getattr(model, "classifier", None) or model.score
    return getattr(layer, "out_proj", layer)


def states(model: Any, x: Tensor) -> Tensor:
    """What the head reads, at the last token where it reads all."""
    seen: list[Tensor] = []
    hook = head(model).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits(model, x)
    hook.remove()
    return seen[0].reshape(-1, seen[0].shape[-1])[-1:].detach()


def divergence(own: Tensor, other: Tensor) -> float:
    p, q = own.log_softmax(-1), other.log_softmax(-1)
    return float((p.exp() * (p - q)).sum().detach())


def test_positions_used_are_in_the_report(case: Case) -> None:
    used = "head" if case.naive.family == "classifier" else "answer"
    assert case.report.settings["probes"]["positions"] == used


@pytest.mark.parametrize("positions", ["last", "mean"])
def test_other_positions(case: Case, positions: str) -> None:
    settings = read_gate(case.gate)
    settings["probes"]["positions"] = positions
    gate = case.gate.with_name(f"{positions}.mergegate.yaml")
    report = assess(write_gate(gate, settings))
    assert report.status == case.report.status
    assert report.settings["probes"]["positions"] == positions
    reasons = {f.disagreement_reason for f in report.forecasts if f.kind == "states"}
    assert reasons == {"positions_not_answer"}
    found = {expert.name: expert.disagreement for expert in report.merges[0].experts}
    assert found == pytest.approx(case.expected)


def test_positions_of_another_family(case: Case) -> None:
    settings = read_gate(case.gate)
    wrong = "answer" if case.naive.family == "classifier" else "head"
    settings["probes"]["positions"] = wrong
    gate = case.gate.with_name("wrong.mergegate.yaml")
    report = assess(write_gate(gate, settings))
    assert (report.status, report.findings[-1].code) == ("error", "MG203")
    assert wrong in report.findings[-1].message
    assert "use " in report.findings[-1].fix


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    return write_pool(tmp_path_factory.mktemp("labels") / "gate", "bert_classifier", seed)


def _labelled(gate: Path, name: str, metric: str, rows: dict[str, Any]) -> Path:
    """The gate with targets and perhaps choices for every example of expert ``a``."""
    settings = read_gate(gate)
    examples = read_jsonl(gate.parent / "a.jsonl")
    file = write_jsonl(gate.parent / f"{name}.jsonl", [row | rows for row in examples])
    settings["experts"]["a"] |= {"examples": file.name, "metric": metric}
    settings["budget"] = {"max_loss": 50}
    return write_gate(gate.with_name(f"{name}.mergegate.yaml"), settings)


def test_labels_are_scored(classifier: Path) -> None:
    naive = Naive(folder=classifier.parent, family="classifier")
    report = assess(_labelled(classifier, "scored", "exact_match", {"target": LABELS[2]}))
    found = next(e for e in report.merges[0].experts if e.name == "a")
    for model, score in (
        (naive.base(), found.score_base),
        (naive.expert("a"), found.score_expert),
        (naive.merged(), found.score_merged),
    ):
        says = [naive.answer(model, x) == [2] for x in naive.inputs("a")]
        assert score == pytest.approx(np.mean(says))


def test_choices_leave_other_labels_out(classifier: Path) -> None:
    naive = Naive(folder=classifier.parent, family="classifier")
    rows = {"target": LABELS[3], "choices": [LABELS[3], LABELS[1]]}
    report = assess(_labelled(classifier, "choices", "accuracy", rows))
    found = next(e for e in report.merges[0].experts if e.name == "a")
    assert found.reading == "choices"
    assert {f.reading for f in report.forecasts if f.expert == "a"} == {"choices"}
    says = {}
    for key, model in (("own", naive.expert("a")), ("merged", naive.merged())):
        with torch.no_grad():
            logits = [model(input_ids=x).logits[0] for x in naive.inputs("a")]
        says[key] = [bool(row[3] > row[1]) for row in logits]
    assert found.score_expert == pytest.approx(np.mean(says["own"]))
    assert found.score_merged == pytest.approx(np.mean(says["merged"]))
    differing = np.mean([x != y for x, y in zip(says["own"], says["merged"], strict=True)])
    assert found.disagreement == pytest.approx(differing)


@pytest.mark.parametrize(
    ("metric", "rows", "bad"),
    [
        ("exact_match", {"target": "emu"}, "emu"),
        ("accuracy", {"choices": ["ant", "fox"], "target": "ant"}, "fox"),
    ],
)
def test_no_label_of_the_base(classifier: Path, metric: str, rows: Any, bad: str) -> None:
    report = assess(_labelled(classifier, f"bad_{bad}", metric, rows))
    found = report.findings[-1]
    assert (report.status, found.code, found.expert) == ("error", "MG203", "a")
    assert f"example 1 names {bad!r}" in found.message
    assert all(label in found.message for label in LABELS)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ({"metric": "accuracy", "length_normalization": "bytes"}, "length_normalization"),
        ({"stop": ["x"]}, "stop"),
        ({"compare": "rouge_l"}, "compare"),
        ({"distance": "operator:ne"}, "distance"),
        ({"metric": "rouge_l"}, "metric: rouge_l"),
    ],
)
def test_labels_are_no_text(classifier: Path, setting: dict[str, Any], key: str) -> None:
    settings = read_gate(classifier)
    settings["experts"]["a"] |= setting
    report = assess(write_gate(classifier.with_name("text.mergegate.yaml"), settings))
    found = report.findings[-1]
    assert (report.status, found.code, found.expert) == ("error", "MG203", "a")
    assert f"{key} is set, and the base is a sequence classifier" in found.message
    assert report.pairs[0].distance is None  # and no state was read


def test_the_harness_asks_language_models(classifier: Path) -> None:
    settings = read_gate(classifier)
    settings["experts"]["a"]["metric"] = "lm_eval:anything"
    settings["budget"] = {"max_loss": 50}
    report = assess(write_gate(classifier.with_name("harness.mergegate.yaml"), settings))
    found = report.findings[-1]
    assert (report.status, found.code, found.expert) == ("error", "MG203", "a")
    assert "asks a language model" in found.message


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    return write_pool(tmp_path_factory.mktemp("headless") / "gate", "bert", seed, max_mds=100)


@torch.no_grad()
def test_headless_states(headless: Path) -> None:
    report = assess(headless)
    assert report.status in {"pass", "fail"}
    assert report.settings["probes"]["positions"] == "mean"
    naive = Naive(folder=headless.parent, family="encoder")
    inputs = [x for name in NAMES for x in naive.inputs(name)]
    states = {
        name: [model(input_ids=x).last_hidden_state[0].mean(0) for x in inputs]
        for name in NAMES
        if (model := naive.expert(name)) is not None
    }
    for a, b in combinations(NAMES, 2):
        gaps = [
            float((u / u.norm() - v / v.norm()).norm())
            for u, v in zip(states[a], states[b], strict=True)
        ]
        found = next(p for p in report.pairs if {p.a, p.b} == {a, b})
        assert found.distance == pytest.approx(np.mean(gaps), rel=1e-4)


@pytest.mark.parametrize("budget", [{}, {"max_disagreement": 0.3}, {"max_loss": 5, "max_mds": 9}])
def test_headless_models_answer_nothing(headless: Path, budget: dict[str, float]) -> None:
    gate = headless.with_name("answers.mergegate.yaml")
    report = assess(write_gate(gate, read_gate(headless) | {"budget": budget}))
    found = report.findings[-1]
    assert (report.status, found.code) == ("error", "MG203")
    assert "max_mds" in found.fix
    assert not report.verdicts
