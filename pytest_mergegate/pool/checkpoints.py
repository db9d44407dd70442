"""Full checkpoints: their files, one or several shards, and their parameters under today's names.

The index of the shards is read here: transformers and huggingface_hub load torch for that, and
follow any path in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.json_files import read_json_object
from pytest_mergegate.common.files.regular_files import label
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.changes import Replacement
from pytest_mergegate.pool.tensor_headers import read_headers
from pytest_mergegate.pool.tensors import StoredTensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_mergegate.pool.base import Base

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")
_CONSTANTS = (
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    ".rotary_emb.inv_freq",
    "embeddings.position_ids",
)
_OLD_NAMES = {
    ".LayerNorm.gamma": ".LayerNorm.weight",
    ".LayerNorm.beta": ".LayerNorm.bias",
}
_BUFFERS = ("final_logits_bias",)


def read_checkpoint(directory: Path, *, expert: str | None = None) -> StoredTensors:
    """The parameters of a checkpoint, without the constants that old ones hold, under the names
    that today's models give them. Raises PoolError for files that make no sense."""
    _refuse_two_saves(directory, expert)
    tensors = StoredTensors(checkpoint_files(directory, expert=expert), expert=expert)
    return tensors.renamed(lambda name: _todays_name(name, tensors[name].shape))


def checkpoint_files(directory: Path, *, expert: str | None = None) -> list[Path]:
    """The safetensors files of a full checkpoint, single or sharded, in the order of their names.

    Raises PoolError where there are none, and for an index that names files elsewhere or other
    tensors than its shards hold.
    """
    if (directory / SINGLE).exists():
        return [directory / SINGLE]
    if (directory / INDEX).exists():
        return _shards(directory / INDEX, expert)
    refuse_pickles(directory, expert=expert)
    raise PoolError(
        f"the checkpoint {shown(directory.name)}/ has no weights",
        expert=expert,
        where=shown(directory.name),
        fix="save it as safetensors: model.save_pretrained(path)",
    )


def refuse_pickles(directory: Path, *, expert: str | None = None) -> None:
    """Raise PoolError where ``directory`` holds pickled weights; to be asked for lack of others."""
    pickles = sorted(
        path.name
        for path in directory.iterdir()
        if path.suffix in _PICKLES and not path.name.startswith(_NO_WEIGHTS)
    )
    if pickles:
        raise PoolError(
            f"{shown(directory.name)}/ holds {shown(pickles[0])}, a pickle, which is never loaded",
            expert=expert,
            where=shown(directory.name),
            fix="convert it once, where you trust it: load it with transformers or PEFT and "
            "model.save_pretrained(path), or write its tensors with safetensors.torch.save_file",
        )


def named_as(base: Base | None, tensors: StoredTensors) -> StoredTensors:
    """The checkpoint's tensors under the base's names.

    The same model is stored with and without the prefix that a class with a head adds
    (``transformer.h.0`` or ``h.0``).
    """
    if base is None or any(name in base.tensors for name in tensors):
        return tensors
    prefixes = sorted({name.split(".")[0] + "." for name in base.tensors})
    prefix = next((p for p in prefixes if any(p + n in base.tensors for n in tensors)), None)
    if prefix is not None:
        return tensors.renamed(lambda n: n if n in base.tensors else prefix + n)
    stripped = tensors.renamed(lambda n: n.partition(".")[2] or n)
    return stripped if any(name in base.tensors for name in stripped) else tensors


def checkpoint_changes(tensors: StoredTensors, base: Base | None) -> dict[str, Replacement]:
    """One replacement per parameter; buffers, and copies of a tied embedding, are none."""
    changes = {}
    for name, header in tensors.items():
        parameter = base.parameter(name) if base else name
        if not header.is_float or (parameter != name and parameter in tensors):
            continue
        if name in _BUFFERS and base is not None and _are_equal(name, tensors, base.tensors):
            continue
        changes[parameter] = Replacement(parameter=parameter, key=name, shape=header.shape)
    return changes


def _are_equal(name: str, tensors: StoredTensors, others: StoredTensors) -> bool:
    return name in others and np.array_equal(tensors.floats(name), others.floats(name))


def _todays_name(name: str, shape: tuple[int, ...]) -> str | None:
    # a causal mask is stored as attn.bias, too; the bias of a layer has one dimension
    if name.endswith(_CONSTANTS) and not (name.endswith(".bias") and len(shape) == 1):
        return None
    if name == "embed_out.weight":  # GPT-NeoX
        return "lm_head.weight"
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _refuse_two_saves(directory: Path, expert: str | None) -> None:
    """One file beside an index of shards: transformers would load the one, mergekit the others."""
    index = directory / INDEX
    if not (directory / SINGLE).exists() or not index.exists():
        return
    named = read_json_object(index, expert=expert).get("weight_map")
    if not isinstance(named, dict) or any(file != SINGLE for file in named.values()):
        raise PoolError(
            f"{shown(directory.name)}/ holds {SINGLE} and an index of shards: transformers would "
            "load the one, mergekit the others",
            expert=expert,
            where=label(index),
            fix="remove what an earlier save left",
        )


def _shards(index: Path, expert: str | None) -> list[Path]:
    try:
        weight_map = _weight_map(read_json_object(index, expert=expert).get("weight_map"))
        files = [index.parent / name for name in sorted(set(weight_map.values()))]
        for file in files:
            if not file.exists():
                raise _Malformed(f"the shard {shown(file.name)} is missing")
        _check_tensors({f.name: [*read_headers(f, expert=expert)] for f in files}, weight_map)
    except _Malformed as problem:
        raise PoolError(
            f"the shard index and the shards do not agree: {problem}",
            expert=expert,
            where=label(index),
            fix="save or download the checkpoint again, all of its files",
        ) from None
    return files


class _Malformed(Exception):
    """In what an index and its shards do not agree."""


def _weight_map(found: object) -> dict[str, str]:
    """Tensor to shard, each the name of a file beside the index."""
    if not isinstance(found, dict) or not found:
        raise _Malformed("it has no weight_map")
    for name in found.values():
        if not isinstance(name, str) or not _is_plain(name):
            raise _Malformed(f"'{shown(str(name))}' is not the name of a file beside it")
    return found


def _is_plain(name: str) -> bool:
    return (
        name.endswith(".safetensors")
        and not name.startswith(".")
        and name.isprintable()
        and not set(name) & set('/\\:"')
    )


def _check_tensors(shards: Mapping[str, list[str]], weight_map: Mapping[str, str]) -> None:
    holders: dict[str, str] = {}
    for shard, tensors in shards.items():
        for tensor in tensors:
            if (other := holders.setdefault(tensor, shard)) != shard:
                raise _Malformed(f"tensor '{shown(tensor)}' is in two shards, {other} and {shard}")
    for tensor in sorted(holders.keys() ^ weight_map.keys()):
        says = "is in no shard" if tensor in weight_map else f"is in {holders[tensor]} only"
        raise _Malformed(f"tensor '{shown(tensor)}' {says}")
    for tensor, shard in weight_map.items():
        if holders[tensor] != shard:
            raise _Malformed(f"tensor '{shown(tensor)}' is in {holders[tensor]}, not in {shard}")
