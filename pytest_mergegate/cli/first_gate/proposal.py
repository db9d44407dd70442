"""What to put into the gate file: metrics, budgets and methods, each with why."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pytest_mergegate.cli.first_gate.bases import find_base
from pytest_mergegate.cli.first_gate.inputs import find_inputs
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files.places import model_file_in
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.spec import FEWEST
from pytest_mergegate.preflight.heads import task_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_mergegate.cli.first_gate.bases import FoundBase
    from pytest_mergegate.cli.first_gate.experts import Found, FoundExpert, SkippedFolder
    from pytest_mergegate.cli.first_gate.inputs import Inputs

_SHORT = 40
"""Characters of a target that is right or wrong as a whole."""
_HEADLESS = "FEATURE_EXTRACTION"


@dataclass(frozen=True, kw_only=True)
class ProposedExpert:
    """One expert of the gate."""

    expert: FoundExpert
    inputs: Inputs
    metric: str | None
    """None where there is nothing to score."""
    why: str
    """Why that metric."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """All that a gate file is written from."""

    root: Path
    base: FoundBase
    entries: tuple[ProposedExpert, ...]
    left_out: tuple[SkippedFolder, ...]
    budget: tuple[tuple[str, str], ...]
    """Lines and their comments; a line that starts with ``#`` is one to uncomment."""
    max_answer_tokens: int | None
    """None for a base that decodes nothing."""

    @property
    def unreadable(self) -> tuple[str, ...]:
        """What keeps examples from being read."""
        problems = (entry.inputs.problem for entry in self.entries)
        return tuple(shown(problem, 500) for problem in problems if problem is not None)

    @property
    def open_tasks(self) -> tuple[str, ...]:
        """What has to be done before the gate runs as it stands."""
        rouge = any(entry.metric == "rouge_l" for entry in self.entries)
        if not rouge or find_spec("rouge_score") is not None:
            return self.unreadable
        install = "the metric rouge_l needs: pip install 'pytest-mergegate[rouge]'"
        return (*self.unreadable, install)


def propose(found: Found, *, folder: Path, root: Path, base: str | None) -> Proposal:
    """Sensible settings for the experts of ``folder``, and nothing that needs what is not there;
    ``base`` where the user names it.

    Raises GateError for fewer than two experts, and without a base.
    """
    if not found.experts and model_file_in(folder) is not None:
        fix = "give the folder that holds it and the others"
        raise GateError(f"{folder.name}/ is itself an expert", fix=fix)
    if not found.experts:
        raise GateError(
            f"there is no expert in {folder.name}/",
            fix="give the folder whose folders hold an adapter_config.json, or a config.json and "
            "safetensors",
        )
    chosen = find_base(found.experts, folder=folder, root=root, given=base)
    experts = [e for e in found.experts if e.path.resolve() != chosen.path]
    if len(experts) < 2:
        names = "".join(f", it is {expert.name}" for expert in experts)
        raise GateError(f"a merge takes two experts, there are {len(experts)}{names}")
    headless = _task(chosen, experts) == _HEADLESS
    entries = []
    for expert in experts:
        inputs = find_inputs(expert, folder=folder, root=root)
        metric, why = (None, "") if headless else _metric(inputs)
        entries.append(ProposedExpert(expert=expert, inputs=inputs, metric=metric, why=why))
    return Proposal(
        root=root,
        base=chosen,
        entries=tuple(entries),
        left_out=found.left_out,
        budget=_headless_budget(len(entries)) if headless else _budget(entries),
        max_answer_tokens=None if headless else _answer_tokens(entries),
    )


def _task(base: FoundBase, experts: Sequence[FoundExpert]) -> object:
    """What the base is made for; of one that is not here, what the adapters say."""
    if base.config:
        return task_of(base.config)
    said = {str(expert.config.get("task_type")) for expert in experts}
    return said.pop() if len(said) == 1 else None


def _metric(inputs: Inputs) -> tuple[str | None, str]:
    if not inputs.labelled:
        return None, ""
    if inputs.choices:
        return "accuracy", "every example has choices; the likeliest is the answer"
    size = f"{inputs.median} characters on the median"
    if inputs.median <= _SHORT:
        return "exact_match", f"short targets, {size}: right or wrong"
    return "rouge_l", f"long targets, {size}: how much is there"


def _budget(entries: Sequence[ProposedExpert]) -> tuple[tuple[str, str], ...]:
    few = [e.expert.name for e in entries if not e.inputs.labelled or e.inputs.count < FEWEST]
    loss = ("max_loss: 10", "and no expert may lose more than 10 % of its score")
    if few:
        some = ", ".join(few[:3]) + (f" and {len(few) - 3} more" if len(few) > 3 else "")
        why = f"percent of the score; first give {some} {FEWEST} examples with targets or more"
        loss = (f"# {loss[0]}", why)
    answered = "at most 30 % of an expert's inputs answered differently"
    return (("max_disagreement: 0.3", answered), loss)


def _headless_budget(experts: int) -> tuple[tuple[str, str], ...]:
    """A backbone answers nothing, so what is left are weak scores, and the comment says so."""
    if experts > 2:
        return (("max_mds: 3.0", "a guess: MDS is relative to the pool; calibrate it on yours"),)
    why = "a guess: two experts have no MDS, and a backbone has no answers to compare"
    return (("max_conflicting_magnitude_ratio: 0.5", why),)


def _answer_tokens(entries: Sequence[ProposedExpert]) -> int:
    """The next power of two above the longest target: a token is seldom less than a character."""
    longest = max(entry.inputs.longest for entry in entries)
    return min(512, max(16, 1 << longest.bit_length())) if longest else 64
