"""MG204: fewer distinct inputs than the gate asks for; what it says is then less sure."""

from collections.abc import Iterable

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import listed, warning


def find(pool: Pool) -> Iterable[Finding]:
    """One finding per setting; repeated inputs say nothing new."""
    asked = {"probes.per_task": pool.spec.probes.per_task}
    budget = pool.spec.effective_budget
    if budget.OF_MERGES & set(budget.limits):
        asked["certificate.per_task"] = pool.spec.certificate.per_task
    counts = {
        name: len({example.question for example in examples})
        for name, examples in pool.examples.items()
    }
    for setting, wanted in asked.items():
        short = [name for name, count in counts.items() if count < wanted]
        if short:
            fewest = min(counts[name] for name in short)
            yield warning(
                (f"{listed(short, len(pool.experts))}: " if len(short) > 1 else "")
                + f"{'as few as ' if len(short) > 1 else ''}{fewest} distinct inputs, "
                f"{setting} asks for {wanted}",
                "add examples, or ask for fewer",
                expert=short[0] if len(short) == 1 else None,
            )
