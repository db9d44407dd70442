"""Whatever PEFT trains, saves and loads as LoRA is read as PEFT reads it, or refused for a reason
that is true and that the docs have."""

from __future__ import annotations

import os
import random
import re
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from adapter_settings import IDS, LINEAR, draw, train
from variants import write_variant

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = int(os.environ.get("MERGEGATE_ADAPTER_CASES", "24"))
"""By hand: 300."""
DOCS = Path(__file__).parents[2] / "docs" / "findings"
REASONS: tuple[tuple[str, str, Callable[[dict[str, Any], Any], bool]], ...] = (
    ("MG002", "init_lora_weights=", lambda s, _: isinstance(s.get("init_lora_weights"), str)),
    ("MG002", "layer_replication=", lambda s, _: "layer_replication" in s),
    ("MG002", "use_qalora=", lambda s, _: "use_qalora" in s),
    ("MG102", "parameters match nothing", lambda s, _: s.get("lora_bias") is True),
    ("MG111", "one side of the base's tied", lambda _, m: m.config.tie_word_embeddings),
    (
        "MG002",
        "changed in two ways at once",
        lambda s, m: m.config.tie_word_embeddings or ("bias" in s and "lora_bias" in s),
    ),
)
"""What may be refused: code, words of the message, and whether it is so."""


def read(base: Any, folder: Path, root: Path) -> tuple[Any, list[Any]]:
    """The model with the task vectors added, or what stands against reading it."""
    experts = {"x": str(folder), "other": "other"}
    found = run_preflight(gate_from({"base": "base", "experts": experts}, root=root))
    errors = [f for f in found.findings if f.severity == "error" and f.expert == "x"]
    if errors or found.pool is None:
        return None, errors
    model, vectors = deepcopy(base), TaskVectors(found.pool)
    try:
        for name, parameter in model.named_parameters():
            if (delta := vectors.delta("x", name)) is not None:
                parameter.data += delta
    except PoolError as error:
        return None, [error]
    return model.eval(), []


@pytest.mark.parametrize("architecture", LINEAR)
def test_any_settings(
    random_base: Callable[[str], tuple[Path, Any]], tmp_path: Path, seed: int, architecture: str
) -> None:
    folder, base = random_base(architecture)
    (tmp_path / "base").symlink_to(folder)
    write_variant(folder, tmp_path / "other", variant="lora", architecture=architecture, seed=seed)
    rng = random.Random(f"{seed} {architecture}")
    tried = 0
    while tried < -(-CASES // len(LINEAR)):
        settings = draw(rng, architecture)
        expert = tmp_path / f"{architecture}-{rng.random()}"
        expected = train(base, expert, settings, seed)
        if expected is None:
            continue
        tried += 1
        model, errors = read(base, expert, tmp_path)
        for error in errors:
            said = getattr(error, "message", None) or error.what
            true = [code for code, words, is_so in REASONS
                    if code == error.code and words in said and is_so(settings, base)]  # fmt: skip
            assert true, (settings, str(error))
            assert re.search(
                r"refused|cannot|Error", (DOCS / f"{error.code}.md").read_text("utf-8")
            )
        if model is None:
            assert errors, settings
            continue
        with torch.no_grad():
            found = model(input_ids=IDS).logits
        size = float(expected.abs().max())
        assert float((found - expected).abs().max()) <= 1e-4 * size, settings
