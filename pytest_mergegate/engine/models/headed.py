"""Models with a linear head, through which answers are read from states; classifiers."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.models.drafts import GreedyAnswer
from pytest_mergegate.engine.models.loading import unsupported
from pytest_mergegate.engine.models.model import Model, run
from pytest_mergegate.engine.models.placement import Placement
from pytest_mergegate.engine.models.readings import Reading, Row, Tokens
from pytest_mergegate.gate.sections import Positions
from pytest_mergegate.pool.base import Base

_TOLERANCE = 1e-4
_SMALLEST = 1e-3
"""Logits smaller than this are no measure for their own error."""
_LOGIT_BYTES = 1 << 27
"""Memory for the logits of one product; one of many states takes a fraction of many of one."""


Head = Mapping[str, Tensor]
"""What takes states to logits: ``weight`` [outputs, d] and, where there is one, ``bias``
[outputs]."""


class HeadedModel(Model):
    """A model whose logits are a projection of its states."""

    answer_positions: ClassVar[Positions]
    _adjust: Callable[[Tensor], Tensor] = staticmethod(lambda logits: logits)
    """What this architecture does to projected states to make logits of them."""
    can_verify: bool = False
    """Whether ``answer`` can be asked."""
    _trial: tuple[Row, ...] = (((1, 2), (3, 4)), ((3,), ()))
    """On what the head is tried out."""

    @property
    @abstractmethod
    def projection(self) -> Any:
        """The linear layer that makes logits of states."""

    @abstractmethod
    def decode(
        self, prompts: Sequence[Tokens], max_tokens: int, stop: Sequence[str] = ()
    ) -> list[list[int]]:
        """The answer to each prompt: tokens, or the index of one label.

        Tokens end with the one that completes one of ``stop``.
        """

    def answer(
        self,
        prompts: Sequence[Tokens],
        drafts: Sequence[Tokens],
        max_tokens: int,
        stop: Sequence[str] = (),
        wanted: Sequence[tuple[str, ...] | None] | None = None,
    ) -> list[GreedyAnswer]:
        """The answers that ``decode`` gives, with the states that say so; each is read as far as a
        draft, which may be empty, predicts it.

        An answer that can become none of the texts that are ``wanted`` of it is left there.
        Raises PoolError where states are not finite.
        """
        raise NotImplementedError

    @abstractmethod
    def text(self, answer: Sequence[int], stop: Sequence[str] = ()) -> str:
        """An answer as the metrics read it, up to the first of ``stop``."""

    @abstractmethod
    def is_complete(self, answer: Sequence[int], stop: Sequence[str] = ()) -> bool:
        """Whether an answer reached its end, rather than the limit on its length."""

    @abstractmethod
    def choice_tokens(self, choice: str) -> Tokens:
        """A choice as an answer; empty where the model cannot say it."""

    @abstractmethod
    def _own_logits(self, row: Row) -> Tensor:
        """What the model itself says at the answer positions of ``row``, [T, outputs]."""

    @cached_property
    def head_parameters(self) -> dict[str, str]:
        """Names of the head's ``weight`` and, where it has one, ``bias`` among the parameters.

        With tied embeddings the weight goes by the embedding's name.
        """
        layer = next(n for n, part in self.module.named_modules() if part is self.projection)
        held = {part: f"{layer}.{part}" for part in ("weight", "bias")}
        return {part: self.names[name] for part, name in held.items() if name in self.names}

    def logits(self, states: Tensor, head: Head | None = None) -> Tensor:
        """Logits [T, outputs] in float32 on the CPU, from ``states`` [T, d].

        ``head`` stands in for the loaded one.
        """
        return next(self.logits_each([states], head))

    def logits_each(self, states: Iterable[Tensor], head: Head | None = None) -> Iterator[Tensor]:
        """The ``logits`` of each of ``states``, in few products and as they are asked for."""
        names = self.head_parameters
        own = self.parameters[names["weight"]]
        if head is None:
            parts = {part: self.computed_weight(name) for part, name in names.items()}
        else:
            parts = {
                part: tensor.to(own.device, self.dtypes[names[part]]).to(own.dtype)
                for part, tensor in head.items()
            }
        most = max(1, _LOGIT_BYTES // (4 * len(parts["weight"])))
        for some in _spans(states, most):
            with torch.inference_mode():
                joined = torch.cat(some).to(own.device, own.dtype)
                projected = torch.nn.functional.linear(joined, **parts)
                found = self._adjust(projected.to(torch.float32)).cpu()
            yield from torch.split(found, [len(each) for each in some])

    def log_likelihoods(self, answers: Sequence[Row]) -> Tensor:
        """Of each answer behind its prompt, [n] in float64; those that differ in their last token
        alone are read together."""
        asked: dict[Row, list[tuple[int, Tokens]]] = {}
        for number, (prompt, answer) in enumerate(answers):
            asked.setdefault((prompt, answer[:-1]), []).append((number, answer))
        states = self.states([*asked], self.answer_positions)
        found = torch.zeros(len(answers), dtype=torch.float64)
        for logits, told in zip(self.logits_each(states), asked.values(), strict=True):
            logs = torch.log_softmax(logits.to(torch.float64), dim=-1)
            for number, answer in told:
                found[number] = logs[torch.arange(len(answer)), torch.tensor(answer)].sum()
        return found

    @torch.inference_mode()
    def _check_head(self, ways: Sequence[Callable[[Tensor], Tensor]]) -> None:
        """Find, by trying ``ways``, how this architecture makes logits of projected states.

        Rows of two lengths go in one batch, so that padding which leaks shows as well. Raises
        PoolError where no way reproduces the model's own logits: numbers from a wrong head would
        look like any others.
        """
        try:
            states = torch.cat(self.states(self._trial, self.answer_positions))
            own = torch.cat([self._own_logits(row).to("cpu", torch.float32) for row in self._trial])
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
            raise unsupported(
                f"{type(self.module).__name__} does not run ({error})",
                "check config.json against the weights; or it is not supported yet",
            ) from None
        rounding = max(_TOLERANCE, 8 * torch.finfo(self.module.dtype).eps)
        for way in ways:
            self._adjust = way
            off = (self.logits(states) - own).abs().max()
            if float(off) <= rounding * max(_SMALLEST, float(own.abs().max())):
                return
        raise unsupported(
            f"the logits of {type(self.module).__name__} are not a projection of its states"
        )


def _spans(states: Iterable[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Runs of ``states`` of at most so many rows together, or of one that has more."""
    span: list[Tensor] = []
    for each in states:
        if span and sum(map(len, span)) + len(each) > most:
            yield span
            span = []
        span.append(each)
    if span:
        yield span


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
            raise unsupported(
                f"the base has {config.num_labels} labels and problem_type "
                f"{config.problem_type!r}; only one label out of several can be compared",
                "gate it on the conflict ratios alone, or use a single-label classifier",
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
            raise unsupported(
                f"{type(self.module).__name__} has no linear layer with {len(self.labels)} outputs"
            )
        return layers[-1]

    def decode(
        self, prompts: Sequence[Tokens], max_tokens: int, stop: Sequence[str] = ()
    ) -> list[list[int]]:
        """The index of the likeliest label, as an answer of one."""
        states = self.states([(prompt, ()) for prompt in prompts], "head")
        return [[int(logits[0].argmax())] for logits in self.logits_each(states)]

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
        # a decoder classifies the last position that holds no padding token
        padding = self.config.pad_token_id
        places = [[k for k, t in enumerate(row) if t != padding] or [0] for row in prompts]
        return [states[k, own[-1]][None] for k, own in enumerate(places)]

    def _own_logits(self, row: Row) -> Tensor:
        ids = torch.tensor([row[0]], device=self.device)
        logits: Tensor = run(self.module, input_ids=ids).logits
        return logits
