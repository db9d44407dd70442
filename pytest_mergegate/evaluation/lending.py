"""The loaded model in the hands of code that is not ours."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any

import torch

from pytest_mergegate.common.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.engine.models.model import Model


@contextlib.contextmanager
def lent(model: Model, borrower: str, *, expert: str) -> Iterator[tuple[Any, Any]]:
    """The transformers model with the weights loaded now, in eval mode, and a copy of its
    tokenizer.

    Afterwards the model is in eval mode again, with the generation settings it had. Raises
    PoolError where the weights are not in memory, or were replaced or written to: later numbers
    would be those of another model.
    """
    if model.is_streamed:
        raise PoolError(
            f"{borrower} needs the whole model in memory, and the base is read layer by layer",
            code="MG301",
            expert=expert,
            fix="run the gate where the base fits into memory, or use a metric of "
            "(outputs, targets)",
        )
    module = model.module
    before, settings = _weights(module), copy.deepcopy(module.generation_config)
    try:
        with torch.no_grad():
            yield module, copy.deepcopy(model.tokenizer)
    finally:
        module.eval()
        module.generation_config = settings
    after = _weights(module)
    changed = [name for name in before | after if before.get(name) != after.get(name)]
    if changed:
        raise PoolError(
            f"{borrower} changed the model it was to score ({changed[0]})",
            code="MG301",
            expert=expert,
            fix="only read the model; copy.deepcopy it before changing anything",
        )


def _weights(module: torch.nn.Module) -> dict[str, tuple[int, int, int]]:
    """What differs once a parameter was replaced, moved, or written to in place."""
    return {
        name: (id(held), held.data_ptr(), -1 if held.is_inference() else held._version)
        for name, held in module.named_parameters()
    }
