"""Random inputs for the property tests: a fresh generator per example."""

from itertools import combinations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

quick = settings(max_examples=60, deadline=None, database=None)

generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def points(rng, experts, width):
    """Points of varied shape: generic, on a grid with duplicates, flat, or on a sphere."""
    x = rng.normal(size=(experts, width))
    kind = rng.integers(4)
    if kind == 1:
        x = np.round(x)
    elif kind == 2:
        x = x * 10.0 ** rng.uniform(-5, 0, size=width)
    elif kind == 3:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x


def squared_distances(x):
    """Squared distances by explicit loops."""
    d2 = np.zeros((len(x), len(x)))
    for i, j in combinations(range(len(x)), 2):
        d2[i, j] = d2[j, i] = sum((a - b) ** 2 for a, b in zip(x[i], x[j], strict=True))
    return d2


def distances(rng, experts):
    """A symmetric matrix of positive distances, no two equal."""
    upper = np.triu(rng.uniform(0.1, 3.0, size=(experts, experts)), 1)
    return upper + upper.T
