"""What is known of a gate, what is held against a limit, how the two compare, and when more of the
same would decide."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Self

from pytest_mergegate.common.statuses import Status
from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import joined, number_text
from pytest_mergegate.gate.options import STAGES, Stage
from pytest_mergegate.gate.sections import EXACT
from pytest_mergegate.gate.spec import FEWEST, GateSpec, deepest
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.stages.context import BudgetQuestions, Results
from pytest_mergegate.stages.merge import MergeResult
from pytest_mergegate.stages.merge_versus_experts import MergedExpert
from pytest_mergegate.verdict.budgets import BudgetKind, judges_merges, set_limits

if TYPE_CHECKING:  # which import this module
    from pytest_mergegate.verdict.increases import Earlier
    from pytest_mergegate.verdict.past_merges import AutomaticLimit, Prediction

Mode = Literal["point", "bound", "interval"]
"""What meets the limit: the value, the bad end of its interval, or all of its interval."""


@dataclass(frozen=True, kw_only=True)
class Case(Results):
    """All that a judge knows of a gate: what the stages found, and what past merges say of it."""

    predictions: "tuple[Prediction, ...]" = ()
    """Losses that were not measured; of one expert under one method, the best source first."""
    earlier: "Earlier | None" = None
    """What the baseline says of the gate; None where no baseline was given."""
    automatic: Mapping[str, "AutomaticLimit"] = field(default_factory=dict)
    """What the registry made of the limits that are ``auto@RATE``, by budget."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """For which value a case is asked."""

    case: Case
    kind: BudgetKind
    limit: float
    expert: str
    method: str | None
    """The merge method; None for a budget that no merge is judged by."""
    mode: Literal["point", "bound"]
    """What of a value is held against the limit."""
    depth: Stage
    """The deepest stage that ran."""

    @property
    def merge(self) -> MergeResult | None:
        """The merge by the method; None where it was not made."""
        return self.case.merge(self.method)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A value as its budget has it, and where it comes from."""

    value: Value
    """A loss is positive."""
    basis: str
    """``conflict``, ``sampled`` (rows of the weights), ``hidden``, ``predicted``, ``merged``,
    ``measured``, ``certified``; or what is missing."""
    detail: str = ""
    """A word to add to the message."""
    undecided: bool = False
    """Whether this is too little to decide by, whatever the value."""
    inputs: int | None = None
    """Of a share of inputs: on how many distinct ones it rests."""
    least: float | None = None
    """The value if answers that were cut went on for the best; None where none was."""
    most: float | None = None
    """The value if they went on for the worst."""
    bound: float | None = None
    """The one-sided bound, where there is one beside the interval."""
    base: Value | None = None
    """Of a merge: the same value of the base with nothing merged, whose pass would make that of the
    merge say nothing (THEORY 9). Where it is None, no merge passes."""

    @classmethod
    def missing(cls, reason: str, basis: str, detail: str) -> Self:
        """No value, for a ``reason`` that ``detail`` puts in words."""
        return cls(value=Value.missing(reason), basis=basis, detail=detail)

    def passing(self, mode: Mode) -> float | None:
        """What has to be within the limit for a pass: the bad end of the interval by ``bound``,
        and on few inputs; else the value, counting cut answers as different."""
        number = self.value.number
        bad_end = self.value.interval[1] if self.value.interval else None
        if mode == "interval":
            return bad_end
        if self.exact or number is None:
            return number
        if mode == "bound":
            return bad_end
        if self.inputs is not None and self.inputs < FEWEST:  # a share says next to nothing
            return bad_end if self.bound is None else self.bound
        return number if self.most is None else self.most

    def failing(self, mode: Mode) -> float | None:
        """What has to be over the limit for a fail: never an answer that was merely cut."""
        if mode == "interval":
            return self.value.interval[0] if self.value.interval else None
        if self.exact or mode == "point" or self.least != self.most:
            return self.value.number if self.least is None else self.least
        return self.passing(mode)

    @property
    def turned(self) -> Self:
        """The same below zero, so that more of it is worse where less was. Answers that are cut are
        no matter of a limit that a value must reach."""
        return replace(self, value=self.value.times(-1), least=None, most=None, bound=None)

    @property
    def exact(self) -> bool:
        """Whether there is no sampling error in it, or it is a bound already."""
        return self.basis in {"certified", "conflict"}


def compare(
    found: Evidence | Value | float, limit: float, mode: Mode = "point", *, at_least: bool = False
) -> Status:
    """How ``found`` stands against ``limit``; every limit of the package is held here.

    It passes where all that ``mode`` asks for is known and within the limit, and fails where some
    of it is over; between the two, or where a number is missing, it is open. A NaN fails, and
    nothing is decided by a limit that is one, which is still to be found. A limit that must be
    reached, ``at_least``, is one not to be exceeded by the negative of a value.
    """
    if isinstance(found, Value):
        found = Evidence(value=found, basis="")
    if at_least:
        limit, found = -limit, found.turned if isinstance(found, Evidence) else -found
    passing = found.passing(mode) if isinstance(found, Evidence) else found
    failing = found.failing(mode) if isinstance(found, Evidence) else found
    if math.isnan(limit) or (isinstance(found, Evidence) and found.undecided):
        return "inconclusive"
    if failing is not None and not (failing <= limit):
        return "fail"
    return "pass" if passing is not None and passing <= limit else "inconclusive"


def is_open(value: Value, limit: float, *, at_least: bool = False) -> bool:
    """Whether more of the same evidence might change on which side of ``limit`` a value is."""
    if value.number is None or math.isnan(limit):
        return False
    return compare(value, limit, "interval", at_least=at_least) == "inconclusive"


def budget_questions(
    spec: GateSpec, pool: Pool, allowed: Stage | None = None, *, may_end_early: bool = False
) -> BudgetQuestions:
    """What the stages ask of a gate's budgets, none of which they know by name; ``allowed`` is the
    deepest that may run, None for as deep as the budgets ask."""
    limits = spec.effective_budget.limits
    needed = {k.needs(pool, name) for k, _ in set_limits(limits) for name in pool.names}
    wanted = deepest(*needed)
    stages = set(STAGES)
    if spec.merged is not None:  # it is asked, however its experts stand to each other
        stages = needed | ({"merge"} if "eval" in needed else set())
        stages -= {"conflict", "hidden"} if len(pool.names) == 1 else set()
    labelled = frozenset(filter(pool.labelled, pool.names))  # what follows travels, a pool does not

    def mds_is_open(mds: Value) -> bool:
        return any(
            is_open(mds, limit)
            for kind, limit in set_limits(limits)
            if kind.quantity == "mds" and not kind.from_baseline
        )

    def disagreement_is_open(expert: str, disagreement: Value, upper: float) -> bool:
        # a loss that is measured does not hang on it; one that is certified rests on the bound
        assert disagreement.interval is not None
        certified = Value(number=disagreement.number, interval=(disagreement.interval[0], upper))
        score = spec.experts[expert].score or 1.0
        return any(
            is_open(certified if kind.measured else disagreement, kind.differing(limit, score))
            for kind, limit in set_limits(limits)
            if kind.differing and not (kind.takes_targets or (kind.measured and expert in labelled))
        )

    def fails(found: Mapping[str, Value]) -> bool:
        return any(
            compare(found[kind.quantity], limit, "interval", at_least=kind.at_least) == "fail"
            for kind, limit in set_limits(limits)
            if kind.of_merges and not kind.from_baseline and kind.quantity in found
        )

    return BudgetQuestions(
        deepest=min(wanted, allowed or wanted, key=STAGES.index),
        stages=frozenset(stages),
        compares_merges=judges_merges(limits),
        hangs_on={"limits": limits, "scores": {n: e.score for n, e in spec.experts.items()}},
        mds_is_open=mds_is_open,
        may_end_early=may_end_early,
        fails=fails,
        disagreement_is_open=disagreement_is_open,
    )


def difficulty(asked: Asked) -> Evidence | None:
    """The expert's MDS in the pool."""
    hidden = asked.case.hidden
    return Evidence(value=hidden.experts[asked.expert].mds, basis="hidden") if hidden else None


def worst_pair(asked: Asked) -> Evidence | None:
    """The largest ratio, or bad end of one under ``judge: bound``; an undefined one where none of
    the others is over the limit anyway."""
    conflict, ratio, expert = asked.case.conflict, asked.kind.quantity, asked.expert
    if conflict is None:
        return None

    def bad_end(value: Value) -> float:
        if value.number is None:
            return -1.0  # less than any ratio
        return value.interval[1] if asked.mode == "bound" and value.interval else value.number

    values: list[tuple[Value, str]] = [
        (getattr(p, ratio), p.b if p.a == expert else p.a)
        for p in conflict.pairs
        if expert in (p.a, p.b)
    ]
    ranked = sorted(values, key=lambda found: bad_end(found[0]))
    over = compare(bad_end(ranked[-1][0]), asked.limit) == "fail"
    value, partner = ranked[-1] if over or ranked[0][0].number is not None else ranked[0]
    detail = f"with {partner}"
    if over and (layer := conflict.worst_layer(ratio, expert, partner)):
        detail += f", {number_text(layer[1])} in {layer[0]}"
    basis = "conflict" if value.standard_error is None else "sampled"
    return Evidence(value=value, basis=basis, detail=detail)


def disagreement(asked: Asked) -> Evidence | None:
    """The share of the expert's inputs that the merge answers differently."""
    merge = asked.merge
    return _share(asked, merge.expert(asked.expert), "merged") if merge is not None else None


def predicted_disagreement(asked: Asked) -> Evidence | None:
    """The same of the factored sum that was run in place of the merge."""
    surrogate = asked.case.surrogate(asked.method)
    if surrogate is None or asked.depth != "hidden":
        return None
    return _share(asked, surrogate.expert(asked.expert), "predicted", "no merge made")


def _share(asked: Asked, compared: MergedExpert, basis: str, said: str = "") -> Evidence:
    how = [basis] if said else []
    if compared.compared_by != EXACT:
        how.append(f"mean distance by {compared.compared_by}")
    many = f"{compared.inputs} inputs"
    if compared.failed_early:
        many = f"{compared.inputs} of {compared.planned} inputs, which leave no doubt"
    told = [" ".join([*how, f"on {many}"])]
    if compared.cut:
        told.append(f"{compared.cut} answers were cut before they differed, and may go on to")
    if compared.inputs < FEWEST and not compared.failed_early:
        bound = number_text(compared.disagreement_upper)
        told.append(f"fewer than {FEWEST} pass on their bound, {bound}")
    return Evidence(
        value=compared.disagreement,
        basis=basis,
        detail=joined(*told, said),
        inputs=compared.inputs,
        least=compared.least,
        most=compared.most,
        bound=compared.disagreement_upper,
        base=base_disagreement(compared.name, asked.case),
    )


def base_disagreement(expert: str, case: Case) -> Value:
    """Share of its own inputs that the base answers differently from the expert."""
    if case.base is None:
        return Value.missing("base_not_compared")
    return Value(number=case.base[expert].disagreement)
