"""MG114: heads that cannot be combined: trained apart, for other labels, or unknown to the base."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.base import OUTPUT_LAYERS
from pytest_mergegate.pool.changes import Offset, Replacement
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.heads import architecture_of, head_of
from pytest_mergegate.preflight.told import Findings, error, listed

_COMPARED = 1 << 16
_Labels = tuple[str, ...]


def find(pool: Pool) -> Findings:
    """A merge averages heads like any other weight, whatever their outputs mean."""
    for expert in pool.experts:
        unknown = [
            parameter
            for parameter, change in expert.changes.items()
            if head_of(parameter)
            and parameter not in pool.base.tensors
            and not isinstance(change, Offset)  # MG102's
        ]
        if unknown:
            said = f"brings a head that the base does not have, {shown(unknown[0])!r}"
            fix = "gate against a base of the same class with that head, saved with save_pretrained"
            yield error(said, fix, expert.name, final=True)
    yield from _trained_apart(pool)
    yield from _labels(pool)


def _trained_apart(pool: Pool) -> Findings:
    """Heads that several adapters carry as a whole, and not the same ones."""
    owners: dict[str, dict[str, list[tuple[Expert, Replacement]]]] = {}
    for expert in pool.experts:
        unchanged = pool.statistics[expert.name].unchanged
        for parameter, change in expert.changes.items() if expert.is_adapter else ():
            head = head_of(parameter)
            if head and isinstance(change, Replacement) and parameter not in unchanged:
                owners.setdefault(head, {}).setdefault(parameter, []).append((expert, change))
    # under one vocabulary, a row of the output layer is the same token's in all of them
    shared = OUTPUT_LAYERS if pool.spec.vocabulary == "pad" else ()
    for head, parameters in owners.items():
        if head in shared:
            continue
        apart = [found for found in parameters.values() if len(found) > 1 and _differ(found)]
        if apart:
            names = dict.fromkeys(expert.name for found in apart for expert, _ in found)
            yield error(
                f"{listed([*names], len(pool.experts))} each trained a head {head!r} of "
                "their own; a merge would average them",
                "merge the backbones only and keep one head per task, or train on a shared, "
                "frozen head; for one task with one set of labels, `ignore: {MG114: <why>}`",
            )


def _differ(owners: list[tuple[Expert, Replacement]]) -> bool:
    (expert, change), *others = owners
    if any(other.shape != change.shape for _, other in others):
        return True
    first = expert.tensors.sample(change.key, _COMPARED)
    return any(not np.array_equal(first, e.tensors.sample(c.key, _COMPARED)) for e, c in others)


def _labels(pool: Pool) -> Findings:
    """Output k must mean the same label in every full checkpoint and in the base."""
    configs = [("the base", pool.base.config)]
    configs += [(e.name, e.config) for e in pool.experts if not e.is_adapter]
    classifiers = [(n, labels) for n, c in configs if (labels := _labels_of(c)) is not None]
    named = [(name, labels) for name, labels in classifiers if not _generic(labels)]
    for name, labels in classifiers[1:]:
        against = (classifiers[0], *named[:1])
        said = next(filter(None, (_other_labels(labels, *other) for other in against)), None)
        if said is not None:
            fix = "train all of them with one id2label in one order, or merge the backbones only"
            yield error(said, fix, name)


def _other_labels(labels: _Labels, other_name: str, other: _Labels) -> str | None:
    if len(labels) != len(other):
        return f"has {len(labels)} labels, {other_name} has {len(other)}"
    if _generic(labels) or _generic(other):
        return None
    for place, (own, theirs) in enumerate(zip(labels, other, strict=True)):
        if own != theirs:
            return f"output {place} is {shown(own, 40)!r}, {shown(theirs, 40)!r} in {other_name}"
    return None


def _labels_of(config: Mapping[str, Any]) -> _Labels | None:
    """The labels of a classifier in the order of its outputs; None for other models."""
    if "Classification" not in architecture_of(config):
        return None
    named, count = config.get("id2label"), config.get("num_labels")
    if isinstance(named, dict) and named:
        return tuple(str(named.get(str(k))) for k in range(len(named)))
    if type(count) is int and 0 < count <= 1 << 20:
        return tuple(f"LABEL_{k}" for k in range(count))
    return ("LABEL_0", "LABEL_1")  # transformers' default


def _generic(labels: _Labels) -> bool:
    return all(label == f"LABEL_{k}" for k, label in enumerate(labels))
