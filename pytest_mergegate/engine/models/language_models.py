"""Language models: greedy answers in tokens, behind the prompt or from a decoder."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    StoppingCriteriaList,
)

from pytest_mergegate.engine.models.headed import HeadedModel
from pytest_mergegate.engine.models.loading import quiet, unsupported
from pytest_mergegate.engine.models.placement import Placement, batches, bounded
from pytest_mergegate.engine.models.readings import Reading, Tokens
from pytest_mergegate.engine.models.stops import AtStop, first_stop, until_stop
from pytest_mergegate.gate.sections import Positions
from pytest_mergegate.pool.base import Base

_KEY_VALUE_BYTES = 1 << 31
"""Memory that the keys and values of one batch that is decoded together may take at most."""
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer has in place of bytes that are no text."""


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

    def may_become(self, answer: Sequence[int], texts: Sequence[str]) -> bool:
        """Whether what begins with these tokens may be one of ``texts`` in the end, apart from
        spaces around it; one that goes on behind such a text may yet be cut by a stop string."""
        if getattr(self.tokenizer, "clean_up_tokenization_spaces", False):
            return True  # what follows may take spaces out of what is there
        if any(_UNREADABLE in text for text in texts):
            return True  # where bytes make no text, a byte may make those before it unreadable
        # a token may end within a character
        begun = self.read(answer).lstrip().rstrip(_UNREADABLE)
        whole = [text.strip() for text in texts]
        return any(text.startswith(begun) or begun.startswith(text) for text in whole)

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
        tokens = bounded(_KEY_VALUE_BYTES // per_token, per_token, self.device)
        return max(self._batch_tokens, tokens)

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

    def end_also_at(self, tokens: Iterable[int]) -> None:
        """End answers at these as well."""
        ends = sorted(self._ends.union(tokens))
        self.module.generation_config.eos_token_id = ends or None

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
