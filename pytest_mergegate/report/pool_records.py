"""What the report says of a pool: its experts, pairs, conflicts and bounds."""

from typing import Literal

from pydantic import Field

from pytest_mergegate.common.records import Interval, Number, Record


class BaseRecord(Record):
    """The base."""

    ref: str
    fingerprint: str | None
    """Over weights, configuration and tokenizer; None where preflight alone would have had to read
    gigabytes for it."""
    fingerprint_reason: str | None = None
    architecture: str
    parameters: int


class ExpertRecord(Record):
    """One expert."""

    name: str
    ref: str
    fingerprint: str
    kind: str
    mds: Number | None = None
    mds_reason: str | None = None
    mds_interval: Interval | None = None
    """95 % bootstrap interval; a null end is infinite."""
    mds_infinite: bool = False
    mean_similarity: Number | None = None
    mean_similarity_reason: str | None = None
    shift: Number | None = None
    shift_reason: str | None = None
    norm: Number | None = None
    norm_reason: str | None = None
    base_disagreement: Number | None = None
    """Share of its own inputs that the base, with nothing merged, answers differently."""
    base_disagreement_reason: str | None = None


class FinishedRecord(Record):
    """A merge that was made elsewhere."""

    ref: str
    fingerprint: str
    """Over weights, configuration and tokenizer."""
    kind: str
    """``full``, or the kind of an adapter."""
    architecture: str
    dtype: str
    """The precision in which it was run."""
    has_tokenizer: bool
    """Whether its folder has one; else it was asked through an expert's, or the base's."""


class PairRecord(Record):
    """One pair of experts."""

    a: str
    b: str
    distance: Number | None = None
    distance_reason: str | None = None
    distance_squared: Number | None = None
    distance_squared_reason: str | None = None
    hidden_similarity: Number | None = None
    hidden_similarity_reason: str | None = None
    magnitude_change_ratio: Number | None = None
    magnitude_change_ratio_reason: str | None = None
    magnitude_change_ratio_standard_error: Number | None = None
    sign_change_ratio: Number | None = None
    sign_change_ratio_reason: str | None = None
    sign_change_ratio_standard_error: Number | None = None
    sign_change_ratio_of_base: Number | None = None
    sign_change_ratio_of_base_reason: str | None = None
    sign_change_ratio_of_base_standard_error: Number | None = None
    conflicting_magnitude_ratio: Number | None = None
    conflicting_magnitude_ratio_reason: str | None = None
    conflicting_magnitude_ratio_standard_error: Number | None = None
    cosine: Number | None = None
    cosine_reason: str | None = None
    cosine_standard_error: Number | None = None
    cosine_mean: Number | None = None
    cosine_mean_reason: str | None = None
    cosine_mean_standard_error: Number | None = None
    layers: dict[str, tuple[Number | None, ...]] = Field(default_factory=dict)
    """The same ratios and the cosine within every one of ``conflicts.layers``."""


class TensorRecord(Record):
    """One parameter, over the pairs of experts."""

    name: str
    magnitude_change_ratio: Number | None
    """Mean over the pairs that have one, as the following."""
    sign_change_ratio: Number | None
    conflicting_magnitude_ratio: Number | None
    cosine: Number | None
    worst_pair: tuple[str, str] | None
    """The one with the largest conflicting magnitude ratio."""


class ConflictsRecord(Record):
    """Where task vectors conflict, and how it was computed."""

    mode: Literal["exact", "sampled"]
    rows: int | None
    """Sampled of each matrix; None where every number was read."""
    layers: tuple[str, ...]
    """What ``pairs[].layers`` lists the ratios of."""
    tensors: tuple[TensorRecord, ...]


class BoundsRecord(Record):
    """What no merge can beat (squared units of the hidden states, except for the diameter)."""

    diameter: Number
    relative_diameter: Number | None
    relative_diameter_reason: str | None = None
    minimum_distortion: Number
    weights: dict[str, Number]
    uniform_distortion: Number
    minimax_weights: dict[str, Number]
    """Those that leave the worst-off expert best off on its own inputs."""
    own_input_distortion: dict[str, Number | None]
    """Predicted worst δ_i² / G⁽ⁱ⁾_ii under ``uniform``, ``optimal`` and ``minimax`` shares: 0 keeps
    every expert, 1 is as far from one as the base; null where no expert moves its own inputs."""
    paper_bound: Number
    linearity_gap: Number | None = None
    linearity_gap_reason: str | None = None
