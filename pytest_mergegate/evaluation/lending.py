"""The loaded model in the hands of code that is not ours."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.errors import PoolError

if TYPE_CHECKING:  # which import torch
    import torch

    from pytest_mergegate.engine.models.model import Model


def no_scores(
    who: str, why: str, expert: str, fix: str | None = None, discreet: str | None = None
) -> PoolError:
    """The error for code that is not ours and gives no scores: ``who`` it is, and ``why``; or
    ``discreet``, where that may hold text of examples."""
    said = f"{who} {why if discreet is None else discreet}"
    return PoolError(f"{who} {why}", code="MG301", expert=expert, fix=fix, discreet=said)


@contextmanager
def lent(model: "Model", borrower: str, *, expert: str) -> Iterator[tuple[Any, Any]]:
    """The transformers model with the weights loaded now, in eval mode, and a copy of its
    tokenizer, for code that is not ours.

    Afterwards the model is in eval mode again, with the generation settings it had. Raises
    PoolError where the weights are not in memory, or were replaced or written to: later numbers
    would be those of another model.
    """
    import torch

    if model.is_streamed:
        raise no_scores(
            borrower,
            "needs the whole model in memory, and the base is read layer by layer",
            expert,
            "run the gate where the base fits into memory, or use a metric of (outputs, targets)",
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
        raise no_scores(
            borrower,
            f"changed the model it was to score ({changed[0]})",
            expert,
            "only read the model; copy.deepcopy it before changing anything",
        )


def _weights(module: "torch.nn.Module") -> dict[str, tuple[int, int, int]]:
    """What differs once a parameter was replaced, moved, or written to in place."""
    return {
        name: (id(held), held.data_ptr(), -1 if held.is_inference() else held._version)
        for name, held in module.named_parameters()
    }
