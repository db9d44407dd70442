"""Distances of texts: against the textbook's subsequence, and what they bound (THEORY 10)."""

from __future__ import annotations

import numpy as np
import pytest
from naive import common_words, rouge_distance
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from pytest_mergegate.engine.running.distances import Answer
from pytest_mergegate.evaluation.comparing import by_rouge, rouge_words, words_of_any_script
from pytest_mergegate.metrics import common_tokens, rouge_l_distance


def random_text(rng: np.random.Generator, longest: int = 14) -> list[str]:
    return [str(w) for w in rng.choice(list("abcde"), size=rng.integers(0, longest))]


def test_common_tokens_are_the_longest_common_subsequence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(500):
        first, second = random_text(rng, 40), random_text(rng, 40)
        assert common_tokens(first, second) == common_words(first, second)
        assert common_tokens(second, first) == common_words(first, second)


def test_by_rouge_is_what_rouge_score_says(seed: int) -> None:
    rng, scorer = np.random.default_rng(seed), RougeScorer(["rougeL"])
    for _ in range(200):
        a, b = (" ".join(random_text(rng)) for _ in range(2))
        d = 1 - scorer.score(a, b)["rougeL"].fmeasure if a or b else 0.0
        (found,) = by_rouge([_said(a)], [_said(b)]).seen
        assert found == pytest.approx(4 * d / (1 + 3 * d))


def test_case_and_punctuation_are_no_distance() -> None:
    found = by_rouge([_said("Shouting, LOUD!")], [_said("shouting loud")])
    assert found.seen == (0.0,)


def test_words_are_those_of_rouge_score(seed: int) -> None:
    rng, tokenize = np.random.default_rng(seed), DefaultTokenizer(use_stemmer=False).tokenize
    signs = [*map(chr, range(256)), *"İKſßﬁΣσς½²٣あ漢\u0301\u200b\u2028\U0001f44d"]
    for _ in range(500):
        text = "".join(rng.choice(signs, size=rng.integers(0, 40)))
        assert rouge_words(text) == tokenize(text)
        plain = text.encode("ascii", "ignore").decode()
        assert words_of_any_script(plain) == tokenize(plain)


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ("да", "нет", 1),
        ("Да.", "да", 0),
        ("正解は四十二です", "間違いは七です", 0.9),
        ("答案 42", "錯誤 42", 0.8),
        ("की", "का", 1),
        ("naïve", "naive", 1),
        ("👍", "👎", 1),
        ("+", "-", 1),
        ("", "...", 1),
        ("...", "...", 0),
        ("", "", 0),
    ],
)
def test_what_rouge_does_not_see_is_seen(one: str, other: str, apart: float) -> None:
    found = by_rouge([_said(one), _said(other)], [_said(other), _said(one)])
    assert found.seen[0] == found.seen[1]
    assert found.seen[0] == pytest.approx(apart, abs=0.1 if 0 < apart < 1 else 0)
    assert found.least == found.most == found.seen


def test_no_distance_is_less_than_rouge_l_s(seed: int) -> None:
    rng, scorer = np.random.default_rng(seed), RougeScorer(["rougeL"])
    for _ in range(300):
        a, b = (" ".join(rng.choice([*"abcé漢я.+"], size=rng.integers(0, 9))) for _ in "ab")
        d = 1 - scorer.score(a, b)["rougeL"].fmeasure if rouge_words(a + b) else 0.0
        (found,) = by_rouge([_said(a)], [_said(b)]).seen
        assert found >= 4 * d / (1 + 3 * d) - 1e-12


def test_bounds_the_difference_of_rouge_l_against_any_target(seed: int) -> None:
    """And none smaller does: with two letters some triple comes near to it."""
    rng, worst = np.random.default_rng(seed), 0.0
    for _ in range(4000):
        a, b, t = (random_text(rng, 8) for _ in range(3))
        change = abs(_rouge(a, t) - _rouge(b, t))
        distance = float(rouge_l_distance([common_tokens(a, b)], [len(a)], [len(b)])[0])
        assert change <= distance + 1e-12
        worst = max(worst, change / distance) if distance else worst
    assert worst > 0.9


def test_an_answer_that_was_cut_may_become_anything_within_the_ends(seed: int) -> None:
    """Whatever a cut answer goes on to say, the distance is between the least and the most."""
    rng = np.random.default_rng(seed)
    met = 0
    for _ in range(400):
        own, begun = random_text(rng, 10), random_text(rng, 10)
        cut = by_rouge([_said(" ".join(own))], [_said(" ".join(begun), cut=True)])
        assert cut.most == (1.0,)
        # the last token may have been but the beginning of a word
        for whole in (begun + random_text(rng, 10), begun[:-1] + own, begun[:-1] + own[-4:]):
            common = common_words(own, whole)
            there = rouge_distance(common, len(own), len(whole))
            assert there >= cut.least[0] - 1e-12
            met += there < cut.least[0] + 0.05
    assert met > 20


def test_two_answers_that_were_cut_may_still_become_the_same() -> None:
    found = by_rouge([_said("a b c", cut=True)], [_said("d e f", cut=True)])
    assert (found.seen, found.least, found.most) == ((1.0,), (0.0,), (1.0,))
    assert found.cut == 1


def _rouge(a: list[str], b: list[str]) -> float:
    return 2 * common_words(a, b) / (len(a) + len(b)) if a or b else 0.0


def _said(text: str, *, cut: bool = False) -> Answer:
    return Answer(text=text, cut=cut)
