"""The equations behind the gate: pure functions, numpy in, numpy out.

All follow "An Empirical Study and Theoretical Explanation on Task-Level Model-Merging Collapse"
(2026) where they name an equation. Bad input raises ``ValueError``, and so does a number that
float64 cannot hold, or so far beyond float32 that its squares would be lost; one that does not
exist raises ``Undefined``, itself a ``ValueError`` with a ``reason``. No result depends on the unit
of the input.
"""

from ._checks import Undefined
from .bounds import (
    Feasibility,
    MinimumDistortion,
    RadiusBounds,
    diameter,
    distortions,
    feasibility,
    jung_upper,
    minimum_distortion,
    paper_bound,
    radius_bounds,
    uniform_distortion,
)
from .certificates import (
    certified_loss,
    disagreement_bound,
    disagreement_interval,
    inputs_needed,
)
from .conflicts import (
    ConflictSums,
    ParameterConflicts,
    conflicting_magnitude_ratio,
    cosine,
    magnitude_change_ratio,
    mean_cosine,
    parameter_conflicts,
    sign_change_ratio,
)
from .losses import (
    PoolLoss,
    majority_rate,
    merging_loss,
    merging_loss_interval,
    pool_losses,
    retention,
)
from .own_inputs import (
    MinimaxWeights,
    OwnInputDistortion,
    minimax_weights,
    own_input_distortion,
    own_input_gram,
    worst_own_input_distortion,
)
from .partitions import (
    CurvePoint,
    Partition,
    distortion_curve,
    distortion_floor,
    fewest_merges,
)
from .prediction import PredictedLoss, miss_controlled_threshold, paper_loss_model
from .similarity import (
    hidden_similarity,
    mean_similarity,
    merging_difficulty,
    merging_difficulty_interval,
)
from .states import (
    Normalize,
    effective_scale,
    linearity_gap,
    mean_square_norm,
    mix_states,
    pairwise_distances,
    pairwise_squared_distances,
    relative_size,
)

__all__ = [
    "ConflictSums",
    "CurvePoint",
    "Feasibility",
    "MinimaxWeights",
    "MinimumDistortion",
    "Normalize",
    "OwnInputDistortion",
    "ParameterConflicts",
    "Partition",
    "PoolLoss",
    "PredictedLoss",
    "RadiusBounds",
    "Undefined",
    "certified_loss",
    "conflicting_magnitude_ratio",
    "cosine",
    "diameter",
    "disagreement_bound",
    "disagreement_interval",
    "distortion_curve",
    "distortion_floor",
    "distortions",
    "effective_scale",
    "feasibility",
    "fewest_merges",
    "hidden_similarity",
    "inputs_needed",
    "jung_upper",
    "linearity_gap",
    "magnitude_change_ratio",
    "majority_rate",
    "mean_cosine",
    "mean_similarity",
    "mean_square_norm",
    "merging_difficulty",
    "merging_difficulty_interval",
    "merging_loss",
    "merging_loss_interval",
    "minimax_weights",
    "minimum_distortion",
    "miss_controlled_threshold",
    "mix_states",
    "own_input_distortion",
    "own_input_gram",
    "pairwise_distances",
    "pairwise_squared_distances",
    "paper_bound",
    "paper_loss_model",
    "parameter_conflicts",
    "pool_losses",
    "radius_bounds",
    "relative_size",
    "retention",
    "sign_change_ratio",
    "uniform_distortion",
    "worst_own_input_distortion",
]
