"""Language models: greedy answers in tokens, behind the prompt or from a decoder."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    StoppingCriteriaList,
)

from pytest_mergegate.engine.models.drafts import (
    GreedyAnswer,
    Reader,
    goes_on,
    greedy_answers,
    read_states,
)
from pytest_mergegate.engine.models.headed import HeadedModel
from pytest_mergegate.engine.models.loading import quiet, unsupported
from pytest_mergegate.engine.models.model import positions_read, run
from pytest_mergegate.engine.models.placement import Placement, batches
from pytest_mergegate.engine.models.readings import Reading, Row, Tokens
from pytest_mergegate.engine.models.stops import AtStop, first_stop, until_stop
from pytest_mergegate.gate.sections import Positions
from pytest_mergegate.pool.base import Base

_KEY_VALUE_BYTES = 1 << 28
"""Memory for the keys and values of one batch that is decoded together."""


class GenerativeModel(HeadedModel):
    """A language model: its answers are tokens, decoded greedily."""

    reading: ClassVar[Reading] = "greedy"
    known_positions: tuple[Positions, ...] = ("answer", "last", "mean")
    answer_positions: ClassVar[Positions] = "answer"
    continues_prompt: ClassVar[bool] = True
    """Whether answers are written behind the prompt, rather than by a decoder."""

    def __init__(self, base: Base, placement: Placement) -> None:
        super().__init__(base, placement)
        if self.projection is None:
            raise unsupported(f"{type(self.module).__name__} has no output layer")
        # the last of many states is no contiguous tensor, which makes torch copy the weights for
        # every row of the batch
        self.projection.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
        self._adopt_end_of_text()
        self._check_head(self._ways())

    @property
    def projection(self) -> Any:
        """The projection to the vocabulary."""
        return self.module.get_output_embeddings()

    @torch.inference_mode()
    def decode(
        self, prompts: Sequence[Tokens], max_tokens: int, stop: Sequence[str] = ()
    ) -> list[list[int]]:
        """Greedy answers in tokens, the end-of-text token included where it was reached.

        An answer has at most ``max_tokens``, no more than the model has positions for, and ends
        with the token that completes one of ``stop``.
        """
        answers: list[list[int]] = [[] for _ in prompts]
        ends = self._ends
        rooms = [min(max_tokens, self._room(prompt)) for prompt in prompts]
        for room in sorted(set(rooms)):
            chosen = [index for index, own in enumerate(rooms) if own == room]
            lengths = [len(prompts[index]) + room for index in chosen]
            for batch in batches(lengths, self._decoding_tokens):
                rows = [chosen[k] for k in batch]
                with quiet():
                    found = self._generate([prompts[index] for index in rows], room, stop)
                self.counts.processed += sum(lengths[k] - room for k in batch)
                for index, answer in zip(rows, found.tolist(), strict=True):
                    stops = (k + 1 for k, token in enumerate(answer) if token in ends)
                    # what is behind the end depends on the batch
                    whole = answer[: next(stops, len(answer))]
                    answers[index] = until_stop(self.read, whole, stop)
                    self.counts.processed += len(answers[index])
        return answers

    def is_complete(self, answer: Sequence[int], stop: Sequence[str] = ()) -> bool:
        """Whether an answer reached its end, rather than the limit on its length."""
        ended = bool(answer) and answer[-1] in self._ends
        return ended or bool(stop and first_stop(self.read(answer), stop) is not None)

    def text(self, answer: Sequence[int], stop: Sequence[str] = ()) -> str:
        """An answer's tokens as stripped text, up to the first of ``stop``."""
        text = self.read(answer)
        return text[: first_stop(text, stop)].strip()

    def read(self, answer: Sequence[int]) -> str:
        """Tokens as text."""
        return str(self.tokenizer.decode(answer, skip_special_tokens=True))

    @abstractmethod
    def _room(self, prompt: Tokens) -> int:
        """How many tokens of an answer there are positions for."""

    def _generate(self, prompts: Sequence[Tokens], max_tokens: int, stop: Sequence[str]) -> Tensor:
        """New tokens [rows, at most ``max_tokens``] of one batch, padded behind the end."""
        ids, mask = self._pad(prompts, side="left" if self.continues_prompt else "right")
        before = ids.shape[1] if self.continues_prompt else 1  # a decoder writes behind its start
        ends = [AtStop(self.read, stop, before)] if stop else []
        out: Tensor = self.module.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList(ends),
        )
        return out[:, before:]

    @property
    def _decoding_tokens(self) -> int:
        """Decoding takes a pass per token however many rows there are: as many as fit."""
        config = self.config
        heads = getattr(config, "num_attention_heads", None) or 1
        shared = (getattr(config, "num_key_value_heads", None) or heads) / heads
        per_token = int(8 * config.num_hidden_layers * config.hidden_size * shared)
        return max(self._batch_tokens, _KEY_VALUE_BYTES // per_token)

    @property
    def _ends(self) -> set[int]:
        ends = self.module.generation_config.eos_token_id
        return set(ends) if isinstance(ends, (list, tuple)) else {ends} - {None}

    def _adopt_end_of_text(self) -> None:
        """Keep only what ends an answer of the generation settings: a repetition penalty, a
        length penalty or a forced token would make decoding differ from the argmax of the forward
        pass."""
        stops = self.module.generation_config.stop_strings or ()
        self.stop = (stops,) if isinstance(stops, str) else tuple(stops)
        ends = self.module.generation_config.eos_token_id
        if ends is None:
            ends = self.tokenizer.eos_token_id
        pad = self.tokenizer.pad_token_id
        if pad is None:
            pad = ends[0] if isinstance(ends, (list, tuple)) else ends
        self._pad_id = 0 if pad is None else int(pad)
        self.module.generation_config = GenerationConfig(
            eos_token_id=ends, pad_token_id=self._pad_id, **self._generation_settings()
        )

    def _generation_settings(self) -> dict[str, Any]:
        return {}

    def _ways(self) -> list[Callable[[Tensor], Tensor]]:
        """The ways known to make logits of projected states; first what the settings speak of,
        since on small logits a cap would pass for none."""
        known: dict[str, Callable[[float, Tensor], Tensor]] = {
            "final_logit_softcapping": lambda cap, x: torch.tanh(x / cap) * cap,
            "logits_scaling": lambda divisor, x: x / divisor,
            "logit_scale": lambda factor, x: x * factor,
        }
        given = ((way, getattr(self.config, name, None)) for name, way in known.items())
        return [*(partial(way, number) for way, number in given if number), lambda x: x]


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
    ) -> list[GreedyAnswer]:
        """See HeadedModel."""
        rooms = [min(max_tokens, self._room(prompt)) for prompt in prompts]

        def is_over(own: list[int], index: int) -> bool:
            return len(own) >= rooms[index] or self.is_complete(own, stop)

        found = greedy_answers(self._reader(), prompts, drafts, is_over)
        self.check_finite([one.states for one in found])
        return found

    def _reader(self) -> Reader:
        return Reader(
            backbone=self.backbone,
            pad=self._pad,
            choose=lambda states: self.logits(states).argmax(-1),
            batch_tokens=self._batch_tokens,
            held_tokens=self._decoding_tokens,
            shares=not self.is_streamed,  # a pass reads all weights from disk, for however few
            counts=self.counts,
        )

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
