"""MG105: NaN or infinity in an expert (mergekit writes it to the merge without a word)."""

import math
from functools import partial

import numpy as np

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.adapters import CONFIG
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tensors import StoredTensors
from pytest_mergegate.pool.threads import workers
from pytest_mergegate.preflight.told import Findings, error


def find(pool: Pool) -> Findings:
    """Every stored number must be finite, and so must what they amount to."""
    # of the base as far as a sample of what is changed shows; loading it reads all
    norms = (item for found in pool.statistics.values() for item in found.base_norms.items())
    if (name := next((n for n, norm in norms if not math.isfinite(norm)), None)) is not None:
        said = f"the base's tensor {name!r} holds NaN or infinity"
        yield error(said, "download or save the base again", final=True)
    if pool.merged is not None and pool.merged.adapter is None:
        yield from _finished(pool.merged.model.tensors)
    for expert in pool.experts:
        statistics = pool.statistics[expert.name]
        if statistics.overflowing:
            yield error(
                f"the change of {shown(min(statistics.overflowing))!r} overflows float32, "
                "though its tensors are finite",
                f"check lora_alpha and r in {CONFIG}, or use an earlier checkpoint",
                expert.name,
                final=True,
            )
        if bad := statistics.non_finite:
            name = min(bad)
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            yield error(
                f"{shown(expert.tensors.file_of(name).name)}: tensor {shown(name)!r} "
                f"holds NaN or infinity{more}",
                "the training diverged or the file is damaged; use an earlier checkpoint",
                expert.name,
                final=True,
            )


def _finished(tensors: StoredTensors) -> Findings:
    """Of a finished merge, as far as it is stored in numbers that can be looked at."""
    stored = [name for name, header in tensors.items() if header.is_float]
    with workers() as threads:
        finite = dict(zip(stored, threads.map(partial(_is_finite, tensors), stored), strict=True))
    bad = [name for name, is_finite in finite.items() if not is_finite]
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        said = f"the finished merge's tensor {shown(min(bad))!r} holds NaN or infinity{more}"
        yield error(said, "merge again; look for the expert that brings it", final=True)


def _is_finite(tensors: StoredTensors, name: str) -> bool:
    return all(bool(np.isfinite(block).all()) for block in tensors.blocks(name))
