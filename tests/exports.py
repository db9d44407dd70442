"""Finished merges, good and bad, of the quickstart's trained experts: what PEFT and transformers
write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
EXPERTS = ("reverse_upper", "rotate_upper", "cut_upper", "number_dot")
TENSORS = "model.safetensors"


def quickstart(folder: Path) -> Path:
    """The base, some experts and their examples."""
    shutil.copytree(QUICKSTART / "base", folder / "base")
    (folder / "data").mkdir()
    for name in EXPERTS:
        shutil.copytree(QUICKSTART / "adapters" / name, folder / "adapters" / name)
        shutil.copyfile(QUICKSTART / "data" / f"{name}.jsonl", folder / "data" / f"{name}.jsonl")
    return folder


def save(model: Any, base: Path, folder: Path) -> Path:
    """A model with the base's tokenizer beside it."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def export(
    root: Path, folder: Path, experts: Sequence[str], how: str = "merge", weight: float = 1.0
) -> Path:
    """What PEFT makes of ``experts``: ``merge_and_unload`` of one, or of the adapter that
    ``add_weighted_adapter`` makes of several."""
    base = root / "base"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    first, *others = experts
    peft = PeftModel.from_pretrained(model, root / "adapters" / first, adapter_name=first)
    for name in others:
        peft.load_adapter(root / "adapters" / name, name)
    if how != "merge":
        weights = [weight] * len(experts)
        peft.add_weighted_adapter(list(experts), weights, "all", combination_type=how)
        peft.set_adapter("all")
    return save(peft.merge_and_unload(), base, folder)


def changed(good: Path, folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A copy of a finished merge whose tensors ``change`` writes to."""
    shutil.copytree(good, folder)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / TENSORS).items()}
    change(tensors)
    save_file(tensors, folder / TENSORS, {"format": "pt"})
    return folder


def edited(good: Path, folder: Path, files: dict[str, dict[str, Any]]) -> Path:
    """A copy of a finished merge with other settings in its JSON ``files``."""
    shutil.copytree(good, folder)
    for name, settings in files.items():
        said = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(said | settings), encoding="utf-8")
    return folder


def with_other_ids(good: Path, folder: Path) -> Path:
    """The same model with its vocabulary in another order, and one token more."""
    shutil.copytree(good, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = config["vocab_size"]
    new = {old: (7 * old + 3) % size for old in range(size)}
    assert len({*new.values()}) == size
    vocabulary = {token: new[number] for token, number in tokenizer["model"]["vocab"].items()}
    tokenizer["model"]["vocab"] = vocabulary | {"<more>": size}
    for entry in tokenizer["added_tokens"]:
        entry["id"] = new[entry["id"]]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    ends = {"eos_token_id": new[1], "pad_token_id": new[0]}
    for name, more in (("config.json", {"vocab_size": size + 1}), ("generation_config.json", {})):
        said = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(said | ends | more), encoding="utf-8")
    tensors = load_file(folder / TENSORS)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = torch.zeros(size + 1, tensors[name].shape[1])
        rows[[new[k] for k in range(size)]] = tensors[name][:size]
        tensors[name] = rows
    save_file(tensors, folder / TENSORS, {"format": "pt"})
    return folder
