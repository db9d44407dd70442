"""Numbers and lists in words."""

import math
from typing import Final

from rich.cells import cell_len, set_cell_size

ROUND_OFF = 1e-12
"""What is smaller is nothing but round-off, whatever it is of."""
FINISHED: Final = "merged"
"""What stands for a finished merge where merges go by their methods."""


def under(method: str) -> str:
    """``under linear``, or ``in the finished merge``."""
    return "in the finished merge" if method == FINISHED else f"under {method}"


def joined(*parts: str | None) -> str:
    """What is said of ``parts``, one after the other."""
    return "; ".join(filter(None, parts))


def number_text(number: float, digits: int = 3) -> str:
    """A number for people: ``digits`` significant digits, ``inf`` spelled as the sign, and what
    round-off has left of nothing as nothing."""
    if abs(number) < ROUND_OFF:
        return "0"
    return "∞" if math.isinf(number) and number > 0 else f"{number + 0.0:.{digits}g}"


def distinct(a: float, b: float) -> tuple[str, str]:
    """Both numbers with as many digits as it takes to show that they differ."""
    for digits in range(3, 17):
        texts = number_text(a, digits), number_text(b, digits)
        if a == b or texts[0] != texts[1]:
            return texts
    return repr(a), repr(b)


def common_start(one: str, other: str) -> int:
    """How many characters two texts have in common from their beginning on."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((k for k, (a, b) in pairs if a != b), min(len(one), len(other)))


def shorten(name: str, width: int) -> str:
    """``name`` in exactly ``width`` columns, cut in the middle where it is longer."""
    if cell_len(name) <= width:
        return set_cell_size(name, width)
    head = max(width // 2, 1)
    kept, tail = set_cell_size(name, head), max(width - head - 1, 0)
    end = name[len(name) - tail :] if tail > 0 else ""
    while cell_len(end) > tail:
        end = end[1:]
    return set_cell_size(f"{kept}…{end}", width)
