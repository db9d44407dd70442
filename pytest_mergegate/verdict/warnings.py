"""Warnings about verdicts that stand on weak ground."""

import math
from collections.abc import Iterator

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.merge_methods import PEFT
from pytest_mergegate.stages.fitted import FittedChange
from pytest_mergegate.stages.merge_versus_experts import MergedExpert
from pytest_mergegate.verdict.budgets import BUDGETS, limit_on
from pytest_mergegate.verdict.evidence import Case, compare
from pytest_mergegate.verdict.judge import Judgement
from pytest_mergegate.verdict.losses import inputs_text

_HARDLY = 0.02
"""A weight from which on an expert is there: 1 in 50."""
_FAR = 0.5
"""Of the size of a change: rounding to bfloat16 makes about 0.1 of a small LoRA's."""
_LESS = 0.1
"""Of a score: what examples, prompts and decoding may make."""
_ROUNDING = 0.01
"""What storing in bfloat16 makes of equal task vectors."""


def find_warnings(gate: Gate, case: Case, judgement: Judgement) -> Iterator[Finding]:
    """What a reader of the judged verdicts should know; one finding per expert and kind."""
    yield from _copies(case)
    yield from _sampled(case, judgement)
    yield from _predicted(case, judgement)
    yield from _off_the_sum(case)
    yield from _finished(case)
    yield from _under_their_score(case)
    judged = {v.method for v in judgement.verdicts if v.method is not None}
    compared = [(merge.method.label, merge.experts) for merge in case.merges]
    compared = compared or [(s.method, s.experts) for s in case.surrogates]
    experts = [e for label, experts in compared if label in judged for e in experts]
    seen: dict[tuple[str, str | None], Finding] = {}
    for finding in (f for e in experts for f in _weak(gate, e, case.answer_limit)):
        seen.setdefault((finding.code, finding.expert), finding)
    yield from seen.values()


def _copies(case: Case) -> Iterator[Finding]:
    """What MG106 tells of files, told of numbers: other factors or another precision hide it."""
    for pair in case.conflict.pairs if case.conflict else ():
        found = pair.magnitude_change_ratio
        ratio = found.interval[1] if found.interval else found.number
        if ratio is not None and ratio <= _ROUNDING:
            yield Finding(
                code="MG106",
                severity="warning",
                expert=pair.b,
                message=f"changes the base as expert {pair.a!r} does, except for rounding (their "
                f"magnitude change ratio is {number_text(ratio)}); a merge counts it twice",
                fix="remove one of the two, or correct the path that was copied",
            )


def _sampled(case: Case, judgement: Judgement) -> Iterator[Finding]:
    for verdict in judgement.verdicts:
        if verdict.basis != "sampled" or verdict.status != "pass" or case.conflict is None:
            continue
        ratio = BUDGETS[verdict.budget].quantity
        pairs = (p for p in case.conflict.pairs if verdict.expert in (p.a, p.b))
        intervals = [getattr(pair, ratio).interval for pair in pairs]
        highest = max(interval[1] for interval in intervals if interval is not None)
        if compare(highest, verdict.limit) == "fail":
            yield Finding(
                code="MG304",
                severity="warning",
                expert=verdict.expert,
                message=f"{verdict.message}: on a sample of the rows; the exact ratio may be "
                f"{number_text(highest)}",
                fix="write conflict: exact, or hold the bound to the limit with judge: bound",
            )


def _predicted(case: Case, judgement: Judgement) -> Iterator[Finding]:
    """A pass under a method that was not merged, one finding for the gate."""
    passed = {
        v.method
        for v in judgement.verdicts
        if v.basis == "predicted" and v.status == "pass" and case.merge(v.method) is None
    }
    if not passed:
        return
    sums = (case.surrogate(method) for method in passed)
    exact = all(found is not None and found.exact for found in sums)
    how = "is this method's merge" if exact else "is only near to this method's merge"
    yield Finding(
        code="MG305",
        severity="note" if exact else "warning",
        message="what passed was predicted, not measured: no merge was made; "
        f"the factored sum that was run {how}",
        fix="" if exact else "let the gate go to stage merge before the merge ships",
    )


def _off_the_sum(case: Case) -> Iterator[Finding]:
    """PEFT's types that are named after a sum of task vectors, and make another."""
    for merge in case.merges:
        off = merge.fidelity
        if not merge.method.traits.by_peft or off is None or off <= _ROUNDING:
            continue
        exact = merge.method.name == f"{PEFT}cat"
        yield Finding(
            code="MG309",
            severity="warning",
            message=f"{merge.method.label}: the adapter that PEFT made is {off:.0%} off the "
            "weighted sum of the experts' changes",
            fix="rsLoRA adapters, trained biases and modules_to_save get lost in PEFT's merge; "
            "merge in place"
            if exact
            else "use cat, which is that sum as long as nothing but plain LoRA is merged, or raise "
            "svd_rank",
        )


def _finished(case: Case) -> Iterator[Finding]:
    """What the answers and the numbers of a finished merge say of how it came about."""
    for merge in case.merges if case.pool.merged is not None else ():
        for expert in merge.experts:
            asked, same = expert.as_base or (0, 0)
            if 2 * same > asked:
                yield Finding(
                    code="MG307",
                    severity="warning",
                    expert=expert.name,
                    message=f"the finished merge answers like the base: of {asked} changed answers "
                    f"that were looked at, {same} are the base's own",
                    fix="look whether the expert went into it: the adapter that was loaded, its "
                    "name and its weight, and what was saved",
                )
        if merge.fitted is not None:
            yield from _unlike(merge.fitted)


def _unlike(fitted: FittedChange) -> Iterator[Finding]:
    """A change of the weights that is not its experts'."""
    several = len(fitted.weights) > 1
    if compare(fitted.off, _FAR) == "fail":
        said = "is off from what the expert changes by "
        where = f" of its size, most of all in {fitted.farthest!r}"
        if several:
            said, where = "is for ", " of its size no weighted sum of what its experts change"
        yield Finding(
            code="MG308",
            severity="note" if several else "warning",
            expert=None if several else next(iter(fitted.weights)),
            message=f"what the finished merge changes of the base {said}{fitted.off:.0%}{where}",
            fix="nothing, where the method trims, elects or draws (ties, dare); else list all that "
            "went into it, or combine adapters with cat"
            if several
            else "export from float32, or to a finer precision; look at that tensor first",
        )
    for name, weight in fitted.weights.items() if several else ():
        if compare(abs(weight), _HARDLY) == "pass":
            yield Finding(
                code="MG308",
                severity="warning",
                expert=name,
                message="the expert is hardly in the finished merge: the weight with which its "
                f"change fits best is {number_text(weight)}",
                fix="look for the adapter that was loaded, its name and its weight",
            )


def _under_their_score(case: Case) -> Iterator[Finding]:
    """Experts that score far less here than they are known to: no file shows on what an adapter
    was trained, if that was more than the base that it names."""
    for found in case.evaluations[0].experts if case.evaluations else ():
        known = case.pool.spec.experts[found.name].score
        if known is None or not found.examples:
            continue
        count, own, base = found.examples, found.score_expert, found.score_base
        chance = 2 * math.sqrt(known * (1 - known) / count + 1 / count**2)
        if not known - own > max(_LESS, chance):
            continue
        beside = f"; the base by itself scores {number_text(base)}" if base >= own - _LESS else ""
        yield Finding(
            code="MG310",
            severity="warning",
            expert=found.name,
            message=f"scores {number_text(own)} on {count} examples, its `score` is "
            f"{number_text(known)}{beside}",
            fix="if it was trained on top of another adapter, or on a base changed before, merge "
            "that into the base first; else correct score, metric or examples",
        )


def _weak(gate: Gate, expert: MergedExpert, longest: int | None) -> Iterator[Finding]:
    """Answers that were cut, and inputs that are too few to bound what passes."""
    if 2 * expert.unended > expert.inputs:
        yield Finding(
            code="MG306",
            severity="warning",
            expert=expert.name,
            message=f"{expert.unended} of {expert.inputs} of the expert's own answers do not end "
            f"within {longest} tokens",
            fix="train it to end its answers with the end-of-text token, say with stop: where they "
            "end, or raise probes.max_answer_tokens",
        )
    elif expert.cut:
        yield Finding(
            code="MG302",
            severity="warning",
            expert=expert.name,
            message=f"{expert.cut} of {expert.inputs} answers were cut at "
            f"{longest} tokens; beyond that nothing was compared",
            fix="raise probes.max_answer_tokens",
        )
    limit = gate.spec.effective_budget.limits.get(limit_on("disagreement"))
    point, upper = expert.disagreement.number, expert.disagreement_upper
    if limit is None or point is None:
        return
    if (compare(point, limit), compare(upper, limit)) == ("pass", "fail"):
        lacking = inputs_text(expert, limit, gate.spec.level)
        yield Finding(
            code="MG303",
            severity="warning",
            expert=expert.name,
            message=f"the disagreement of {number_text(point)} is within {number_text(limit)}, but "
            f"on {expert.inputs} inputs it may be {number_text(upper)}"
            + (f"; to bound it by the limit, {lacking}" if lacking else ""),
            fix="add examples, or hold the bound to the limit with judge: bound",
        )
