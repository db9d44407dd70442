"""MG111: input embedding and output layer that are one weight here and two there."""

import numpy as np

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.base import OUTPUT_WEIGHTS, Base
from pytest_mergegate.pool.changes import Rows
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tensors import StoredTensors
from pytest_mergegate.preflight.told import Findings, error

_COMPARED = 1 << 20
_APART = (
    "write tie_word_embeddings: false into its config.json if both were trained, or leave the "
    "output layer out of its files: loaders differ in which of the two they take"
)
_SAVE = "save it again with tie_word_embeddings as it was trained"


def find(pool: Pool) -> Findings:
    """The flag, the stored tensors and what an adapter changes must agree on the tying."""
    base = pool.base
    if base.ties_embeddings and (two := _two_weights(base, base.tensors)):
        yield error(f"the base ties its embeddings, but stores {two}", _SAVE)
    merged = pool.merged
    whole = merged.model if merged is not None and merged.adapter is None else None
    if whole is not None and whole.ties_embeddings and (two := _two_weights(whole, whole.tensors)):
        yield error(f"the finished merge ties its embeddings, but stores {two}", _APART)
    for expert in pool.experts:
        if not expert.is_adapter:
            yield from _checkpoint(expert, base)
        elif base.ties_embeddings and expert.config.get("ensure_weight_tying") is not True:
            yield from _one_side(expert, pool)


def _checkpoint(expert: Expert, base: Base) -> Findings:
    flag = expert.config.get("tie_word_embeddings")
    ties = flag if isinstance(flag, bool) else base.ties_embeddings
    if ties != base.ties_embeddings:
        one, other = ("ties", "does not") if ties else ("does not tie", "does")
        said = f"the checkpoint {one} its embeddings, the base {other}"
        yield error(said, "untie, or tie, all of them in the same way first", expert=expert.name)
    elif ties and (two := _two_weights(base, expert.tensors)):
        yield error(f"the checkpoint ties its embeddings, but stores {two}", _SAVE, expert.name)


def _one_side(expert: Expert, pool: Pool) -> Findings:
    """PEFT's forward changes the side that was adapted, its merge both of them."""
    embedding = pool.base.embedding
    unchanged = pool.statistics[expert.name].unchanged
    for parameter in (embedding, *OUTPUT_WEIGHTS):
        change = expert.changes.get(parameter or "")
        # trainable tokens change both sides; a copy of the base's weight changes none
        if change is not None and not isinstance(change, Rows) and parameter not in unchanged:
            yield error(
                f"{shown(change.keys[0])!r} changes one side of the base's tied embeddings; "
                "merged, it changes both",
                "train with ensure_weight_tying=True, or leave the embedding and the output layer "
                "out of target_modules and modules_to_save",
                expert.name,
            )


def _two_weights(base: Base, tensors: StoredTensors) -> str | None:
    """The embedding and the output layer, where both are stored and differ."""
    one, other = base.embedding, next((name for name in OUTPUT_WEIGHTS if name in tensors), None)
    if one is None or one not in tensors or other is None:
        return None
    headers = tensors[one], tensors[other]
    if headers[0].shape == headers[1].shape and all(h.is_float for h in headers):
        samples = tensors.sample(one, _COMPARED), tensors.sample(other, _COMPARED)
        if np.array_equal(*samples):
            return None
    return f"two different weights, {one!r} and {other!r}"
