"""The vocabulary of a gate: what a gate file may say, as validated pydantic models."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pytest_mergegate.gate.merge_methods import traits_of
from pytest_mergegate.gate.options import STAGES as STAGES
from pytest_mergegate.gate.options import Stage as Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_mergegate.gate.merge_methods import MethodTraits

Positions = Literal["answer", "last", "mean", "head"]

Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]

BUILTIN_METRICS = ("exact_match", "accuracy", "rouge_l")
HARNESS = "lm_eval:"
"""What a metric starts with that is a task of lm-evaluation-harness."""
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
DEFAULT_MAX_DISAGREEMENT = 0.3
FEWEST = 30
"""A share of fewer distinct inputs passes on its bound alone (THEORY 9)."""
PREDICTION = 0.90
"""The confidence of a predicted loss, where one method may be chosen."""
POOL = "pool"
"""How pytest calls the verdict on the pool as a whole, beside one per expert."""


def deepest(*stages: Stage) -> Stage:
    """The deepest of ``stages`` (``preflight`` when there is none)."""
    return max(stages, key=STAGES.index, default="preflight")


def _inconsistent(message: str, *at: str) -> PydanticCustomError:
    """Keys that do not go together; ``at`` is the one to correct, for its line in the file."""
    return PydanticCustomError("inconsistent", "{message}", {"message": message, "at": at})


def _expert_name(name: str) -> str:
    """A name that can be part of a pytest node id, and is no command to a CI service."""
    if name == POOL:
        raise ValueError(f"{POOL!r} stands for the pool as a whole; give the expert another name")
    if not name.strip() or not name.isprintable() or "::" in name or "##" in name:
        raise ValueError(
            f"{name!r} is no name for an expert; use printable text without '::' and '##'"
        )
    return name


ExpertName = Annotated[str, AfterValidator(_expert_name)]


def reading_text(how: Mapping[str, Any], max_answer_tokens: int) -> str:
    """One line for ``ExpertSpec.how_read``, with or without the metric."""
    stop = json.dumps(list(how["stop"]))
    return f"{how['length_normalization']} stop={stop} max_answer_tokens={max_answer_tokens}"


class Section(BaseModel):
    """A part of a gate file: typed strictly, frozen, and without room for unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,  # editors show them, by way of `mergegate schema`
    )


class ExpertSpec(Section):
    """One expert of the pool."""

    path: Annotated[str, Field(min_length=1)]
    """A PEFT adapter or a full checkpoint: a directory, or ``org/name@revision``."""
    examples: Annotated[str, Field(min_length=1)] | None = None
    """JSONL of ``{"input", "target"?, "choices"?}``, relative to the gate file."""
    score: Annotated[float, Field(gt=0, le=1)] | None = None
    """The expert's known score, used where its examples have no targets."""
    min_score: Annotated[float, Field(gt=0, le=1)] | None = None
    """What the expert must itself reach: below it, nothing about the expert passes."""
    metric: str = "exact_match"
    """``exact_match``, ``accuracy``, ``rouge_l``, ``lm_eval:<task>`` or
    ``package.module:function``."""
    length_normalization: Literal["none", "tokens", "bytes"] = "none"
    """By what ``accuracy`` divides the log-likelihood of a choice before it ranks them."""
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] = ()
    """A greedy answer ends where one of these first completes, and is read without it."""

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        if metric.startswith(HARNESS) and metric.removeprefix(HARNESS).strip():
            return metric
        if metric not in BUILTIN_METRICS and not _FUNCTION.fullmatch(metric):
            raise ValueError(
                f"unknown metric {metric!r}; use one of {', '.join(BUILTIN_METRICS)}, "
                f"{HARNESS}<task> or package.module:function"
            )
        return metric

    @model_validator(mode="after")
    def _ranks_choices(self) -> ExpertSpec:
        if self.length_normalization != "none" and self.metric != "accuracy":
            raise ValueError(
                "length_normalization is for metric: accuracy, which ranks choices, "
                f"not for {self.metric}"
            )
        return self

    @property
    def how_read(self) -> dict[str, Any]:
        """All that decides how answers are read: part of the key of whatever comes of them."""
        return self.model_dump(mode="json", include={"metric", "length_normalization", "stop"})


class ProbesSpec(Section):
    """On which inputs, and where in them, hidden states are compared (THEORY 3)."""

    per_task: Annotated[int, Field(ge=1)] = 5
    """Inputs of every expert that are run through the base and all experts."""
    max_per_task: Annotated[int, Field(ge=1)] | None = None
    """Up to so many are drawn while the interval of an MDS straddles its limit; None for no more
    than ``per_task``."""
    seed: Annotated[int, Field(ge=0)] = 0
    """By which they are drawn."""
    positions: Positions | None = None
    """None for the family's own: ``answer``, a classifier's ``head``, or ``mean``."""
    normalize: Literal["unit", "none", "base"] = "unit"
    """How hidden states are scaled before their distances are taken."""
    max_answer_tokens: Annotated[int, Field(ge=1)] = 64
    """Greedy answers, wherever the gate decodes one, stop here."""

    @property
    def level(self) -> float:
        """The confidence of an MDS's interval at one look: 95 % of all looks together."""
        looks = 1 + math.ceil(math.log2((self.max_per_task or self.per_task) / self.per_task))
        return 1 - 0.05 / looks

    @model_validator(mode="after")
    def _most_is_no_less(self) -> ProbesSpec:
        if self.max_per_task is not None and self.max_per_task < self.per_task:
            raise ValueError(
                f"max_per_task {self.max_per_task} is less than per_task {self.per_task}"
            )
        return self


class ConflictSpec(Section):
    """How parameter conflicts are computed (THEORY 2)."""

    mode: Literal["exact", "sampled"] = "exact"
    """Every number of every task vector, or some rows of each matrix."""
    rows: Annotated[int, Field(ge=4, multiple_of=2)] = 64
    """Of each matrix, where they are sampled; two from each of as many equal parts."""
    seed: Annotated[int, Field(ge=0)] = 0
    """By which they are drawn."""


class CertificateSpec(Section):
    """How many unlabelled inputs bound the disagreement, and how surely."""

    per_task: Annotated[int, Field(ge=1)] = 64
    """Inputs of every expert on which the merge is compared with it."""
    max_per_task: Annotated[int, Field(ge=1)] | None = None
    """Up to so many, twice as many at a time, while it is open on which side of its limit an
    expert is; None for no more than ``per_task``."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the bound on the disagreement, and of its interval."""

    @model_validator(mode="after")
    def _most_is_no_less(self) -> CertificateSpec:
        if self.max_per_task is not None and self.max_per_task < self.per_task:
            raise ValueError(
                f"max_per_task {self.max_per_task} is less than per_task {self.per_task}"
            )
        return self

    @property
    def most(self) -> int:
        """The most inputs of one task that are compared."""
        return self.max_per_task or self.per_task

    @property
    def looks(self) -> int:
        """How often it may be decided whether to go on."""
        return 1 + math.ceil(math.log2(self.most / self.per_task))


_AUTO = "auto@"
_AUTOMATIC = re.compile(r"^auto@0?\.\d*[1-9]\d*$")


def _miss_rate(text: str) -> str:
    """``auto@RATE``, the rate between 0 and 1."""
    if not _AUTOMATIC.match(text):
        raise ValueError(
            f"{text!r} is no limit: write {_AUTO}RATE with a rate between 0 and 1, such as "
            f"{_AUTO}0.1 for a limit that misses at most 10 % of collapses"
        )
    return text


def _kind_of_limit(value: object) -> str:
    return "<auto>" if isinstance(value, str) and value.startswith("auto") else "<number>"


Automatic = Annotated[
    str,
    AfterValidator(_miss_rate),
    WithJsonSchema({"type": "string", "pattern": _AUTOMATIC.pattern}),
]
"""``auto@RATE``: the limit that misses at most this share of the registry's collapses."""
_OrAutomatic = Discriminator(_kind_of_limit)


class Budget(Section):
    """Limits; a limit that is absent is not judged."""

    # what is done with each limit stands in the table of verdict.budgets
    OF_MERGES: ClassVar = frozenset({"max_disagreement", "max_loss", "max_loss_increase"})
    """Those on what a merge does, for which the inputs of the certificate are compared."""

    max_mds: (
        Annotated[
            Annotated[NonNegative, Tag("<number>")] | Annotated[Automatic, Tag("<auto>")],
            _OrAutomatic,
        ]
        | None
    ) = None
    """MDS, relative to the pool: compare it only within one pool. ``auto@0.1`` is the limit that
    misses at most 10 % of the collapses in the registry."""
    max_disagreement: (
        Annotated[
            Annotated[Probability, Tag("<number>")] | Annotated[Automatic, Tag("<auto>")],
            _OrAutomatic,
        ]
        | None
    ) = None
    """Share of an expert's own inputs that the merge may answer differently; or ``auto@RATE``."""
    max_loss: NonNegative | None = None
    """Percent, a positive number: 10 allows a loss down to -10 %."""
    max_magnitude_change_ratio: Probability | None = None
    """Of the expert's worst pair; like the two below, no forecast of a collapse by itself."""
    max_sign_change_ratio: Probability | None = None
    max_conflicting_magnitude_ratio: Probability | None = None
    max_mds_increase: NonNegative | None = None
    """Over the MDS in the baseline."""
    max_loss_increase: NonNegative | None = None
    """Percentage points over the loss in the baseline."""

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by budget name; NaN, which nothing is within, for one that is
        still to be found."""
        return {
            name: math.nan if isinstance(limit, str) else float(limit)
            for name, limit in self
            if limit is not None
        }

    @property
    def automatic(self) -> dict[str, float]:
        """The miss rates of the limits that are still to be found, by budget name."""
        return {
            name: float(limit.removeprefix(_AUTO)) for name, limit in self if isinstance(limit, str)
        }

    def capped(self, caps: Mapping[str, float]) -> Budget:
        """This budget, tightened (never loosened) by ``caps``; one that is still to be found stays
        so."""
        limits = self.model_dump(exclude_none=True)
        for name, cap in caps.items():
            known = limits.get(name, cap)
            limits[name] = known if isinstance(known, str) else min(cap, known)
        return Budget(**limits)


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


class GateSpec(Section):
    """A whole gate: the pool, what to compute on it, and the limits."""

    base: Annotated[str, Field(min_length=1)] | None = None
    """Directory or ``org/name@revision``; None for the one that every adapter names, which is no
    choice in CI."""
    allowed_bases: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)
    ] = ()
    """Repositories of the hub, as adapters write them, that may be the base where ``base`` is
    absent; any folder in the repository of the gate file may."""
    experts: dict[ExpertName, ExpertSpec]
    """What is to be merged: by name, or a glob of folders."""
    examples: Annotated[str, Field(min_length=1)] | None = None
    """Where each expert's examples lie when it names none: a path with ``{name}`` in it."""
    lm_eval_tasks: Annotated[str, Field(min_length=1)] | None = None
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
    ignore: dict[str, Annotated[str, Field(min_length=1)]] = {}
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
    def _consistent(self) -> GateSpec:
        if len(self.experts) < 2:
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
        return reading_text(expert.how_read, self.probes.max_answer_tokens)

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
