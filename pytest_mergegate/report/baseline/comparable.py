"""Whether a gate can be compared with its baseline, and what of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.records import NOT_RUN, value_of
from pytest_mergegate.report.baseline.reading import HOW_TO_WRITE_ANEW, depth
from pytest_mergegate.verdict.increases import Earlier
from pytest_mergegate.verdict.pool_parts import PoolPart, PoolParts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_mergegate.report.baseline.reading import Baseline
    from pytest_mergegate.report.types import Report
    from pytest_mergegate.verdict.evidence import Case

COMPARED: dict[str, tuple[str, ...]] = {
    "probes": ("drawn_per_task", "seed", "positions", "normalize", "max_answer_tokens"),
    "certificate": ("per_task", "max_per_task", "confidence"),
    "merge": ("weights", "seed", "route"),
}
"""The settings by section that must agree; methods are compared one by one."""
WHOLE = ("dtype", "trust_remote_code", "mergekit")
BY_EXPERT = ("score", "metric", "reading", "examples")
NO_LOSS = frozenset({"no_targets", NOT_RUN})
"""Why an expert has no loss that could be compared."""
_UNSAID = object()


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
            if e.loss_reason not in NO_LOSS
        },
        certified={
            (p.method or "", p.expert): value_of(p, "loss").times(-1)
            for p in entry.predictions
            if p.source == "certificate"
        },
        inputs={(merge.method, e.name): e.inputs for merge in entry.merges for e in merge.experts},
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
            old = before.get(section, {}).get(key, _UNSAID)
            new = after[section][key]
            if key == "positions" and (old is None or new is None):
                continue  # where no states were read, nothing hangs on where
            if isinstance(old, dict) and isinstance(new, dict):  # weights, of which others may come
                old, new = ({n: w for n, w in of.items() if n in both} for of in (old, new))
            if old != new:
                yield f"{section}.{key} {_said(old)} then, {_said(new)} now"
    for key in WHOLE:
        old, new = before.get(key), after.get(key)
        if old != new:
            yield key if key == "mergekit" else f"{key} {_said(old)} then, {_said(new)} now"
    for key in BY_EXPERT:
        for name in sorted(both):
            old, new = (of.get(key, {}).get(name) for of in (before, after))
            if old != new:
                yield f"{key} of {name}"


def _said(setting: Any) -> str:
    return "unknown" if setting is _UNSAID else str(setting)


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
