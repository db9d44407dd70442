"""Outputs that are no answers any more (THEORY 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Degeneracy = Literal["constant", "empty", "loop", "invalid_choice"]
_MOST = 0.5
_FEWEST = 4
_LONGEST_PERIOD = 16
_REPEATS = 3


def degeneracy(
    outputs: Sequence[str],
    expert_outputs: Sequence[str],
    choices: Sequence[Sequence[str] | None],
) -> Degeneracy | None:
    """How the merged model's outputs are degenerate where the expert's are not.

    ``constant``: one answer to everything; ``empty``, ``loop``, ``invalid_choice``: on more than
    half of the inputs. None for sound outputs, and for fewer than four inputs.
    """
    if len(outputs) < _FEWEST:
        return None
    if _share(o == "" for o in outputs) > _MOST >= _share(o == "" for o in expert_outputs):
        return "empty"
    if len(set(outputs)) == 1 and len(set(expert_outputs)) > 1:
        return "constant"
    if _share(map(is_loop, outputs)) > _MOST >= _share(map(is_loop, expert_outputs)):
        return "loop"
    if _invalid_share(outputs, choices) > _MOST >= _invalid_share(expert_outputs, choices):
        return "invalid_choice"
    return None


def is_loop(text: str) -> bool:
    """Whether ``text`` ends in the same short piece at least three times over, most of it so."""
    for period in range(1, min(_LONGEST_PERIOD, len(text) // _REPEATS) + 1):
        piece = text[-period:]
        repeats = 1
        while text.endswith(piece * (repeats + 1)):
            repeats += 1
        if repeats >= _REPEATS and repeats * period >= max(8, 0.6 * len(text)):
            return True
    return False


def _invalid_share(outputs: Sequence[str], choices: Sequence[Sequence[str] | None]) -> float:
    return _share(
        allowed is not None and output not in allowed
        for output, allowed in zip(outputs, choices, strict=True)
    )


def _share(flags: Iterable[bool]) -> float:
    known = list(flags)
    return sum(known) / len(known)
