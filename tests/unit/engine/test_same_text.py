"""Answers in other tokens that are the same text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pytest_mergegate.engine.running.distances import Answer
from pytest_mergegate.engine.running.references import same_text

WORDS = ["a", "b", " ", "ab"]
OWN = (0, 1)


@pytest.mark.parametrize(
    ("chosen", "said", "cut", "is_same"),
    [
        pytest.param((0, 1), "ab", False, True, id="a tie broken another way"),
        pytest.param((0, 2), "a", False, False, id="less"),
        pytest.param((3, 2), "ab", False, True, id="spelt in another way"),
        pytest.param((3, 2), "ab", True, False, id="cut"),
        pytest.param((1, 1), "never asked", False, False, id="other words"),
    ],
)
def test_where_tokens_differ_the_text_decides(
    chosen: tuple[int, ...], said: str, cut: bool, is_same: bool
) -> None:
    asked: list[int] = []

    def answers(_: Any, inputs: list[int]) -> list[Answer]:
        asked.extend(inputs)
        return [Answer(text=said, cut=cut) for _ in inputs]

    model = SimpleNamespace(
        logits_each=iter,
        text=lambda tokens, _: "".join(WORDS[t] for t in tokens).strip(),
    )
    engine: Any = SimpleNamespace(require_head=lambda: model, said=answers)
    own: Any = SimpleNamespace(inputs=(7,), answers=(OWN,), outputs=("ab",), cut=(False,))
    task: Any = SimpleNamespace(stop=())
    state = torch.nn.functional.one_hot(torch.tensor(chosen), len(WORDS)).float()
    assert same_text(engine, task, own, [state], [0]) == ({0} if is_same else set())
    assert asked == ([] if said == "never asked" else [7])
