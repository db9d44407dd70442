"""The rules of the first stage, one file per coded finding; headers and numpy, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.preflight.mg101_base_mismatch import base_mismatch
from pytest_mergegate.preflight.mg102_unknown_tensors import unknown_tensors
from pytest_mergegate.preflight.mg103_missing_tensors import missing_tensors
from pytest_mergegate.preflight.mg104_shape_mismatch import shape_mismatch
from pytest_mergegate.preflight.mg105_non_finite import non_finite
from pytest_mergegate.preflight.mg106_identical_experts import identical_experts
from pytest_mergegate.preflight.mg107_no_op_adapter import no_op_adapter
from pytest_mergegate.preflight.mg108_norm_disparity import norm_disparity
from pytest_mergegate.preflight.mg109_tokenizer_mismatch import tokenizer_mismatch
from pytest_mergegate.preflight.mg110_resized_vocabulary import resized_vocabulary
from pytest_mergegate.preflight.mg111_tied_embeddings import tied_embeddings
from pytest_mergegate.preflight.mg112_quantised_base import quantised_base
from pytest_mergegate.preflight.mg113_quantised_weights import quantised_weights
from pytest_mergegate.preflight.mg114_heads import heads
from pytest_mergegate.preflight.mg115_dtypes import dtypes
from pytest_mergegate.preflight.mg116_side_files import side_files
from pytest_mergegate.preflight.mg117_unpinned_revision import unpinned_revision
from pytest_mergegate.preflight.mg118_merge_settings import merge_settings
from pytest_mergegate.preflight.mg119_averaged_base import averaged_base
from pytest_mergegate.preflight.mg120_donor_by_chance import donor_by_chance
from pytest_mergegate.preflight.mg121_mergekit_paths import mergekit_paths
from pytest_mergegate.preflight.mg204_few_inputs import few_inputs
from pytest_mergegate.preflight.mg205_repeated_inputs import repeated_inputs
from pytest_mergegate.preflight.mg206_shared_inputs import shared_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_mergegate.common.findings import Finding
    from pytest_mergegate.pool.pool import Pool

RULES: tuple[Callable[[Pool], Iterable[Finding]], ...] = (
    base_mismatch,
    unknown_tensors,
    missing_tensors,
    shape_mismatch,
    non_finite,
    identical_experts,
    no_op_adapter,
    norm_disparity,
    tokenizer_mismatch,
    resized_vocabulary,
    tied_embeddings,
    quantised_base,
    quantised_weights,
    heads,
    dtypes,
    side_files,
    unpinned_revision,
    merge_settings,
    averaged_base,
    donor_by_chance,
    mergekit_paths,
    few_inputs,
    repeated_inputs,
    shared_inputs,
)
