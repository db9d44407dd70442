"""Causal language models: the answer continues the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from transformers import AutoModelForCausalLM

from pytest_mergegate.engine.models.generation import GenerativeModel
from pytest_mergegate.engine.models.model import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pytest_mergegate.engine.models.readings import Row, Tokens
    from pytest_mergegate.gate.sections import Positions


class CausalModel(GenerativeModel):
    """States at the last prompt token and at the answer but its last token give the answer."""

    kind = "causal language model"
    auto_class = AutoModelForCausalLM
    forced_positions: ClassVar[frozenset[Positions]] = frozenset({"answer"})

    def fits(self, prompt: int, answer: int) -> bool:
        """Whether there are positions for a prompt and an answer of so many tokens."""
        return prompt + answer <= self.positions

    def choice_tokens(self, choice: str) -> Tokens:
        """The tokens of a choice as they continue a prompt."""
        return tuple(self.tokenizer(choice, add_special_tokens=False)["input_ids"])

    def _read(self, rows: Sequence[Row], positions: Positions) -> list[Tensor]:
        if positions == "mean":
            return self._read_prompts([prompt for prompt, _ in rows], positions)
        forced = [answer if positions == "answer" else () for _, answer in rows]
        tokens = [(*prompt, *answer) for (prompt, _), answer in zip(rows, forced, strict=True)]
        ids, mask = self._pad(tokens)
        kept = [slice(len(t) - 1 - len(f), len(t)) for t, f in zip(tokens, forced, strict=True)]
        hidden = run(self.backbone, input_ids=ids, attention_mask=mask).last_hidden_state
        return [hidden[row, places] for row, places in enumerate(kept)]

    def _room(self, prompt: Tokens) -> int:
        return self.positions - len(prompt)

    def _generate(self, prompts: Sequence[Tokens], max_tokens: int, stop: Sequence[str]) -> Tensor:
        ids, mask = self._pad(prompts, side="left")
        out: Tensor = self.module.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_tokens,
            do_sample=False,
            **self._stopping(stop, ids.shape[1]),
        )
        return out[:, ids.shape[1] :]

    def _own_logits(self, row: Row) -> Tensor:
        prompt, forced = row
        ids = torch.tensor([(*prompt, *forced)], device=self.device)
        logits: Tensor = run(self.module, input_ids=ids).logits
        return logits[0, len(prompt) - 1 :]
