"""The sections of a gate file: experts, what is compared of them, and the budget."""

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

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

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positions = Literal["answer", "last", "mean", "head"]
BUILTIN_METRICS = ("exact_match", "accuracy", "rouge_l")
HARNESS = "lm_eval:"
"""What a metric starts with that is a task of lm-evaluation-harness."""
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
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

    path: Text
    """A PEFT adapter or a full checkpoint: a directory, or ``org/name@revision``."""
    examples: Text | None = None
    """JSONL of ``{"input", "target"?, "choices"?}``, relative to the gate file; a target is a text,
    or a list of references."""
    score: Share | None = None
    """The expert's known score, used where its examples have no targets."""
    min_score: Share | None = None
    """What the expert must itself reach: below it, nothing about the expert passes."""
    metric: str = "exact_match"
    """``exact_match``, ``accuracy``, ``rouge_l``, ``lm_eval:<task>`` or
    ``package.module:function``."""
    length_normalization: Literal["none", "tokens", "bytes"] = "none"
    """By what ``accuracy`` divides the log-likelihood of a choice before it ranks them."""
    stop: Annotated[tuple[Text, ...], Field(strict=False)] = ()
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
    def _ranks_choices(self) -> Self:
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
    max_answer_tokens: Count = 64
    """Greedy answers, wherever the gate decodes one, stop here."""

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


class CertificateSpec(_Inputs):
    """How many unlabelled inputs bound the disagreement, and how surely."""

    per_task: Count = 64
    """Inputs of every expert on which the merge is compared with it."""
    max_per_task: Count | None = None
    """Up to so many, twice as many at a time, while it is open on which side of its limit an
    expert is; None for no more than ``per_task``."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the bound on the disagreement, and of its interval."""


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
_Number = TypeVar("_Number")
_OrAutomatic = Annotated[
    Annotated[_Number, Tag("<number>")] | Annotated[Automatic, Tag("<auto>")],
    Discriminator(_kind_of_limit),
]


class Budget(Section):
    """Limits; a limit that is absent is not judged."""

    # what is done with each limit stands in the table of verdict.budgets
    OF_MERGES: ClassVar = frozenset({"max_disagreement", "max_loss", "max_loss_increase"})
    """Those on what a merge does, for which the inputs of the certificate are compared."""

    max_mds: _OrAutomatic[NonNegative] | None = None
    """MDS, relative to the pool: compare it only within one pool. ``auto@0.1`` is the limit that
    misses at most 10 % of the collapses in the registry."""
    max_disagreement: _OrAutomatic[Probability] | None = None
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

    def capped(self, caps: Mapping[str, float]) -> Self:
        """This budget, tightened (never loosened) by ``caps``; one that is still to be found stays
        so."""
        limits = self.model_dump(exclude_none=True)
        for name, cap in caps.items():
            known = limits.get(name, cap)
            limits[name] = known if isinstance(known, str) else min(cap, known)
        return type(self)(**limits)
