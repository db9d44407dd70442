"""Distances and MDS within a part of a pool, against a pool of that part alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pytest_mergegate import metrics
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.gate.spec import GateSpec
from pytest_mergegate.stages.pool_parts import PoolParts, difficulty_intervals, distances_per_probe

NAMES = ("a", "b", "c", "d", "e")
PROBES = 4


def spec(normalize: str) -> GateSpec:
    experts = {name: name for name in NAMES}
    return GateSpec.model_validate({"experts": experts, "probes": {"normalize": normalize}})


def hidden(seed: int) -> Any:
    """Five experts on four probes of each one's own."""
    rng = np.random.default_rng(seed)
    tasks = tuple(name for name in NAMES for _ in range(PROBES))
    base = [rng.normal(size=(2, 6)) for _ in tasks]
    experts = [own + 0.3 * rng.normal(size=(len(NAMES), 2, 6)) for own in base]
    states = SimpleNamespace(names=NAMES, tasks=tasks, base=base, experts=experts)
    return SimpleNamespace(states=states)


@pytest.mark.parametrize("normalize", ["unit", "none", "base"])
@pytest.mark.parametrize("names", [("a", "c", "e"), ("b", "c", "d", "e")])
def test_a_part_is_a_pool_of_its_own(names: tuple[str, ...], normalize: str) -> None:
    whole, gate = hidden(0), spec(normalize)
    own = [k for k, task in enumerate(whole.states.tasks) if task in names]
    at = [NAMES.index(name) for name in names]
    alone = metrics.pairwise_distances(
        [whole.states.experts[k][at] for k in own],
        normalize=gate.probes.normalize,
        base_states=[whole.states.base[k] for k in own] if normalize == "base" else None,
    )
    found = PoolParts(whole, gate).of(names)
    np.testing.assert_allclose(found.distances, alone.mean(axis=0), rtol=1e-12, atol=1e-15)
    scores = metrics.merging_difficulty(metrics.hidden_similarity(alone.mean(axis=0)))
    ends = difficulty_intervals(alone, [whole.states.tasks[k] for k in own], gate)
    assert ends is not None
    for k, name in enumerate(names):
        assert found.mds[name].number == pytest.approx(scores[k], rel=1e-9)
        assert found.mds[name].interval == pytest.approx(ends[k], rel=1e-9)
    without = PoolParts(whole, gate).of(names, intervals=False)
    assert {mds.interval for mds in without.mds.values()} == {None}


def test_two_experts_have_no_similarity() -> None:
    found = PoolParts(hidden(1), spec("unit")).of(("a", "b"))
    assert found.similarity is None
    assert {mds.reason for mds in found.mds.values()} == {"needs_three_experts"}


def test_a_state_that_is_zero_has_no_direction() -> None:
    states = hidden(2).states
    states.experts[0][0] = 0
    with pytest.raises(GateError, match=r"a hidden state is zero.*probes.normalize: none"):
        distances_per_probe(states, spec("unit"))
    assert np.isfinite(distances_per_probe(states, spec("none"))).all()
