"""`bed.json`: the recipe of a bed, every seed and every score, written as the training goes on."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LEAST_SCORE, LEAST_GAIN = 0.8, 0.3
"""An expert below, or not so far above the base, is left out."""

Scores = tuple[float, float]
"""Of an expert and of the base, on the expert's task."""


class Notes:
    """What is known of the bed in one folder; what is there already is not trained again."""

    def __init__(
        self,
        folder: Path,
        recipe: Mapping[str, Any],
        least_score: float = LEAST_SCORE,
        least_gain: float = LEAST_GAIN,
    ) -> None:
        self.least_score, self.least_gain = least_score, least_gain
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "bed.json"
        self.bed: dict[str, Any] = {"recipe": recipe, "seconds": 0, "experts": {}, "left_out": {}}
        if self.file.exists():
            self.bed |= json.loads(self.file.read_text(encoding="utf-8"))
        if self.bed["recipe"] != json.loads(json.dumps(recipe)):
            raise SystemExit(f"{folder} holds a bed of another recipe: remove it, or name another")
        self._since = time.monotonic() - self.bed["seconds"]

    def make_base(self, make: Callable[[], Mapping[str, Any]]) -> None:
        """Make the base and the examples, unless they are there."""
        if "base" not in self.bed:
            self.bed["base"] = make()
            self.write()

    def missing(self, names: list[str]) -> list[str]:
        """Those of ``names`` that are not trained yet."""
        return [name for name in names if name not in self.bed["experts"] | self.bed["left_out"]]

    def add(self, name: str, scores: Scores, **known: object) -> None:
        """Note one trained expert, or that it did not learn enough to be one."""
        own, base = scores
        kept = own >= self.least_score and own - base >= self.least_gain
        where = "experts" if kept else "left_out"
        self.bed[where][name] = {**known, "score": own, "base": base}
        self.write()
        print(f"{name}: {own:.2f}, the base {base:.2f}{'' if kept else ': left out'}", flush=True)

    def write(self) -> None:
        """Put all of it into `bed.json`."""
        self.bed["seconds"] = round(time.monotonic() - self._since)
        half = self.file.with_suffix(".part")
        half.write_text(json.dumps(self.bed, indent=2) + "\n", encoding="utf-8")
        half.replace(self.file)
