"""Gates without models: outcomes go in, and the gate's own code makes values and verdicts of them.

The stand-ins are a pool that knows its names, and answers that are drawn in place of an engine's.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from pytest_mergegate.common.values import Value
from pytest_mergegate.engine.running.distances import Distances
from pytest_mergegate.engine.running.references import Agreement
from pytest_mergegate.gate.gatefile import Gate, gate_from
from pytest_mergegate.merging.method import Method
from pytest_mergegate.stages import evaluate, looks
from pytest_mergegate.stages.base_answers import BaseAnswers
from pytest_mergegate.stages.measured import ReferenceScores
from pytest_mergegate.stages.merge import MergeResult
from pytest_mergegate.stages.merge_versus_experts import ComparedInputs, merged_expert
from pytest_mergegate.verdict import judge as judging
from pytest_mergegate.verdict.evidence import Case, budget_questions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from pytest_mergegate.gate.options import Stage
    from pytest_mergegate.stages.evaluate import ExpertScores
    from pytest_mergegate.stages.merge_versus_experts import MergedExpert
    from pytest_mergegate.verdict.judge import Judgement

    Scores = npt.NDArray[np.float64]

HAIR = 1e-6
"""By what share of it a truth is over its limit."""
BASE = "base"
"""Its fingerprint."""
Look = tuple[int, int]
"""How many answers of a batch differ, and how many were cut before they could."""


def gate_of(
    limits: Mapping[str, Any],
    *,
    experts: int = 1,
    methods: int = 1,
    metric: str = "exact_match",
    **sections: Any,
) -> Gate:
    """A gate on experts e0, e1, ... under the first of some methods; ``sections`` as in a file.

    All inputs are looked at together, unless the section ``certificate`` says otherwise.
    """
    # a gate has at least two experts, and one alone is judged as many are
    names = [f"e{k}" for k in range(max(2, experts))]
    listed = [{"method": "ties", "density": round(0.05 * (k + 1), 2)} for k in range(methods)]
    source = {
        "base": "base",
        "experts": {name: {"path": f"adapters/{name}", "metric": metric} for name in names},
        "merge": {"methods": listed},
        "budget": dict(limits),
        **sections,
        "certificate": {"sequential": False, **sections.get("certificate", {})},
    }
    return gate_from(source, root=Path())


def labels_of(gate: Gate) -> list[str]:
    """The methods, as reports name them."""
    return [method.label for method in gate.spec.merge.methods]


def pool_of(gate: Gate, *, labelled: bool = False) -> Any:
    """The pool of ``gate``, all of its experts labelled or none."""
    names = tuple(gate.spec.experts)
    return SimpleNamespace(
        names=names,
        spec=gate.spec,
        labelled=lambda name: labelled,
        base=SimpleNamespace(fingerprint=BASE),
        experts=[SimpleNamespace(name=name, fingerprint=f"print of {name}") for name in names],
    )


def with_limit(gate: Gate, name: str, limit: float) -> Gate:
    """The gate under another number."""
    return replace(
        gate,
        spec=gate.spec.model_copy(
            update={"budget": gate.spec.budget.model_copy(update={name: limit})}
        ),
    )


def merge_of(label: str, experts: Sequence[MergedExpert]) -> MergeResult:
    """A merge that did this to the experts."""
    method = Method(
        label=label,
        name=label.split(" ")[0],
        parameters={},
        weights={},
        seed=0,
        takes_base=False,
        takes_weights=False,
    )
    return MergeResult(
        method=method,
        fidelity=0.0,
        digest="",
        linearity_gap=Value.missing("not_linear"),
        experts=tuple(experts),
    )


def alone(own: Scores, base: Scores) -> ReferenceScores:
    """An expert and its base by themselves, on examples that were all compared."""
    return ReferenceScores(
        base=base, expert=own, inputs=tuple(range(len(own))), chance=0.0, of_outputs=True
    )


def scored(gate: Gate, name: str, reference: ReferenceScores, merged: Scores) -> ExpertScores:
    """What a merge with these scores has left of an expert."""
    task: Any = SimpleNamespace(name=name, order=reference.inputs)
    of_merge: Any = SimpleNamespace(scores=merged, outputs=None)
    compared: Any = SimpleNamespace(inputs=len(merged), changed=(), failed_early=False)
    workspace = SimpleNamespace(draws={name: task})
    context: Any = SimpleNamespace(gate=gate, workspace=workspace)
    return evaluate._expert(context, task, reference, of_merge, compared)


def base_of(gate: Gate, share: float = 1.0, inputs: int = 100) -> dict[str, BaseAnswers]:
    """A base that answers this share of every expert's inputs otherwise."""
    differing = round(share * inputs) / inputs
    return {n: BaseAnswers(inputs=inputs, disagreement=differing) for n in gate.spec.experts}


class Comparisons:
    """What the comparison makes of answers, look after look.

    It depends on nothing but the counts of every look that was taken, so each is made once.
    """

    def __init__(self, gate: Gate) -> None:
        self._spec = gate.spec
        self._pool = pool_of(gate)
        self._known: dict[tuple[str, tuple[Look, ...]], MergedExpert] = {}

    @property
    def sizes(self) -> list[int]:
        """How many inputs are new at each look, if all are taken."""
        certificate = self._spec.certificate
        reached = [certificate.per_task]
        while reached[-1] < certificate.most:
            reached.append(min(2 * reached[-1], certificate.most))
        reached = [*certificate.early(reached[-1]), *reached]
        return [reached[0], *(b - a for a, b in pairwise(reached))]

    def of(self, name: str, looks: Sequence[Look]) -> MergedExpert:
        """Expert ``name`` where the inputs of each look would be answered so."""
        for taken in range(1, len(looks) + 1):
            known = self._known.get((name, tuple(looks[:taken])))
            if known is not None:
                return known
        found = self._compared(name, looks)
        reached = 0
        for taken, size in enumerate(self.sizes, start=1):
            reached += size
            if reached == found.inputs:
                self._known[name, tuple(looks[:taken])] = found
        return found

    def _compared(self, name: str, seen: Sequence[Look]) -> MergedExpert:
        answers: list[Look] = []
        for size, (differing, cut) in zip(self.sizes, seen, strict=True):
            agreeing = size - differing - cut
            answers += [(1, 0)] * differing + [(0, 1)] * cut + [(0, 0)] * agreeing
        engine: Any = answers
        context: Any = SimpleNamespace(
            workspace=SimpleNamespace(engine=engine),
            gate=SimpleNamespace(spec=self._spec),
            references=SimpleNamespace(of=lambda name, inputs: _Inputs(inputs)),
            decisions=budget_questions(self._spec, self._pool),
            early_looks=lambda name: self._spec.certificate.early(len(answers)),
        )
        task: Any = SimpleNamespace(name=name, reading="greedy", order=tuple(range(len(answers))))
        with mock.patch.multiple(looks, compare_inputs=_drawn, _read=lambda *_: None):
            (compared,) = looks.looked_at(context, [task], {})
        return merged_expert(engine, task, compared, (), self._spec)


class _Inputs(tuple[int, ...]):
    """Stands for what an expert answers to some inputs."""

    def part(self, start: int, end: int) -> _Inputs:
        """See OwnAnswers."""
        return _Inputs(self[start:end])


def _drawn(context: Any, task: Any, inputs: Sequence[int]) -> ComparedInputs:
    """What an engine would find on ``inputs``."""
    found = [context.workspace.engine[index] for index in inputs]
    nothing = (0.0,) * len(found)
    differs, cut = ([bool(each[k]) for each in found] for k in range(2))
    return ComparedInputs(
        inputs=tuple(inputs),
        distances=Distances.exact(differs, cut),
        agreement=Agreement(
            distances=nothing,
            same=(True,) * len(found),
            divergences=nothing,
            matching=nothing,
            variations=nothing,
        ),
        moved=nothing,
        own=(1.0,) * len(found),
        outputs=("",) * len(found),
        unended=tuple(cut),
    )


class Judged:
    """Verdicts on merges that were compared; those on equal counts are made once."""

    def __init__(self, gate: Gate, *, base: float = 1.0, depth: Stage = "merge") -> None:
        self.gate = gate
        self.comparisons = Comparisons(gate)
        self._base = base_of(gate, base)
        self._depth = depth
        self._known: dict[tuple[tuple[Look, ...], ...], Judgement] = {}

    def of_first(self, looks: Sequence[Sequence[Look]]) -> Judgement:
        """The judgement where each method answers the first expert so, look by look, and leaves all
        others just as they are: these can be what makes a gate pass, never what stops it."""
        key = tuple(tuple(each) for each in looks)
        if key not in self._known:
            self._known[key] = self._judge([self._experts(each) for each in key])
        return self._known[key]

    def _experts(self, looks: Sequence[Look]) -> list[MergedExpert]:
        first, *others = self.gate.spec.experts
        clean = [(0, 0)] * len(looks)
        made = [self.comparisons.of(first, looks)]
        return made + [self.comparisons.of(name, clean) for name in others]

    def _judge(self, by_method: Sequence[Sequence[MergedExpert]]) -> Judgement:
        merges = tuple(map(merge_of, labels_of(self.gate), by_method))
        results = Case(pool=pool_of(self.gate), merges=merges, base=self._base)
        return judging.judge(self.gate, results, self._depth)
