"""The section ``merge`` of a gate file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from pytest_mergegate.gate.merge_methods import traits_of
from pytest_mergegate.gate.sections import Section

if TYPE_CHECKING:
    from pytest_mergegate.gate.merge_methods import MethodTraits


class MethodSpec(BaseModel):
    """A merge method and its parameters, in mergekit's names."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    method: Annotated[str, Field(min_length=1)]
    """mergekit's name of the method, such as ``linear`` or ``ties``."""

    @model_validator(mode="after")
    def _plain_parameters(self) -> MethodSpec:
        for name, value in self.parameters.items():
            if name == "base_model":
                raise ValueError(
                    "leave base_model out: the gate's base: is handed to methods that take one, "
                    "and under linear mergekit would average it in, as one of N+1 models"
                )
            plain = isinstance(value, (bool, int, float))
            if not plain or (isinstance(value, float) and not math.isfinite(value)):
                raise ValueError(f"{name} must be a number or a truth value, not {value!r}")
        return self

    @property
    def parameters(self) -> dict[str, bool | int | float]:
        """The parameters given beside the method's name."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def traits(self) -> MethodTraits:
        """The method's row of the table."""
        return traits_of(self.method)

    def run_on(self, experts: int) -> str:
        """mergekit's name of what is run on so many experts: slerp knows no more than two, and
        multislerp does the same on any number."""
        traits = self.traits
        too_many = traits.most is not None and experts > traits.most
        return traits.stand_in if too_many and traits.stand_in else self.method

    @property
    def label(self) -> str:
        """The name and the parameters in one line, such as ``ties density=0.5``."""
        return " ".join([self.method, *(f"{k}={v:g}" for k, v in self.parameters.items())])

    def label_of(self, run: str) -> str:
        """What reports call the method where ``run`` is run for it."""
        return self.label if run == self.method else f"{self.label} (as {run})"

    def is_called(self, label: str) -> bool:
        """Whether reports call this method ``label``, whatever is run for it."""
        return label in {self.label, self.label_of(self.traits.stand_in or self.method)}


class MergeSpec(Section):
    """Which merges are considered."""

    methods: Annotated[tuple[MethodSpec, ...], Field(min_length=1, strict=False)] = (
        MethodSpec(method="linear"),
    )
    """mergekit's methods, each by name, or with its parameters."""
    surrogate: Literal["auto", "always"] = "auto"
    """When the factored sum that comes nearest to a merge is run before it: ``always``, or where it
    is the merge itself and where the gate stops before the merges."""
    weights: Literal["uniform", "optimal", "minimax"] | dict[str, float] = "uniform"
    """``optimal`` are the weights of the minimum enclosing ball of the states; ``minimax`` those
    that leave the worst-off expert best off on its own inputs (THEORY 5)."""
    select: Literal["any", "all"] = "any"
    """Whether one method must keep every expert, or each of them."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the methods that draw at random (dare, della)."""
    route: Literal["in_place", "official"] = "in_place"
    """``official``: mergekit's own ``run_merge`` writes each merge, in a process of its own."""

    def method_called(self, label: str) -> MethodSpec:
        """The method that reports call ``label``."""
        return next(method for method in self.methods if method.is_called(label))

    @field_validator("methods", mode="before", json_schema_input_type=list[str | MethodSpec])
    @classmethod
    def _bare_names(cls, methods: Any) -> Any:
        if not isinstance(methods, (list, tuple)):
            return methods
        return [{"method": entry} if isinstance(entry, str) else entry for entry in methods]
