"""The vocabulary of a gate: what a gate file may say, as validated pydantic models."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pytest_mergegate.gate.budget import Budget
from pytest_mergegate.gate.finished import wrong_beside
from pytest_mergegate.gate.merge_section import MergeSpec, inconsistent
from pytest_mergegate.gate.options import STAGES, Stage
from pytest_mergegate.gate.sections import (
    CertificateSpec,
    ConflictSpec,
    ExpertName,
    ExpertSpec,
    ProbesSpec,
    Section,
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
    merged: Text | None = None
    """In place of ``merge``: a finished merge to be gated, a directory or ``org/name@revision``.
    One expert is enough then."""
    ignore: dict[str, Text] = {}  # noqa: RUF012 - pydantic copies it
    """Preflight codes that become warnings, each with the reason why."""
    vocabulary: Literal["same", "pad"] = "same"
    """``pad``: rows that the base lacks for the experts' tokens are added to it, drawn as
    transformers' resize draws them, and an expert's rows that stand for no token are the base's."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The precision that models compute in."""
    reference_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The precision that base and experts compute in beside a finished merge, which itself computes
    in the one that it is stored in. None for float32."""
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
        if self.merged is None and len(self.experts) < self.merge.fewest:
            raise inconsistent(
                f"a merge takes at least two experts, the gate has {len(self.experts)}; a finished "
                "merge is held to one as well: name it with merged: PATH",
                "experts",
            )
        if self.trust_remote_code and self.base is None:
            raise inconsistent(
                "trust_remote_code needs base: an adapter must not choose the code that is run",
                "trust_remote_code",
            )
        weights = self.merge.weights
        if isinstance(weights, dict) and set(weights) != set(self.experts):
            odd = sorted(set(weights) ^ set(self.experts))
            message = f"merge.weights must name every expert once: {', '.join(odd)}"
            raise inconsistent(message, "merge", "weights")
        for method in self.merge.methods:
            parameter = method.traits.share_parameter or ""
            if method.run_on(len(self.experts)) != method.method and parameter in method.parameters:
                raise inconsistent(
                    f"{method.method}'s {parameter} walks from one expert to another, the pool has "
                    f"{len(self.experts)}; leave {parameter} out and write merge.weights",
                    "merge",
                    "methods",
                )
        labels = [method.label for method in self.merge.methods]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise inconsistent(f"merge.methods lists {', '.join(twice)} twice", "merge", "methods")
        return self

    @model_validator(mode="after")
    def _makes_or_finds(self) -> Self:
        if wrong := wrong_beside(self.merged, self.model_fields_set, self.experts, self.budget):
            raise inconsistent(*wrong)
        return self

    @property
    def precision(self) -> str:
        """In which base and experts compute, and the merges that the gate makes."""
        return self.reference_dtype or self.dtype

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
