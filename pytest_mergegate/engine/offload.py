"""A base larger than memory: its weights are read from their files whenever a layer runs."""

from __future__ import annotations

import contextlib
import gc
from collections import ChainMap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import cpu_offload, init_empty_weights

from pytest_mergegate.engine.loading import load_config, parameter_names, quiet
from pytest_mergegate.engine.memory import available, return_freed
from pytest_mergegate.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pytest_mergegate.engine.loading import Placement
    from pytest_mergegate.pool.base import Base

_COPIES = 2
"""The base, and an expert that changes all of it."""


def is_too_large(base: Base, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the base and one expert in its place do not fit into what memory is left."""
    return _COPIES * base.parameters * dtype.itemsize > available(device)


class OffloadedWeights(Mapping[str, "Tensor"]):
    """A model's weights by name, from the base's files or from ``changes``; none are kept."""

    def __init__(self, base: Base, module: torch.nn.Module, dtype: torch.dtype) -> None:
        self.changes: Mapping[str, Tensor] = {}
        self._base, self._dtype = base, dtype
        self.names = parameter_names(module)
        if odd := sorted(set(self.names.values()) ^ set(base.tensors)):
            raise PoolError(
                f"the base does not fit into memory, and cannot be read layer by layer: {odd[0]!r} "
                "goes by another name in its files than in the model",
                code="MG002",
                where=base.path.name,
                fix="use a machine with more memory, or dtype: bfloat16",
            )

    def own(self, name: str) -> Tensor:
        """The base's parameter as it would be held in memory, in float32.

        Raises PoolError where it is not finite.
        """
        weight = torch.from_numpy(self._base.tensors.floats(name))
        if not bool(torch.isfinite(weight).all()):
            raise PoolError(
                f"the base's tensor {name!r} holds NaN or infinity",
                code="MG105",
                where=self._base.path.name,
                fix="download or save the base again",
            )
        return weight.to(self._dtype).to(torch.float32)

    @contextlib.contextmanager
    def changed(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Have ``weights`` in place of the base's inside the block."""
        before = self.changes
        self.changes = ChainMap(cast("Any", weights), cast("Any", before))  # looks up, copies none
        try:
            yield
        finally:
            self.changes = before

    def __getitem__(self, name: str) -> Tensor:
        parameter = self.names[name]
        changed = self.changes.get(parameter)
        return (self.own(parameter) if changed is None else changed).to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@contextlib.contextmanager
def _collecting() -> Iterator[None]:
    """Free at once what ``init_empty_weights`` has just emptied: it stays in cycles of references,
    and would add up to the whole model."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def load_offloaded(
    base: Base, auto_class: Any, kind: str, placement: Placement
) -> tuple[Any, OffloadedWeights]:
    """A model of which one module at a time is in memory. Raises PoolError."""
    return_freed()
    trusted = placement.trust_remote_code
    config = load_config(base.path, trust_remote_code=trusted)
    try:
        with quiet(), _collecting(), init_empty_weights():
            module = auto_class.from_config(
                config, dtype=placement.dtype, trust_remote_code=trusted
            )
    except Exception as error:  # a config can break transformers in any way
        raise PoolError(
            f"the base does not load as a {kind} ({error})",
            where=base.path.name,
            fix="check config.json against the weights",
        ) from None
    module.tie_weights()
    module.eval()
    weights = OffloadedWeights(base, module, placement.dtype)
    cpu_offload(module, execution_device=placement.device, state_dict=weights)
    return module, weights
