"""Tasks of lm-evaluation-harness from local files, against scores computed by hand."""

from __future__ import annotations

import logging
import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from engine_of import engine_of
from naive import Naive
from pools import Adapter, read_gate, read_jsonl, words, write_gate, write_jsonl, write_pool

from pytest_mergegate import assess, metrics
from pytest_mergegate.engine.models.families import load_model
from pytest_mergegate.engine.models.placement import Placement
from pytest_mergegate.evaluation.harness import harness_scores
from pytest_mergegate.pool.base import read_base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.report.merge_records import MergedExpertRecord

SAMPLES = 40
DOCUMENTS = (
    "dataset_path: json\ndataset_kwargs:\n  data_files: {test: ../data/%s}\ntest_split: test\n"
)
RANKED = (
    "task: tiny_ranked\noutput_type: multiple_choice\n"
    + DOCUMENTS % "ranked.jsonl"
    + 'doc_to_text: "{{question}}"\ndoc_to_choice: "{{options}}"\ndoc_to_target: "{{gold}}"\n'
    + 'target_delimiter: ""\nmetric_list:\n'
    + "  - {metric: acc_norm, aggregation: mean, higher_is_better: true}\n"
    + "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
)
WRITTEN = (
    "task: tiny_written\noutput_type: generate_until\n"
    + DOCUMENTS % "written.jsonl"
    + 'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
    + 'generation_kwargs: {until: ["e", "\\n"], max_gen_toks: 6, do_sample: false}\n'
    + "metric_list:\n  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"
)
ODD = {
    "tiny_loss": (
        "acc_norm, aggregation: mean",
        "brier_score, aggregation: brier_score",
        "no score per sample under its first metric",
    ),
    "tiny_worse": ("higher_is_better: true", "higher_is_better: false", "of which less is better"),
    "tiny_lost": ("ranked.jsonl", "absent.jsonl", "did not run (FileNotFoundError"),
    "tiny_nan": ("metric: acc_norm", "metric: nan", "scored sample 1 as nan by nan"),
    "tiny_high": ("metric: acc_norm", "metric: high", "scored sample 1 as 2 by high"),
}
OWN = """
def odd(doc, results):
    return {"nan": float("nan"), "high": 2}
"""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """Expert a is scored on choices, b on what it writes, neither with targets of its own."""
    folder = tmp_path_factory.mktemp("harness")
    adapters = {name: Adapter(examples="unlabelled") for name in "ab"}
    path = write_pool(folder, seed, adapters, budget={"max_loss": 50})
    naive, drawn = Naive(path), words(4 * SAMPLES, seed)
    ranked, written = [], []
    for k, word in enumerate(drawn[:SAMPLES]):
        question = f"a:{word}="
        options = drawn[SAMPLES + 3 * k : SAMPLES + 3 * k + 3]
        best = int(np.argmax(likelihoods(naive, naive.experts["a"], question, options)))
        gold = best if k % 3 else (best + 1) % 3
        ranked.append({"question": question, "options": options, "gold": gold})
        answer = write(naive, naive.experts["b"], f"b:{word}=") if k % 3 else "wrong"
        written.append({"question": f"b:{word}=", "answer": answer})
    write_jsonl(folder / "data" / "ranked.jsonl", ranked)
    write_jsonl(folder / "data" / "written.jsonl", written)
    (folder / "tasks").mkdir()
    (folder / "tasks" / "ranked.yaml").write_text(RANKED)
    (folder / "tasks" / "written.yaml").write_text(WRITTEN)
    (folder / "tasks" / "own.py").write_text(OWN)
    for name, (old, new, _) in ODD.items():
        text = RANKED.replace("tiny_ranked", name).replace(old, new, 1)
        text += "process_results: !function own.odd\n" if "metric: acc_norm" in old else ""
        (folder / "tasks" / f"{name}.yaml").write_text(text)
    (folder / "tasks" / "group.yaml").write_text("group: tiny_group\ntask: [tiny_ranked]\n")
    settings = read_gate(path)
    settings["experts"]["a"]["metric"] = "lm_eval:tiny_ranked"
    settings["experts"]["b"]["metric"] = "lm_eval:tiny_written"
    settings["lm_eval_tasks"] = "tasks"
    return write_gate(path, settings)


def likelihoods(naive: Naive, model: Any, question: str, options: list[str]) -> list[float]:
    """Per character, as acc_norm has them."""
    prompt, found = naive.tokenizer(question)["input_ids"], []
    for option in options:
        tokens = naive.tokenizer(option)["input_ids"]
        logs = naive.run(model, prompt + tokens)[1].log_softmax(-1)[len(prompt) - 1 : -1]
        found.append(float(logs[range(len(tokens)), tokens].sum()) / len(option))
    return found


def write(naive: Naive, model: Any, question: str) -> str:
    """At most six letters, up to the first e."""
    prompt, answer = naive.tokenizer(question)["input_ids"], []
    while len(answer) < 6:
        answer.append(int(naive.run(model, prompt + answer)[1][-1].argmax()))
        text = str(naive.tokenizer.decode(answer, skip_special_tokens=True))
        if "e" in text or answer[-1] == naive.tokenizer.eos_token_id:
            break
    return text.partition("e")[0]


@pytest.fixture(scope="module")
def found(gate: Path) -> dict[str, MergedExpertRecord]:
    report = assess(gate)
    assert report.verdicts, report.findings
    return {expert.name: expert for expert in report.merges[0].experts}


def by_hand(gate: Path, name: str) -> list[np.ndarray]:
    """Scores of the base, the expert and the plain average."""
    naive = Naive(gate)
    models = (naive.base, naive.experts[name], naive.merged({"a": 0.5, "b": 0.5}))
    rows = read_jsonl(gate.parent / "data" / ("ranked.jsonl" if name == "a" else "written.jsonl"))

    def right(model: Any, row: dict[str, Any]) -> bool:
        if name == "a":
            scores = likelihoods(naive, model, row["question"], row["options"])
            return int(np.argmax(scores)) == int(row["gold"])
        return write(naive, model, row["question"]) == str(row["answer"])

    return [np.array([right(model, row) for row in rows], dtype=float) for model in models]


@pytest.mark.parametrize("name", ["a", "b"])
def test_scores_are_those_by_hand(
    gate: Path, found: dict[str, MergedExpertRecord], name: str
) -> None:
    base, own, merged = by_hand(gate, name)
    expert = found[name]
    assert own.mean() == pytest.approx(26 / SAMPLES)
    assert (expert.score_base, expert.score_expert) == pytest.approx((base.mean(), own.mean()))
    assert expert.score_merged == pytest.approx(merged.mean())
    assert expert.loss == pytest.approx((merged.mean() / own.mean() - 1) * 100)
    graded = metrics.merging_loss_interval(merged, own, binary=False)
    assert expert.loss_interval == pytest.approx(graded)


def test_a_certificate_does_not_rest_on_other_inputs(gate: Path) -> None:
    """The harness's samples are not the inputs on which answers are compared."""
    report = assess(gate)
    for prediction in (p for p in report.predictions if p.source == "certificate"):
        expert = next(e for e in report.merges[0].experts if e.name == prediction.expert)
        assert prediction.loss == pytest.approx(-100 * min(1, expert.disagreement_upper))


def test_nothing_is_left_behind(gate: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine = engine_of(gate)
    before = Path.cwd(), dict(os.environ), random.getstate(), logging.getLogger("lm_eval").level
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1]
    capfd.readouterr()
    first = harness_scores(engine, "tiny_ranked", expert="a", tasks=gate.parent / "tasks")
    assert capfd.readouterr() == ("", "")
    level = logging.getLogger("lm_eval").level
    assert (Path.cwd(), dict(os.environ), random.getstate(), level) == before
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert engine.model.tokenizer.padding_side == "right"
    again = harness_scores(engine, "tiny_ranked", expert="a", tasks=gate.parent / "tasks")
    assert np.array_equal(first.scores, again.scores)
    assert first.chance == again.chance == majority(gate)


def majority(gate: Path) -> float:
    """The share of the most common place of the right option."""
    golds = [row["gold"] for row in read_jsonl(gate.parent / "data" / "ranked.jsonl")]
    return max(map(golds.count, golds)) / len(golds)


def edited(gate: Path, tmp_path: Path, **a: Any) -> Path:
    settings = read_gate(gate)
    settings["experts"]["a"] |= a
    return write_gate(gate.with_name(f"{tmp_path.name}.mergegate.yaml"), settings)


@pytest.fixture
def removed(gate: Path) -> Iterator[None]:
    yield
    for file in gate.parent.glob("*.mergegate.yaml"):
        file.unlink()


@pytest.mark.usefixtures("removed")
@pytest.mark.parametrize("name", ODD)
def test_tasks_without_scores(gate: Path, tmp_path: Path, name: str) -> None:
    report = assess(edited(gate, tmp_path, metric=f"lm_eval:{name}"))
    found = report.findings[-1]
    assert (report.status, found.code, found.expert) == ("error", "MG301", "a")
    assert f"lm_eval:{name}" in found.message
    assert ODD[name][2] in found.message


@pytest.mark.usefixtures("removed")
def test_a_group_is_no_task(gate: Path, tmp_path: Path) -> None:
    report = assess(edited(gate, tmp_path, metric="lm_eval:tiny_group"))
    assert "tiny_group is a group of tasks" in report.findings[-1].message


@pytest.mark.slow
@pytest.mark.usefixtures("removed")
def test_no_such_task(gate: Path, tmp_path: Path) -> None:
    report = assess(edited(gate, tmp_path, metric="lm_eval:no_such_task_here"))
    assert report.findings[-1].code == "MG301"
    assert "no task of that name in the harness" in report.findings[-1].message


def test_package_missing(gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    report = assess(gate)
    assert report.status == "error"
    assert "pip install 'pytest-mergegate[lm-eval]'" in str(report.findings[-1].fix)


class Lender:
    """All that the harness needs of an engine."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.kept: dict[str, Any] = {}


@pytest.mark.parametrize("architecture", ["t5", "bart", "gpt2"])
def test_other_families(gate: Path, tmp_path: Path, seed: int, architecture: str) -> None:
    folder: Any = SimpleNamespace(path=ARCHITECTURES[architecture].write(tmp_path / "base", seed))
    placement = Placement(device=torch.device("cpu"))
    model: Any = load_model(read_base(folder, "base", "the test"), placement)
    rows = read_jsonl(gate.parent / "data" / "ranked.jsonl")
    found = harness_scores(Lender(model), "tiny_ranked", expert="a", tasks=gate.parent / "tasks")  # type: ignore[arg-type]
    right = []
    for row in rows:
        prompt = tuple(model.tokenizer(row["question"])["input_ids"])
        scores = []
        for option in row["options"]:
            tokens = model.choice_tokens(option)
            logs = model._own_logits((prompt, tokens)).log_softmax(-1)[: len(tokens)]
            scores.append(float(logs[range(len(tokens)), tokens].sum().detach()) / len(option))
        right.append(float(np.argmax(scores) == row["gold"]))
    assert found.scores.tolist() == right
