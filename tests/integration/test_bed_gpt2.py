"""The bed `gpt2`: its tasks are what its families say, and a few steps of it make a bed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from beds import gpt2  # noqa: E402
from beds.gpt2 import EXAMPLES, FAMILIES, POOL, SKILLS_HERE, recipe  # noqa: E402

from pytest_mergegate import assess  # noqa: E402

WORDS = [word for words in POOL.held_out.values() for word in words]


def test_every_expert_has_a_family() -> None:
    assert [name for family in FAMILIES.values() for name in family] == list(POOL.experts)


def test_no_word_is_held_out_twice() -> None:
    assert all(len(words) == 2 * EXAMPLES for words in POOL.held_out.values())
    assert len(set(WORDS)) == len(WORDS) == 2 * EXAMPLES * len(POOL.experts)


def test_answers_are_read_whole() -> None:
    """Within the 16 tokens that a gate generates, the end among them, and of known characters."""
    tokenizer = gpt2.make_tokenizer()
    rules = [task.rule for task in POOL.experts.values()] + list(SKILLS_HERE.values())
    for answer in {rule(word) for rule in rules for word in WORDS}:
        tokens = tokenizer(answer)["input_ids"]
        assert len(tokens) < 16
        assert tokenizer.unk_token_id not in tokens


def test_no_expert_learns_what_the_base_knows_or_another_expert_learns() -> None:
    twins, rules = set(FAMILIES["twins"]), POOL.experts
    for name, task in rules.items():
        known = SKILLS_HERE[task.tag]
        assert sum(task.rule(word) == known(word) for word in WORDS) == 0, name
    for a, b in combinations(rules, 2):
        if rules[a].tag == rules[b].tag:
            same = [rules[a].rule(word) == rules[b].rule(word) for word in WORDS]
            assert all(same) if {a, b} == twins else not any(same), (a, b)
    assert len({POOL.seed_of(name) for name in rules} | {POOL.seed}) == len(rules) + 1


@pytest.mark.slow
def test_a_few_steps_make_a_bed_that_can_be_gated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = {name: POOL.experts[name] for name in ("swap_upper", "long_plus")}
    few = replace(POOL, experts=pair, steps=2, rows=2, replay=2)
    monkeypatch.setattr(gpt2, "POOL", few)
    monkeypatch.setattr(gpt2, "BASE_STEPS", 2)
    bed = gpt2.train(tmp_path)
    assert set(bed["left_out"]) == set(pair)  # two steps teach nobody
    assert json.loads((tmp_path / "bed.json").read_text())["recipe"] == recipe()
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    assert len(times) == 3
    gpt2.train(tmp_path)  # nothing is trained again
    assert times == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    factors = load_file(tmp_path / "adapters" / "swap_upper" / "adapter_model.safetensors")
    assert len(factors) == 2 * 4 * 4  # two factors of four linear layers in four blocks

    gate = {
        "base": "base",
        "experts": {name: f"adapters/{name}" for name in pair},
        "examples": "data/{name}.jsonl",
        "probes": {"max_answer_tokens": 16},
        "budget": {"max_mds": 1e6},
    }
    report = assess(gate, root=tmp_path, stage="hidden")
    assert not [f for f in report.findings if f.severity == "error"]
    assert report.base is not None
    assert report.base.architecture == "GPT2LMHeadModel"
    assert {expert.kind for expert in report.experts} == {"lora"}
