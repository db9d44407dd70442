"""What the JSON report says of merges, made and forecast, as validated pydantic models."""

from typing import Literal

from pytest_mergegate.common.records import Interval, Number, Record


class ForecastRecord(Record):
    """A merge's expected effect on one expert, before any merge."""

    method: str
    expert: str
    kind: Literal["states", "surrogate"]
    """``states``: stored states, mixed; ``surrogate``: one forward of the factored sum."""
    reading: str
    inputs: int
    """How many inputs were compared."""
    compared_by: str = "exact"
    """How answers are compared; no two numbers of different comparisons are held together."""
    exact: bool = False
    """Whether the factored sum is the merge itself."""
    disagreement: Number | None
    disagreement_reason: str | None = None
    disagreement_interval: Interval | None = None
    disagreement_upper: Number | None
    disagreement_upper_reason: str | None = None
    kl: Number | None
    kl_reason: str | None = None


class ApartRecord(Record):
    """An expert's scores on the examples on which it was not compared with the merge."""

    examples: int
    score_base: Number
    score_expert: Number
    score_merged: Number
    loss: Number | None
    loss_reason: str | None = None
    loss_interval: Interval | None
    gain_kept: Number | None = None
    gain_kept_reason: str | None = None
    gain_kept_interval: Interval | None = None


class ChangedRecord(Record):
    """One input that a merge answers differently from its expert."""

    input: str
    """A chat as one line a message, its role before it. A long text is without its middle; it says
    how much is left out, here and below."""
    expert: str
    """The expert's own answer. Of long answers there is the part around the place where they
    part."""
    merged: str
    target: str | None = None
    """Several references are joined, one a line."""
    score_expert: Number | None = None
    score_merged: Number | None = None
    distance: Number
    """Of the two answers, as they are compared."""
    parts_at: int
    """Characters that the two whole answers have in common from their beginning on."""


class MergedExpertRecord(Record):
    """One expert under one merge."""

    name: str
    reading: str
    inputs: int
    compared_by: str = "exact"
    """How answers are compared: ``exact``, ``rouge_l`` or a function of the team's own."""
    cut: int = 0
    """Answers cut at ``max_answer_tokens``, which the bound counts as different."""
    disagreement: Number
    """Mean distance from the expert's answers; compared exactly, the share that differs."""
    disagreement_interval: Interval | None
    disagreement_upper: Number
    token_agreement: Number | None = None
    """Share of the positions of the expert's answer where the merge's first choice is the
    expert's, mean over inputs; null for a model whose answers are no text, and for a finished
    merge, of which texts alone are compared."""
    total_variation: Number | None = None
    """Of the two distributions at those positions, in [0, 1], mean over inputs."""
    kl: Number | None
    kl_reason: str | None = None
    distortion: Number | None
    distortion_reason: str | None = None
    relative_distortion: Number | None
    relative_distortion_reason: str | None = None
    degenerate: str | None
    score_base: Number | None = None
    score_base_reason: str | None = None
    score_expert: Number | None = None
    score_expert_reason: str | None = None
    score_merged: Number | None = None
    score_merged_reason: str | None = None
    loss: Number | None = None
    """In percent by Eq. 1: negative where the merge is worse."""
    loss_percent: Number | None = None
    """The same as people are shown it: positive where the merge is worse."""
    loss_reason: str | None = None
    loss_interval: Interval | None = None
    gain_kept: Number | None = None
    """Share of what the expert adds to its base that the merge keeps: 1 all of it, 0 none."""
    gain_kept_reason: str | None = None
    gain_kept_interval: Interval | None = None
    retention: Number | None = None
    retention_reason: str | None = None
    scored: int | None = None
    """Distinct examples with targets that were scored; null where there are none."""
    shared: int | None = None
    """How many of them were compared too; null where that cannot be told."""
    apart: ApartRecord | None = None
    """The scores on the others, where they are 30 and more: what the registry keeps."""
    changed: tuple[ChangedRecord, ...] = ()
    """Inputs that the merge answers worst, as many as ``certificate.shown``."""


class MergeRecord(Record):
    """One merge."""

    method: str
    parameters: dict[str, bool | int | float | str]
    weights: dict[str, Number]
    """Of a finished merge those with which the experts' changes fit its own best."""
    fidelity: Number | None
    """The largest relative error of what the method must satisfy: identity, no-op, additivity."""
    fidelity_reason: str | None = None
    digest: str
    """Over the merged parameters, in the precision of the gate."""
    experts: tuple[MergedExpertRecord, ...]
    worst_loss: Number | None = None
    worst_loss_reason: str | None = None
    worst_loss_percent: Number | None = None
    """The same, positive where the merge is worse."""
    mean_loss: Number | None = None
    mean_loss_reason: str | None = None
    mean_loss_percent: Number | None = None
    """The same, positive where the merge is worse."""
