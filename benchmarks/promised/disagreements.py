"""Statements that rest on answers that differ: certificates and disagreements, on any number of
inputs, under any number of methods, looks and experts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from promised.gates import HAIR, Judged, gate_of
from promised.rows import Row, Scenario, Statement, counted
from pytest_mergegate.gate.spec import FEWEST
from pytest_mergegate.metrics import disagreement_bound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from promised.gates import Look
    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.verdict.judge import Judgement

CERTIFICATE = Statement(
    name="certificate",
    text="A gate with `max_loss` and no labels passes though every differing answer is lost and "
    "the loss of one expert, under every method, is a hair over the limit.",
)
FEW = Statement(
    name="few-inputs",
    text=f"A gate with `max_disagreement` and fewer than {FEWEST} inputs passes though one "
    "expert's true disagreement is a hair over the limit.",
)
BOUND = Statement(
    name="bound",
    text="A gate with `max_disagreement` and `judge: bound` passes though one expert's true "
    "disagreement is a hair over the limit.",
)
POINT = Statement(
    name="point",
    text=f"A gate with `max_disagreement`, judged on its point from {FEWEST} inputs on, passes "
    "though one expert's true disagreement is over the limit. Nothing is promised here.",
)
CUT = Statement(
    name="cut",
    text="A gate on whose certificate, bound or few inputs answers were cut passes though one "
    "expert's true disagreement, with what was cut, is a hair over the limit.",
)
CUT_COUNTED = Statement(
    name="cut-counted",
    text="One expert passes where its differing and cut answers together are over the limit, or "
    "fails for them where the differing ones alone are within it.",
)
EARLY = Statement(
    name="early",
    text="One expert fails before all of its inputs were looked at though its true disagreement is "
    "just the limit.",
)
STATEMENTS = (CERTIFICATE, FEW, BOUND, POINT, CUT, CUT_COUNTED, EARLY)

SIZES = (*range(1, 11), 30, 64, 100, 200)
METHODS = (1, 3, 6, 10)
CHEAP = 5
"""Verdicts on counts are made once, so that under one method many gates cost little more than few.
"""
QUICK = {(1, None, 1), (10, None, 1), (3, 256, 1), (1, None, 16)}
"""Methods, most inputs and experts of the quick table."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is asked of a gate, and of how much."""

    budget: str = "max_loss"
    limit: float | None
    """A share; None for the least that no difference at the first look stays within: the limit at
    which a promise is nearest to being broken."""
    inputs: int = 64
    most: int | None = None
    """Up to so many inputs are drawn."""
    methods: int = 1
    experts: int = 1
    judge: str = "point"
    cut: float = 0.0
    """The share of the differing answers that was cut before they differed."""
    sequential: bool = True
    """Whether an expert may fail early."""
    over: float = 0.0
    """How far the truth is over the limit, beside the hair."""

    def __str__(self) -> str:
        limit = "the least limit that can pass" if self.limit is None else f"limit {self.limit:.3g}"
        looks = f"{self.inputs} to {self.most} inputs" if self.most else f"{self.inputs} inputs"
        told = [f"{looks}, {limit}"]
        told += [f"{self.methods} methods"] if self.methods > 1 else []
        told += [f"{self.experts} experts"] if self.experts > 1 else []
        told += [self.budget, "judge: bound"] if self.judge == "bound" and self.cut else []
        told += [f"{self.cut:.0%} of the differing cut"] if self.cut else []
        told += [f"truth {self.over:.2g} over"] if self.over else []
        return ", ".join(told)

    def at(self, limit: float) -> Gate:
        """The gate under a share as its limit."""
        most = {"max_per_task": self.most} if self.most else {}
        return gate_of(
            {self.budget: 100 * limit if self.budget == "max_loss" else limit},
            experts=self.experts,
            methods=self.methods,
            judge=self.judge,
            certificate={"per_task": self.inputs, "sequential": self.sequential, **most},
        )

    def limited(self) -> tuple[Gate, float]:
        """The gate, and the share that is its limit."""
        if self.limit is not None:
            return self.at(self.limit), self.limit
        tail = 1 - self.at(0.5).spec.level
        on_both_sides = self.judge == "bound" and self.budget != "max_loss"
        least = disagreement_bound(
            0, self.inputs, confidence=1 - (tail / 2 if on_both_sides else tail)
        )
        return self.at(least), least


def drawn(
    setting: Setting, judged: Judged, truth: float, rng: np.random.Generator, gates: int
) -> Iterator[tuple[Judgement, list[list[Look]]]]:
    """Judgements on answers of which a share of ``truth`` differs, and these answers."""
    sizes = judged.comparisons.sizes
    shape = (gates, setting.methods, len(sizes))
    differing = rng.binomial(sizes, min(1.0, truth), size=shape)
    cut = rng.binomial(differing, setting.cut)
    for seen, lost in zip((differing - cut).tolist(), cut.tolist(), strict=True):
        looks = [list(zip(*pair, strict=True)) for pair in zip(seen, lost, strict=True)]
        yield judged.of_first(looks), looks


def passes(
    statement: Statement,
    nominal: float | None,
    setting: Setting,
    rng: np.random.Generator,
    gates: int,
) -> list[Row]:
    """How often a gate passes over whose limit the truth is."""
    gate, limit = setting.limited()
    truth = limit * (1 + HAIR) + setting.over
    found = drawn(setting, Judged(gate), truth, rng, gates)
    return counted(statement, str(setting), nominal, (each.status == "pass" for each, _ in found))


def miscounted(setting: Setting, rng: np.random.Generator, gates: int) -> list[Row]:
    """How often cut answers are taken for the same, or for different ones."""
    gate, limit = setting.limited()

    def wrong(judgement: Judgement, looks: list[list[Look]]) -> bool:
        ((differing, cut),) = looks[0]
        status = judgement.verdicts[0].status
        if status == "pass":
            return differing + cut > limit * setting.inputs
        return bool(cut) and status == "fail" and differing <= limit * setting.inputs

    found = drawn(setting, Judged(gate), limit * rng.uniform(0.5, 2.0), rng, gates)
    return counted(CUT_COUNTED, str(setting), 0.0, (wrong(*each) for each in found))


def ends_early(setting: Setting, rng: np.random.Generator, gates: int) -> list[Row]:
    """How often an expert that is within its limit is given up for too few inputs."""
    gate, limit = setting.limited()
    certificate, judged = gate.spec.certificate, Judged(gate)
    first, looks = next(iter(gate.spec.experts)), len(certificate.early(setting.inputs))
    nominal = looks * (1 - certificate.early_level) / 2
    found = drawn(setting, judged, limit, rng, gates)
    early = (judged.comparisons.of(first, seen[0]).failed_early for _, seen in found)
    return counted(EARLY, str(setting), nominal, early)


def scenarios() -> Iterator[Scenario]:
    """All of them."""
    for setting in _certificates():
        yield _scenario(CERTIFICATE, 0.05, setting)
    for setting in _few():
        yield _scenario(FEW, 0.05, setting)
    for setting in _bounds():
        yield _scenario(BOUND, 0.025, setting)
    for inputs in (30, 64, 100, 200):
        for over in (0.0, 0.05, 0.1):
            few = Setting(budget="max_disagreement", limit=0.3, inputs=inputs, over=over)
            yield _scenario(POINT, None, few)
    yield from _cuts()
    for inputs in (32, 64, 200):
        for limit in (0.05, 0.1, 0.3, 0.6):
            near = Setting(budget="max_disagreement", limit=limit, inputs=inputs)
            yield Scenario(
                statement=EARLY,
                label=str(near),
                run=partial(ends_early, near),
                times=CHEAP,
                quick=inputs == 64 and limit == 0.3,
            )


def _scenario(statement: Statement, nominal: float | None, setting: Setting) -> Scenario:
    about = (setting.methods, setting.most, setting.experts)
    return Scenario(
        statement=statement,
        label=str(setting),
        run=partial(passes, statement, nominal, setting),
        times=CHEAP if setting.methods == 1 else 1,
        quick=setting.limit is None and setting.inputs in {1, 9, 64} and about in QUICK,
    )


def _certificates() -> Iterator[Setting]:
    for inputs in SIZES:
        limits: Sequence[float | None] = (0.05, 0.12, 0.3, None) if inputs >= 30 else (0.3, None)
        for limit in limits:
            yield Setting(limit=limit, inputs=inputs)
    for limit in (0.12, None):
        for methods in METHODS[1:]:
            yield Setting(limit=limit, methods=methods)
        for methods in METHODS:
            yield Setting(limit=limit, most=256, methods=methods)
        for experts in (2, 3, 4, 8, 16):
            yield Setting(limit=limit, experts=experts)
    for methods in METHODS:
        yield Setting(limit=0.3, inputs=8, most=64, methods=methods)
    yield Setting(limit=0.12, experts=4, methods=6, most=256)


def _few() -> Iterator[Setting]:
    few = Setting(budget="max_disagreement", limit=None)
    for inputs in range(1, FEWEST):
        for limit in (0.3, 0.1, None):
            yield replace(few, inputs=inputs, limit=limit)
    for methods in METHODS:
        for limit in (0.3, None):
            yield replace(few, inputs=7, most=28, limit=limit, methods=methods)
        if methods > 1:
            yield replace(few, inputs=20, methods=methods)
    for experts in (2, 4, 8, 16):
        yield replace(few, inputs=20, limit=0.3, experts=experts)


def _bounds() -> Iterator[Setting]:
    bound = Setting(budget="max_disagreement", limit=None, judge="bound")
    for inputs in (*SIZES, 20, 29):
        for limit in (0.3, 0.1, None):
            yield replace(bound, inputs=inputs, limit=limit)
    for limit in (0.3, None):
        for methods in METHODS[1:]:
            yield replace(bound, limit=limit, methods=methods)
        for methods in (1, 3, 10):
            yield replace(bound, most=256, limit=limit, methods=methods)
    for experts in (2, 4, 8, 16):
        yield replace(bound, limit=0.3, experts=experts)


def _cuts() -> Iterator[Scenario]:
    for cut in (0.5, 1.0):
        certificate = Setting(limit=None, cut=cut)
        yield _scenario(CUT, 0.05, certificate)
        yield _scenario(CUT, 0.05, replace(certificate, limit=0.12))
        yield _scenario(CUT, 0.05, replace(certificate, limit=0.12, most=256, methods=3))
        few = replace(certificate, budget="max_disagreement", inputs=20)
        yield _scenario(CUT, 0.05, few)
        yield _scenario(CUT, 0.05, replace(few, limit=0.3))
        for inputs in (20, 64, 200):
            bound = replace(few, judge="bound", inputs=inputs)
            yield _scenario(CUT, 0.025, bound)
            yield _scenario(CUT, 0.025, replace(bound, limit=0.3))
    for inputs in (10, 30, 64, 200):
        for judge in ("point", "bound"):
            for cut in (0.3, 1.0):
                counts = Setting(
                    budget="max_disagreement",
                    limit=0.3,
                    inputs=inputs,
                    judge=judge,
                    cut=cut,
                    sequential=False,  # what is counted is what was drawn
                )
                yield Scenario(
                    statement=CUT_COUNTED,
                    label=f"{counts} {judge}",
                    run=partial(miscounted, counts),
                    times=CHEAP,
                    quick=inputs == 64,
                )
