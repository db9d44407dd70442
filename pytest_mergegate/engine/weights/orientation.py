"""Which way round the base stores its matrices, held against what was read from its files."""

from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.pool.changes import Factors
from pytest_mergegate.pool.experts import Expert


def check_orientation(expert: Expert, module: Any) -> None:
    """Raise PoolError where a square weight was taken to be stored the other way round."""
    for parameter, change in expert.changes.items():
        if not isinstance(change, Factors) or change.shape_b[0] != change.shape_a[1]:
            continue
        layer = module.get_submodule(parameter.rpartition(".")[0])
        if isinstance(layer, (Conv1D, torch.nn.Embedding)) != change.transposed:
            raise PoolError(
                f"how the base stores {parameter!r} could not be told from its files",
                code="MG002",
                expert=expert.name,
                fix="merge the adapter into the base and list the checkpoint",
            )
