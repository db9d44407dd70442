"""The files of a pool brought to one vocabulary, in a temporary folder (``vocabulary: pad``)."""

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mergegate.pool.adapters import CONFIG
from pytest_mergegate.pool.base import Base, read_base
from pytest_mergegate.pool.references import Located
from pytest_mergegate.pool.tensors import StoredTensors
from pytest_mergegate.pool.tokenizer_files import SETTINGS, TOKENIZER
from pytest_mergegate.pool.vocabularies import (
    Vocabulary,
    check_size,
    donor_of,
    read_vocabularies,
    rows_of,
    vocabulary_parameters,
)

if TYPE_CHECKING:
    from torch import Tensor

SEED = 0
"""Of the rows that are added, as ``torch.manual_seed`` takes it before the resize."""
_ADDED = "added_tokens_decoder"


def padded(base: Base, experts: Mapping[str, Located]) -> tuple[Base, dict[str, Located]]:
    """Base and experts for one vocabulary: as they are, or as copies that go with the base.

    Raises PoolError where no vocabulary has the tokens of all.
    """
    found = read_vocabularies(base, experts)
    if base.embedding is None:
        return base, dict(experts)
    rows = rows_of(base, found)
    grows = check_size(base, rows) > 0
    if not grows and not any(own.differs(rows) for own in found.values()):
        return base, dict(experts)
    donor = donor_of(found)
    folder = Path(tempfile.mkdtemp(prefix="mergegate-"))
    try:
        weights = _padded_weights(base, rows)
        if grows or donor is not None:
            place = folder / "base" / base.path.name
            _write(base.path, place, base.tensors, weights, rows)
            if donor is not None:
                _take_tokenizer(found[donor].located.path, base.path, place)
            located = replace(base.located, path=place)
            own = replace(read_base(located, base.reference, base.path.name), origin=base.path)
        else:
            own = replace(base)  # whose end is the copies' end
        moved = {
            name: _padded_expert(folder / str(k), expert, weights, rows)
            for k, (name, expert) in enumerate(found.items())
        }
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(own, shutil.rmtree, folder, ignore_errors=True)
    return own, moved


def _padded_weights(base: Base, rows: int) -> "dict[str, Tensor]":
    """The base's parameters of the vocabulary with ``rows`` rows, drawn as transformers draws."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    names = vocabulary_parameters(base)
    found = {name: _stored(base.tensors, name) for name in names}
    input_name, heads = names[0], [n for n in names[1:] if n.endswith(".weight")]
    old = found[input_name]
    before, width = old.shape
    if rows == len(old):
        return found
    # any model will do: how it resizes is the same in all of them
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    host = LlamaForCausalLM(LlamaConfig(vocab_size=4, num_attention_heads=1, **sizes))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        embedding = torch.nn.Embedding(before, width, device="meta")
        embedding.weight = torch.nn.Parameter(old)
        found[input_name] = host._get_resized_embeddings(embedding, rows).weight.data
        for name in heads:
            if base.ties_embeddings:
                found[name] = found[input_name].clone()
                continue
            bias = name.removesuffix("weight") + "bias"
            head = torch.nn.Linear(width, before, bias=bias in found, device="meta")
            head.weight = torch.nn.Parameter(found[name])
            if bias in found:
                head.bias = torch.nn.Parameter(found[bias])
            new = host._get_resized_lm_head(head, rows)
            found[name] = new.weight.data
            if bias in found:
                found[bias] = new.bias.data
    for name, own in found.items():
        if len(own) != rows:  # a bias of its own
            mean = own.float().mean(0, keepdim=True).to(own.dtype)
            found[name] = torch.cat([own, mean.expand(rows - len(own), *own.shape[1:])])
    return found


def _stored(tensors: StoredTensors, name: str) -> "Tensor":
    from safetensors import safe_open

    key = tensors.stored_names.get(name, name)
    with safe_open(tensors.file_of(name), framework="pt") as file:
        tensor: Tensor = file.get_tensor(key)
    return tensor


def _write(
    source: Path,
    place: Path,
    tensors: StoredTensors,
    weights: "Mapping[str, Tensor]",
    rows: int,
) -> None:
    """A copy of a model's folder with ``weights``, by their names in ``tensors``, in place of its
    own; what does not change is a link."""
    changed: dict[Path, dict[str, Tensor]] = {}
    for name, weight in weights.items():
        key = tensors.stored_names.get(name, name)
        changed.setdefault(tensors.file_of(name).resolve(), {})[key] = weight
    _copy(source, place, changed)
    config = json.loads((source / "config.json").read_text("utf-8"))
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and "vocab_size" in part:
            part["vocab_size"] = rows
    _replace(place / "config.json", json.dumps(config))


def _copy(source: Path, place: Path, changed: "Mapping[Path, Mapping[str, Tensor]]") -> None:
    from safetensors.torch import load_file, save_file

    place.mkdir(parents=True)
    for file in source.iterdir():
        own = changed.get(file.resolve())
        if own is None:
            (place / file.name).symlink_to(file.resolve(), target_is_directory=file.is_dir())
            continue
        held = {**load_file(file), **own}
        save_file({k: t.contiguous() for k, t in held.items()}, place / file.name, {"format": "pt"})


def _replace(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)  # it may be a link
    file.write_text(text, encoding="utf-8")


def _take_tokenizer(donor: Path, base: Path, place: Path) -> None:
    """The vocabulary of the donor; what its tokens are for, and the templates, stay the base's."""
    for name in (TOKENIZER, "vocab.json", "vocab.txt", "added_tokens.json"):
        if (donor / name).is_file():
            (place / name).unlink(missing_ok=True)
            (place / name).symlink_to((donor / name).resolve())
    own, theirs = (_object(folder / SETTINGS) for folder in (base, donor))
    if _ADDED in theirs:
        _replace(place / SETTINGS, json.dumps({**own, _ADDED: theirs[_ADDED]}))


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _padded_expert(
    folder: Path, expert: Vocabulary, weights: "Mapping[str, Tensor]", rows: int
) -> Located:
    """A copy of an expert whose tensors have ``rows`` rows, where they have others."""
    if not expert.differs(rows):
        return expert.located
    path, tensors = expert.located.path, expert.tensors
    changed = {}
    for key, stored in expert.stored.items():
        own = _stored(tensors, key)
        if own.shape[stored.axis] != rows:
            fill = weights[stored.parameter].to(own.dtype) if stored.is_whole else None
            changed[key] = _fitted(own, stored.axis, rows, expert.known, fill)
    place = folder / path.name
    if (path / CONFIG).is_file():
        files: dict[Path, dict[str, Tensor]] = {}
        for key, tensor in changed.items():
            name = tensors.stored_names.get(key, key)
            files.setdefault(tensors.file_of(key).resolve(), {})[name] = tensor
        _copy(path, place, files)
    else:
        _write(path, place, tensors, changed, rows)
    return replace(expert.located, path=place)


def _fitted(own: "Tensor", axis: int, rows: int, known: int, fill: "Tensor | None") -> "Tensor":
    """``own`` with ``rows`` tokens along ``axis``: those beyond ``known`` are ``fill``'s, or 0."""
    import torch

    shape = list(own.shape)
    kept, shape[axis] = min(shape[axis], rows, known), rows
    new = torch.zeros(shape, dtype=own.dtype) if fill is None else fill.clone()
    new.narrow(axis, 0, kept).copy_(own.narrow(axis, 0, kept))
    return new
