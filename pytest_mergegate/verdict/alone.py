"""What base and experts do by themselves: the scores that losses are relative to, and passes that
say nothing of a merge (THEORY 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate import metrics
from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import number_text

if TYPE_CHECKING:
    from pytest_mergegate.verdict.case import Case


def known_score(case: Case, expert: str) -> float:
    """The expert's score to which a certificate is relative: measured, given, or 1."""
    measured = case.scores.get(expert) if case.scores is not None else None
    if measured is not None and measured.of_outputs:
        return float(measured.expert.mean())
    return case.pool.spec.experts[expert].score or 1.0


def too_weak(expert: str, case: Case) -> str:
    """What to say of an expert that is not known to reach its own ``min_score``."""
    spec = case.pool.spec.experts[expert]
    if spec.min_score is None:
        return ""
    measured = case.scores.get(expert) if case.scores is not None else None
    score = spec.score if measured is None else float(measured.expert.mean())
    if score is not None and score >= spec.min_score:
        return ""
    own = "is not known" if score is None else f"is {number_text(score)}"
    return f"its own score {own}, and min_score asks for {number_text(spec.min_score)}"


def base_loss(expert: str, case: Case) -> Value:
    """The loss in percent, positive when worse, of the base with nothing merged: measured, or
    every answer that differs counted as lost."""
    measured = case.scores.get(expert) if case.scores is not None else None
    if measured is not None:
        base, own = float(measured.base.sum()), float(measured.expert.sum())
        return Value.computed(lambda: -metrics.merging_loss(base, own))
    if case.base is None:
        return Value.missing("base_not_compared")
    share = case.base[expert].disagreement / known_score(case, expert)
    return Value(number=100 * min(1.0, share))


def base_disagreement(expert: str, case: Case) -> Value:
    """Share of its own inputs that the base answers differently from the expert."""
    if case.base is None:
        return Value.missing("base_not_compared")
    return Value(number=case.base[expert].disagreement)
