"""Patterns match as PEFT matches them, and none can hang the gate."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.pool.patterns import matches_fully, pattern_value

PARTS = ["model", "layers", "0", "1", "12", "self_attn", "q_proj", "proj", "mlp", "q"]
modules = st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map(".".join)
pieces = st.sampled_from(
    [*PARTS, ".", r"\.", ".*", r"\d+", "^", "$", "(q|k)", "[a-q]+", r"\w{1,2}"]
)
patterns = st.lists(pieces, min_size=1, max_size=6).map("".join)
quick = settings(max_examples=400, deadline=None, database=None)


@given(patterns | modules, modules)
@quick
def test_matches_fully_is_that_of_re(pattern: str, text: str) -> None:
    assert matches_fully(pattern, text) == bool(re.fullmatch(pattern, text))


@given(st.lists(patterns | modules, max_size=4, unique=True), modules)
@quick
def test_pattern_value_is_that_of_peft(keys: list[str], module: str) -> None:
    values = {key: number for number, key in enumerate(keys)}
    assert pattern_value(module, values) == values.get(get_pattern_key(keys, module))


def test_no_patterns() -> None:
    assert pattern_value("a", None) is None
    assert pattern_value("a", {}) is None


@pytest.mark.parametrize("patterns", [[], "a", 3, {str(k): 1 for k in range(30_000)}], ids=type)
def test_no_mapping(patterns: object) -> None:
    with pytest.raises(PoolError, match="is no mapping"):
        pattern_value("a", patterns, expert="b")


HOSTILE = {
    "alternation": "(a|aa)+$",
    "alternation in a group": "((a|aa|aaa)*)*b",
    "many stars": "a*" * 100 + "b",
    "many options": "(a|a|aa)" * 100 + "(a|aa)*b",
    "backreference": r"(a*)(a*)(a*)(a*)(\1\2\3\4)+b",
    "lookahead": "(?=(a|aa)+$)a*!b",
    "unrolled": "(?:(?:(?:a{99}){99}){99}){99}",
    "unrolled class": "[ab]{99999999}",
    "unrolled lazily": "(?:(?:a{2,999}?){999}){9999}",
    "long": "a" * 5000,
    "nested": "(" * 1000 + "a" + ")" * 1000,
    "open": "(",
    "recursion": "(?R)*",
    "fuzzy": "(?:aaaaaaaaaaaaaaaaaaaaaaaa){e<=20}b",
    "property": r"\p{L}+",
    "POSIX class": "[[:alpha:]]+",
    "verbose count": "(?x)a{ 9 9 9 9 9 9 9 9 }",
    "overflow": "a{99999999999999999999999}",
    "flag inside": "a(?i)b",
}


@pytest.mark.parametrize("pattern", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pattern_is_refused_soon(pattern: str) -> None:
    text = "a" * 200 + "!b"
    started = time.process_time()
    with pytest.raises(PoolError) as caught:
        matches_fully(pattern, text, expert="b")
    with pytest.raises(PoolError):
        pattern_value(text, {pattern: 3}, expert="b")
    assert time.process_time() - started < 5
    error = caught.value
    assert (error.code, error.expert, error.where) == ("MG001", "b", "adapter_config.json")
    assert "name the modules plainly" in (error.fix or "")
    assert len(error.what) < 200


def test_slow_pattern_has_one_budget_for_all_modules() -> None:
    """Each match is allowed, all together are not."""
    started = time.process_time()
    with pytest.raises(PoolError, match="too long"):
        assert not any(matches_fully("(x|xx)+[yz]", "x" * (18 + k % 3)) for k in range(20_000))
    assert time.process_time() - started < 5


def test_expressions_of_one_mapping_are_counted() -> None:
    with pytest.raises(PoolError, match="more than 64 expressions"):
        pattern_value("a", {f"x+{k}": 1 for k in range(65)})
    assert pattern_value("a.b", {f"x{k}": 1 for k in range(5000)} | {"b": 7}) == 7


def test_long_module() -> None:
    with pytest.raises(PoolError, match="name of 5000 characters"):
        matches_fully(".*x", "a" * 5000)
