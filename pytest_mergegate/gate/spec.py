"""The vocabulary of a gate: what a gate file may say, as validated pydantic models."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pytest_mergegate.gate.budget import Budget
from pytest_mergegate.gate.merge_methods import MethodTraits, is_function, traits_of
from pytest_mergegate.gate.options import STAGES, Stage
from pytest_mergegate.gate.sections import (
    FUNCTION,
    CertificateSpec,
    ConflictSpec,
    ExpertName,
    ExpertSpec,
    ProbesSpec,
    Section,
    Seed,
    Text,
    reading_text,
)

DEFAULT_MAX_DISAGREEMENT = 0.3
FEWEST = 30
"""A share of fewer distinct inputs passes on its bound alone (THEORY 9)."""
PREDICTION = 0.90
"""The confidence of a predicted loss, where one method may be chosen."""


def deepest(*stages: Stage) -> Stage:
    """The deepest of ``stages`` (``preflight`` when there is none)."""
    return max(stages, key=STAGES.index, default="preflight")


def _inconsistent(message: str, *at: str) -> PydanticCustomError:
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
    route: Literal["in_place", "official"] = "in_place"
    """``official``: mergekit's own ``run_merge`` writes each merge, in a process of its own."""

    @property
    def fewest(self) -> int:
        """The fewest experts that its methods merge: one where none of them takes more."""
        return min(2, max(method.traits.most or 2 for method in self.methods))

    def method_called(self, label: str) -> MethodSpec:
        """The method that reports call ``label``."""
        return next(method for method in self.methods if label in method.labels)

    @field_validator("methods", mode="before", json_schema_input_type=list[str | MethodSpec])
    @classmethod
    def _bare_names(cls, methods: Any) -> Any:
        if not isinstance(methods, (list, tuple)):
            return methods
        return [{"method": entry} if isinstance(entry, str) else entry for entry in methods]


class GateSpec(Section):
    """A whole gate: the pool, what to compute on it, and the limits."""

    base: Text | None = None
    """Directory or ``org/name@revision``; None for the one that every adapter names, which is no
    choice in CI."""
    allowed_bases: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Repositories of the hub, as adapters write them, that may be the base where ``base`` is
    absent; any folder in the repository of the gate file may."""
    experts: dict[ExpertName, ExpertSpec]
    """What is to be merged: by name, or a glob of folders."""
    examples: Text | None = None
    """Where each expert's examples lie when it names none: a path with ``{name}`` in it."""
    lm_eval_tasks: Text | None = None
    """The folder of your own tasks for ``lm_eval:<task>``; they are code. It holds neither experts
    nor examples. None for the tasks that the harness brings alone."""
    probes: ProbesSpec = ProbesSpec()
    """The inputs on which hidden states are compared."""
    conflict: ConflictSpec = ConflictSpec()
    """How conflicts of the weights are computed: ``exact``, ``sampled``, or in full."""
    certificate: CertificateSpec = CertificateSpec()
    """The inputs, labelled or not, that bound the disagreement."""
    budget: Budget = Budget()
    """The limits; without any, ``max_disagreement: 0.3``."""
    judge: Literal["point", "bound"] = "point"
    """Whether a limit is held against the value, or the bad end of its interval."""
    merge: MergeSpec = MergeSpec()
    """Which merges are tried, and how many of them must do."""
    ignore: dict[str, Text] = {}  # noqa: RUF012 - pydantic copies it
    """Preflight codes that become warnings, each with the reason why."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The precision that models compute in."""
    trust_remote_code: bool = False
    """Run the base's own modelling code; never an adapter's."""

    @field_validator(
        "experts", mode="before", json_schema_input_type=str | dict[str, str | ExpertSpec]
    )
    @classmethod
    def _bare_paths(cls, experts: Any) -> Any:
        if not isinstance(experts, dict):
            return experts
        return {
            name: {"path": entry} if isinstance(entry, str) else entry
            for name, entry in experts.items()
        }

    @field_validator(
        "conflict", mode="before", json_schema_input_type=Literal["exact", "sampled"] | ConflictSpec
    )
    @classmethod
    def _bare_mode(cls, conflict: Any) -> Any:
        return {"mode": conflict} if isinstance(conflict, str) else conflict

    @field_validator("examples")
    @classmethod
    def _has_placeholder(cls, examples: str | None) -> str | None:
        if examples is not None and "{name}" not in examples:
            raise ValueError("a path for every expert's examples must hold {name}")
        return examples

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.experts) < self.merge.fewest:
            raise _inconsistent(
                f"a merge takes at least two experts, the gate has {len(self.experts)}", "experts"
            )
        if self.trust_remote_code and self.base is None:
            raise _inconsistent(
                "trust_remote_code needs base: an adapter must not choose the code that is run",
                "trust_remote_code",
            )
        weights = self.merge.weights
        if isinstance(weights, dict) and set(weights) != set(self.experts):
            odd = sorted(set(weights) ^ set(self.experts))
            message = f"merge.weights must name every expert once: {', '.join(odd)}"
            raise _inconsistent(message, "merge", "weights")
        for method in self.merge.methods:
            parameter = method.traits.share_parameter or ""
            if method.run_on(len(self.experts)) != method.method and parameter in method.parameters:
                raise _inconsistent(
                    f"{method.method}'s {parameter} walks from one expert to another, the pool has "
                    f"{len(self.experts)}; leave {parameter} out and write merge.weights",
                    "merge",
                    "methods",
                )
        labels = [method.label for method in self.merge.methods]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise _inconsistent(f"merge.methods lists {', '.join(twice)} twice", "merge", "methods")
        return self

    def reading_of(self, name: str) -> str:
        """How expert ``name``'s answers are read, in one line: where it differs, so do scores."""
        expert = self.experts[name]
        return reading_text(expert.how_read, self.probes.answer_limit)

    def examples_of(self, name: str) -> str | None:
        """The path of expert ``name``'s examples as the gate file gives it."""
        own = self.experts[name].examples
        return own or (self.examples.replace("{name}", name) if self.examples else None)

    @property
    def loss_level(self) -> float:
        """The confidence of one expert's measured loss under one method. Under ``select: any`` the
        chance to be wrong is shared among the methods that may be chosen (THEORY 9): a gate that
        passes by any of them is then wrong no more often than one that lists a single method."""
        return 1 - (1 - self.certificate.confidence) / self._chosen

    @property
    def _chosen(self) -> int:
        """Of how many methods any may be the one that is shipped."""
        return len(self.merge.methods) if self.merge.select == "any" else 1

    @property
    def prediction_level(self) -> float:
        """The same of a predicted loss by which a gate may pass."""
        return 1 - (1 - PREDICTION) / self._chosen

    @property
    def level(self) -> float:
        """The confidence of one look at one expert's certificate under one method: shared among
        the looks as well (the union bound)."""
        return 1 - (1 - self.loss_level) / self.certificate.looks

    @property
    def effective_budget(self) -> Budget:
        """The budget, or the default where the gate sets no limit at all."""
        if self.budget.limits:
            return self.budget
        return Budget(max_disagreement=DEFAULT_MAX_DISAGREEMENT)
