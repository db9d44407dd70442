"""What a LoRA adapter trained beside its factors: whole parameters, and rows of embeddings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.json_files import strings
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.adapter_names import CONFIG, PREFIX, WEIGHTS
from pytest_mergegate.pool.changes import Change, Replacement, Rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_mergegate.pool.base import Base
    from pytest_mergegate.pool.stored import StoredTensors

_WRAPPED = re.compile(r"\.modules_to_save\.[^.]+\.")


def saved_modules(config: Mapping[str, Any]) -> list[str]:
    """``modules_to_save``, as far as it holds names."""
    return [name for name in strings(config.get("modules_to_save")) if name]


def is_saved(module: str, names: Sequence[str]) -> bool:
    """Whether ``module`` is, or lies in, one that ``names`` of ``modules_to_save`` mean.

    PEFT saves by endings: ``norm`` means every ``input_layernorm``, too.
    """
    return any(module.endswith(name) or f"{name}." in module for name in names)


def is_within(module: str, names: Iterable[str]) -> bool:
    """Whether ``module`` is, or lies in, one of ``names``.

    Where PEFT looks for what to adapt, it leaves out modules_to_save by whole names.
    """
    return any(f".{name}." in f".{module}." for name in names)


def replacement(
    key: str,
    config: Mapping[str, Any],
    tensors: StoredTensors,
    base: Base | None,
    expert: str,
) -> Replacement:
    """A parameter that was trained whole: PEFT saves those under their plain names.

    Raises PoolError for a tensor that the configuration does not call for.
    """
    parameter = _WRAPPED.sub(".", key.removeprefix(PREFIX))
    module = parameter.rpartition(".")[0]
    trained = is_saved(module, saved_modules(config))
    bias = config.get("bias") in ("all", "lora_only") and parameter.endswith(".bias")
    # PEFT saves copies of these where one of them is adapted or resized
    embedding = base is not None and base.is_embedding(parameter)
    if not (trained or bias or embedding):
        raise PoolError(
            f"tensor {key!r} is not a LoRA factor of a base module, nor of modules_to_save",
            code="MG102",
            expert=expert,
            where=WEIGHTS,
            fix=f"PEFT names tensors {PREFIX}<module>.lora_A.weight; "
            "a changed name makes it drop them without a word",
        )
    return Replacement(
        parameter=base.parameter(parameter) if base else parameter,
        key=key,
        shape=tensors[key].shape,
    )


def rows_of(
    module: str,
    key: str,
    config: Mapping[str, Any],
    tensors: StoredTensors,
    base: Base | None,
    expert: str,
) -> Rows:
    """PEFT's trainable tokens: the rows' new values, whatever the tensor's name says.

    Raises PoolError where the configuration names other rows than are stored.
    """
    wanted = config.get("trainable_token_indices")
    if isinstance(wanted, dict):
        wanted = next((v for k, v in wanted.items() if f".{module}".endswith(f".{k}")), None)
    shape = tensors[key].shape
    # as many as are stored, and any: then the file is as large as the list is long
    listed = wanted if tensors[key].size and isinstance(wanted, list) else []
    rows = tuple(listed) if len(listed) == shape[0] else ()
    whole = all(type(row) is int and row >= 0 for row in rows) and len(set(rows)) == len(rows)
    if not whole or len(shape) != 2 or len(rows) != shape[0]:
        raise PoolError(
            f"{key!r} is {list(shape)}, trainable_token_indices of {module!r} is "
            f"{shown(str(wanted))}",
            code="MG104",
            expert=expert,
            where=CONFIG,
            fix="the configuration belongs to other weights; save the adapter again",
        )
    parameter = f"{module}.weight"
    return Rows(
        parameter=base.parameter(parameter) if base else parameter,
        key=key,
        rows=rows,
        width=shape[1],
    )


def without_doubles(
    changes: Iterable[Change], tensors: StoredTensors, base: Base | None, expert: str
) -> list[Change]:
    """One change per parameter: both sides of a tied pair may be stored as equal copies.

    Raises PoolError where they are not equal.
    """
    found: dict[str, Change] = {}
    for change in changes:
        other = found.setdefault(change.parameter, change)
        if other is not change and not _are_copies(other, change, tensors):
            tied = base is not None and base.is_embedding(change.parameter)
            raise PoolError(
                f"{change.parameter!r} is changed in two ways at once"
                + (": the base ties its embeddings, the adapter changes both sides" * tied),
                code="MG002",
                expert=expert,
                where=WEIGHTS,
                fix="merge the adapter into its base and list the checkpoint",
            )
    return list(found.values())


def _are_copies(one: Change, other: Change, tensors: StoredTensors) -> bool:
    if not isinstance(one, Replacement) or not isinstance(other, Replacement):
        return False
    return np.array_equal(tensors.floats(one.key), tensors.floats(other.key))
