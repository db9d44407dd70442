"""Holds what a sum of task vectors does to an expert against the gate's limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate import metrics
from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import distinct
from pytest_mergegate.gate.spec import FEWEST
from pytest_mergegate.planning.outlook import RANK, ExpertOutlook
from pytest_mergegate.verdict.evidence import compare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pytest_mergegate.common.statuses import Status
    from pytest_mergegate.gate.spec import GateSpec


@dataclass(frozen=True, kw_only=True)
class Differences:
    """One expert's own inputs under some model: where it answers otherwise than the expert."""

    differs: tuple[bool, ...]
    cut: tuple[bool, ...]
    """Where the expert's answer was cut, so that agreement is not known to last."""
    scores: NDArray[np.float64] | None = None
    """The expert's own score per input; None where it is not known."""
    labelled: int = 0
    """How many examples with targets there are in all."""

    def __add__(self, more: Differences) -> Differences:
        known = self.scores is not None and more.scores is not None
        return Differences(
            differs=self.differs + more.differs,
            cut=self.cut + more.cut,
            scores=np.concatenate([self.scores, more.scores]) if known else None,
            labelled=self.labelled,
        )

    def first(self, count: int) -> Differences:
        """Those of the first inputs."""
        return Differences(differs=self.differs[:count], cut=self.cut[:count])

    @property
    def with_cut(self) -> int:
        """How many differ, counting the cut answers that do not."""
        return sum(d or c for d, c in zip(self.differs, self.cut, strict=True))


class Holding:
    """The limits of a gate that a merge is held to."""

    def __init__(self, spec: GateSpec) -> None:
        self._spec = spec
        self._limits: Mapping[str, float] = spec.effective_budget.limits

    def inputs(self, labelled: int, most: int) -> int:
        """How many inputs decide an expert's forecast."""
        certificate = self._spec.certificate.per_task
        if "max_loss" in self._limits and labelled:
            return max(certificate, min(labelled, most))
        return certificate

    def of(self, name: str, found: Differences) -> ExpertOutlook:
        """What the gate is expected to say of an expert.

        The disagreement is that on the certificate's inputs. A loss counts every answer that
        differs as lost: what was right before may be right in another way, so it is rarely less.
        """
        first = found.first(self._spec.certificate.per_task)
        disagreement = self._disagreement(first)
        held: list[tuple[Status, float, str]] = []
        if (limit := self._limits.get("max_disagreement")) is not None:
            passing = self._passing(disagreement, first)
            failing = self._bad_end(disagreement)
            if self._spec.judge == "bound" and any(first.cut):
                failing = disagreement.number
            held.append(self._held("disagreement", passing, failing, limit, ""))
        loss = Value.missing("not_asked_for")
        if (limit := self._limits.get("max_loss")) is not None:
            loss, number, few = self._loss(name, found, first)
            held.append(few or self._held("loss", number, number, limit, " %"))
        status, use, why = max(held, key=lambda h: (RANK[h[0]], h[1]), default=("pass", 0.0, ""))
        return ExpertOutlook(
            name=name,
            inputs=len(found.differs),
            disagreement=disagreement,
            loss=loss,
            use=use,
            status=status,
            why=why,
        )

    def is_lost(self, name: str, found: Differences, rest: Differences) -> bool:
        """Whether an expert is over a limit even if it keeps all of the ``rest`` of its inputs, as
        if each of them were worth most."""
        count = len(rest.differs)
        kept = replace(rest, differs=(False,) * count, cut=(False,) * count, scores=np.ones(count))
        return self.of(name, found + kept).status == "fail"

    def _disagreement(self, found: Differences) -> Value:
        n, level = len(found.differs), self._spec.level
        low, _ = metrics.disagreement_interval(sum(found.differs), n, confidence=level)
        _, high = metrics.disagreement_interval(found.with_cut, n, confidence=level)
        return Value(number=sum(found.differs) / n, interval=(low, high))

    def _passing(self, value: Value, found: Differences) -> float | None:
        """What has to be within the limit for a pass, as the judge has it."""
        n = len(found.differs)
        if self._spec.judge == "point" and n < FEWEST:
            level = self._spec.level
            return metrics.disagreement_bound(found.with_cut, n, confidence=level)
        return found.with_cut / n if self._spec.judge == "point" else self._bad_end(value)

    def _bad_end(self, value: Value) -> float | None:
        if self._spec.judge == "bound":
            return value.interval[1] if value.interval else None
        return value.number

    def _loss(
        self, name: str, found: Differences, first: Differences
    ) -> tuple[Value, float | None, tuple[Status, float, str] | None]:
        """The expected loss, what of it meets the limit, and what is said where nothing may."""
        score = self._spec.experts[name].score or 1.0
        if not found.labelled:
            upper = metrics.disagreement_bound(
                first.with_cut, len(first.differs), confidence=self._spec.level
            )
            bound = 100.0 * min(1.0, upper / score)
            expected = 100.0 * sum(first.differs) / len(first.differs) / score
            if expected <= self._limits["max_loss"] < bound:
                why = f"a loss within the limit is not certified on {len(first.differs)} inputs"
                return Value(number=bound), bound, ("inconclusive", 0.0, why)
            return Value(number=bound), bound, None
        share, differing = 1 / score, np.array(found.differs, dtype=np.float64)
        rate = float(differing.mean())
        if found.scores is not None:
            whole = float(found.scores.sum())
            if whole == 0:
                why = f"{name} itself scores zero"
                return Value.missing("expert_score_zero"), None, ("inconclusive", 0.0, why)
            rate, share = float(found.scores @ differing) / len(differing), len(differing) / whole
        _, high = metrics.disagreement_interval(
            sum(found.differs), len(found.differs), confidence=self._spec.level
        )
        loss = Value(number=100.0 * min(1.0, rate * share))
        number = loss.number if self._spec.judge == "point" else 100.0 * min(1.0, high * share)
        if found.labelled < FEWEST:
            why = f"a loss on {found.labelled} examples is not foretold, it takes {FEWEST}"
            return loss, number, ("inconclusive", 0.0, why)
        return loss, number, None

    @staticmethod
    def _held(
        what: str, passing: float | None, failing: float | None, limit: float, unit: str
    ) -> tuple[Status, float, str]:
        if passing is None or failing is None:
            return "inconclusive", 0.0, f"{what} is not known"
        status = compare(failing, limit) if compare(failing, limit) == "fail" else "inconclusive"
        if status != "fail" and compare(passing, limit) == "pass":
            status = "pass"
        number = failing if status == "fail" else passing
        use = number / limit if limit else (math.inf if number > 0 else 0.0)
        if status == "pass":
            return status, use, ""
        shown, bound = distinct(number, limit)
        may = "" if status == "fail" else "may be "
        return status, use, f"{what} {may}{shown}{unit} over {bound}{unit}"
