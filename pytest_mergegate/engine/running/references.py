"""What every expert does on its own inputs, and how far from that another model is."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.common.plain import result
from pytest_mergegate.engine.running.distances import Answer
from pytest_mergegate.engine.running.executors import Job, LocalExecutor, blocks_of, look_up
from pytest_mergegate.engine.running.probes import answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.tasks import Task
    from pytest_mergegate.engine.running.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class OwnAnswers:
    """What one expert does on some of its own inputs: the yardstick for every merge."""

    inputs: tuple[int, ...]
    answers: tuple[list[int], ...]
    outputs: tuple[str, ...]
    states: tuple[Tensor, ...]
    """At the answer positions, per input [T, d]."""
    choice_scores: tuple[Tensor, ...] | None
    cut: tuple[bool, ...]
    """Per input, whether the expert's answer was cut at the limit on its length."""

    def part(self, start: int, end: int) -> OwnAnswers:
        """On the inputs from ``start`` to before ``end``."""
        return replace(self, **{k: v and v[start:end] for k, v in vars(self).items()})

    @property
    def said(self) -> list[Answer]:
        """The answers as text."""
        return [Answer(text=t, cut=c) for t, c in zip(self.outputs, self.cut, strict=True)]


class References:
    """Every expert on its own inputs, run once however many merges are compared with it."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._known: dict[tuple[str, tuple[int, ...]], OwnAnswers] = {}

    def read(self, inputs: int) -> None:
        """Have the first ``inputs`` of every task at hand; answers kept by other runs serve."""
        for name, draw in self._workspace.draws.items():
            self.of(name, draw.order[:inputs])

    def of(self, name: str, inputs: tuple[int, ...]) -> OwnAnswers:
        """What expert ``name`` makes of ``inputs`` of its own, whatever is loaded now."""
        if (name, inputs) not in self._known:
            self._known[name, inputs] = self._read(name, inputs)
        return self._known[name, inputs]

    def _read(self, name: str, inputs: tuple[int, ...]) -> OwnAnswers:
        import torch

        workspace, local = self._workspace, LocalExecutor()
        engine, answering = workspace.engine, workspace.facts.answering
        task, model = engine.tasks[name], engine.require_head()
        blocks = blocks_of(name, inputs)
        kept = look_up(workspace, Job(kind="answers", model=name, blocks=tuple(blocks)), again=True)
        is_needed = len(kept) < len(blocks) or not answering or task.choices is not None
        with engine.expert(name) if is_needed else contextlib.nullcontext():
            answered = answer(workspace, local, blocks, lambda _: None)
            answers = [list(own) for block in answered for own in block.answers or ()]
            if answering:  # kept like those of the probes, which are among them
                job = Job(kind="states", model=name, blocks=tuple(answered))
                found = local.run(workspace, [job], lambda _: None)
                read = [state for block in answered for state in found[name, block]]
                states = [torch.from_numpy(np.array(state)) for state in read]
            else:
                states = own_states(engine, task, inputs)
            if task.choices is not None:
                outputs = engine.outputs(task, inputs)
                scores = tuple(engine.choice_scores(task, inputs))
            else:
                outputs, scores = [model.text(own, task.stop) for own in answers], None
        whole = [task.reading != "greedy" or model.is_complete(a, task.stop) for a in answers]
        return OwnAnswers(
            inputs=inputs,
            answers=tuple(answers),
            outputs=tuple(outputs),
            states=tuple(states),
            choice_scores=scores,
            cut=tuple(not is_whole for is_whole in whole),
        )


def own_states(engine: Engine, task: Task, inputs: Sequence[int]) -> list[Tensor]:
    """States of the loaded model that give its answer where the expert's own is forced."""
    return engine.states([(task, inputs)], engine.require_head().answer_positions)[0]


def same_text(
    engine: Engine, task: Task, own: OwnAnswers, states: Sequence[Tensor], places: Iterable[int]
) -> frozenset[int]:
    """Those ``places`` among ``own.inputs`` where the loaded model says the same text in other
    tokens, as metrics read it: spelt in another way, or with spaces or special tokens around it.

    ``states`` are its own along the expert's answers. Where the first token that is another one
    makes another text, nothing is decoded.
    """
    model, undecided, asked = engine.require_head(), [], [*places]
    read = model.logits_each(states[place] for place in asked)
    for place, logits in zip(asked, read, strict=True):
        answer, text = own.answers[place], own.outputs[place]
        chosen = logits.argmax(-1).tolist()
        pairs = enumerate(zip(answer, chosen, strict=True))
        # where two tokens are as likely, round-off may have chosen the other one just now
        parts = next((k for k, (a, b) in pairs if a != b), len(answer) - 1)
        begun = model.text([*answer[:parts], chosen[parts]], task.stop)
        # a token may end within a character
        if text.startswith(begun.rstrip("\N{REPLACEMENT CHARACTER}")):
            undecided.append(place)
    said = engine.said(task, [own.inputs[place] for place in undecided])
    return frozenset(
        place
        for place, other in zip(undecided, said, strict=True)
        if not (other.cut or own.cut[place]) and other.text == own.outputs[place]
    )


@result
class Agreement:
    """What comes out of a comparison over n inputs."""

    distances: tuple[float, ...]
    """Per input: how far the answers are apart, in [0, 1]: where they are compared exactly, 1 for
    another token anywhere."""
    same: tuple[bool, ...]
    """Per input: whether the other's answer is the expert's to the last token, so that whatever is
    known of one holds for the other."""
    divergences: tuple[float, ...]
    """Per input: KL(expert ‖ other) in nats, mean over its positions."""
    matching: tuple[float, ...]
    """Per input: the share of its positions where the other's first choice is the expert's."""
    variations: tuple[float, ...]
    """Per input: the total variation of the two distributions, mean over its positions."""

    def __add__(self, more: Agreement) -> Agreement:
        return Agreement(**{k: v + getattr(more, k) for k, v in vars(self).items()})

    def apart(self, distances: Sequence[float]) -> Agreement:
        """The same answers, with other distances between them."""
        return replace(self, distances=tuple(distances))

    @property
    def n(self) -> int:
        """Number of inputs compared."""
        return len(self.distances)

    @property
    def kl(self) -> float:
        """Mean KL(expert ‖ other) in nats, over positions and then over inputs."""
        return math.fsum(self.divergences) / self.n

    @property
    def rate(self) -> float:
        """Mean distance of the answers: where they are compared exactly, the share that differs."""
        return math.fsum(self.distances) / self.n


def agreement_of(expert: Iterable[Tensor], other: Iterable[Tensor]) -> Agreement:
    """Compare scores [T, options] of two models input by input.

    Greedy answers agree exactly when every argmax on the expert's own answer agrees: up to the
    first position that differs both models have seen the same tokens.
    """
    import torch

    matching, divergences, variations = [], [], []
    for own, theirs in zip(expert, other, strict=True):
        matching.append(float((own.argmax(-1) == theirs.argmax(-1)).double().mean()))
        p, q = (torch.log_softmax(scores.to(torch.float64), dim=-1) for scores in (own, theirs))
        chances = p.exp()
        divergences.append(float((chances * (p - q)).sum(-1).clamp_min(0).mean()))
        variations.append(float((chances - q.exp()).abs().sum(-1).mean() / 2))
    same = tuple(share == 1 for share in matching)
    return Agreement(
        distances=tuple(float(not is_same) for is_same in same),
        same=same,
        divergences=tuple(divergences),
        matching=tuple(matching),
        variations=tuple(variations),
    )
