"""What a gate's limits say of a group of experts, and of what a merge makes of one of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.statuses import STATUSES, Status
from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import distinct, number_text
from pytest_mergegate.engine.running.distances import Distances
from pytest_mergegate.gate.spec import FEWEST, GateSpec
from pytest_mergegate.planning.forecasts import ExpertForecast
from pytest_mergegate.stages.conflict import ConflictResult
from pytest_mergegate.stages.hidden import HiddenResult
from pytest_mergegate.stages.pool_parts import PoolParts
from pytest_mergegate.verdict.budgets import BudgetKind, set_limits
from pytest_mergegate.verdict.evidence import Evidence, compare


def refuse_unplanned(spec: GateSpec) -> None:
    """Raise GateError for budgets that no plan can look ahead to."""
    limits = set_limits(spec.effective_budget.limits)
    for kind in sorted((kind for kind, _ in limits if kind.unplanned), key=lambda kind: kind.name):
        raise GateError(
            f"{kind.name} cannot be planned for: {kind.unplanned}",
            fix="plan with a gate file without it",
        )


class PoolLimits:
    """The limits that no method changes, for any group: conflicts of its weights, and MDS.

    What the gate of a group would find follows from the whole pool: pairs are the same in any.
    """

    def __init__(
        self, spec: GateSpec, hidden: HiddenResult, conflict: ConflictResult | None
    ) -> None:
        limits = set_limits(spec.effective_budget.limits)
        pairs_first = sorted(limits, key=lambda set_: set_[0].about != "pair")
        self._limits = [(kind, limit) for kind, limit in pairs_first if not kind.of_merges]
        self._bound = spec.judge == "bound"
        self._pairs = {} if conflict is None else {frozenset((p.a, p.b)): p for p in conflict.pairs}
        self.parts = PoolParts(hidden, spec)
        """Distances and MDS within any group."""

    def against(self, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What speaks against a group, and what cannot be told of it, one statement each."""
        against: list[str] = []
        undecided: list[str] = []
        for kind, limit in self._limits:
            values = self._of_pairs if kind.about == "pair" else self._of_experts
            for whose, value in values(kind, names):
                number = value.interval[1] if self._bound and value.interval else value.number
                what = f"{kind.words} of {whose} is"
                if number is None:
                    known = "known" if kind.about == "pair" else "defined"
                    undecided.append(f"{what} not {known} ({value.reason})")
                elif compare(number, limit) != "pass":
                    against.append(f"{what} {number_text(number)}, over {number_text(limit)}")
        return tuple(against), tuple(undecided)

    def _of_pairs(self, kind: BudgetKind, names: Sequence[str]) -> Iterator[tuple[str, Value]]:
        for k, one in enumerate(names):
            for other in names[:k]:
                pair = self._pairs[frozenset((one, other))]
                yield f"{other} and {one}", getattr(pair, kind.quantity)

    def _of_experts(self, kind: BudgetKind, names: Sequence[str]) -> Iterator[tuple[str, Value]]:
        assert kind.quantity == "mds"
        scores = self.parts.of(names, intervals=self._bound).mds
        first = next(iter(scores.values()))  # whether there is a score is the same for all
        if first.number is not None and self._bound and first.interval is None:
            first = Value.missing("too_few_probes")
        yield from [(f"{len(names)} experts", first)] if first.number is None else scores.items()


@dataclass(frozen=True, kw_only=True)
class ComparedAnswers:
    """One expert's own inputs under some model, with what the expert itself scores on them."""

    distances: Distances
    scores: NDArray[np.float64] | None = None
    """The expert's own score per input; None where it is not known."""
    labelled: int = 0
    """How many examples with targets there are in all."""

    def __add__(self, more: "ComparedAnswers") -> "ComparedAnswers":
        known = self.scores is not None and more.scores is not None
        return ComparedAnswers(
            distances=self.distances + more.distances,
            scores=np.concatenate([self.scores, more.scores]) if known else None,
            labelled=self.labelled,
        )


class MergeLimits:
    """The limits that merges are judged by, held to what a sum of task vectors does."""

    def __init__(self, spec: GateSpec) -> None:
        self._spec = spec
        limits = set_limits(spec.effective_budget.limits)
        self._limits = [(kind, limit) for kind, limit in limits if kind.of_merges]

    def inputs(self, labelled: int, most: int) -> int:
        """How many inputs decide an expert's forecast."""
        certificate = self._spec.certificate.per_task
        if labelled and any(kind.measured for kind, _ in self._limits):
            return max(certificate, min(labelled, most))
        return certificate

    def of(self, name: str, found: ComparedAnswers) -> ExpertForecast:
        """What the gate is expected to say of an expert.

        The disagreement is that on the certificate's inputs. A loss counts every answer that
        differs as lost, as far as it differs: what was right before may be right in another way, so
        it is rarely less.
        """
        spec = self._spec
        first = found.distances.first(spec.certificate.per_task)
        disagreement, loss = first.disagreement(spec.level), Value.missing("not_asked_for")
        held: list[tuple[Status, float, str]] = [("pass", 0.0, "")]
        for kind, limit in self._limits:
            evidence = Evidence(
                value=disagreement,
                basis="predicted",
                inputs=first.n,
                least=first.mean_least,
                most=first.mean_most,
                bound=first.upper(spec.level),
            )
            if kind.quantity != "disagreement":
                assert kind.quantity == "loss"
                evidence = self._loss(name, found, first, limit)
                loss = evidence.value
            held.append(self._held(kind, evidence, limit))
        status, use, why = max(held, key=lambda told: (STATUSES.index(told[0]), told[1]))
        return ExpertForecast(
            name=name,
            disagreement=disagreement,
            loss=loss,
            use=use,
            status=status,
            why=why,
        )

    def is_lost(self, name: str, found: ComparedAnswers, rest: ComparedAnswers) -> bool:
        """Whether an expert is over a limit even if it keeps all of the ``rest`` of its inputs, as
        if each of them were worth most."""
        count = rest.distances.n
        none = (0.0,) * count
        kept = replace(
            rest,
            distances=replace(rest.distances, seen=none, least=none, most=none),
            scores=np.ones(count),
        )
        return self.of(name, found + kept).status == "fail"

    def _loss(self, name: str, found: ComparedAnswers, first: Distances, limit: float) -> Evidence:
        """The expected loss; without targets the certificate."""
        expert, level = self._spec.experts[name], self._spec.level
        score = expert.score or 1.0
        if not expert.bounds_loss:
            why = f"the distance of answers does not bound what {expert.metric} may lose"
            reason = "comparison_does_not_bound_the_metric"
            return replace(Evidence.missing(reason, "predicted", why), undecided=True)
        if not found.labelled:
            inputs = first.n
            bound = 100.0 * min(1.0, first.upper(level) / score)
            expected = 100.0 * math.fsum(first.seen) / inputs / score
            return Evidence(
                value=Value(number=bound),
                basis="certified",
                detail=f"a loss within the limit is not certified on {inputs} inputs",
                undecided=compare(expected, limit) == "pass" and compare(bound, limit) == "fail",
            )
        count, apart = found.distances.n, np.array(found.distances.seen)
        rate, share = float(apart.mean()), 1 / score
        if found.scores is not None:
            whole = float(found.scores.sum())
            if whole == 0:
                why = f"{name} itself scores zero"
                none = Evidence.missing("expert_score_zero", "predicted", why)
                return replace(none, undecided=True)
            lost = np.minimum(found.scores, apart)
            rate, share = float(lost.sum()) / count, count / whole
        _, high = found.distances.as_seen.disagreement(level).interval or (0.0, 1.0)
        expected, most = (100.0 * min(1.0, of * share) for of in (rate, high))
        return Evidence(
            value=Value(number=expected, interval=(0.0, most)),
            basis="predicted",
            detail=f"a loss on {found.labelled} examples is not predicted, it takes {FEWEST}",
            undecided=found.labelled < FEWEST,
        )

    def _held(self, kind: BudgetKind, found: Evidence, limit: float) -> tuple[Status, float, str]:
        """How it stands, how much of the limit is used up, and what is over it."""
        mode = self._spec.judge
        if found.undecided:
            return "inconclusive", 0.0, found.detail
        status = compare(found, limit, mode)
        number = found.failing(mode) if status == "fail" else found.passing(mode)
        if number is None:
            return "inconclusive", 0.0, f"{kind.words} is not known"
        use = number / limit if limit else (math.inf if number > 0 else 0.0)
        if status == "pass":
            return status, use, ""
        shown, bound = distinct(number, limit)
        may = "" if status == "fail" else "may be "
        return status, use, f"{kind.words} {may}{shown}{kind.unit} over {bound}{kind.unit}"
