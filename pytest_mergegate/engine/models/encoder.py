"""Models without a head: states to compare, and no answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from transformers import AutoModel

from pytest_mergegate.engine.models.model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pytest_mergegate.engine.models.readings import Reading, Row
    from pytest_mergegate.gate.sections import Positions


class HeadlessModel(Model):
    """A backbone by itself."""

    kind = "model without a head"
    auto_class = AutoModel
    reading: ClassVar[Reading] = "none"
    known_positions: tuple[Positions, ...] = ("mean", "last")
    answer_positions: ClassVar[None] = None

    def fits(self, prompt: int, answer: int) -> bool:
        """Whether there are positions for such a prompt."""
        return prompt <= self.positions

    def _read(self, rows: Sequence[Row], positions: Positions) -> list[Tensor]:
        return self._read_prompts([prompt for prompt, _ in rows], positions)
