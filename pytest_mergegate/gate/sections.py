"""The sections of a gate file: experts, what is compared of them, and the budget."""

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positions = Literal["answer", "last", "mean", "head"]
EXACT: Final = "exact"
EXACT_MATCH: Final = "exact_match"
BUILTIN_METRICS = (EXACT_MATCH, "accuracy", "rouge_l")
ROUGE: Final = "rouge_l"
"""How answers are compared where no function of the team's own does, and a metric's name."""
HARNESS = "lm_eval:"
"""What a metric starts with that is a task of lm-evaluation-harness."""
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""Code of the team's own: ``package.module:function``."""
POOL = "pool"
"""How pytest calls the verdict on the pool as a whole, beside one per expert."""


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
    said = f"{how['length_normalization']} stop={stop} max_answer_tokens={max_answer_tokens}"
    return f"{said} compare={how['compare']}" if "compare" in how else said


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

    path: Text
    """A PEFT adapter or a full checkpoint: a directory, or ``org/name@revision``."""
    examples: Text | None = None
    """JSONL of ``{"input", "target"?, "choices"?}``, relative to the gate file; a target is a text,
    or a list of references."""
    score: Share | None = None
    """The expert's known score, used where its examples have no targets."""
    min_score: Share | None = None
    """What the expert must itself reach: below it, nothing about the expert passes."""
    metric: str = EXACT_MATCH
    """``exact_match``, ``accuracy``, ``rouge_l``, ``lm_eval:<task>`` or
    ``package.module:function``."""
    compare: Literal["exact", "rouge_l"] | None = None
    """How a merge's answer is compared with the expert's: ``exact`` (the same or not), or
    ``rouge_l``, by as much as ROUGE-L can tell. None for what follows from the metric."""
    distance: str | None = None
    """``package.module:function`` of (outputs, outputs) that compares them in place of that: one
    distance in [0, 1] per example."""
    length_normalization: Literal["none", "tokens", "bytes"] = "none"
    """By what ``accuracy`` divides the log-likelihood of a choice before it ranks them."""
    stop: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """A greedy answer ends where one of these first completes, and is read without it."""

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        if metric.startswith(HARNESS) and metric.removeprefix(HARNESS).strip():
            return metric
        if metric not in BUILTIN_METRICS and not FUNCTION.fullmatch(metric):
            raise ValueError(
                f"unknown metric {metric!r}; use one of {', '.join(BUILTIN_METRICS)}, "
                f"{HARNESS}<task> or package.module:function"
            )
        return metric

    @model_validator(mode="after")
    def _ranks_choices(self) -> Self:
        if self.length_normalization != "none" and self.metric != "accuracy":
            raise ValueError(
                "length_normalization is for metric: accuracy, which ranks choices, "
                f"not for {self.metric}"
            )
        return self

    @field_validator("distance")
    @classmethod
    def _is_function(cls, distance: str | None) -> str | None:
        if distance is not None and not FUNCTION.fullmatch(distance):
            raise ValueError(f"unknown distance {distance!r}; write package.module:function")
        return distance

    @model_validator(mode="after")
    def _compares_one_way(self) -> Self:
        if self.compare is not None and self.distance is not None:
            raise ValueError("compare and distance are two ways to compare answers; keep one")
        if self.metric == "accuracy" and self.comparison != EXACT:
            raise ValueError(
                "metric: accuracy ranks choices, and these are the same or not; leave out "
                + ("distance" if self.distance else "compare")
            )
        return self

    @property
    def comparison(self) -> str:
        """How answers are compared: ``exact``, ``rouge_l``, or a function of the team's own. No
        number of one comparison says anything about a number of another (THEORY 10)."""
        return self.distance or self.compare or (ROUGE if self.metric == ROUGE else EXACT)

    @property
    def bounds_loss(self) -> bool:
        """Whether the mean distance of answers bounds the loss of their scores: that of ROUGE-L
        bounds its own alone; a function of the team's own is taken at its word."""
        return self.comparison != ROUGE or self.metric == ROUGE

    @property
    def how_read(self) -> dict[str, Any]:
        """All that decides how answers are read: part of the key of whatever comes of them."""
        how = self.model_dump(mode="json", include={"metric", "length_normalization", "stop"})
        return how if self.comparison == EXACT else {**how, "compare": self.comparison}


class _Inputs(Section):
    """How many inputs of every expert are run, and up to how many more while that leaves a limit
    undecided: twice as many at a time."""

    per_task: Count
    max_per_task: Count | None = None

    @model_validator(mode="after")
    def _most_is_no_less(self) -> Self:
        if self.most < self.per_task:
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


class ProbesSpec(_Inputs):
    """On which inputs, and where in them, hidden states are compared (THEORY 3)."""

    per_task: Count = 5
    """Inputs of every expert that are run through the base and all experts."""
    max_per_task: Count | None = None
    """Up to so many are drawn while the interval of an MDS straddles its limit; None for no more
    than ``per_task``."""
    seed: Seed = 0
    """By which they are drawn."""
    positions: Positions | None = None
    """None for the family's own: ``answer``, a classifier's ``head``, or ``mean``."""
    normalize: Literal["unit", "none", "base"] = "unit"
    """How hidden states are scaled before their distances are taken."""
    max_answer_tokens: Count | None = None
    """Greedy answers, wherever the gate decodes one, stop here. None for as many as the experts
    need to end their own answers: 64, or twice that and again, up to 512."""

    @property
    def answer_limit(self) -> int:
        """The limit on answers with which a gate starts."""
        return self.max_answer_tokens or 64

    @property
    def longest_answer(self) -> int:
        """Up to where it is raised while an expert's own answer reaches it."""
        return self.max_answer_tokens or 512

    @property
    def drawn(self) -> dict[str, Any]:
        """All of it that numbers depend on, with the limit on answers before it is raised."""
        return self.model_dump(mode="json") | {"max_answer_tokens": self.answer_limit}

    @property
    def level(self) -> float:
        """The confidence of an MDS's interval at one look: 95 % of all looks together."""
        return 1 - 0.05 / self.looks


class ConflictSpec(Section):
    """How parameter conflicts are computed (THEORY 2)."""

    mode: Literal["exact", "sampled"] = "exact"
    """Every number of every task vector, or some rows of each matrix."""
    rows: Annotated[int, Field(ge=4, multiple_of=2)] = 64
    """Of each matrix, where they are sampled; two from each of as many equal parts."""
    seed: Seed = 0
    """By which they are drawn."""


_FIRST_LOOK = 16
"""Inputs on which a clear failure shows."""
_EARLY_CHANCE = 0.2
"""Of the chance to be wrong, the share that a look has which can only fail."""


class CertificateSpec(_Inputs):
    """How many unlabelled inputs bound the disagreement, and how surely."""

    per_task: Count = 64
    """Inputs of every expert on which the merge is compared with it."""
    max_per_task: Count | None = None
    """Up to so many, twice as many at a time, while it is open on which side of its limit an
    expert is; None for no more than ``per_task``."""
    sequential: bool = True
    """Whether 16 of them are looked at first, then twice as many: an expert that is over a limit
    beyond doubt is compared on no more. Nothing passes before all ``per_task`` were looked at."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the bound on the disagreement, and of its interval."""
    shown: Annotated[int, Field(ge=0)] = 3
    """Inputs that reports show of every expert, with the answers of expert and merge: those that
    changed worst. 0 keeps all text out of reports."""

    def early(self, inputs: int) -> tuple[int, ...]:
        """On how many an expert may fail before all of its so many ``inputs`` are looked at."""
        doublings = int(math.log2(max(1.0, min(inputs, self.per_task) / _FIRST_LOOK)))
        return tuple(_FIRST_LOOK << k for k in range(doublings)) if self.sequential else ()

    @property
    def early_level(self) -> float:
        """The confidence of an interval by which an expert fails early. A pass rests on all inputs
        whatever was seen before, so that none of the confidence of its bound is spent."""
        return 1 - _EARLY_CHANCE * (1 - self.confidence)

    @property
    def drawn(self) -> dict[str, Any]:
        """All of it that numbers depend on."""
        return self.model_dump(mode="json", exclude={"shown"})
