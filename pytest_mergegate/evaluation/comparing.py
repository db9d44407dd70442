"""Answers that are text, compared as their metric reads them (THEORY 10)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.running.distances import Answer, Compare, Distances
from pytest_mergegate.evaluation.own_metric import OwnMetric, Scores
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.sections import EXACT, ROUGE

Tokenize = Callable[[str], Sequence[str]]


@contextmanager
def rouge_score() -> Iterator[None]:
    """Turn a missing rouge-score package into a GateError that says how to install it."""
    try:
        yield
    except ImportError:
        raise GateError(
            "rouge_l needs the rouge-score package",
            fix="pip install 'pytest-mergegate[rouge]'",
        ) from None


def comparer(gate: Gate, expert: str) -> Compare | None:
    """How the answers of ``expert`` are compared; None where they are the same or not.

    Raises GateError where that takes a package that is not there, PoolError for a function that
    cannot be used.
    """
    comparison = gate.spec.experts[expert].comparison
    if comparison == EXACT:
        return None
    if comparison == ROUGE:
        with rouge_score():
            from rouge_score.tokenizers import DefaultTokenizer
        return partial(by_rouge, DefaultTokenizer(use_stemmer=False).tokenize)
    own = OwnMetric(metric=comparison, expert=expert, examples=(), numbers=(), kind="distance")
    return partial(_by_own_function, own, own.load(gate.root))


def by_rouge(tokenize: Tokenize, own: Sequence[Answer], other: Sequence[Answer]) -> Distances:
    """How much of ROUGE-L two answers to one input may differ by, whatever the target.

    An answer that was cut goes on: where only one of the two was, the least distance is that of the
    continuation that says all that is missing of the whole one and nothing else.
    """
    counts = np.zeros((2, 3, len(own)))
    for index, pair in enumerate(zip(own, other, strict=True)):
        texts = [tokenize(answer.text) for answer in pair]
        counts[0, :, index] = metrics.common_tokens(*texts), *map(len, texts)
        counts[1, :, index] = _at_best(texts, [answer.cut for answer in pair])
    seen, least = (metrics.rouge_l_distance(*each) for each in counts)
    return _distances(ROUGE, own, other, seen, least)


def _at_best(texts: Sequence[Sequence[str]], cut: Sequence[bool]) -> tuple[int, int, int]:
    """Common tokens and lengths of two texts once those that were ``cut`` have gone on for the
    best; the last token of such a text may be but the beginning of a word."""
    if all(cut):
        return 1, 1, 1
    first, second = (text[:-1] if was else text for text, was in zip(texts, cut, strict=True))
    common, lengths = metrics.common_tokens(first, second), [len(first), len(second)]
    if any(cut):
        whole, unfinished = (1, 0) if cut[0] else (0, 1)
        lengths[unfinished] += lengths[whole] - common
        common = lengths[whole]
    return common, lengths[0], lengths[1]


def _by_own_function(
    own: OwnMetric, function: Callable[..., object], mine: Sequence[Answer], other: Sequence[Answer]
) -> Distances:
    texts = [[answer.text for answer in answers] for answers in (mine, other)]
    seen = replace(own, numbers=range(1, len(mine) + 1)).between(function, *texts)
    return _distances(own.metric, mine, other, seen, np.zeros(len(seen)))


def _distances(
    comparison: str,
    own: Sequence[Answer],
    other: Sequence[Answer],
    seen: Scores,
    least: Scores,
) -> Distances:
    """Distances as ``seen``, and, where either answer was cut, at ``least`` and up to 1."""
    cut = np.array([a.cut or b.cut for a, b in zip(own, other, strict=True)], dtype=bool)
    return Distances(
        comparison=comparison,
        seen=tuple(seen.tolist()),
        least=tuple(np.where(cut, np.minimum(least, seen), seen).tolist()),
        most=tuple(np.where(cut, 1.0, seen).tolist()),
    )
