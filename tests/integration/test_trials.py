"""Weights tried out on the probes: whoever is asked together, and whatever is known, the same."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from naive import common_words, rouge_distance
from pools import read_gate, write_gate
from talkers import LENGTH, sentences, write_talkers

from pytest_mergegate.engine.running.cache import Cache
from pytest_mergegate.engine.running.executors import LocalExecutor
from pytest_mergegate.engine.running.probes import collect_states
from pytest_mergegate.engine.running.trials import Trials
from pytest_mergegate.engine.running.workspace import Workspace
from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.evaluation.comparing import comparer
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
WEIGHTS = {"text": 1e-6, "exact": 1.0}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """Two experts that answer the same inputs with sentences of their own, of which one's answers
    are compared as text."""
    spoken = {"text": sentences(seed), "exact": sentences(seed + 9)}
    path = write_talkers(tmp_path_factory.mktemp("trials"), seed, spoken)
    settings = read_gate(path)
    settings["experts"]["text"]["compare"] = "rouge_l"
    return write_gate(path, settings)


def trials(path: Path, folder: Path | None = None) -> tuple[Trials, Workspace]:
    found = load_gate(path)
    pool, errors = read_pool(found)
    assert pool is not None, errors
    workspace = Workspace(
        pool,
        device="cpu",
        cache=Cache(folder=folder),
        vectors=lambda: TaskVectors(pool),
        comparer=partial(comparer, found),
    )
    states = collect_states(workspace, LocalExecutor(), lambda _: None)
    return Trials(workspace, states), workspace


def test_each_alone_is_as_all_together(gate: Path, seed: int) -> None:
    together = trials(gate)[0].trial(WEIGHTS)
    alone, _ = trials(gate)
    assert alone.quick_first(WEIGHTS) == [["exact"], ["text"]]
    for name, known in together.items():
        (found,) = alone.trial(WEIGHTS, [name]).values()
        assert found is not None
        assert known is not None
        assert found.distances == known.distances
        assert found.divergences == pytest.approx(known.divergences, rel=1e-5, abs=1e-9)
    assert together["exact"].rate == 0  # type: ignore[union-attr]
    # the merge says what the other expert does
    pairs = zip(sentences(seed), sentences(seed + 9), strict=True)
    naive = [rouge_distance(common_words(a, b), LENGTH, LENGTH) for a, b in pairs]
    states, workspace = trials(gate)
    drawn = [naive[k] for k in workspace.probes("text")]
    assert states.trial(WEIGHTS, ["text"])["text"].rate == pytest.approx(np.mean(drawn))  # type: ignore[union-attr]


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_known_is_not_run_again(gate: Path, tmp_path: Path, *, kept: bool) -> None:
    first, workspace = trials(gate, tmp_path if kept else None)
    first.trial(WEIGHTS, ["text"])
    processed = workspace.engine.model.counts.processed
    first.trial(WEIGHTS, ["text"])
    assert workspace.engine.model.counts.processed == processed
    whole = first.trial(WEIGHTS)
    assert list(whole) == ["text", "exact"]
    if kept:
        again, workspace = trials(gate, tmp_path)
        assert again.trial(WEIGHTS) == whole
        assert "engine" not in vars(workspace)
