"""What is read from a model."""

from __future__ import annotations

from typing import Literal

Tokens = tuple[int, ...]
Row = tuple[Tokens, Tokens]
"""A prompt, and the tokens forced after it: the answer without its last token."""
Reading = Literal["greedy", "choices", "labels", "none"]
"""An answer is decoded greedily, the likeliest of the input's choices, the likeliest of all
labels, or not there."""
