"""The section ``merge`` of a gate file: which merges are considered, and how they are made."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pytest_mergegate.common.errors import did_you_mean
from pytest_mergegate.gate.merge_methods import (
    METHODS,
    PEFT,
    MethodTraits,
    is_function,
    traits_of,
)
from pytest_mergegate.gate.sections import FUNCTION, Section, Seed, Text


def inconsistent(message: str, *at: str) -> PydanticCustomError:
    """Keys that do not go together; ``at`` is the one to correct, for its line in the file."""
    return PydanticCustomError("inconsistent", "{message}", {"message": message, "at": at})


class MethodSpec(Section):
    """A merge method and its parameters, in mergekit's names where mergekit has it."""

    model_config = ConfigDict(extra="allow")

    method: Text
    """The method's name: one of mergekit's, such as ``linear`` or ``ties``, one of our own, or
    ``package.module:function`` of (base, experts) that merges one tensor."""

    @field_validator("method")
    @classmethod
    def _is_function(cls, method: str) -> str:
        if is_function(method) and not FUNCTION.fullmatch(method):
            raise ValueError(f"unknown method {method!r}; write package.module:function")
        return method

    @model_validator(mode="after")
    def _plain_parameters(self) -> Self:
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

    @property
    def labels(self) -> tuple[str, str]:
        """What reports may call this method, whatever is run for it."""
        return self.label, self.label_of(self.traits.stand_in or self.method)


def _called_by_peft(entry: Any) -> Any:
    """A method as a gate file has it, under the name of the table."""
    name = entry.get("method") if isinstance(entry, dict) else None
    if not isinstance(name, str) or name.startswith(PEFT):
        return entry
    return {**entry, "method": f"{PEFT}{name}"}


class MergeSpec(Section):
    """Which merges are considered."""

    methods: Annotated[tuple[MethodSpec, ...], Field(min_length=1, strict=False)] = (
        MethodSpec(method="linear"),
    )
    """Methods, each by name, or with its parameters."""
    surrogate: Literal["auto", "always"] = "auto"
    """When the factored sum that comes nearest to a merge is run before it: ``always``, or where it
    is the merge itself and where the gate stops before the merges."""
    weights: Literal["uniform", "optimal", "minimax"] | dict[str, float] = "uniform"
    """``optimal`` are the weights of the minimum enclosing ball of the states; ``minimax`` those
    that leave the worst-off expert best off on its own inputs (THEORY 5)."""
    select: Literal["any", "all"] = "any"
    """Whether one method must keep every expert, or each of them."""
    seed: Seed = 0
    """Seed of the methods that draw at random (dare, della)."""
    route: Literal["in_place", "official", "peft"] = "in_place"
    """``official``: mergekit's own ``run_merge`` writes each merge, in a process of its own.
    ``peft``: PEFT's ``add_weighted_adapter`` makes one adapter of the pool's; methods are its
    combination types."""

    @property
    def fewest(self) -> int:
        """The fewest experts that its methods merge: one where none of them takes more."""
        return min(2, max(method.traits.most or 2 for method in self.methods))

    def method_called(self, label: str) -> MethodSpec:
        """The method that reports call ``label``."""
        return next(method for method in self.methods if label in method.labels)

    @model_validator(mode="before")
    @classmethod
    def _of_peft(cls, data: Any) -> Any:
        """Have PEFT's types go by names of their own: its ``linear`` is not mergekit's."""
        if not isinstance(data, dict) or data.get("route") != "peft":
            return data
        methods = data.get("methods", ["cat"])
        if not isinstance(methods, (list, tuple)):
            return data
        named = [{"method": entry} if isinstance(entry, str) else entry for entry in methods]
        return {**data, "methods": [_called_by_peft(entry) for entry in named]}

    @model_validator(mode="after")
    def _goes_by_its_route(self) -> Self:
        for method in self.methods:
            if method.traits.by_peft != (self.route == "peft"):
                known = [n.removeprefix(PEFT) for n, row in METHODS.items() if row.by_peft]
                name = method.method.removeprefix(PEFT)
                raise inconsistent(
                    f"{name} is no combination type of PEFT's ({did_you_mean(name, known)})"
                    if self.route == "peft"
                    else f"{method.method} is made by PEFT; write route: peft and method: {name}",
                    "merge",
                    "methods",
                )
        return self

    @field_validator("methods", mode="before", json_schema_input_type=list[str | MethodSpec])
    @classmethod
    def _bare_names(cls, methods: Any) -> Any:
        if not isinstance(methods, (list, tuple)):
            return methods
        return [{"method": entry} if isinstance(entry, str) else entry for entry in methods]
