"""The equations behind the gate: pure functions, numpy in, numpy out.

All follow "An Empirical Study and Theoretical Explanation on Task-Level Model-Merging Collapse"
(2026) where they name an equation. Bad input raises ``ValueError``, and so does a number that
float64 cannot hold, or so far beyond float32 that its squares would be lost; one that does not
exist raises ``Undefined``, itself a ``ValueError`` with a ``reason``. No result depends on the unit
of the input.
"""

from ._checks import Undefined as Undefined
from .betting import mean_bound as mean_bound
from .betting import mean_interval as mean_interval
from .bounds import Feasibility as Feasibility
from .bounds import MinimumDistortion as MinimumDistortion
from .bounds import RadiusBounds as RadiusBounds
from .bounds import diameter as diameter
from .bounds import distortions as distortions
from .bounds import feasibility as feasibility
from .bounds import jung_upper as jung_upper
from .bounds import minimum_distortion as minimum_distortion
from .bounds import paper_bound as paper_bound
from .bounds import radius_bounds as radius_bounds
from .bounds import uniform_distortion as uniform_distortion
from .certificates import certified_loss as certified_loss
from .certificates import disagreement_bound as disagreement_bound
from .certificates import disagreement_interval as disagreement_interval
from .certificates import inputs_needed as inputs_needed
from .conflicts import ConflictSums as ConflictSums
from .conflicts import ParameterConflicts as ParameterConflicts
from .conflicts import conflicting_magnitude_ratio as conflicting_magnitude_ratio
from .conflicts import cosine as cosine
from .conflicts import magnitude_change_ratio as magnitude_change_ratio
from .conflicts import mean_cosine as mean_cosine
from .conflicts import parameter_conflicts as parameter_conflicts
from .conflicts import sign_change_ratio as sign_change_ratio
from .gains import gain_kept as gain_kept
from .gains import gain_kept_interval as gain_kept_interval
from .losses import PoolLoss as PoolLoss
from .losses import majority_rate as majority_rate
from .losses import merging_loss as merging_loss
from .losses import merging_loss_interval as merging_loss_interval
from .losses import pool_losses as pool_losses
from .losses import retention as retention
from .own_inputs import MinimaxWeights as MinimaxWeights
from .own_inputs import OwnInputDistortion as OwnInputDistortion
from .own_inputs import minimax_weights as minimax_weights
from .own_inputs import own_input_distortion as own_input_distortion
from .own_inputs import own_input_gram as own_input_gram
from .own_inputs import worst_own_input_distortion as worst_own_input_distortion
from .partitions import CurvePoint as CurvePoint
from .partitions import Partition as Partition
from .partitions import distortion_curve as distortion_curve
from .partitions import distortion_floor as distortion_floor
from .partitions import fewest_merges as fewest_merges
from .prediction import PredictedLoss as PredictedLoss
from .prediction import miss_controlled_threshold as miss_controlled_threshold
from .prediction import paper_loss_model as paper_loss_model
from .similarity import hidden_similarity as hidden_similarity
from .similarity import mean_similarity as mean_similarity
from .similarity import merging_difficulty as merging_difficulty
from .similarity import merging_difficulty_interval as merging_difficulty_interval
from .states import Normalize as Normalize
from .states import effective_scale as effective_scale
from .states import linearity_gap as linearity_gap
from .states import mean_square_norm as mean_square_norm
from .states import mix_states as mix_states
from .states import pairwise_distances as pairwise_distances
from .states import pairwise_squared_distances as pairwise_squared_distances
from .states import relative_size as relative_size
from .texts import common_tokens as common_tokens
from .texts import rouge_l_distance as rouge_l_distance
