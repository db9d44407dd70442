"""Reports of many experts with the names that strangers might give them, by the report's types."""

from __future__ import annotations

import random
from itertools import combinations

from pytest_mergegate import Report
from pytest_mergegate.planning.forecasts import CurvePointRecord, PlanRecord

HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><img src=x onerror='window.hacked = 2'>",
    "<a href='javascript:window.hacked=3'>click</a>",
    "a|b\nnew line",
    "100 % %{x} %{customdata}",
    "{{ 7 * 7 }} & &lt;b&gt;",
    "$\\alpha$ 'single' \"double\"",
    "2024-01-01",
    "1",
    "var(--text)",
    "long" * 30,
)
_LAYERS = 32


def crowd(report: Report, size: int, seed: int = 0) -> Report:
    """``report`` as if it were of ``size`` experts, the first ones with hostile names."""
    drawn = random.Random(seed)
    names = [*HOSTILE, *(f"expert_{k:02d}" for k in range(size))][:size]
    like = {name: report.experts[k % len(report.experts)].name for k, name in enumerate(names)}
    first = report.pairs[0]
    assert report.conflicts is not None

    def renamed(records: tuple, key: str) -> tuple:
        return tuple(
            record.model_copy(update={key: name})
            for name in names
            for record in records
            if getattr(record, key) == like[name]
        )

    pairs = tuple(
        first.model_copy(
            update={
                "a": a,
                "b": b,
                "distance": drawn.random(),
                "hidden_similarity": drawn.random(),
                "cosine": drawn.uniform(-1, 1),
                "layers": {
                    key: tuple(drawn.random() for _ in range(_LAYERS)) for key in first.layers
                },
            }
        )
        for a, b in combinations(names, 2)
    )
    changed = {
        "gate": "<b>gate</b>.yaml",
        "experts": renamed(report.experts, "name"),
        "pairs": pairs,
        "conflicts": report.conflicts.model_copy(
            update={"layers": tuple(f"model.layers.{k}" for k in range(_LAYERS))}
        ),
        "merges": tuple(
            merge.model_copy(update={"experts": renamed(merge.experts, "name")})
            for merge in report.merges
        ),
        "forecasts": renamed(report.forecasts, "expert"),
        "verdicts": renamed(report.verdicts, "expert"),
        "diagnoses": renamed(report.diagnoses, "expert"),
        "plan": PlanRecord(
            curve=tuple(
                CurvePointRecord(
                    models=k,
                    distortion=100 / k,
                    groups=tuple(tuple(names[place::k]) for place in range(k)),
                )
                for k in range(1, size + 1)
            ),
            drop=tuple(names[:2]),
        ),
    }
    return Report.from_json(report.model_copy(update=changed).to_json())


def stopped(report: Report) -> Report:
    """``report`` as preflight alone leaves it: nothing was computed, nothing is decided."""
    experts = tuple(
        type(expert)(
            name=expert.name,
            ref=expert.ref,
            fingerprint=expert.fingerprint,
            kind=expert.kind,
            mds_reason="stage_not_run",
        )
        for expert in report.experts
    )
    verdicts = tuple(
        verdict.model_copy(
            update={
                "value": None,
                "value_reason": "needs_stage_merge",
                "interval": None,
                "method": None,
                "status": "inconclusive",
                "message": f"{verdict.expert}: undecided",
            }
        )
        for verdict in report.verdicts
    )
    kept = ("created", "versions", "device", "seconds", "settings", "base")
    return Report(
        status="inconclusive",
        gate="stopped.mergegate.yaml",
        experts=experts,
        verdicts=verdicts,
        **{key: getattr(report, key) for key in kept},
    )
