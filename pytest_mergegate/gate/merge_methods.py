"""The table of merge methods: what each is like. It is read without torch or mergekit.

A method of our own is one row here and the function that its ``arithmetic`` names. A method of the
installed mergekit that has no row is merged by mergekit, by mergekit's declaration of it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Parameters = Mapping[str, bool | int | float]
Weights = Mapping[str, float]
Scales = Callable[[Weights, Parameters], dict[str, float] | None]
"""λ_j with merged = θ₀ + Σ λ_j τ_j, by weights and parameters; None where they make it none."""
Identity = Literal["identity", "no-op", "sum", "election", "isotropy", "repeat"]


@dataclass(frozen=True, kw_only=True)
class MethodTraits:
    """What is known of a merge method in advance."""

    name: str
    """mergekit's, where mergekit has it."""
    own: bool = False
    """Whether mergekit does not have it: it is then merged in place, by ``arithmetic``."""
    paper: str | None = None
    """Where a method of our own is from, and what it is, in one line."""
    base: Literal["required", "optional", "averaged", "expert"] = "required"
    """What ``base_model`` is to mergekit: what task vectors start from; something that makes
    another method of it; one more model to average; or one of the experts, for a walk from it."""
    combines: Literal["average", "sum", "other"] = "other"
    """Whether weights are shares of a whole, or how much is added of each task vector."""
    takes_weights: bool = True
    share_parameter: str | None = None
    """The parameter by which two experts are weighted, in place of weights: the share of the
    second."""
    by_peft: bool = False
    """Whether it is one of PEFT's ``add_weighted_adapter``, which makes one adapter of many."""
    fewest: int = 1
    most: int | None = None
    """The fewest and the most experts that it merges."""
    stand_in: str | None = None
    """The method that does the same on more experts than ``most``."""
    trims: bool = False
    """Whether it leaves numbers out where a ``density`` below 1 is given."""
    draws: bool = False
    """Whether it draws at random what it leaves out."""
    rescales_unlike_paper: bool = False
    """Whether what is kept is scaled up to the L1 norm of the whole, by 1/density in its paper."""
    scales_base: bool = False
    """Whether weights that do not sum to 1, or a ``scale``, scale the base, too."""
    scales: Scales | None = None
    """The linear merge that it is, or is in expectation; None where that has to be measured."""
    is_scaled_sum: bool = False
    """Whether it is just the sum of ``scales``, to the last bit."""
    arithmetic: str | None = None
    """``module:function`` of our own arithmetic, called with method, base, experts and the place
    for one merged parameter (see ``merging.in_place.Arithmetic``); None where mergekit's is run."""
    parameters: Parameters = field(default_factory=dict)
    """Parameters that are known here, with their defaults. Our own arithmetic knows no others:
    where another one is set, mergekit is asked."""
    whole_at_one: frozenset[str] = frozenset(("density", "lambda", "select_topk"))
    """Parameters that are 1 where nothing is left out or scaled."""
    identities: tuple[Identity, ...] = ("identity", "no-op")
    """What a merge must satisfy whatever the experts are (THEORY 8)."""
    has_linearity_gap: bool = False
    """Whether merged states are compared with the mix of the experts' (THEORY 6)."""
    study_name: str | None = None
    """What tables of studies call it, with those that stand in for each other as one."""
    in_table_5: bool = False
    """Whether it is among the methods whose best loss the paper's Table 5 takes."""
    proposal: tuple[str, str] | None = None
    """How ``mergegate init`` writes it, and what it says of it; None where it proposes another."""


def traits_of(name: str) -> MethodTraits:
    """The row of a method; for one that is in no table, what is true of most, and for a function
    of the team's own what is asked of all of them."""
    if is_function(name):
        return MethodTraits(name=name, own=True, identities=("identity", "no-op", "repeat"))
    return METHODS.get(name) or MethodTraits(name=name)


def is_function(name: str) -> bool:
    """Whether a method is ``package.module:function``, code of the team's own."""
    return ":" in name


def _shares(weights: Weights, parameters: Parameters) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _average(weights: Weights, parameters: Parameters) -> dict[str, float] | None:
    if parameters.get("normalize", True):
        return _shares(weights, parameters)
    # an average that is not normalised scales θ₀ too, unless the weights sum to one
    return dict(weights) if math.isclose(sum(weights.values()), 1.0) else None


def _average_on_sphere(weights: Weights, parameters: Parameters) -> dict[str, float] | None:
    return _shares(weights, parameters) if parameters.get("normalize_weights", True) else None


def _walk(weights: Weights, parameters: Parameters) -> dict[str, float]:
    t = float(parameters["t"])
    return dict(zip(weights, (1 - t, t), strict=True))


def _whole(weights: Weights, parameters: Parameters) -> dict[str, float] | None:
    # scale multiplies θ₀, too
    return dict.fromkeys(weights, 1.0) if parameters.get("scale", 1.0) == 1 else None


def _equal(weights: Weights, parameters: Parameters) -> dict[str, float]:
    return dict.fromkeys(weights, 1 / len(weights))


def _scaled_sum(weights: Weights, parameters: Parameters) -> dict[str, float]:
    scale = float(parameters.get("lambda", 1.0))
    if parameters.get("normalize", False):
        total = sum(weights.values())
        scale /= total if abs(total) >= 1e-8 else 1.0
    return {name: scale * weight for name, weight in weights.items()}


_KEPT: Parameters = {"density": 1.0, "normalize": False, "rescale": False, "lambda": 1.0}
_RESCALED: Parameters = {**_KEPT, "rescale": True}

METHODS: dict[str, MethodTraits] = {
    row.name: row
    for row in (
        MethodTraits(
            name="linear",
            base="averaged",
            combines="average",
            scales_base=True,
            scales=_average,
            is_scaled_sum=True,
            parameters={"normalize": True},
            identities=("identity", "no-op", "sum"),
            has_linearity_gap=True,
            in_table_5=True,
            proposal=("linear", "the average"),
        ),
        MethodTraits(
            name="task_arithmetic",
            combines="sum",
            scales=_scaled_sum,
            is_scaled_sum=True,
            parameters=_KEPT,
            identities=("identity", "no-op", "sum"),
            in_table_5=True,
        ),
        MethodTraits(
            name="ties",
            trims=True,
            arithmetic="pytest_mergegate.merging.ties:put_ties",
            # not `rescale`, which mergekit alone knows
            parameters={"density": 1.0, "normalize": True, "lambda": 1.0, "int8_mask": False},
            identities=("identity", "no-op", "election"),
            in_table_5=True,
            proposal=(
                "{method: ties, density: 0.5}",
                "the largest half of each change, signs agreed",
            ),
        ),
        MethodTraits(
            name="dare_linear",
            combines="sum",
            trims=True,
            draws=True,
            rescales_unlike_paper=True,
            scales=_scaled_sum,
            parameters=_RESCALED,
        ),
        MethodTraits(
            name="dare_ties",
            trims=True,
            draws=True,
            rescales_unlike_paper=True,
            parameters=_RESCALED,
        ),
        MethodTraits(
            name="della", trims=True, draws=True, parameters={**_RESCALED, "normalize": True}
        ),
        MethodTraits(
            name="della_linear", combines="sum", trims=True, draws=True, parameters=_RESCALED
        ),
        MethodTraits(name="breadcrumbs", combines="sum", trims=True, parameters=_KEPT),
        MethodTraits(name="breadcrumbs_ties", trims=True, parameters=_KEPT),
        # at usual LoRA sizes the walk over a sphere is the average (FINDINGS), and counts as linear
        MethodTraits(
            name="slerp",
            base="expert",
            combines="average",
            takes_weights=False,
            share_parameter="t",
            fewest=2,
            most=2,
            stand_in="multislerp",
            scales=_walk,
            study_name="slerp",
        ),
        MethodTraits(
            name="multislerp",
            base="optional",
            combines="average",
            scales=_average_on_sphere,
            parameters={"normalize_weights": True},
            study_name="slerp",
        ),
        MethodTraits(
            name="karcher",
            base="averaged",
            combines="average",
            takes_weights=False,
            scales=_equal,
            study_name="slerp",
        ),
        MethodTraits(name="nuslerp", base="optional", fewest=2, most=2),
        MethodTraits(name="model_stock", takes_weights=False, fewest=2),
        MethodTraits(name="sce", takes_weights=False, parameters={"select_topk": 1.0}),
        MethodTraits(name="ram", takes_weights=False),
        MethodTraits(name="ramplus_tl", takes_weights=False),
        MethodTraits(
            name="core_space",
            own=True,
            paper="Core Space merging (Panariello et al. 2025, arXiv 2509.17786): TIES in the "
            "directions that the factors of all experts span",
            takes_weights=False,
            trims=True,
            arithmetic="pytest_mergegate.merging.core_space:put_core_space",
            parameters={"density": 1.0, "lambda": 1.0},
        ),
        MethodTraits(
            name="tsv_m",
            own=True,
            paper="Task Singular Vectors, TSV-Merge (Gargiulo et al. 2025, arXiv 2412.00081): the "
            "largest singular values of each change, one in N, with directions made orthogonal",
            takes_weights=False,
            arithmetic="pytest_mergegate.merging.core_space:put_tsv_m",
            parameters={"lambda": 1.0},
        ),
        MethodTraits(
            name="iso_c",
            own=True,
            paper="isotropic merging, Iso-C (Marczak et al. 2025, arXiv 2502.04959): the sum of "
            "the changes, its singular values all at their mean",
            takes_weights=False,
            arithmetic="pytest_mergegate.merging.core_space:put_iso_c",
            parameters={"lambda": 1.0},
            identities=("isotropy", "no-op"),
        ),
        # one model into another: the first expert is mergekit's base_model
        MethodTraits(name="nearswap", base="expert", takes_weights=False, fewest=2, most=2),
        MethodTraits(name="arcee_fusion", base="expert", takes_weights=False, fewest=2, most=2),
        # of a whole model: the expert, put into its base
        MethodTraits(
            name="passthrough",
            base="averaged",
            takes_weights=False,
            most=1,
            scales_base=True,
            scales=_whole,
            is_scaled_sum=True,
            identities=("identity", "no-op", "sum"),
        ),
    )
}

PEFT = "peft_"
"""What the names of PEFT's combination types begin with here: some are mergekit's, for others."""


def _by_peft(kind: str) -> MethodTraits:
    trims = not kind.startswith(("cat", "svd", "linear"))
    parameters: dict[str, bool | int | float] = {"density": 1.0} if trims else {}
    if kind.endswith("svd"):
        parameters["svd_rank"] = 0  # for the largest rank of the adapters
    return MethodTraits(
        name=f"{PEFT}{kind}",
        own=True,
        by_peft=True,
        combines="sum",
        trims=trims,
        draws=kind.startswith("dare"),
        parameters=parameters,
        identities=() if trims else ("sum",),
    )


_TYPES = ("cat", "svd", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
_SVD_TYPES = ("ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd")
METHODS |= {row.name: row for row in map(_by_peft, (*_TYPES, *_SVD_TYPES))}
