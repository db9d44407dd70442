"""Answers that are text, compared as their metric reads them (THEORY 10)."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.running.distances import Answer, Compare, Distances
from pytest_mergegate.evaluation.own_metric import OwnMetric, Scores
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.sections import EXACT, ROUGE

_ROUGE_WORDS = re.compile("[a-z0-9]+")


def require_rouge_score() -> None:
    """Raise GateError where the package that scores ``metric: rouge_l`` is not installed."""
    if find_spec("rouge_score") is None:
        raise GateError(
            "metric rouge_l needs the rouge-score package",
            fix="pip install 'pytest-mergegate[rouge]'",
        )


def comparer(gate: Gate, expert: str) -> Compare | None:
    """How the answers of ``expert`` are compared; None where they are the same or not.

    Raises PoolError for a function that cannot be used.
    """
    comparison = gate.spec.experts[expert].comparison
    if comparison == EXACT:
        return None
    if comparison == ROUGE:
        return by_rouge
    own = OwnMetric(metric=comparison, expert=expert, examples=(), numbers=(), kind="distance")
    return partial(_by_own_function, own, own.load(gate.root))


def same_or_not(own: Sequence[Answer], other: Sequence[Answer]) -> Distances:
    """Answers of two models, each in tokens of its own, to the same inputs: the same text or
    another one. One that was cut may still be the other as long as it begins like it."""
    pairs = list(zip(own, other, strict=True))
    differs = [not _may_agree(*pair) for pair in pairs]
    return Distances.exact(differs, [a.cut or b.cut for a, b in pairs])


def _may_agree(one: Answer, other: Answer) -> bool:
    if not (one.cut or other.cut):
        return one.text == other.text
    # a token may end within a character, or before a space that was stripped
    first, second = (
        a.text.rstrip("\N{REPLACEMENT CHARACTER}").rstrip() if a.cut else a.text
        for a in (one, other)
    )
    may_be_second, may_be_first = second.startswith(first), first.startswith(second)
    return (one.cut and may_be_second) or (other.cut and may_be_first)


def by_rouge(own: Sequence[Answer], other: Sequence[Answer]) -> Distances:
    """How much of ROUGE-L two answers to one input may differ by, whatever the target, and at least
    as much as the like over the words of every script: ROUGE itself sees none but a-z and 0-9.

    Answers without a word that differ share nothing. An answer that was cut goes on: where only one
    of the two was, the least distance is that of the continuation that says all that is missing of
    the whole one and nothing else.
    """
    readings = rouge_words, words_of_any_script
    counts = np.zeros((2, len(readings), 3, len(own)))
    blind = np.zeros(len(own))
    for index, pair in enumerate(zip(own, other, strict=True)):
        for how, words in enumerate(readings):
            texts = [words(answer.text) for answer in pair]
            counts[0, how, :, index] = metrics.common_tokens(*texts), *map(len, texts)
            counts[1, how, :, index] = _at_best(texts, [answer.cut for answer in pair])
        blind[index] = not any(texts) and pair[0].text != pair[1].text
    seen, least = (metrics.rouge_l_distance(*np.moveaxis(each, 1, 0)).max(0) for each in counts)
    return _distances(ROUGE, own, other, np.maximum(seen, blind), least)


def rouge_words(text: str) -> list[str]:
    """What rouge-score reads of a text, without stemming."""
    return _ROUGE_WORDS.findall(text.lower())


def words_of_any_script(text: str) -> list[str]:
    """The same words, and those of letters and signs that are not ASCII; of writing without spaces
    each character is one."""
    return "".join(map(_spaced, text.lower())).split()


def _spaced(character: str) -> str:
    if character.isascii():
        return character if character.isalnum() else " "
    if unicodedata.category(character)[0] not in "LMNS":  # punctuation, spaces, what is not seen
        return " "
    return f" {character} " if unicodedata.east_asian_width(character) in "WF" else character


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
