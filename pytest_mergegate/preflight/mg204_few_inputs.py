"""MG204: fewer distinct inputs than the gate asks for; what it says is then less sure."""

from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, listed, warning


def find(pool: Pool) -> Findings:
    """One finding per setting; repeated inputs say nothing new."""
    asked = {"probes.per_task": pool.spec.probes.per_task}
    budget = pool.spec.effective_budget
    if budget.OF_MERGES & set(budget.limits):
        asked["certificate.per_task"] = pool.spec.certificate.per_task
    counts = {name: len({e.question for e in found}) for name, found in pool.examples.items()}
    for setting, wanted in asked.items():
        short = [name for name, count in counts.items() if count < wanted]
        if short:
            alone = len(short) == 1
            whose = "" if alone else f"{listed(short, len(pool.experts))}: as few as "
            yield warning(
                f"{whose}{min(counts[name] for name in short)} distinct inputs, "
                f"{setting} asks for {wanted}",
                "add examples, or ask for fewer",
                short[0] if alone else None,
            )
