"""Answers compared as texts, each in tokens of its own."""

from __future__ import annotations

import pytest

from pytest_mergegate.engine.running.distances import Answer
from pytest_mergegate.evaluation.comparing import same_or_not


def whole(text: str) -> Answer:
    return Answer(text=text, cut=False)


def cut(text: str) -> Answer:
    return Answer(text=text, cut=True)


@pytest.mark.parametrize(
    ("own", "other", "least", "most"),
    [
        (whole("abc"), whole("abc"), 0, 0),
        (whole("abc"), whole("abcd"), 1, 1),
        (whole(""), whole(""), 0, 0),
        (whole(""), whole("a"), 1, 1),
        # one that was cut may still become the other
        (whole("abc"), cut("ab"), 0, 1),
        (whole("abc"), cut("abc"), 0, 1),
        (whole("abc"), cut(""), 0, 1),
        (whole("abc"), cut("abcd"), 1, 1),
        (whole("abc"), cut("ax"), 1, 1),
        (cut("ab"), whole("abc"), 0, 1),
        (cut("abd"), whole("abc"), 1, 1),
        (cut("ab"), cut("abc"), 0, 1),
        (cut("abc"), cut("ab"), 0, 1),
        (cut("abx"), cut("aby"), 1, 1),
        # within a character, or before a space
        (whole("caf\u00e9 au lait"), cut("caf\ufffd"), 0, 1),
        (whole("a b"), cut("a "), 0, 1),
    ],
)
def test_same_or_not(own: Answer, other: Answer, least: float, most: float) -> None:
    found = same_or_not([own], [other])
    assert (found.comparison, found.least, found.most) == ("exact", (least,), (most,))
    assert found.cut == (least < most)
