"""What has moved since the baseline."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.report.baseline.comparable import NO_LOSS
from pytest_mergegate.report.baseline.reading import HOW_TO_WRITE_ANEW, Baseline
from pytest_mergegate.report.types import BaselineRecord, ChangeRecord
from pytest_mergegate.verdict.budgets import increases
from pytest_mergegate.verdict.increases import moved

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_mergegate.common.values import Value
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.report.types import Report
    from pytest_mergegate.verdict.evidence import Case
    from pytest_mergegate.verdict.increases import Earlier


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
        changes=tuple(sorted(filter(_size, changes), key=_size, reverse=True)),
    )


def baseline_findings(earlier: Earlier, gate: Gate, case: Case) -> Iterator[Finding]:
    """Warnings of what could not be compared, and a note on whom no increase is judged."""
    why = earlier.reason or (earlier.common_reason if case.hidden is not None else "")
    if why:
        part = "" if earlier.reason else "; losses and disagreements are"
        anew = f"{HOW_TO_WRITE_ANEW}, or go back to what it was made with"
        yield Finding(
            code="MG601",
            severity="warning",
            message=f"not compared with the baseline: {why}{part}",
            fix="" if "(fix: " in why else f"write the baseline anew with {anew}",
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


def _size(change: ChangeRecord) -> float:
    return moved(change.before, change.after)


def _of_states(earlier: Earlier, entry: Report) -> Iterator[ChangeRecord]:
    """Of what is relative to the pool: as the baseline's pool is today."""
    common = earlier.common
    if common is None:
        return
    for name in common.names:
        before, after = earlier.mds.get(name), common.mds[name]
        if before is not None and before.number != after.number:  # not where both are infinite
            ends = {"before": _finite(before), "after": _finite(after)}
            yield ChangeRecord(quantity="mds", expert=name, **ends)
    for pair in entry.pairs:
        if pair.distance is None:
            continue
        i, j = (common.names.index(name) for name in (pair.a, pair.b))
        alike = None if common.similarity is None else float(common.similarity[i, j])
        change = partial(ChangeRecord, expert=pair.a, other=pair.b)
        apart = float(common.distances[i, j])
        yield change(quantity="distance", before=pair.distance, after=apart)
        yield change(quantity="hidden_similarity", before=pair.hidden_similarity, after=alike)


def _of_merges(entry: Report, report: Report) -> Iterator[ChangeRecord]:
    old = {(merge.method, e.name): e for merge in entry.merges for e in merge.experts}
    for merge in report.merges:
        for after in merge.experts:
            before = old.get((merge.method, after.name))
            if before is None:
                continue
            change = partial(ChangeRecord, expert=after.name, method=merge.method)
            if (before.inputs, before.reading) == (after.inputs, after.reading):
                ends = {"before": before.disagreement, "after": after.disagreement}
                yield change(quantity="disagreement", **ends)
            if not NO_LOSS & {before.loss_reason, after.loss_reason}:
                yield change(quantity="loss", before=before.loss, after=after.loss)


def _finite(value: Value) -> float | None:
    return None if value.number is None or math.isinf(value.number) else value.number
