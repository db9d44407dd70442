"""Full checkpoints: their files, one or several shards, and their parameters under today's names.

The index of the shards is read here: transformers and huggingface_hub load torch for that, and
follow any path in it.
"""

from pathlib import Path

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import label, read_json_object
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.tensors import StoredTensors

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
_OLD_NAMES = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


def read_checkpoint(directory: Path, *, expert: str | None = None) -> StoredTensors:
    """The parameters of a checkpoint, in one file or in shards, without the constants that old
    ones hold, under the names that today's models give them.

    Raises PoolError where there are no weights, for an index that names files elsewhere or other
    tensors than its shards hold, and for files that make no sense.
    """
    tensors = _stored(directory, expert)
    return tensors.renamed(lambda name: _todays_name(name, tensors[name].shape))


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
            fix="convert it once: mergegate convert DIR reads an adapter's tensors in a process of "
            "its own, and nothing else; of a whole model, load it where you trust it, and "
            "model.save_pretrained(path)",
        )


def _stored(directory: Path, expert: str | None) -> StoredTensors:
    single, index = directory / SINGLE, directory / INDEX
    if index.exists():
        weight_map = read_json_object(index, expert=expert).get("weight_map")
        if not single.exists():
            return _sharded(index, weight_map, expert)
        if not isinstance(weight_map, dict) or any(file != SINGLE for file in weight_map.values()):
            raise PoolError(
                f"{shown(directory.name)}/ holds {SINGLE} and an index of shards: transformers "
                "would load the one, mergekit the others",
                expert=expert,
                where=label(index),
                fix="remove what an earlier save left",
            )
    if single.exists():
        return StoredTensors([single], expert=expert)
    refuse_pickles(directory, expert=expert)
    what = f"the checkpoint {shown(directory.name)}/ has no weights"
    fix = "save it as safetensors: model.save_pretrained(path)"
    raise PoolError(what, expert=expert, where=shown(directory.name), fix=fix)


def _sharded(index: Path, weight_map: object, expert: str | None) -> StoredTensors:
    """The tensors of all shards: those that the index names, each where it says."""

    def disagree(problem: str) -> PoolError:
        what = f"the shard index and the shards do not agree: {problem}"
        fix = "save or download the checkpoint again, all of its files"
        return PoolError(what, expert=expert, where=label(index), fix=fix)

    if not isinstance(weight_map, dict) or not weight_map:
        raise disagree("it has no weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or not _is_plain(name):
            raise disagree(f"'{shown(str(name))}' is not the name of a file beside it")
    files = [index.parent / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if not file.exists():
            raise disagree(f"the shard {shown(file.name)} is missing")
    shards = {file.name: StoredTensors([file], expert=expert) for file in files}
    holders: dict[str, str] = {}
    for shard, tensors in shards.items():
        for tensor in tensors:
            if (other := holders.setdefault(tensor, shard)) != shard:
                raise disagree(f"tensor '{shown(tensor)}' is in two shards, {other} and {shard}")
    for tensor in sorted(holders.keys() ^ weight_map.keys()):
        says = "is in no shard" if tensor in weight_map else f"is in {holders[tensor]} only"
        raise disagree(f"tensor '{shown(tensor)}' {says}")
    for tensor, shard in weight_map.items():
        if holders[tensor] != shard:
            raise disagree(f"tensor '{shown(tensor)}' is in {holders[tensor]}, not in {shard}")
    return StoredTensors.joined(shards.values())


def _is_plain(name: str) -> bool:
    """Whether a name is that of a safetensors file in the folder itself."""
    visible = name.isprintable() and not name.startswith(".") and not set(name) & set('/\\:"')
    return visible and name.endswith(".safetensors")


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
