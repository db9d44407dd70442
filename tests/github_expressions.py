"""GitHub's expressions, as far as the action and the example use them; anything else raises."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOKEN = re.compile(
    r"\s*(?P<token>'(?:[^']|'')*'|&&|\|\||==|!=|[!()]|[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)"
)
_INTERPOLATION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_STATUS = re.compile(r"\b(always|success|failure|cancelled)\s*\(")


class UnsupportedExpression(Exception):
    """Not one of the few forms that are known here."""


@dataclass
class Expression:
    """One expression over ``contexts``."""

    text: str
    contexts: Mapping[str, Any]
    failed: bool = False
    """Whether a step before has failed."""
    _tokens: list[str] = field(default_factory=list)

    def value(self) -> Any:
        """Evaluate it."""
        self._tokens = self._split()
        value = self._any()
        if self._tokens:
            raise UnsupportedExpression(f"{self.text!r} at {self._tokens[0]!r}")
        return value

    def _split(self) -> list[str]:
        tokens, position = [], 0
        text = self.text.strip()
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise UnsupportedExpression(f"{text!r} at {text[position:]!r}")
            tokens.append(found["token"])
            position = found.end()
        return tokens

    def _next(self, *wanted: str) -> str | None:
        if self._tokens and (not wanted or self._tokens[0] in wanted):
            return self._tokens.pop(0)
        return None

    def _any(self) -> Any:
        value = self._all()
        while self._next("||"):
            other = self._all()
            value = value or other
        return value

    def _all(self) -> Any:
        value = self._equality()
        while self._next("&&"):
            other = self._equality()
            value = value and other
        return value

    def _equality(self) -> Any:
        value = self._one()
        while sign := self._next("==", "!="):
            same = _text(value).casefold() == _text(self._one()).casefold()
            value = same is (sign == "==")
        return value

    def _one(self) -> Any:
        if self._next("!"):
            return not self._one()
        if self._next("("):
            value = self._any()
            self._demand(")")
            return value
        token = self._next()
        if token is None:
            raise UnsupportedExpression(f"{self.text!r} ends too soon")
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        if self._next("("):
            self._demand(")")
            states = {"always": True, "success": not self.failed, "failure": self.failed}
            if token not in states:
                raise UnsupportedExpression(f"{self.text!r} calls {token}")
            return states[token]
        return self._look_up(token)

    def _demand(self, token: str) -> None:
        if self._next(token) is None:
            raise UnsupportedExpression(f"{self.text!r} lacks {token!r}")

    def _look_up(self, name: str) -> Any:
        head, *rest = name.split(".")
        if head not in self.contexts or not rest:
            raise UnsupportedExpression(f"{self.text!r} reads {name}")
        # GitHub makes nothing of a name that is not there, and of the names below it; of an input
        # or a step that is a mistake, and raises here
        value: Any = self.contexts[head]
        if head in {"inputs", "steps"} and rest[0] not in value:
            raise UnsupportedExpression(f"{self.text!r}: there is no {head}.{rest[0]}")
        for part in rest:
            value = value.get(part) if isinstance(value, dict) else None
        return value


def interpolate(text: str, contexts: Mapping[str, Any], *, failed: bool = False) -> str:
    """A text with its ``${{ }}`` filled in."""
    return _INTERPOLATION.sub(
        lambda found: _text(Expression(found[1], contexts, failed).value()), text
    )


def condition(text: str | None, contexts: Mapping[str, Any], *, failed: bool) -> bool:
    """An ``if:``; without a status function it asks for success too."""
    if text is None:
        return not failed
    inner = found[1] if (found := _INTERPOLATION.fullmatch(text.strip())) else text
    holds = bool(Expression(inner, contexts, failed).value())
    return holds and (bool(_STATUS.search(inner)) or not failed)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
