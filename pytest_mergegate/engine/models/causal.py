"""Causal language models: answers are written behind the prompt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from pytest_mergegate.engine.models.drafts import GreedyAnswer, greedy_answers
from pytest_mergegate.engine.models.language_models import GenerativeModel
from pytest_mergegate.engine.models.model import run
from pytest_mergegate.engine.models.passes import Reader, goes_on, read_states
from pytest_mergegate.engine.models.placement import Placement
from pytest_mergegate.engine.models.readings import Row, Tokens
from pytest_mergegate.gate.sections import Positions
from pytest_mergegate.pool.base import Base


class CausalModel(GenerativeModel):
    """States at the last prompt token and at the answer but its last token give the answer."""

    kind = "causal language model"
    auto_class = AutoModelForCausalLM
    forced_positions: ClassVar[frozenset[Positions]] = frozenset({"answer"})

    def __init__(self, base: Base, placement: Placement) -> None:
        super().__init__(base, placement)
        with torch.inference_mode():
            row = (1, 2, 3, 4)
            whole = run(self.backbone, input_ids=torch.tensor([row], device=self.device))
            self.can_verify = goes_on(self._reader(), row, whole.last_hidden_state[0])

    @torch.inference_mode()
    def answer(
        self,
        prompts: Sequence[Tokens],
        drafts: Sequence[Tokens],
        max_tokens: int,
        stop: Sequence[str] = (),
        wanted: Sequence[tuple[str, ...] | None] | None = None,
    ) -> list[GreedyAnswer]:
        """See HeadedModel."""
        rooms = [min(max_tokens, self._room(prompt)) for prompt in prompts]
        texts = wanted or [None] * len(prompts)
        left: set[int] = set()

        def is_over(own: list[int], index: int) -> bool:
            if len(own) >= rooms[index] or self.is_complete(own, stop):
                return True
            if (right := texts[index]) is not None and not self.may_become(own, right):
                left.add(index)
            return index in left

        found = greedy_answers(self._reader(), prompts, drafts, is_over)
        self.check_finite([one.states for one in found])
        return [replace(one, whole=k not in left) for k, one in enumerate(found)]

    def _reader(self) -> Reader:
        return Reader(
            backbone=self.backbone,
            pad=self._pad,
            choose=self._chosen,
            batch_tokens=self._batch_tokens,
            held_tokens=self._decoding_tokens,
            shares=not self.is_streamed,  # a pass reads all weights from disk, for however few
            counts=self.counts,
        )

    def _chosen(self, states: Sequence[Tensor]) -> list[list[int]]:
        return [logits.argmax(-1).tolist() for logits in self.logits_each(states)]

    def fits(self, prompt: int, answer: int) -> bool:
        """Whether there are positions for a prompt and an answer of so many tokens."""
        return prompt + answer <= self.positions

    def choice_tokens(self, choice: str) -> Tokens:
        """The tokens of a choice as they continue a prompt."""
        return tuple(self.tokenizer(choice, add_special_tokens=False)["input_ids"])

    def _read_all(self, rows: Sequence[Row], positions: Positions) -> list[Tensor]:
        if positions == "mean" or not self.can_verify:
            return super()._read_all(rows, positions)
        forced = [own if positions == "answer" else () for _, own in rows]
        tokens = [(*prompt, *own) for (prompt, _), own in zip(rows, forced, strict=True)]
        return read_states(self._reader(), tokens, [len(own) + 1 for own in forced])

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

    def _own_logits(self, row: Row) -> Tensor:
        prompt, forced = row
        ids = torch.tensor([(*prompt, *forced)], device=self.device)
        logits: Tensor = run(self.module, input_ids=ids).logits
        return logits[0, len(prompt) - 1 :]
