"""Ways out for a pool that is not within budget: what was tried on the probes, and passed there."""

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_mergegate.common.wording import number_text
from pytest_mergegate.engine.running.trials import Trials
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.stages.hidden import HiddenResult
from pytest_mergegate.stages.pool_parts import PoolParts
from pytest_mergegate.verdict.budgets import limit_on, share_within
from pytest_mergegate.verdict.causes import pulls
from pytest_mergegate.verdict.evidence import compare
from pytest_mergegate.verdict.judge import Judgement

_CANDIDATES = 4
"""At most so many experts are tried for leaving out: each trial is a small merge."""
_SCALES = (0.3, 0.5, 0.7, 1.0)


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One way out."""

    text: str
    drop: tuple[str, ...] = ()
    """The experts to leave out, if that is it."""
    tried: bool = False
    """Whether it was run on the probes."""
    setting: str | None = None
    """What to write under ``merge`` of the gate file, if that is it: YAML."""


def find_remedies(
    gate: Gate,
    hidden: HiddenResult,
    judgement: Judgement,
    failed: Sequence[str],
    trials: Trials | None,
    sums: Container[str],
) -> Iterator[Remedy]:
    """Ways out for the experts ``failed``, those first that keep the pool one merge; the methods
    called as ``sums`` are weighted sums of task vectors, as trials are."""
    limits = gate.spec.effective_budget.limits
    if gate.spec.merge.select == "all":
        yield from _passing_methods(judgement)
    if (limit := limits.get(limit_on("mds"))) is not None:
        yield from _without_for_mds(PoolParts(hidden, gate.spec), limit, failed)
    share = share_within(limits, score=1.0)
    method = next((v.method for v in judgement.verdicts if v.method and v.status == "fail"), None)
    if share < 1 and method is not None and trials is not None:
        # weights help against nothing that is judged before a merge
        if all(v.method is not None for v in judgement.verdicts if v.status == "fail"):
            yield from _reweight(hidden, share, trials)
        # of the other methods that are listed, too: one may hold without somebody
        asked = {str(hidden.scales[m]): m for m in reversed([method, *hidden.scales])}
        for named in reversed(asked.values()):
            if found := _leave_out(hidden, named, failed, share, trials, is_sum=named in sums):
                yield found
                break


def _passing_methods(judgement: Judgement) -> Iterator[Remedy]:
    """The methods that would pass by themselves."""
    by_method: dict[str, set[str]] = {}
    for verdict in judgement.verdicts:
        if verdict.method is not None:
            by_method.setdefault(verdict.method, set()).add(verdict.status)
    passing = [method for method, statuses in by_method.items() if statuses == {"pass"}]
    if passing:
        text = f"merge with {' or '.join(passing)}, which passes"
        yield Remedy(text=text, setting="{select: any}")


def _without_for_mds(parts: PoolParts, limit: float, failed: Sequence[str]) -> Iterator[Remedy]:
    """The one expert without which every remaining MDS is within the limit."""
    for expert in failed:
        rest = [name for name in parts.names if name != expert]
        scores = [mds.number for mds in parts.of(rest, intervals=False).mds.values()]
        largest = max((score for score in scores if score is not None), default=math.nan)
        if compare(largest, limit) == "pass":
            text = f"leave {expert} out: the others' largest MDS is then {number_text(largest)}"
            yield Remedy(text=text, drop=(expert,))
            return


def _leave_out(
    hidden: HiddenResult,
    method: str,
    failed: Sequence[str],
    limit: float,
    trials: Trials,
    *,
    is_sum: bool,
) -> Remedy | None:
    """The expert without which ``method`` keeps all others within the limit: one that
    fails, or who pulls most on the inputs of those. What is tried is a sum of task vectors, which
    the method itself need not be."""
    names, scales = hidden.states.names, hidden.scales[method]
    pull = dict.fromkeys(names, 0.0)
    for expert in failed:
        whole = float(np.trace(hidden.grams[expert])) or 1.0
        for name, moved in pulls(hidden, scales, expert).items():
            pull[name] += moved / whole
    suspects = [*failed[: _CANDIDATES - 1], *sorted(names, key=lambda name: -pull[name])]
    averaging = abs(sum(scales.values()) - 1) < 1e-6
    tried: list[tuple[float, str]] = []
    for name in list(dict.fromkeys(suspects))[:_CANDIDATES]:
        rest = {other: scale for other, scale in scales.items() if other != name}
        total = sum(rest.values())
        if averaging and total > 0:  # the shares of an average are shared out again
            rest = {other: scale / total for other, scale in rest.items()}
        if len(rest) > 1 and (value := _largest_disagreement(rest, limit, trials)) is not None:
            tried.append((value, name))
    if not tried:
        return None
    least, name = min(tried)
    how = "tried" if is_sum else "by a sum of such weights in its place, tried"
    text = (
        f"leave {name} out: {method} then changes {at_most(least)} of the others' answers "
        f"({how} on the probes)"
    )
    return Remedy(text=text, drop=(name,), tried=True)


def _reweight(hidden: HiddenResult, limit: float, trials: Trials) -> Iterator[Remedy]:
    """The first common scale, or the best convex weights, that stays within the limit."""
    names, bounds = hidden.states.names, hidden.bounds
    options = [
        (
            dict.fromkeys(names, scale),
            f"task_arithmetic at weight {scale}",
            f"{{methods: [{{method: task_arithmetic, weight: {scale}}}]}}",
        )
        for scale in _SCALES
    ]
    for weights, own in (("optimal", bounds.weights), ("minimax", bounds.minimax_weights)):
        setting = f"{{methods: [linear], weights: {weights}}}"
        options.append((dict(own), f"linear and {weights} weights", setting))
    for scales, how, setting in options:
        value = _largest_disagreement(scales, limit, trials)
        if value is not None:
            text = f"merge all with {how}: it changes {at_most(value)} of any expert's answers"
            yield Remedy(text=f"{text} (tried on the probes)", setting=setting, tried=True)
            return


def at_most(rate: float) -> str:
    """A share that nobody exceeds, in words."""
    return "none" if rate == 0 else f"at most {rate:.0%}"


def _largest_disagreement(
    scales: Mapping[str, float], limit: float, trials: Trials
) -> float | None:
    """Over the experts in ``scales``; None where one is over the ``limit`` or cannot be read from
    the probes: then it is no way out, and no others are asked."""
    largest = 0.0
    for names in trials.quick_first(scales):
        for agreement in trials.trial(scales, names).values():
            if agreement is None or compare(agreement.rate, limit) != "pass":
                return None
            largest = max(largest, agreement.rate)
    return largest
