"""Results as plain data, and back: what the cache keeps, workers hand over and keys are made of."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, dataclass_transform

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from pydantic_core import core_schema

T = TypeVar("T")
JSON = "json"
"""The array that holds all but the arrays, as UTF-8."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def result(cls: type[T]) -> type[T]:
    """A frozen dataclass that ``dump`` writes and ``load`` reads: the types of its fields are
    looked up while the program runs, so their imports must not be for type checkers only."""
    return dataclass(frozen=True, kw_only=True)(cls)


class _Kept:
    """How pydantic is to write an array: its numbers beside the text, bit for bit."""

    @staticmethod
    def __get_pydantic_core_schema__(*_: object) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(
            _read,
            serialization=core_schema.plain_serializer_function_ser_schema(_note, info_arg=True),
        )


Float64s = Annotated[NDArray[np.float64], _Kept]
Float32s = Annotated[NDArray[np.float32], _Kept]


def dump(kind: Any, value: object) -> dict[str, NDArray[Any]]:
    """``value``, of the type ``kind``, as few arrays: its text, and all numbers of one dtype.

    Infinities, NaN and None are kept as they are.
    """
    numbers = _Numbers()
    text = json.dumps(_adapter(kind).dump_python(value, context=numbers)).encode()
    return {JSON: np.frombuffer(text, dtype=np.uint8), **numbers.together()}


def load(kind: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """What ``dump`` was given."""
    return _adapter(kind).validate_python(json.loads(arrays[JSON].tobytes()), context=arrays)


def plain(value: object) -> Any:
    """A result, or data that hold results, as what the module json writes: for keys."""
    kind: Any = type(value)
    return _adapter(kind).dump_python(value)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class _Numbers:
    """The arrays of one value; those of a dtype become one."""

    def __init__(self) -> None:
        self._parts: defaultdict[str, list[NDArray[Any]]] = defaultdict(list)
        self._counts: Counter[str] = Counter()

    def add(self, array: NDArray[Any]) -> list[Any]:
        """Where ``array`` will lie: its dtype, the place of its first number, and its shape."""
        dtype = array.dtype.name
        noted = [dtype, self._counts[dtype], *array.shape]
        self._parts[dtype].append(array.reshape(-1))
        self._counts[dtype] += array.size
        return noted

    def together(self) -> dict[str, NDArray[Any]]:
        """One array by dtype."""
        return {dtype: np.concatenate(parts) for dtype, parts in self._parts.items()}


# neither takes arguments while the program runs, in the first releases of pydantic that do here
def _note(array: NDArray[Any], info: "core_schema.SerializationInfo[_Numbers]") -> list[Any]:
    assert info.context is not None
    return info.context.add(array)


def _read(
    noted: list[Any], info: "core_schema.ValidationInfo[Mapping[str, NDArray[Any]]]"
) -> NDArray[Any]:
    dtype, start, *shape = noted
    assert info.context is not None
    return info.context[dtype][start : start + math.prod(shape)].reshape(shape)
