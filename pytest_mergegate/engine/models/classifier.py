"""Sequence classifiers: the answer is a label."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import AutoModelForSequenceClassification

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.models.headed import HeadedModel
from pytest_mergegate.engine.models.model import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pytest_mergegate.engine.models.placement import Placement
    from pytest_mergegate.engine.models.readings import Reading, Row, Tokens
    from pytest_mergegate.gate.sections import Positions
    from pytest_mergegate.pool.base import Base


class SequenceClassifier(HeadedModel):
    """The state that gives the answer is the vector that the last linear layer reads."""

    kind = "sequence classifier"
    auto_class = AutoModelForSequenceClassification
    reading: ClassVar[Reading] = "labels"
    known_positions: tuple[Positions, ...] = ("head", "last", "mean")
    answer_positions: ClassVar[Positions] = "head"
    labels: tuple[str, ...]

    def __init__(self, base: Base, placement: Placement) -> None:
        super().__init__(base, placement)
        config = self.module.config
        single = config.problem_type in (None, "single_label_classification")
        if not single or config.num_labels < 2:
            raise PoolError(
                f"the base has {config.num_labels} labels and problem_type "
                f"{config.problem_type!r}; only one label out of several can be compared",
                code="MG002",
                fix="gate it on the conflict ratios alone, or use a single-label classifier",
            )
        self.labels = tuple(str(config.id2label[k]) for k in range(config.num_labels))
        if self._reads_twice:
            self.known_positions = ("head",)
            self._trial = tuple(((*p, self.config.eos_token_id), f) for p, f in self._trial)
        self._check_head([lambda x: x])

    @property
    def _reads_twice(self) -> bool:
        """BART and T5 also feed their input to a decoder, and classify its end-of-text token."""
        return bool(self.module.config.is_encoder_decoder)

    @cached_property
    def projection(self) -> Any:
        """The last linear layer with an output per label."""
        layers = [
            part
            for part in self.module.modules()
            if isinstance(part, torch.nn.Linear) and part.out_features == len(self.labels)
        ]
        if not layers:
            raise PoolError(
                f"{type(self.module).__name__} has no linear layer with {len(self.labels)} outputs",
                code="MG002",
                fix="this architecture is not supported yet",
            )
        return layers[-1]

    def fits(self, prompt: int, answer: int) -> bool:
        """Whether there are positions for such a prompt; a label takes none."""
        return prompt <= self.positions

    def decode(
        self, prompts: Sequence[Tokens], max_tokens: int, stop: Sequence[str] = ()
    ) -> list[list[int]]:
        """The index of the likeliest label, as an answer of one."""
        states = self.states([(prompt, ()) for prompt in prompts], "head")
        return [[int(self.logits(state)[0].argmax())] for state in states]

    def text(self, answer: Sequence[int], stop: Sequence[str] = ()) -> str:
        """The label's name."""
        return self.labels[answer[0]]

    def is_complete(self, answer: Sequence[int], stop: Sequence[str] = ()) -> bool:
        """A label always is."""
        return True

    def choice_tokens(self, choice: str) -> Tokens:
        """The index of the label of that name."""
        return (self.labels.index(choice),) if choice in self.labels else ()

    @property
    def _batch_tokens(self) -> int:
        # inputs of different lengths are one batch only to who pads, and pads once
        alone = self.config.pad_token_id is None or self._reads_twice
        return 0 if alone else super()._batch_tokens

    def _read(self, rows: Sequence[Row], positions: Positions) -> list[Tensor]:
        prompts = [prompt for prompt, _ in rows]
        if positions != "head":
            return self._read_prompts(prompts, positions)
        read: list[Tensor] = []
        if self._reads_twice and not all(self.config.eos_token_id in row for row in prompts):
            raise PoolError(
                f"an input has no end-of-text token, by which a {type(self.module).__name__} "
                "classifies",
                code="MG203",
                fix="save the tokenizer with the base so that it adds one",
            )
        hook = self.projection.register_forward_pre_hook(lambda _, args: read.append(args[0]))
        try:
            ids, mask = self._pad(prompts)
            run(self.module, input_ids=ids, attention_mask=mask)
        finally:
            hook.remove()
        states = read[-1]
        if states.ndim == 2:
            return list(states[:, None])
        return [states[k, self._pooled(row)][None] for k, row in enumerate(prompts)]

    def _pooled(self, prompt: Tokens) -> int:
        """The position that a decoder classifies: its last that holds no padding token."""
        padding = self.config.pad_token_id
        return max((k for k, token in enumerate(prompt) if token != padding), default=0)

    def _own_logits(self, row: Row) -> Tensor:
        ids = torch.tensor([row[0]], device=self.device)
        logits: Tensor = run(self.module, input_ids=ids).logits
        return logits
