"""Numbers and lists in words."""

from __future__ import annotations

import math


def joined(*parts: str | None) -> str:
    """What is said of ``parts``, one after the other."""
    return "; ".join(filter(None, parts))


def number_text(number: float, digits: int = 3) -> str:
    """A number for people: ``digits`` significant digits, ``inf`` spelled as the sign."""
    return "∞" if math.isinf(number) and number > 0 else f"{number + 0.0:.{digits}g}"


def distinct(a: float, b: float) -> tuple[str, str]:
    """Both numbers with as many digits as it takes to show that they differ."""
    for digits in range(3, 17):
        texts = number_text(a, digits), number_text(b, digits)
        if a == b or texts[0] != texts[1]:
            return texts
    return repr(a), repr(b)
