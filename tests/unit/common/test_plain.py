"""Every result comes back as it was written, whatever is in it, by way of a cache entry."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mergegate.common.plain import dump, load
from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.cache import pack, unpack
from pytest_mergegate.engine.running.executors import ROWS
from pytest_mergegate.engine.running.references import Agreement
from pytest_mergegate.engine.running.workspace import Draw, Facts
from pytest_mergegate.merging.method import Method
from pytest_mergegate.stages.base_answers import BaseAnswers
from pytest_mergegate.stages.conflict import ConflictResult
from pytest_mergegate.stages.evaluate import EvaluateResult
from pytest_mergegate.stages.forecasts import Surrogate
from pytest_mergegate.stages.hidden import HiddenResult
from pytest_mergegate.stages.measured import ReferenceScores
from pytest_mergegate.stages.merge import MergeResult
from pytest_mergegate.stages.merge_versus_experts import MergedExpert

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY = {"kind": "test"}
KINDS: dict[str, Any] = {
    "conflict": ConflictResult,
    "hidden": HiddenResult,
    "surrogate": Surrogate,
    "merged experts": tuple[MergedExpert, ...],
    "merge": MergeResult,
    "base": BaseAnswers,
    "scores": dict[str, ReferenceScores],
    "evaluation": EvaluateResult,
    "methods": tuple[Method, ...],
    "forecast": tuple[str, Agreement | None],
    "trial": list[Agreement | None],
    "facts": Facts,
    "draw": Draw,
    "scales": dict[str, float],
    **ROWS,
}
FLOATS = st.floats(allow_nan=False)
VALUES = st.one_of(
    st.builds(Value.missing, st.text()),
    st.builds(
        Value,
        number=FLOATS,
        interval=st.none() | st.tuples(FLOATS, FLOATS),
        standard_error=st.none() | FLOATS,
    ),
)


def made(kind: Any) -> st.SearchStrategy[Any]:
    """Anything of the type ``kind``; arrays of any shape, NaN and infinity among their numbers."""
    origin, given_to = typing.get_origin(kind), typing.get_args(kind)
    if kind is Value:
        return VALUES
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        fields = {f.name: made(hints[f.name]) for f in dataclasses.fields(kind)}
        return st.builds(kind, **fields)  # type: ignore[arg-type]
    if origin is typing.Annotated:
        dtype = typing.get_args(typing.get_args(given_to[0])[1])[0]
        return st.integers(0, 2**32).flatmap(lambda seed: st.just(array(seed, dtype)))
    if origin is Literal:
        return st.sampled_from(given_to)
    if origin in {typing.Union, types.UnionType}:
        return st.one_of(map(made, given_to))
    if origin is list:
        return st.lists(made(given_to[0]), max_size=3)
    if origin is tuple:
        if given_to[-1] is Ellipsis:
            return st.lists(made(given_to[0]), max_size=3).map(tuple)
        return st.tuples(*map(made, given_to))
    if origin in {dict, Mapping}:
        return st.dictionaries(made(given_to[0]), made(given_to[1]), max_size=3)
    simple = {str: st.text(), int: st.integers(), bool: st.booleans(), float: FLOATS}
    return simple.get(kind, st.none() if kind is type(None) else st.just({"any": [1, None]}))


def array(seed: int, dtype: Any) -> Any:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(0, 4, rng.integers(0, 4)))
    numbers = np.asarray(rng.normal(size=shape)).astype(dtype)
    odd = rng.choice([0.0, -0.0, np.nan, np.inf, -np.inf], shape)
    return np.where(rng.random(shape) < 0.3, odd, numbers).astype(dtype)


def flat(value: Any) -> Iterable[tuple[str, Any]]:
    """Every number and text of a result, with its type; arrays by their bytes."""
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for key, own in value.items():
            yield from ((f".{key}{place}", found) for place, found in flat(own))
    elif isinstance(value, (list, tuple)):
        yield "", type(value)
        for k, own in enumerate(value):
            yield from ((f"[{k}]{place}", found) for place, found in flat(own))
    elif isinstance(value, np.ndarray):
        yield "", (value.dtype, value.shape, value.tobytes())
    else:
        yield "", (type(value), repr(value))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(data=st.data())
def test_comes_back_to_the_last_bit(kind: Any, data: st.DataObject) -> None:
    value = data.draw(made(kind))
    back = load(kind, unpack(KEY, pack(KEY, dump(kind, value))))
    assert list(flat(back)) == list(flat(value))


def test_a_value_that_is_none_is_refused() -> None:
    spoilt = dump(object, {"number": math.nan, "interval": None, "reason": None})
    with pytest.raises(ValueError, match="NaN"):
        load(Value, spoilt)
