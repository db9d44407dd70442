"""Whether a gate can be compared with its baseline, and what has moved since."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.records import NOT_RUN, value_of
from pytest_mergegate.common.values import Value
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.report.baseline import (
    BY_EXPERT,
    COMPARED,
    HOW_TO_WRITE_ANEW,
    WHOLE,
    Baseline,
    depth,
)
from pytest_mergegate.report.merge_records import MergedExpertRecord
from pytest_mergegate.report.types import BaselineRecord, ChangeRecord, Report
from pytest_mergegate.stages.pool_parts import PoolPart, PoolParts
from pytest_mergegate.verdict.budgets import increases
from pytest_mergegate.verdict.evidence import Case
from pytest_mergegate.verdict.increases import Earlier, moved

_NO_LOSS = frozenset({"no_targets", NOT_RUN})
"""Why an expert has no loss that could be compared."""


def earlier_of(
    baseline: Baseline, gate: Path | None, case: Case, settings: Mapping[str, Any]
) -> Earlier:
    """What ``baseline`` says of the gate that has come to ``case`` under ``settings``."""
    entry = baseline.entry(gate) if gate else None
    reason = _nothing_there(baseline, gate, entry)
    if entry is None or reason is not None:
        return Earlier(reason=reason)
    if (reason := _other(entry, case, settings)) is not None:
        return Earlier(reason=reason)
    experts = frozenset(entry.expert_names) & frozenset(case.pool.names)
    common, why = _common(entry, case)
    return Earlier(
        experts=experts,
        common=common,
        common_reason=why,
        mds={e.name: value_of(e, "mds") for e in entry.experts},
        distances={frozenset({pair.a, pair.b}): pair.distance for pair in entry.pairs},
        measured={
            (merge.method, e.name): value_of(e, "loss").times(-1)
            for merge in entry.merges
            for e in merge.experts
            if e.loss_reason not in _NO_LOSS
        },
        certified={
            (p.method or "", p.expert): value_of(p, "loss").times(-1)
            for p in entry.predictions
            if p.source == "certificate"
        },
        inputs={(merge.method, e.name): e.inputs for merge in entry.merges for e in merge.experts},
        scored={
            (merge.method, e.name): e.scored
            for merge in entry.merges
            for e in merge.experts
            if e.scored is not None
        },
    )


def _nothing_there(baseline: Baseline, gate: Path | None, entry: Report | None) -> str | None:
    update = f"write it with {HOW_TO_WRITE_ANEW}"
    if baseline.reports is None:
        return f"there is no baseline {baseline.shown} (fix: {update})"
    if gate is None:
        return "a gate without a file of its own has no entry in a baseline"
    if entry is None:
        return f"the baseline {baseline.shown} has no gate {baseline.key(gate)} (fix: {update})"
    if entry.status == "error" or not depth(entry):
        return f"nothing was computed when the baseline {baseline.shown} was written"
    return None


def _other(entry: Report, case: Case, settings: Mapping[str, Any]) -> str | None:
    """What the baseline's numbers come from, and today's do not."""
    base = entry.base.fingerprint if entry.base else None
    if base is None or base != case.pool.base.fingerprint:
        return "the baseline is of another base"
    both = set(entry.expert_names) & set(case.pool.names)
    if not both:
        return "the baseline has none of the gate's experts"
    differing = next(_differences(entry.settings, settings, both), None)
    return differing and f"the baseline was made with other settings: {differing}"


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], both: set[str]
) -> Iterator[str]:
    for section, keys in COMPARED.items():
        for key in keys:
            old = before.get(section, {}).get(key, "unknown")
            new = after.get(section, {}).get(key, "unknown")
            if key == "positions" and (old is None or new is None):
                continue  # where no states were read, nothing hangs on where
            if key == "max_answer_tokens" and "answer_limit" in after[section]:
                old = before.get(section, {}).get("answer_limit", old)
                new = after[section]["answer_limit"]  # to which it was raised
            if isinstance(old, dict) and isinstance(new, dict):  # weights, of which others may come
                old, new = ({n: w for n, w in of.items() if n in both} for of in (old, new))
            if old != new:
                yield f"{section}.{key} {old} then, {new} now"
    for key in WHOLE:
        old, new = before.get(key), after.get(key)
        if old != new:
            yield key if key == "mergekit" else f"{key} {old} then, {new} now"
    for key in BY_EXPERT:
        for name in sorted(both):
            old, new = (of.get(key, {}).get(name) for of in (before, after))
            if old != new:
                yield f"{key} of {name}"


def _common(entry: Report, case: Case) -> tuple[PoolPart | None, str]:
    """What is relative to the pool: of fewer experts it can be told, of more it cannot."""
    if case.hidden is None:
        return None, "its states were not read"
    gone = [name for name in entry.expert_names if name not in case.pool.names]
    if gone:
        return None, (
            f"the baseline's pool also had {', '.join(gone)}, on whose inputs its distances and "
            "scores rest (fix: update the baseline)"
        )
    return PoolParts(case.hidden, case.pool.spec).of(entry.expert_names), ""


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
            if _how(before) == _how(after):
                ends = {"before": before.disagreement, "after": after.disagreement}
                yield change(quantity="disagreement", **ends)
            if not _NO_LOSS & {before.loss_reason, after.loss_reason}:
                yield change(quantity="loss", before=before.loss, after=after.loss)
                if _has_gain(before) and _has_gain(after):
                    yield change(
                        quantity="gain_kept", before=before.gain_kept, after=after.gain_kept
                    )


def _has_gain(one: MergedExpertRecord) -> bool:
    """Whether it was measured, which an older report did not tell, even if it came to nothing."""
    return one.gain_kept is not None or one.gain_kept_reason not in {None, *_NO_LOSS}


def _how(one: MergedExpertRecord) -> tuple[int, str, str]:
    """On how many inputs, how answers were read, and how they were compared."""
    return one.inputs, one.reading, one.compared_by


def _finite(value: Value) -> float | None:
    return None if value.number is None or math.isinf(value.number) else value.number
