"""How to call every public function of ``metrics``, and the units of what goes in and comes out."""

from collections.abc import Callable
from dataclasses import astuple, dataclass, field, is_dataclass
from functools import partial
from typing import Any

import numpy as np

from pytest_mergegate import metrics

from .strategies import distances, squared_distances


@dataclass(frozen=True, kw_only=True)
class Case:
    """A call. Arguments are multiplied by a unit to a power, and so must the result be."""

    make: Callable[[np.random.Generator], dict[str, Any]]
    units: dict[str, float] = field(default_factory=dict)
    """The power of each argument that has the unit; none where numbers have no unit at all"""
    gives: Any = 0
    """The power of the result; a tuple for a dataclass, field by field"""
    call: Callable[..., Any] | None = None
    """In place of the function itself, where arguments are made first"""
    takes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """For an argument: which of BAD it takes, by index"""


BAD: tuple[Any, ...] = (
    None,
    "text",
    "1",
    object(),
    [None],
    [[None]],
    [[[None, 1.0]]],
    ["1"],
    float("nan"),
    float("inf"),
    [float("nan")],
    10**400,
    1j,
)
"""What no argument may be, except for those in ``takes``."""
_EVERY = tuple(range(len(BAD)))


def _states(rng):
    return {
        "states": [rng.normal(size=(4, t, 5)) for t in (1, 3)],
        "base_states": [rng.normal(size=(t, 5)) for t in (1, 3)],
    }


def _only_states(rng):
    return {"states": _states(rng)["states"]}


def _points(rng, **others):
    return {"squared_distances": squared_distances(rng.normal(size=(4, 3)))} | others


def _many(rng):
    return {"squared_distances": squared_distances(rng.normal(size=(14, 3)))}


def _weights(rng):
    alpha = rng.normal(size=4)
    return _points(rng, weights=alpha / alpha.sum())


def _gram(rng):
    roots = rng.normal(size=(4, 6))
    return roots @ roots.T


def _grams(rng):
    return {"grams": np.stack([_gram(rng) for _ in range(4)])}


def _similarity(rng):
    return {"similarity": metrics.hidden_similarity(distances(rng, 4))}


def _vectors(rng):
    a, b = rng.normal(size=(2, 3, 4)) * (rng.random((2, 3, 4)) < 0.8)
    a[:, 0], b[:, 0] = 1.25, -0.75
    return {"a": a, "b": b}


def _sums(rng):
    return {"sums": metrics.ConflictSums.of(**_vectors(rng))}


def _of(function):
    return lambda a, b: function(metrics.ConflictSums.of(a, b))


def _by_tensor(a, b):
    return metrics.mean_cosine([metrics.ConflictSums.of(*both) for both in zip(a, b, strict=True)])


def _added(a, b):
    tiles = [metrics.ConflictSums.of(*both) for both in zip(a, b, strict=True)]
    return metrics.cosine(sum(tiles, metrics.ConflictSums()))


def _per_probe(rng):
    return {
        "per_probe": np.stack([distances(rng, 4) for _ in range(6)]),
        "tasks": [0] * 3 + [1] * 3,
    }


def _ratio(function, *more):
    """A ratio of sums over two vectors: of both in one unit, and ``more``."""
    both = Case(make=_vectors, call=_of(function), units={"a": 1, "b": 1})
    return (Case(make=_sums, takes={"positions": (11,)}), both, *more)


_angle = partial(Case, make=_vectors)
_matrix = partial(Case, make=_points, units={"squared_distances": 1})

CASES: dict[str, tuple[Case, ...]] = {
    "ConflictSums": (Case(make=lambda rng: dict.fromkeys(("absolute_a", "dot", "positions"), 1)),),
    "certified_loss": (Case(make=lambda rng: {"disagreement_upper": 0.1, "expert_score": 0.5}),),
    "conflicting_magnitude_ratio": _ratio(metrics.conflicting_magnitude_ratio),
    "cosine": _ratio(
        metrics.cosine,
        _angle(call=_of(metrics.cosine), units={"a": 1}),
        _angle(call=_of(metrics.cosine), units={"b": 1}),
        _angle(call=_added, units={"a": 1, "b": 1}),
        _angle(call=_added, units={"a": 1, "b": -1}),
    ),
    "diameter": (_matrix(gives=0.5),),
    "disagreement_bound": (
        Case(make=lambda rng: {"disagreements": 2, "n": 90, "confidence": 0.9}),
    ),
    "disagreement_interval": (
        Case(make=lambda rng: {"disagreements": 2, "n": 90, "confidence": 0.9}),
    ),
    "distortion_curve": (
        _matrix(gives=[(0, 1, 0, 0, 1)] * 4),
        _matrix(make=_many, gives=[(0, 1, 0, 0, 1)] * 14),
    ),
    "distortion_floor": (_matrix(gives=1), _matrix(make=_many, gives=1)),
    "distortions": (_matrix(make=_weights, gives=1),),
    "effective_scale": tuple(
        Case(
            make=lambda rng: dict(zip(("merged", "summed"), rng.normal(size=(2, 9)), strict=True)),
            units=units,
            gives=gives,
        )
        for units, gives in (
            ({"merged": 1, "summed": 1}, 0),
            ({"merged": 1}, 1),
            ({"summed": 1}, -1),
        )
    ),
    "feasibility": tuple(
        Case(
            make=partial(_points, budget=budget, linearity_gap=0.1),
            units={"squared_distances": 1, "budget": 1, "linearity_gap": 0.5},
        )
        for budget in (0.01, 1.6, 99.0)
    ),
    "fewest_merges": (
        Case(
            make=partial(_points, budget=0.9),
            units={"squared_distances": 1, "budget": 1},
            gives=(0, 1, 0, 0),
        ),
    ),
    "gain_kept": (
        Case(
            make=lambda rng: {"merged": 0.4, "expert": 0.7, "base": 0.25},
            units={"merged": 1, "expert": 1, "base": 1},
        ),
    ),
    "gain_kept_interval": (
        Case(
            make=lambda rng: {
                "merged_scores": rng.random(30),
                "expert_scores": np.ones(30),
                "base_scores": np.zeros(30),
            },
            gives=(0, 0),
        ),
    ),
    "hidden_similarity": (
        Case(make=lambda rng: {"distances": distances(rng, 4)}, units={"distances": 1}),
    ),
    "inputs_needed": (
        Case(make=lambda rng: {"disagreements": 1, "n": 90, "limit": 0.1, "confidence": 0.9}),
    ),
    "jung_upper": (_matrix(gives=1),),
    "linearity_gap": (
        Case(
            make=lambda rng: dict(
                zip(("merged_states", "mixed"), rng.normal(size=(2, 2, 3, 4)), strict=True)
            ),
            units={"merged_states": 1, "mixed": 1},
            gives=1,
        ),
    ),
    "magnitude_change_ratio": _ratio(metrics.magnitude_change_ratio),
    "mean_bound": (Case(make=lambda rng: {"values": rng.random(9), "confidence": 0.9}),),
    "mean_interval": (
        Case(make=lambda rng: {"values": rng.random(9), "confidence": 0.9}, gives=(0, 0)),
    ),
    "common_tokens": (
        Case(
            make=lambda rng: {"first": ["a", "b", "a"], "second": ["b", "a"]},
            takes={"first": (1, 2, 4, 7, 10), "second": (1, 2, 4, 7, 10)},
        ),
    ),
    "rouge_l_distance": (Case(make=lambda rng: {"common": [2], "first": [4], "second": [3]}),),
    "majority_rate": (
        Case(make=lambda rng: {"labels": ["a", "b", "a"]}, takes={"labels": (1, 2, 4, 7, 10)}),
    ),
    "mean_cosine": (
        Case(make=lambda rng: {"tensors": list(_sums(rng).values())}),
        _angle(call=_by_tensor, units={"a": 1, "b": 1}),
        _angle(call=_by_tensor, units={"a": 1}),
    ),
    "mean_similarity": (Case(make=_similarity),),
    "mean_square_norm": (
        Case(make=lambda rng: {"states": rng.normal(size=(2, 3, 4))}, units={"states": 1}, gives=2),
    ),
    "merging_difficulty": (Case(make=_similarity),),
    "merging_loss": (
        Case(
            make=lambda rng: {"merged": 0.3, "expert": 0.7},
            units={"merged": 1, "expert": 1},
        ),
    ),
    "minimax_weights": (Case(make=_grams, units={"grams": 1}, gives=(0, 0)),),
    "minimum_distortion": (_matrix(gives=(1, 0, 1)),),
    "mix_states": (
        Case(
            make=lambda rng: _states(rng) | {"weights": rng.normal(size=4)},
            units={"states": 1, "base_states": 1},
            gives=[1, 1],
        ),
    ),
    "own_input_distortion": (
        Case(
            make=lambda rng: {"gram": _gram(rng), "weights": rng.normal(size=4), "expert": 1},
            units={"gram": 1},
            gives=(1, 1, 1, 1),
        ),
    ),
    "own_input_gram": (Case(make=_states, units={"states": 1, "base_states": 1}, gives=2),),
    "pairwise_distances": (
        Case(
            make=lambda rng: _states(rng) | {"normalize": "base"},
            units={"states": 1, "base_states": 1},
        ),
        Case(make=lambda rng: _states(rng) | {"normalize": "base"}, units={"states": 1}, gives=1),
        Case(
            make=lambda rng: _states(rng) | {"normalize": "base"},
            units={"base_states": 1},
            gives=-1,
        ),
        Case(make=_only_states, units={"states": 1}),
        Case(
            make=lambda rng: _only_states(rng) | {"normalize": "none"},
            units={"states": 1},
            gives=1,
        ),
    ),
    "pairwise_squared_distances": (Case(make=_only_states, units={"states": 1}, gives=2),),
    "paper_bound": (
        _matrix(make=partial(_points, dimension=64), gives=1, takes={"dimension": (11,)}),
    ),
    "paper_loss_model": (Case(make=lambda rng: {"mds": 2.5, "confidence": 0.9}),),
    "parameter_conflicts": (
        _angle(
            call=lambda a, b: metrics.parameter_conflicts(a, b),
            units={"a": 1, "b": 1},
            gives=(0,) * 7,
        ),
    ),
    "pool_losses": (
        Case(make=lambda rng: {"losses": rng.normal(size=5)}, units={"losses": 1}, gives=(1, 1)),
    ),
    "radius_bounds": (_matrix(gives=(1, 1)),),
    "relative_size": tuple(
        Case(
            make=lambda rng: {"mean_square": 0.7, "reference_mean_square": 0.3},
            units=units,
            gives=gives,
        )
        for units, gives in (
            ({"mean_square": 1, "reference_mean_square": 1}, 0),
            ({"mean_square": 1}, 0.5),
            ({"reference_mean_square": 1}, -0.5),
        )
    ),
    "retention": (
        Case(
            make=lambda rng: {"merged": 0.4, "expert": 0.7, "chance": 0.25},
            units={"merged": 1, "expert": 1, "chance": 1},
        ),
    ),
    "sign_change_ratio": _ratio(metrics.sign_change_ratio),
    "uniform_distortion": (_matrix(gives=1),),
    "worst_own_input_distortion": (
        Case(make=lambda rng: _grams(rng) | {"weights": rng.normal(size=4)}, units={"grams": 1}),
    ),
    # Drawn scores: what they refuse beside numbers is tested where they are.
    "merging_difficulty_interval": (
        Case(make=_per_probe, takes={"tasks": _EVERY, "resamples": (11,)}),
    ),
    "merging_loss_interval": (
        Case(
            make=lambda rng: {"merged_scores": [0.0, 1.0], "expert_scores": [1.0, 1.0]},
        ),
    ),
    "miss_controlled_threshold": (
        Case(
            make=lambda rng: {"collapse_scores": rng.random(30), "miss_rate": 0.1},
            takes={"collapse_scores": _EVERY},
        ),
    ),
}


def numbers(result: Any, powers: Any) -> list[tuple[Any, float]]:
    """What a result holds, each with its power of the unit."""
    if is_dataclass(result):
        result = astuple(result)
    if isinstance(powers, (tuple, list)):
        both = zip(result, powers, strict=True)
        return [each for part, power in both for each in numbers(part, power)]
    return [(result, powers)]
