"""Outputs that are no answers any more (THEORY 6)."""

from collections.abc import Callable, Sequence
from typing import Literal

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

    def mostly(is_broken: Callable[[str, Sequence[str] | None], bool]) -> bool:
        of_merge, of_expert = (
            sum(is_broken(*pair) for pair in zip(given, choices, strict=True)) / len(given)
            for given in (outputs, expert_outputs)
        )
        return of_merge > _MOST >= of_expert

    if mostly(lambda output, _: output == ""):
        return "empty"
    if len(set(outputs)) == 1 and len(set(expert_outputs)) > 1:
        return "constant"
    if mostly(lambda output, _: is_loop(output)):
        return "loop"
    if mostly(lambda output, allowed: allowed is not None and output not in allowed):
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
