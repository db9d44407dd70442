"""The base of everything that is written as JSON for others: reports and lines of a registry.

Undefined numbers are null with a sibling ``*_reason``; NaN and infinity cannot be represented.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_serializer

Number = Annotated[float, Field(allow_inf_nan=False)]
Interval = tuple[Number | None, Number | None]
_OPTIONAL = ("_reason", "_standard_error")
"""Endings of keys that are left out where there is nothing to say."""


class Record(BaseModel):
    """A part of a document."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_serializer(mode="wrap")
    def _drop_empty_reasons(self, handler: Any) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return {k: v for k, v in data.items() if v is not None or not k.endswith(_OPTIONAL)}
