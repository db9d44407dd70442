"""The base of everything that is written as JSON for others: reports and lines of a registry.

Undefined numbers are null with a sibling ``*_reason``; NaN and infinity cannot be represented.
"""

import math
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from pytest_mergegate.common.errors import did_you_mean
from pytest_mergegate.common.values import Value

Number = Annotated[float, Field(allow_inf_nan=False)]
Interval = tuple[Number | None, Number | None]
NOT_RUN = "stage_not_run"
_TURNED = "_percent"
"""The ending of a loss that has the sign that people expect, beside the one by Eq. 1."""
_OPTIONAL = ("_reason", "_standard_error")
"""Endings of keys that are left out where there is nothing to say."""


class Record(BaseModel):
    """A part of a document."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls, source: object = None, /, **more: Any) -> Self:
        """The record of ``source``: what it has of the record's fields, and ``more``.

        Of a Value ``x`` the record tells ``x``, ``x_reason``, ``x_standard_error``, ``x_interval``
        and ``x_infinite``, as far as it has them; None for one is a stage that did not run.
        """
        asked = cls.model_fields
        same = (name for name in asked if name not in more and hasattr(source, name))
        found = {name: getattr(source, name) for name in same} | more
        told: dict[str, Any] = {}
        for name, value in found.items():
            parts = _parts(value) if value is None or isinstance(value, Value) else {"": value}
            told |= {
                name + end: own for end, own in parts.items() if not end or name + end in asked
            }
        return cls(**told)

    if not TYPE_CHECKING:  # or every name would be known

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                return super().__getattr__(name)
            known = [*type(self).model_fields, *(n for n in vars(type(self)) if n[0] != "_")]
            hint = did_you_mean(name, known, "it has")
            raise AttributeError(f"{type(self).__name__} has no {name!r}; {hint}")

    @model_validator(mode="before")
    @classmethod
    def _turn_losses(cls, data: Any) -> Any:
        """Give ``loss_percent`` beside ``loss``: positive where the merge is worse."""
        if not isinstance(data, dict):
            return data
        twins = {
            t: data.get(t.removesuffix(_TURNED)) for t in cls.model_fields if t.endswith(_TURNED)
        }
        return {t: 0.0 - n for t, n in twins.items() if isinstance(n, (int, float))} | data

    @model_serializer(mode="wrap")
    def _drop_empty_reasons(self, handler: Any) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return {k: v for k, v in data.items() if v is not None or not k.endswith(_OPTIONAL)}


def interval_of(value: Value) -> Interval | None:
    """The interval with null for an infinite end."""
    if value.interval is None:
        return None
    low, high = (None if math.isinf(end) else end for end in value.interval)
    return low, high


def value_of(record: Record | None, name: str) -> Value:
    """The Value that ``record`` was made of under ``name``; None is of a stage that did not run."""
    told = {} if record is None else dict(record)
    infinite = told.get(f"{name}_infinite", False)
    number = math.inf if infinite else told.get(name)
    if number is None:
        return Value.missing(told.get(f"{name}_reason") or NOT_RUN)
    ends = told.get(f"{name}_interval")
    if ends is not None:
        low, high = ends
        ends = (-math.inf if low is None else low, math.inf if high is None else high)
    error = told.get(f"{name}_standard_error")
    return Value(number=number, interval=ends, standard_error=error)


def _parts(value: Value | None) -> dict[str, Any]:
    """By what is added to the name of a value."""
    if value is None:
        return {"": None, "_reason": NOT_RUN}
    infinite = value.number is not None and math.isinf(value.number)
    return {
        "": None if infinite else value.number,
        "_reason": "infinite" if infinite else value.reason,
        "_standard_error": value.standard_error,
        "_interval": interval_of(value),
        "_infinite": infinite,
    }
