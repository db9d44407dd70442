"""Each expert's own inputs, tokenised, and which of them serve which purpose."""

import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.models.chats import render
from pytest_mergegate.engine.models.headed import HeadedModel
from pytest_mergegate.engine.models.model import Model
from pytest_mergegate.engine.models.readings import Reading, Tokens
from pytest_mergegate.engine.running.askers import Asker
from pytest_mergegate.gate.sections import ROUGE, ExpertSpec
from pytest_mergegate.pool.examples import Example, named
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.runnable import no_examples


@dataclass(frozen=True, kw_only=True)
class Task:
    """The inputs of one expert."""

    name: str
    """The expert's name."""
    reading: Reading
    """How an answer is read."""
    examples: tuple[Example, ...]
    numbers: tuple[int, ...]
    """Where each of them stands among the lines of its file, counted from 1."""
    prompts: tuple[Tokens, ...]
    choices: tuple[tuple[Tokens, ...], ...] | None
    """Every choice of every example as an answer, under the ``choices`` reading."""
    choice_lengths: tuple[tuple[int, ...], ...]
    """By what the log-likelihood of each choice is divided; empty under other readings."""
    stop: tuple[str, ...]
    """A greedy answer ends where one of these first completes."""
    order: tuple[int, ...]
    """Indices of the distinct inputs, in the order in which they are drawn; where choices are
    ranked, other choices make another input."""


def sample(count: int, seed: int, name: str) -> list[int]:
    """A seeded order of ``count`` indices that depends on the task's name alone.

    Adding an expert to a pool, or asking for more inputs, leaves the first draws as they were.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return [int(index) for index in generator.permutation(count)]


def build_task(name: str, pool: Pool, model: Model, asker: Asker | None = None) -> Task:
    """Tokenise an expert's examples, by default as the model's own tokenizer does, and draw its
    probes. Raises PoolError."""
    examples, expert = pool.examples.get(name), pool.spec.experts[name]
    if examples is None:
        lacking = no_examples(name, pool)
        raise PoolError(lacking.message, code=lacking.code, expert=name, fix=lacking.fix)
    numbers = pool.numbers(name)
    reader = _Reader(name, model, numbers, asker)
    reader.check_labels(examples)
    reader.check_reads_text(expert)
    chats = reader.chats(examples)
    prompts = tuple(reader.prompt(e, chats.get(k), k) for k, e in enumerate(examples))
    choices = None
    if expert.metric == "accuracy" and isinstance(model, HeadedModel):
        choices = tuple(reader.choices(e, k, prompts[k], model) for k, e in enumerate(examples))
    # inputs that the tokenizer makes one of are no two pieces of evidence
    first: dict[Hashable, int] = {}
    for index, prompt in enumerate(prompts):
        first.setdefault((prompt, choices and frozenset(choices[index])), index)
    distinct = [*first.values()]
    return Task(
        name=name,
        reading=model.reading if choices is None else "choices",
        examples=examples,
        numbers=numbers,
        prompts=prompts,
        choices=choices,
        choice_lengths=_lengths(examples, choices or (), expert.length_normalization),
        stop=expert.stop or model.stop,
        order=tuple(distinct[k] for k in sample(len(distinct), pool.spec.probes.seed, name)),
    )


def typed_prompt(example: Example, expert: str, model: Model, asker: Asker | None = None) -> Tokens:
    """The tokens of an input that stands in no file, read as the expert's own are. Raises
    PoolError."""
    reader = _Reader(expert, model, (), asker)
    return reader.prompt(example, reader.chats([example]).get(0), 0)


def _lengths(
    examples: Sequence[Example], choices: Sequence[Sequence[Tokens]], unit: str
) -> tuple[tuple[int, ...], ...]:
    """Per choice its length in ``unit``: ``tokens``, ``bytes`` of UTF-8, or 1 for ``none``."""
    if unit == "bytes" and choices:
        return tuple(tuple(len(text.encode()) for text in e.choices or ()) for e in examples)
    return tuple(tuple(len(t) if unit == "tokens" else 1 for t in own) for own in choices)


class _Reader:
    """The examples of one expert as a model reads them; every error names the expert."""

    def __init__(
        self, name: str, model: Model, numbers: Sequence[int], asker: Asker | None
    ) -> None:
        self._name, self._model, self._numbers = name, model, numbers
        self._asker = asker or Asker(model.tokenizer, model.called)
        self._wrong = partial(PoolError, code="MG203", expert=name)

    def _named(self, index: int) -> str:
        return named(self._numbers, index)

    def chats(self, examples: Sequence[Example]) -> dict[int, str]:
        """The prompts of those that are chats, by index."""
        tokenizer, whose = self._asker
        return render(examples, self._name, tokenizer, self._numbers, whose)

    def check_reads_text(self, expert: ExpertSpec) -> None:
        """Raise PoolError for settings of text where the model's answers are none."""
        if self._model.reading == "greedy":
            return
        given = {
            "length_normalization": expert.length_normalization != "none",
            "stop": expert.stop,
            "compare": expert.compare == ROUGE,
            "distance": expert.distance,
            f"metric: {ROUGE}": expert.metric == ROUGE,
        }
        for key in (key for key, is_given in given.items() if is_given):
            raise self._wrong(
                f"{key} is set, and {self._model.called} is a {self._model.kind}, whose answers "
                "are no text",
                fix=f"remove experts.{self._name}.{key}",
            )

    def check_labels(self, examples: Sequence[Example]) -> None:
        """Raise PoolError for a target or a choice that a classifier can never answer."""
        labels = self._model.labels
        if labels is None:
            return
        for index, example in enumerate(examples):
            named = [*(example.choices or ()), *example.references]
            unknown = [name for name in named if name not in labels]
            if unknown:
                raise self._wrong(
                    f"{self._named(index)} names {unknown[0]!r}, which is no label of "
                    f"{self._model.called} ({', '.join(map(repr, labels))})",
                    discreet=f"{self._named(index)} names what is no label of {self._model.called}",
                    fix="write targets and choices as id2label in the base's config.json does",
                )

    def prompt(self, example: Example, chat: str | None, index: int) -> Tokens:
        """The tokens of an input, or of its ``chat`` as the template has it."""
        tokenizer = self._asker.tokenizer
        if chat is None:
            ids = tokenizer(example.input)["input_ids"]
        else:  # the template has written the tokens that begin a text, too
            ids = tokenizer(chat, add_special_tokens=False)["input_ids"]
        if not ids:
            raise self._wrong(f"{self._named(index)} has no tokens", fix="remove it")
        self._check_fits(index, len(ids), 1, len(ids))
        return tuple(ids)

    def choices(
        self, example: Example, index: int, prompt: Tokens, model: HeadedModel
    ) -> tuple[Tokens, ...]:
        """Every choice of an example as an answer."""
        if example.choices is None:
            raise self._wrong(
                f"{self._named(index)} has no choices, and accuracy ranks choices",
                fix='give every example "choices": [...], or use metric: exact_match',
            )
        tokens = tuple(map(model.choice_tokens, example.choices))
        if not all(tokens) or len(set(tokens)) != len(tokens):
            raise self._wrong(
                f"{self._named(index)} has choices that the tokenizer cannot tell apart",
                fix="use choices that differ in tokens the base knows",
            )
        longest = max(map(len, tokens))
        self._check_fits(index, len(prompt), longest, len(prompt) + longest)
        return tokens

    def _check_fits(self, index: int, prompt: int, answer: int, tokens: int) -> None:
        if not self._model.fits(prompt, answer):
            raise self._wrong(
                f"{self._named(index)} has {tokens} tokens, {self._model.called} reads "
                f"{self._model.positions}",
                fix="shorten the input",
            )
