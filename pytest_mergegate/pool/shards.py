"""The files of a full checkpoint: one, or the shards that an index names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.json_files import read_json_object
from pytest_mergegate.common.files.regular_files import label
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.tensor_headers import read_headers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")


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


def refuse_two_saves(directory: Path, *, expert: str | None = None) -> None:
    """Raise PoolError for one file beside an index of shards: transformers would load the one,
    mergekit the others."""
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


def _shards(index: Path, expert: str | None) -> list[Path]:
    weight_map = read_json_object(index, expert=expert).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _malformed("it has no weight_map", index, expert)
    for name in weight_map.values():
        if not isinstance(name, str) or not _is_plain(name):
            raise _malformed(
                f"'{shown(str(name))}' is not the name of a file beside it", index, expert
            )
    files = [index.parent / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if not file.exists():
            raise _malformed(f"the shard {shown(file.name)} is missing", index, expert)
    _check_tensors(
        {f.name: read_headers(f, expert=expert) for f in files}, weight_map, index, expert
    )
    return files


def _is_plain(name: str) -> bool:
    return (
        name.endswith(".safetensors")
        and not name.startswith(".")
        and name.isprintable()
        and not set(name) & set('/\\:"')
    )


def _check_tensors(
    shards: Mapping[str, Iterable[str]],
    weight_map: Mapping[str, str],
    index: Path,
    expert: str | None,
) -> None:
    holders: dict[str, str] = {}
    for shard, tensors in shards.items():
        for tensor in tensors:
            if tensor in holders:
                raise _malformed(
                    f"tensor '{shown(tensor)}' is in two shards, {holders[tensor]} and {shard}",
                    index,
                    expert,
                )
            holders[tensor] = shard
    for tensor in sorted(holders.keys() ^ weight_map.keys()):
        says = "is in no shard" if tensor in weight_map else f"is in {holders[tensor]} only"
        raise _malformed(f"tensor '{shown(tensor)}' {says}", index, expert)
    for tensor, shard in weight_map.items():
        if holders[tensor] != shard:
            raise _malformed(
                f"tensor '{shown(tensor)}' is in {holders[tensor]}, not in {shard}", index, expert
            )


def _malformed(what: str, index: Path, expert: str | None) -> PoolError:
    return PoolError(
        f"the shard index and the shards do not agree: {what}",
        expert=expert,
        where=label(index),
        fix="save or download the checkpoint again, all of its files",
    )
