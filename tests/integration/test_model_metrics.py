"""Metrics of the user's own that read the loaded model: function(model, tokenizer, examples)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from engine_of import engine_of
from naive import Naive
from pools import read_gate, read_jsonl, write_gate, write_pool

from pytest_mergegate import assess
from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.evaluation.own_metric import OwnMetric

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.report.types import FindingRecord

COUNT = 30
METRIC = """
import json, pathlib, torch

def likelihood(model, tokenizer, examples):
    "The probability of the target's first letter."
    assert not model.training and not torch.is_grad_enabled()
    with (pathlib.Path(__file__).parent / "calls").open("a") as file:
        file.write(json.dumps(examples) + "\\n")
    tokenizer.padding_side = "left"
    for example in examples:
        ids = torch.tensor([tokenizer(example["input"])["input_ids"]])
        first = tokenizer(example["target"])["input_ids"][0]
        yield model(input_ids=ids).logits[0, -1].softmax(-1)[first]

def raising(model, tokenizer, examples):
    return [1 / (example["target"] != "boom") for example in examples]

def short(model, tokenizer, examples):
    return [1 for example in examples if example["target"] != "boom"]

def nan(model, tokenizer, examples):
    return [float("nan") if example["target"] == "boom" else 1 for example in examples]

def percent(model, tokenizer, examples):
    return [100 for _ in examples]

def one(outputs):
    return []

def four(model, tokenizer, examples, more):
    return []

def training(model, tokenizer, examples):
    model.train()
    model.generation_config.max_length = 1
    return [1 for _ in examples]

def writing(model, tokenizer, examples):
    next(model.parameters()).mul_(2)
    return [1 for _ in examples]

def replacing(model, tokenizer, examples):
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    return [1 for _ in examples]
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    gate = write_pool(tmp_path_factory.mktemp("own"), seed, count=COUNT)
    (gate.parent / "own_metric.py").write_text(METRIC)
    settings = read_gate(gate)
    settings["probes"]["per_task"] = 3
    return write_gate(gate, settings | {"budget": {"max_loss": 50}})


def own(engine: Engine, name: str) -> OwnMetric:
    task = engine.tasks["b"]
    return OwnMetric(metric=name, expert="b", examples=task.examples, numbers=task.numbers)


def scored_by(shared: Path, function: str) -> Path:
    """The gate with expert b scored by one of the functions above."""
    settings = read_gate(shared)
    settings["experts"]["b"]["metric"] = f"own_metric:{function}"
    return write_gate(shared.with_name(f"{function}.mergegate.yaml"), settings)


def test_scores_are_those_by_hand(shared: Path) -> None:
    report = assess(scored_by(shared, "likelihood"))
    found = next(e for e in report.merges[0].experts if e.name == "b")
    naive = Naive(scored_by(shared, "likelihood"))
    rows = naive.rows["b"]

    def mean(model: Any) -> float:
        scores = []
        for prompt, row in zip(naive.prompts["b"], rows, strict=True):
            first = naive.tokenizer(row["target"])["input_ids"][0]
            scores.append(float(naive.run(model, prompt)[1][-1].softmax(-1)[first]))
        return float(np.mean(scores))

    merged = naive.merged(dict.fromkeys("abc", 1 / 3))
    assert found.score_base == pytest.approx(mean(naive.base), rel=1e-4)
    assert found.score_expert == pytest.approx(mean(naive.experts["b"]), rel=1e-4)
    assert found.score_merged == pytest.approx(mean(merged), rel=1e-4)
    loss = (mean(merged) / mean(naive.experts["b"]) - 1) * 100
    assert found.loss == pytest.approx(loss, rel=1e-3, abs=1e-2)
    calls = read_jsonl(shared.parent / "calls")
    assert len(calls) == 3  # base, expert and merge, each once
    assert all(call == rows for call in calls)
    certified = next(
        p for p in report.predictions if (p.expert, p.source) == ("b", "certificate")
    )  # answers do not bound it
    assert certified.loss == pytest.approx(-100 * found.disagreement_upper)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        pytest.param("raising", "raised ZeroDivisionError: division by zero (example 3: input 'b:",
                     id="raises"),
        pytest.param("short", f"{COUNT - 1} scores for {COUNT} examples (example 3: input 'b:",
                     id="wrong length"),
        pytest.param("nan", "scored example 3 as nan", id="nan"),
        pytest.param("percent", "scored example 1 as 100", id="percent"),
        pytest.param("one", "takes (outputs), and is called with two arguments or", id="one"),
        pytest.param("four", "takes (model, tokenizer, examples, more), and is", id="four"),
        pytest.param("writing", "changed the model it was to score (model.embed", id="writes"),
        pytest.param("replacing", "changed the model it was to score (lm_head", id="replaces"),
    ],
)  # fmt: skip
def test_what_goes_wrong(shared: Path, function: str, says: str) -> None:
    file = shared.parent / "data" / "b.jsonl"
    before = file.read_text()
    file.write_text(before.replace(f'"{read_jsonl(file)[2]["target"]}"}}', '"boom"}'))
    try:
        found: FindingRecord = assess(scored_by(shared, function)).findings[-1]
    finally:
        file.write_text(before)
    assert (found.code, found.expert) == ("MG301", "b")
    assert f"metric own_metric:{function} " in found.message
    assert says in found.message


def test_the_model_is_given_back_as_it_was(shared: Path) -> None:
    report = assess(scored_by(shared, "training"))
    assert report.status in {"pass", "fail", "inconclusive"}
    behaved = assess(scored_by(shared, "likelihood"))
    for found, expected in zip(report.merges[0].experts, behaved.merges[0].experts, strict=True):
        assert (found.disagreement, found.kl) == (expected.disagreement, expected.kl)
    engine = engine_of(shared)
    settings = engine.model.module.generation_config.to_dict()

    def spoil(model: Any, tokenizer: Any, examples: list[Any]) -> list[float]:
        model.train()
        model.generation_config.max_length = 1
        tokenizer.pad_token = "a"
        return [1.0] * len(examples)

    metric = own(engine, "spoil")
    metric.of_model(spoil, engine.model)
    assert not any(part.training for part in engine.model.module.modules())
    assert engine.model.module.generation_config.to_dict() == settings
    assert engine.model.tokenizer.pad_token != "a"


def test_a_streamed_base_is_not_lent(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(shared)
    monkeypatch.setattr(type(engine.model), "is_streamed", True)
    metric = own(engine, "m:f")
    with pytest.raises(PoolError, match="needs the whole model in memory") as caught:
        metric.of_model(lambda *_: [], engine.model)
    assert (caught.value.code, caught.value.expert) == ("MG301", "b")


@pytest.mark.parametrize(
    ("function", "model"),
    [
        pytest.param(lambda outputs, targets: [], False, id="two"),
        pytest.param(lambda outputs, targets, more=0: [], False, id="two and a default"),
        pytest.param(lambda *given: [], False, id="any"),
        pytest.param(lambda model, tokenizer, examples: [], True, id="three"),
        pytest.param(lambda model, tokenizer, examples, more=0: [], True, id="three and more"),
        pytest.param(np.equal, False, id="of C"),
    ],
)
def test_how_many_arguments(function: Any, model: bool) -> None:
    metric = OwnMetric(metric="m:f", expert="b", examples=[], numbers=[])
    assert metric.takes_model(function) is model


def test_no_gradients_are_left(shared: Path) -> None:
    engine = engine_of(shared)
    assert torch.is_grad_enabled()
    metric = own(engine, "m:f")
    metric.of_model(lambda m, t, e: [1] * len(e), engine.model)
    assert torch.is_grad_enabled()
