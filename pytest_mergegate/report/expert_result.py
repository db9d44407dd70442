"""What a gate found of one expert, for people who write tests: losses are positive where the merge
is worse, and a name that is not there says which are."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from pytest_mergegate.common.errors import did_you_mean
from pytest_mergegate.report.merge_records import MergedExpertRecord
from pytest_mergegate.report.pool_records import ExpertRecord


@dataclass(frozen=True, kw_only=True)
class ExpertResult:
    """One expert under the merge that the gate judged; None is what was not computed."""

    name: str
    status: str | None
    """The worst verdict on it: ``pass``, ``fail`` or ``inconclusive``."""
    disagreement: float | None
    """Share of its inputs that the merge answers otherwise, 0 to 1."""
    loss: float | None
    """In percent of its own score, positive where the merge is worse."""
    gain_kept: float | None
    """Share of what it adds to its base that the merge keeps."""
    score_expert: float | None
    """Alone, 0 to 1."""
    score_merged: float | None
    mds: float | None
    """Its merging difficulty, relative to the pool."""

    def __getattr__(self, name: str) -> object:
        known = [field.name for field in fields(type(self))]
        raise AttributeError(
            f"an expert's result has no {name!r}; {did_you_mean(name, known, 'it has')}"
        )


def expert_result(
    record: ExpertRecord, merged: MergedExpertRecord | None, statuses: Sequence[str]
) -> ExpertResult:
    """The result of an expert, whose verdicts have ``statuses``."""
    worst = next((s for s in ("fail", "inconclusive", "pass") if s in statuses), None)
    lost = merged.loss if merged is not None else None
    return ExpertResult(
        name=record.name,
        status=worst,
        disagreement=None if merged is None else merged.disagreement,
        loss=None if lost is None else 0.0 - lost,
        gain_kept=None if merged is None else merged.gain_kept,
        score_expert=None if merged is None else merged.score_expert,
        score_merged=None if merged is None else merged.score_merged,
        mds=record.mds,
    )
