"""What is read from a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Tokens = tuple[int, ...]
Row = tuple[Tokens, Tokens]
"""A prompt, and the tokens forced after it: the answer without its last token."""
Reading = Literal["greedy", "choices", "labels", "none"]
"""An answer is decoded greedily, the likeliest of the input's choices, the likeliest of all
labels, or not there."""


@dataclass(kw_only=True)
class TokenCounts:
    """How many tokens a model was run on, padding apart."""

    processed: int = 0
    """Those that went through its layers."""
    reused: int = 0
    """Those whose keys and values were at hand: beginnings that rows share."""

    def __add__(self, more: TokenCounts) -> TokenCounts:
        return TokenCounts(
            processed=self.processed + more.processed, reused=self.reused + more.reused
        )

    def __sub__(self, less: TokenCounts) -> TokenCounts:
        return TokenCounts(
            processed=self.processed - less.processed, reused=self.reused - less.reused
        )


BASE: Final = "base"
"""What ``Model.loaded`` says of the base with nothing in its place."""


def loaded_as(expert: str) -> str:
    """What ``Model.loaded`` says of an expert; no expert's name can be taken for it."""
    return f"expert:{expert}"


def expert_loaded(loaded: str) -> str | None:
    """The expert that ``Model.loaded`` speaks of; None for the base and for merges."""
    return loaded.removeprefix("expert:") if loaded.startswith("expert:") else None
