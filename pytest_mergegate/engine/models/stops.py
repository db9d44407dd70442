"""Where an answer ends: the first token that completes a stop string."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop string starts that completes first in ``text``; None where none does."""
    starts = [(text.find(string), len(string)) for string in stop]
    found = [(start + length, start) for start, length in starts if start >= 0]
    return min(found)[1] if found else None


def until_stop(
    read: Callable[[Sequence[int]], str], answer: list[int], stop: Sequence[str]
) -> list[int]:
    """``answer`` up to and including the token that completes the first stop string."""
    if not stop:
        return answer
    ends = range(1, len(answer) + 1)
    end = next((k for k in ends if first_stop(read(answer[:k]), stop) is not None), len(answer))
    return answer[:end]


class AtStop(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped
    """Ends a row of ``generate`` where ``until_stop`` will cut it.

    Not the ``stop_strings`` of transformers: those also match where the prompt ends and the answer
    begins, which would end an answer that holds no stop string.
    """

    def __init__(
        self, read: Callable[[Sequence[int]], str], stop: Sequence[str], prompt: int
    ) -> None:
        self._read, self._stop, self._prompt = read, stop, prompt

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        texts = (self._read(row) for row in input_ids[:, self._prompt :].tolist())
        done = [first_stop(text, self._stop) is not None for text in texts]
        return torch.tensor(done, device=input_ids.device)
