"""What the numbers of an adapter tell of the base that it was trained on.

Copies that were trained, lengths of DoRA and trained rows start as the base's own numbers, and
training leaves them near; those of another base are as far off as chance has it.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.changes import Factors, Replacement, Rows
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.heads import head_of

_FAR, _NEAR = 0.7, 0.35
"""‖own - base's‖ / ‖base's‖: two models trained from different starts are about √2 apart."""
_FAR_ROWS = 1.2
_MODULES = 6
"""Modules of a DoRA whose lengths are compared."""
_FEWEST, _FEWEST_LENGTHS = 512, 64
"""Numbers below which chance has a say."""
_UNALIKE, _ALIKE = 0.2, 0.6
"""Correlation of DoRA's lengths with the base's, each module's mean apart."""
_EVEN = 0.01
"""Relative spread of a base's lengths below which they tell nothing."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What speaks for the gate's base, and what against it."""

    against: str | None = None
    """Why it cannot be the base, in words."""
    of_the_base: bool = False
    """Whether some numbers of the adapter are near the base's own."""


def traces(expert: Expert, pool: Pool) -> Traces:
    """What an adapter's numbers tell of its base; most LoRAs tell nothing."""
    found = [_copies(expert, pool), _rows(expert, pool), _lengths(expert, pool.base)]
    against = next((one.against for one in found if one.against), None)
    return Traces(against=against, of_the_base=any(one.of_the_base for one in found))


def _copies(expert: Expert, pool: Pool) -> Traces:
    """Modules that were trained whole; heads may have begun anywhere."""
    statistics = pool.statistics[expert.name]
    near = False
    for parameter, change in expert.changes.items():
        norm, own = statistics.norms.get(parameter), statistics.base_norms.get(parameter)
        started = pool.base.is_embedding(parameter) or head_of(parameter) is None
        wide = parameter.endswith(".weight") and isinstance(change, Replacement)
        if not wide or not started or norm is None or not own:
            continue
        if pool.base.tensors[parameter].size < _FEWEST:
            continue
        if norm > _FAR * own:
            return _refuted(f"its trained copy of {shown(parameter)!r}", norm / own)
        matrix = isinstance(change, Replacement) and len(change.shape) > 1
        near = near or (matrix and norm < _NEAR * own)
    return Traces(of_the_base=near)


def _rows(expert: Expert, pool: Pool) -> Traces:
    """Trained rows of tokens that the base knows; those that it never used are small."""
    for parameter, change in expert.changes.items():
        norm = pool.statistics[expert.name].norms.get(parameter)
        header = pool.base.tensors.get(parameter)
        if not isinstance(change, Rows) or norm is None or header is None:
            continue
        if len(change.rows) * change.width < _FEWEST:
            continue
        width = header.shape[1]
        with pool.base.tensors.reader(parameter) as reader:
            rows = [reader.floats(row * width, (row + 1) * width) for row in change.rows]
        own = math.sqrt(sum(float(np.square(row.astype(np.float64)).sum()) for row in rows))
        usual = pool.base.norm(parameter) * math.sqrt(len(rows) / max(header.shape[0], 1))
        if own > usual / 2 and norm > _FAR_ROWS * own:
            return _refuted(f"its trained rows of {shown(parameter)!r}", norm / own)
        if own > usual / 2 and norm < _NEAR * own:
            return Traces(of_the_base=True)
    return Traces()


def _refuted(what: str, distance: float) -> Traces:
    return Traces(
        against=f"{what}: {distance:.2g} times the base's norm away from the base's, as if trained "
        "from another base"
    )


def _lengths(expert: Expert, base: Base) -> Traces:
    """DoRA's lengths begin as those of the base's rows, where the factors begin as nothing."""
    if expert.config.get("init_lora_weights") is False:
        return Traces()
    known = [
        change
        for change in expert.changes.values()
        if isinstance(change, Factors)
        and change.magnitude_key
        and base.tensors.is_float(change.parameter)
        and base.tensors[change.parameter].shape == change.shape
    ]
    if not known:
        return Traces()
    chosen = known[:: -(-len(known) // _MODULES)]
    pairs = [pair for change in chosen if (pair := _pair(change, expert, base)) is not None]
    if sum(len(own) for own, _ in pairs) < _FEWEST_LENGTHS:
        return Traces()
    own, theirs = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    distance = float(np.linalg.norm(own - theirs) / np.linalg.norm(theirs))
    if distance > _FAR:
        return _refuted("its DoRA magnitudes", distance)
    even = [np.concatenate([x[k] - x[k].mean() for x in pairs]) for k in (0, 1)]
    spread = float(np.linalg.norm(even[1]) / np.linalg.norm(theirs))
    sizes = float(np.linalg.norm(even[0]) * np.linalg.norm(even[1]))
    alike = float(even[0] @ even[1]) / sizes if sizes > 0 else 1.0
    if spread > _EVEN and alike < _UNALIKE:
        return Traces(
            against="its DoRA magnitudes do not follow the lengths of the base's rows "
            f"(correlation {alike:.2f}), as if trained from another base"
        )
    return Traces(of_the_base=spread > _EVEN and alike > _ALIKE)


def _pair(change: Factors, expert: Expert, base: Base) -> tuple[Floats, Floats] | None:
    """DoRA's lengths of one module, and the base's."""
    assert change.magnitude_key is not None
    own = expert.tensors.floats(change.magnitude_key).astype(np.float64).ravel()
    weight = base.tensors.floats(change.parameter)
    squares = np.square(weight, dtype=np.float64).sum(axis=0 if change.transposed else 1)
    theirs: Floats = np.sqrt(squares)
    sound = own.shape == theirs.shape and bool(np.isfinite([own.sum(), theirs.sum()]).all())
    sound = sound and bool((own > 0).all())  # no base has other lengths
    return (own, theirs) if sound else None
