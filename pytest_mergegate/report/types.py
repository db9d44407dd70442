"""The JSON report, ``pytest-mergegate/report/1``, as validated pydantic models.

Undefined numbers are null with a sibling ``*_reason``; NaN and infinity cannot be represented.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from pytest_mergegate.common.records import Interval, Number, Record
from pytest_mergegate.common.statuses import Severity, Status, worst
from pytest_mergegate.planning.forecasts import PlanRecord
from pytest_mergegate.report.expert_result import ExpertResult, expert_result
from pytest_mergegate.report.merge_records import ForecastRecord, MergeRecord
from pytest_mergegate.report.pool_records import (
    BaseRecord,
    BoundsRecord,
    ConflictsRecord,
    ExpertRecord,
    FinishedRecord,
    PairRecord,
)

SCHEMA: Final = "pytest-mergegate/report/1"


class CacheUse(Record):
    """How often stored results served."""

    hits: int = 0
    misses: int = 0


class TokensRecord(Record):
    """How many tokens a model was run on in this process, padding apart."""

    processed: int = 0
    """Those that went through its layers."""
    reused: int = 0
    """Those whose keys and values were at hand: beginnings that inputs share."""


class PredictionRecord(Record):
    """A loss that was not measured."""

    expert: str
    method: str | None
    loss: Number | None
    """Percent, negative where the merge is worse; of a certificate the bound."""
    loss_percent: Number | None = None
    """The same, positive where the merge is worse."""
    loss_reason: str | None = None
    interval: Interval | None = None
    """At ``confidence``; a certificate's is open above."""
    source: Literal["certificate", "registry", "beds", "paper"]
    """``certificate``: a bound; ``registry``: by the team's recorded merges; ``beds``: by those
    that came with the package; ``paper``: the paper's 32 rows, a weak reference."""
    confidence: Number | None = None
    score: str | None = None
    """What it was read from, as the registry names it."""
    merges: int | None = None
    """Recorded merges that it rests on; null for a certificate and the paper's rows."""


class FindingRecord(Record):
    """One coded finding."""

    code: str
    severity: Severity
    expert: str | None
    message: str
    fix: str
    line: int | None = None
    """1-based, of the gate file; null where it has none to show."""


class VerdictRecord(Record):
    """One value against one limit."""

    budget: str
    limit: Number | None
    """Null where ``auto@RATE`` could not be certified; the verdict is inconclusive then."""
    limit_reason: str | None = None
    value: Number | None
    value_reason: str | None = None
    value_standard_error: Number | None = None
    value_infinite: bool = False
    interval: Interval | None = None
    expert: str | None
    method: str | None
    basis: str
    status: Literal["pass", "fail", "inconclusive"]
    message: str
    line: int | None = None
    """1-based, where the gate file names the expert."""


class ChangeRecord(Record):
    """One number of the report beside the baseline's."""

    quantity: Literal["mds", "hidden_similarity", "distance", "disagreement", "loss", "gain_kept"]
    """``loss`` in percent, negative where the merge is worse, as everywhere in the report."""
    expert: str
    other: str | None = None
    """The second expert, of what is said of a pair."""
    method: str | None = None
    before: Number | None
    after: Number | None
    loss_percent_before: Number | None = None
    """Of a loss, the same with the sign that people expect: positive where the merge is worse."""
    loss_percent_after: Number | None = None

    @model_validator(mode="before")
    @classmethod
    def _turn(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("quantity") != "loss":
            return data
        ends = {f"loss_percent_{end}": data.get(end) for end in ("before", "after")}
        return data | {t: 0.0 - n for t, n in ends.items() if isinstance(n, (int, float))}


class BaselineRecord(Record):
    """What moved against a committed report."""

    path: str
    comparable: bool
    reason: str | None = None
    """Why it cannot be compared: other probes, another base, other settings, no such gate."""
    added: tuple[str, ...] = ()
    """Experts that the baseline does not have."""
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Experts whose weights are others now."""
    changes: tuple[ChangeRecord, ...] = ()
    """Of the experts and pairs that both have; unmoved ones are left out."""


class RemedyRecord(Record):
    """One way out for the pool."""

    text: str
    setting: str | None = None
    """What to write under ``merge`` of the gate file, where that is it."""


class ServingRecord(Record):
    """One way to serve the experts side by side, unmerged, by what their files say."""

    tool: str
    text: str
    """What it takes, and which experts it does not take."""
    steps: tuple[str, ...]
    """What to type, in the folder of the gate file."""


class DiagnosisRecord(Record):
    """Why one expert is over budget, and what would help."""

    expert: str
    cause: str | None
    kind: str | None = None
    """The cause without its figures; experts may share one."""
    figures: str | None = None
    """Those of the trials that the cause rests on."""
    nearest: str | None
    """By hidden-state distance, as ``farthest``."""
    farthest: str | None
    cures: tuple[str, ...]
    """Those for the pool as a whole, the best first: the texts of ``remedies``."""

    @property
    def facts(self) -> tuple[str, ...]:
        """What is known of the failure, one statement a line."""
        partners = (
            f"nearest partner {self.nearest}, farthest {self.farthest} (hidden-state distance)"
            if self.nearest
            else None
        )
        return tuple(filter(None, (self.cause and f"likely cause: {self.cause}", partners)))


class Report(Record):
    """Everything that a gate found."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["pytest-mergegate/report/1"] = Field(SCHEMA, alias="schema")
    status: Status
    gate: str
    created: str
    versions: dict[str, str]
    device: str
    seconds: dict[str, Number]
    tokens: dict[str, TokensRecord] = Field(default_factory=dict)
    """By stage, as ``seconds``."""
    cache: CacheUse = CacheUse()
    settings: dict[str, Any]
    base: BaseRecord | None = None
    experts: tuple[ExpertRecord, ...] = ()
    merged: FinishedRecord | None = None
    """The finished merge that was gated; None where the gate makes its merges."""
    pairs: tuple[PairRecord, ...] = ()
    conflicts: ConflictsRecord | None = None
    bounds: BoundsRecord | None = None
    forecasts: tuple[ForecastRecord, ...] = ()
    merges: tuple[MergeRecord, ...] = ()
    untried: tuple[str, ...] = ()
    """Methods that were not merged under ``select: any``, since another one passed."""
    predictions: tuple[PredictionRecord, ...] = ()
    plan: PlanRecord | None = None
    findings: tuple[FindingRecord, ...] = ()
    verdicts: tuple[VerdictRecord, ...] = ()
    diagnoses: tuple[DiagnosisRecord, ...] = ()
    remedies: tuple[RemedyRecord, ...] = ()
    """What was tried and would pass, the best first; where there is none, ``plan`` has groups."""
    serving: tuple[ServingRecord, ...] = ()
    """Where merges were made and none passed: how its adapters would be served without a merge."""
    baseline: BaselineRecord | None = None
    """None where no baseline was given."""

    @property
    def judged_method(self) -> str | None:
        """The merge method that the verdicts speak of; None where none was merged."""
        return next((v.method for v in self.verdicts if v.method), None)

    @property
    def expert_names(self) -> tuple[str, ...]:
        """The experts, in the gate's order."""
        return tuple(expert.name for expert in self.experts)

    @property
    def failed(self) -> tuple[str, ...]:
        """The experts with a verdict that failed, in the gate's order."""
        over = {verdict.expert for verdict in self.verdicts if verdict.status == "fail"}
        return tuple(name for name in self.expert_names if name in over)

    def __getitem__(self, expert: str) -> ExpertResult:
        """What was found of one expert under the judged merge. Raises KeyError."""
        record = next((one for one in self.experts if one.name == expert), None)
        if record is None:
            raise KeyError(f"no expert {expert!r}; there are {', '.join(self.expert_names)}")
        judged = (m for m in self.merges if self.judged_method in (None, m.method))
        merged = (one for merge in judged for one in merge.experts if one.name == expert)
        statuses = [verdict.status for verdict in self.verdicts if verdict.expert == expert]
        return expert_result(record, next(merged, None), statuses)

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON text."""
        return self.model_dump_json(by_alias=True, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a report back. Raises pydantic.ValidationError."""
        return cls.model_validate_json(text)


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Every report of a run."""

    reports: tuple[Report, ...]
    complete: bool = True
    """Whether every gate that was asked for has reported."""
    root: Path | None = None
    """Where the paths that people are shown start."""

    @property
    def status(self) -> Status:
        """The worst of them; where gates are missing, no pass whatever the others say."""
        at_best: Status = "pass" if self.complete and self.reports else "inconclusive"
        return worst((report.status for report in self.reports), at_best)

    def name(self, report: Report) -> str:
        """The gate of ``report`` as people are shown it: relative to the root, with slashes."""
        path = Path(report.gate)
        if self.root is not None and path.is_relative_to(self.root):
            path = path.relative_to(self.root)
        return path.as_posix()
