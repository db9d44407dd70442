"""Encoder-decoders: a decoder of their own writes the answer."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from pytest_mergegate.engine.models.language_models import GenerativeModel
from pytest_mergegate.engine.models.loading import unsupported
from pytest_mergegate.engine.models.model import positions_read, run
from pytest_mergegate.engine.models.placement import Placement
from pytest_mergegate.engine.models.readings import Row, Tokens
from pytest_mergegate.gate.sections import Positions
from pytest_mergegate.pool.base import Base


class EncoderDecoder(GenerativeModel):
    """States are the decoder's: from its start token on, teacher-forced on the answer."""

    kind = "encoder-decoder"
    auto_class = AutoModelForSeq2SeqLM
    continues_prompt: ClassVar[bool] = False
    forced_positions: ClassVar[frozenset[Positions]] = frozenset({"answer", "mean"})

    def __init__(self, base: Base, placement: Placement) -> None:
        super().__init__(base, placement)
        self._decoder_positions = positions_read(self.module, "decoder")

    def fits(self, prompt: int, answer: int) -> bool:
        """Whether the encoder reads such a prompt, and the decoder such an answer."""
        return prompt <= self.positions and answer <= self._decoder_positions

    def choice_tokens(self, choice: str) -> Tokens:
        """The tokens of a choice as the decoder writes them."""
        return tuple(self.tokenizer(text_target=choice, add_special_tokens=False)["input_ids"])

    def _read(self, rows: Sequence[Row], positions: Positions) -> list[Tensor]:
        ids, mask = self._pad([prompt for prompt, _ in rows])
        encoder, decoder = self.module.get_encoder(), self.module.get_decoder()
        read = run(encoder, input_ids=ids, attention_mask=mask).last_hidden_state
        written = [() if positions == "last" else forced for _, forced in rows]
        start = int(self.module.generation_config.decoder_start_token_id)
        answers, answers_mask = self._pad([(start, *forced) for forced in written])
        out = run(
            decoder,
            input_ids=answers,
            attention_mask=answers_mask,
            encoder_hidden_states=read,
            encoder_attention_mask=mask,
        )
        return [out.last_hidden_state[k, : len(forced) + 1] for k, forced in enumerate(written)]

    def _room(self, prompt: Tokens) -> int:
        return self._decoder_positions

    def _own_logits(self, row: Row) -> Tensor:
        prompt, forced = row
        start = self.module.generation_config.decoder_start_token_id
        logits: Tensor = run(
            self.module,
            input_ids=torch.tensor([prompt], device=self.device),
            decoder_input_ids=torch.tensor([(start, *forced)], device=self.device),
        ).logits
        return logits[0]

    def _generation_settings(self) -> dict[str, Any]:
        held = (self.module.generation_config, self.module.config)
        starts = [getattr(settings, "decoder_start_token_id", None) for settings in held]
        start = next((token for token in starts if token is not None), None)
        if start is None:
            raise unsupported(
                "the base's settings name no decoder_start_token_id, and its answers need a start",
                "set decoder_start_token_id in config.json, as the base was trained with",
            )
        return {"decoder_start_token_id": start}

    def _ways(self) -> list[Callable[[Tensor], Tensor]]:
        bias = getattr(self.module, "final_logits_bias", None)
        shrunk = self.config.hidden_size**-0.5
        biased: list[Callable[[Tensor], Tensor]] = [] if bias is None else [lambda x: x + bias]
        return [*biased, lambda x: x * shrunk, *super()._ways()]
