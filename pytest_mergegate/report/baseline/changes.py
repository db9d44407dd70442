"""What has moved since the baseline."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.report.types import BaselineRecord, ChangeRecord
from pytest_mergegate.verdict.budgets import increases
from pytest_mergegate.verdict.increases import moved

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pytest_mergegate.common.values import Value
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.report.baseline.reading import Baseline
    from pytest_mergegate.report.types import MergedExpertRecord, Report
    from pytest_mergegate.verdict.case import Case
    from pytest_mergegate.verdict.increases import Earlier

_NO_LOSS = frozenset({"no_targets", "stage_not_run"})


def baseline_record(
    baseline: Baseline, gate: Path | None, earlier: Earlier | None, report: Report
) -> BaselineRecord:
    """What moved between the baseline and ``report``."""
    entry = baseline.entry(gate) if gate else None
    if earlier is None or earlier.reason is not None or entry is None:
        why = earlier.reason if earlier else "this run computed nothing to compare"
        return BaselineRecord(path=baseline.shown, comparable=False, reason=why)
    old = {expert.name: expert.fingerprint for expert in entry.experts}
    new = {expert.name: expert.fingerprint for expert in report.experts}
    changes = [*_of_states(earlier, entry), *_of_merges(entry, report)]
    return BaselineRecord(
        path=baseline.shown,
        comparable=True,
        reason=earlier.common_reason or None,
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed=tuple(name for name in new if name in old and new[name] != old[name]),
        changes=tuple(sorted(_moves(changes), key=lambda c: -moved(c.before, c.after))),
    )


def baseline_findings(earlier: Earlier, gate: Gate, case: Case) -> Iterator[Finding]:
    """Warnings of what could not be compared, and a note on whom no increase is judged."""
    why = earlier.reason or (earlier.common_reason if case.hidden is not None else "")
    if why:
        part = "" if earlier.reason else "; losses and disagreements are"
        yield Finding(
            code="MG601",
            severity="warning",
            message=f"not compared with the baseline: {why}{part}",
            fix=""
            if "(fix: " in why
            else "write the baseline anew with --update-baseline "
            "(pytest: --mergegate-update-baseline), or go back to what it was made with",
        )
    asked = increases(gate.spec.effective_budget.limits)
    new = [name for name in case.pool.names if name not in earlier.experts]
    if asked and new and earlier.reason is None:
        yield Finding(
            code="MG602",
            severity="note",
            expert=new[0] if len(new) == 1 else None,
            message=f"the baseline does not have {', '.join(new)}, of whom "
            f"{' and '.join(sorted(asked))} can say nothing",
            fix="hold them to an absolute limit, such as max_loss, and update the baseline",
        )


def _moves(changes: Iterable[ChangeRecord]) -> Iterator[ChangeRecord]:
    return (change for change in changes if moved(change.before, change.after))


def _of_states(earlier: Earlier, entry: Report) -> Iterator[ChangeRecord]:
    """Of what is relative to the pool: as the baseline's pool is today."""
    common = earlier.common
    if common is None:
        return
    for name in common.names:
        before, after = earlier.mds.get(name), common.mds[name]
        if before is not None and before.number != after.number:  # not where both are infinite
            yield ChangeRecord(
                quantity="mds", expert=name, before=_finite(before), after=_finite(after)
            )
    for pair in entry.pairs:
        i, j = (common.names.index(name) for name in (pair.a, pair.b))
        now = None if common.similarity is None else float(common.similarity[i, j])
        if pair.distance is not None:
            yield ChangeRecord(
                quantity="distance",
                expert=pair.a,
                other=pair.b,
                before=pair.distance,
                after=float(common.distances[i, j]),
            )
            yield ChangeRecord(
                quantity="hidden_similarity",
                expert=pair.a,
                other=pair.b,
                before=pair.hidden_similarity,
                after=now,
            )


def _of_merges(entry: Report, report: Report) -> Iterator[ChangeRecord]:
    old = {(merge.method, e.name): e for merge in entry.merges for e in merge.experts}
    for merge in report.merges:
        for expert in merge.experts:
            before = old.get((merge.method, expert.name))
            if before is not None:
                yield from _of_merged(merge.method, before, expert)


def _of_merged(
    method: str, before: MergedExpertRecord, after: MergedExpertRecord
) -> Iterator[ChangeRecord]:
    if (before.inputs, before.reading) == (after.inputs, after.reading):
        yield ChangeRecord(
            quantity="disagreement",
            expert=after.name,
            method=method,
            before=before.disagreement,
            after=after.disagreement,
        )
    if not _NO_LOSS & {before.loss_reason, after.loss_reason}:
        yield ChangeRecord(
            quantity="loss",
            expert=after.name,
            method=method,
            before=before.loss,
            after=after.loss,
        )


def _finite(value: Value) -> float | None:
    return None if value.number is None or math.isinf(value.number) else value.number
