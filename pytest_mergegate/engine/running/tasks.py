"""Each expert's own inputs, tokenised, and which of them serve which purpose."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.models.chats import render
from pytest_mergegate.engine.models.headed import HeadedModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.engine.models.model import Model
    from pytest_mergegate.engine.models.readings import Reading, Tokens
    from pytest_mergegate.gate.sections import ExpertSpec
    from pytest_mergegate.gate.spec import GateSpec
    from pytest_mergegate.pool.examples import Example
    from pytest_mergegate.pool.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Task:
    """The inputs of one expert."""

    name: str
    """The expert's name."""
    reading: Reading
    """How an answer is read."""
    examples: tuple[Example, ...]
    prompts: tuple[Tokens, ...]
    choices: tuple[tuple[Tokens, ...], ...] | None
    """Every choice of every example as an answer, under the ``choices`` reading."""
    choice_lengths: tuple[tuple[int, ...], ...]
    """By what the log-likelihood of each choice is divided; empty under other readings."""
    stop: tuple[str, ...]
    """A greedy answer ends where one of these first completes."""
    order: tuple[int, ...]
    """Indices of the distinct inputs, in the order in which they are drawn."""


def build_tasks(pool: Pool, spec: GateSpec, model: Model) -> dict[str, Task]:
    """Tokenise every expert's examples and draw its probes. Raises PoolError."""
    return {name: _build(name, pool, spec, model) for name in pool.names}


def sample(count: int, seed: int, name: str) -> list[int]:
    """A seeded order of ``count`` indices that depends on the task's name alone.

    Adding an expert to a pool, or asking for more inputs, leaves the first draws as they were.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return [int(index) for index in generator.permutation(count)]


def _build(name: str, pool: Pool, spec: GateSpec, model: Model) -> Task:
    examples = pool.examples.get(name)
    if examples is None:
        raise PoolError(
            "the expert has no examples, and its states cannot be compared without inputs",
            code="MG202",
            expert=name,
            fix=_advice(name, pool),
        )
    _check_labels(examples, name, model)
    expert = spec.experts[name]
    _check_reads_text(expert, name, model)
    chats = render(examples, name, model.tokenizer)
    prompts = tuple(_prompt(e, chats.get(k), k, name, model) for k, e in enumerate(examples))
    choices = None
    if expert.metric == "accuracy" and isinstance(model, HeadedModel):
        choices = tuple(
            _choices(example, k, prompts[k], name, model) for k, example in enumerate(examples)
        )
    # an input that stands in the file twice is no second piece of evidence
    distinct = list(
        dict(zip(reversed(prompts), reversed(range(len(prompts))), strict=True)).values()
    )
    ordered = sorted(distinct)
    drawn = tuple(ordered[k] for k in sample(len(distinct), spec.probes.seed, name))
    return Task(
        name=name,
        reading=model.reading if choices is None else "choices",
        examples=examples,
        prompts=prompts,
        choices=choices,
        choice_lengths=_lengths(examples, choices or (), expert.length_normalization),
        stop=expert.stop,
        order=drawn,
    )


def _advice(name: str, pool: Pool) -> str:
    if pool.mergekit is None:
        return f"give experts.{name}.examples a JSONL file of inputs"
    return (
        f"write data/{name}.jsonl or examples/{name}.jsonl beside the configuration, or "
        "examples.jsonl in the expert's folder, or say where with mergegate: {examples: ...}"
    )


def _lengths(
    examples: Sequence[Example], choices: Sequence[Sequence[Tokens]], unit: str
) -> tuple[tuple[int, ...], ...]:
    """Per choice its length in ``unit``: ``tokens``, ``bytes`` of UTF-8, or 1 for ``none``."""
    if unit == "tokens":
        return tuple(tuple(map(len, tokens)) for tokens in choices)
    if unit == "bytes":
        texts = (example.choices or () for example, _ in zip(examples, choices, strict=False))
        return tuple(tuple(len(text.encode()) for text in own) for own in texts)
    return tuple((1,) * len(tokens) for tokens in choices)


def _check_reads_text(expert: ExpertSpec, name: str, model: Model) -> None:
    """Raise PoolError for settings of text where the model's answers are none."""
    if model.reading == "greedy":
        return
    given = {"length_normalization": expert.length_normalization != "none", "stop": expert.stop}
    for key in (key for key, is_given in given.items() if is_given):
        raise PoolError(
            f"{key} is set, and the base is a {model.kind}, whose answers are no text",
            code="MG203",
            expert=name,
            fix=f"remove experts.{name}.{key}",
        )


def _check_labels(examples: Sequence[Example], name: str, model: Model) -> None:
    """Raise PoolError for a target or a choice that a classifier can never answer."""
    if model.labels is None:
        return
    for index, example in enumerate(examples):
        named = [*(example.choices or ()), *([] if example.target is None else [example.target])]
        unknown = [label for label in named if label not in model.labels]
        if unknown:
            raise PoolError(
                f"example {index + 1} names {unknown[0]!r}, which is no label of the base "
                f"({', '.join(map(repr, model.labels))})",
                code="MG203",
                expert=name,
                fix="write targets and choices as id2label in the base's config.json does",
            )


def _prompt(example: Example, chat: str | None, index: int, name: str, model: Model) -> Tokens:
    if chat is None:
        ids = model.tokenizer(example.input)["input_ids"]
    else:  # the template has written the tokens that begin a text, too
        ids = model.tokenizer(chat, add_special_tokens=False)["input_ids"]
    if not ids:
        raise PoolError(
            f"example {index + 1} has no tokens", code="MG203", expert=name, fix="remove it"
        )
    if not model.fits(len(ids), 1):
        raise _too_long(index, len(ids), name, model)
    return tuple(ids)


def _too_long(index: int, tokens: int, name: str, model: Model) -> PoolError:
    return PoolError(
        f"example {index + 1} has {tokens} tokens, the base reads {model.positions}",
        code="MG203",
        expert=name,
        fix="shorten the input",
    )


def _choices(
    example: Example, index: int, prompt: Tokens, name: str, model: HeadedModel
) -> tuple[Tokens, ...]:
    if example.choices is None:
        raise PoolError(
            f"example {index + 1} has no choices, and accuracy ranks choices",
            code="MG203",
            expert=name,
            fix='give every example "choices": [...], or use metric: exact_match',
        )
    tokens = tuple(map(model.choice_tokens, example.choices))
    if not all(tokens) or len(set(tokens)) != len(tokens):
        raise PoolError(
            f"example {index + 1} has choices that the tokenizer cannot tell apart",
            code="MG203",
            expert=name,
            fix="use choices that differ in tokens the base knows",
        )
    longest = max(map(len, tokens))
    if not model.fits(len(prompt), longest):
        raise _too_long(index, len(prompt) + longest, name, model)
    return tokens
