"""Regular expressions from adapters, matched as PEFT does but within limits of time and memory."""

import math
import re
import time
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.adapters import CONFIG

SECONDS = 0.2
"""Of CPU time for all the matching of one expression, beyond what any match takes."""
_FREE = 20e-6
_LENGTH = 4096
_KEYS = 20_000
_EXPRESSIONS = 64
"""Keys of one mapping that are more than names; PEFT writes names."""
_UNROLLED = 200_000
"""The library unrolls counted repeats: characters times counts, nested ones multiplied."""
_NAME = re.compile(r"\^?(?:\w|\\?\.)+", re.ASCII)
_SETS = ("[[", "--", "&&", "~~")
_COUNT = re.compile(r"\{(\d*)(?:,(\d*))?\}", re.ASCII)


def matches_fully(pattern: str, text: str, *, expert: str | None = None) -> bool:
    """``re.fullmatch(pattern, text)``, PEFT's rule for target_modules and exclude_modules.

    Raises PoolError for an expression that is invalid, too long, or takes too long.
    """
    try:
        if (name := _as_name(pattern)) is not None:
            return name.matches(text)
        return _compiled(pattern, pattern).fullmatch(text)
    except _Refused as refused:
        raise refused.told(pattern, expert) from None


def pattern_value(module: str, patterns: object, *, expert: str | None = None) -> Any:
    """The value of the first key that is ``module``'s name, or ends it after a dot; else None.

    PEFT's rule for rank_pattern and alpha_pattern: ``re.match(rf"(.*\\.)?({key})$", module)``.
    ``patterns`` may be None. Raises PoolError as ``matches_fully``, and for what is no mapping.
    """
    if patterns is None:
        return None
    if not isinstance(patterns, Mapping) or len(patterns) > _KEYS:
        raise _Refused("is no mapping of names").told(type(patterns).__name__, expert)
    expressions = 0
    for key, value in patterns.items():
        try:
            if (name := _as_name(key)) is not None:
                found = name.ends(module)
            else:
                expressions += 1
                if expressions > _EXPRESSIONS:
                    raise _Refused(f"is one of more than {_EXPRESSIONS} expressions")
                found = _compiled(key, rf"(.*\.)?({key})$").fullmatch(module)
        except _Refused as refused:
            raise refused.told(key, expert) from None
        if found:
            return value
    return None


class _Refused(Exception):
    """Why an expression is not matched."""

    def told(self, pattern: str, expert: str | None) -> PoolError:
        what = f"the expression '{shown(pattern, 60)}' {self}"
        fix = "name the modules plainly, as a list of names"
        return PoolError(what, expert=expert, where=CONFIG, fix=fix)


class _Name:
    """A pattern of word characters and dots, with or without a ``^``: all it matches is as long."""

    def __init__(self, pattern: str) -> None:
        self._anchored = pattern.startswith("^")
        self._pattern = pattern.removeprefix("^")
        self._text = self._pattern.replace("\\.", ".")

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self._pattern)

    def matches(self, text: str) -> bool:
        if text == self._text:
            return True
        return len(text) == len(self._text) and self._compiled.fullmatch(text) is not None

    def ends(self, module: str) -> bool:
        start = len(module) - len(self._text)
        if start <= 0 or self._anchored:
            return start == 0 and self.matches(module)
        return module[start - 1] == "." and self.matches(module[start:])


@lru_cache(maxsize=65536)
def _as_name(pattern: str) -> _Name | None:
    if not isinstance(pattern, str) or len(pattern) > _LENGTH:
        raise _Refused(f"is longer than {_LENGTH} characters")
    return _Name(pattern) if _NAME.fullmatch(pattern) else None


class _Expression:
    """A compiled expression and the time that it may still take."""

    def __init__(self, compiled: Any) -> None:
        self._compiled, self._left = compiled, SECONDS

    def fullmatch(self, text: str) -> bool:
        if len(text) > _LENGTH:
            raise _Refused(f"meets a module's name of {len(text)} characters")
        started = time.thread_time()
        try:
            if self._left <= 0:
                raise TimeoutError
            return self._compiled.fullmatch(text, timeout=self._left) is not None
        except (TimeoutError, MemoryError, RecursionError):
            self._left = 0.0
            raise _Refused("takes too long to match") from None
        finally:
            self._left -= max(time.thread_time() - started - _FREE, 0.0)


@lru_cache(maxsize=4096)
def _compiled(pattern: str, wrapped: str) -> _Expression:
    """``wrapped`` compiled, where ``re`` takes it too and both mean the same by it."""
    import regex  # type: ignore[import-untyped]

    # the product of all counted repeats, as if each stood inside the other
    bounds = (max(int(n or 0) for n in count) for count in _COUNT.findall(pattern))
    if len(wrapped) * math.prod(max(bound, 1) for bound in bounds) > _UNROLLED:
        raise _Refused("repeats too often")
    # fuzzy matching and sets of sets are that library's own, and have no place in names
    if "{" in _COUNT.sub("", pattern) or any(mark in pattern for mark in _SETS):
        raise _Refused("is not a regular expression over module names")
    try:
        re.compile(wrapped)
        return _Expression(regex.compile(wrapped))
    except (re.error, regex.error, RecursionError, OverflowError, ValueError, Warning) as error:
        reason = shown(str(error) or type(error).__name__, 80)
        raise _Refused(f"is not valid ({reason})") from None
