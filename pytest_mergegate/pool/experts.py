"""An expert of the pool: a PEFT adapter or a full checkpoint, read as far as headers go."""

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import read_json_object
from pytest_mergegate.pool.adapters import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    adapter_kind,
    check_lists,
    is_computed,
    read_config,
)
from pytest_mergegate.pool.base import Base, side_files
from pytest_mergegate.pool.changes import Change, Computed, Replacement
from pytest_mergegate.pool.checkpoints import read_checkpoint
from pytest_mergegate.pool.fingerprints import fingerprint
from pytest_mergegate.pool.lora import LoraAdapter
from pytest_mergegate.pool.references import Located
from pytest_mergegate.pool.repaired_names import as_loaded, repaired
from pytest_mergegate.pool.tensors import StoredTensors
from pytest_mergegate.pool.threads import in_background

FULL = "full"
_BUFFERS = ("final_logits_bias",)
_WITH_BIASES = ("IA3", "LN_TUNING", "ROAD")
_SHARED = re.compile(r"base_model\.[a-z]+_\w+(\.\w+)*")
"""What all modules share; PEFT itself says whether it belongs there."""


@dataclass(frozen=True, kw_only=True)
class Expert:
    """One fine-tuned model."""

    name: str
    reference: str
    located: Located
    kind: str
    """``full``, ``lora``, ``dora``, or PEFT's name of the method in lower case."""
    config: Mapping[str, Any]
    """``adapter_config.json``, or ``config.json`` of a full checkpoint; from a stranger."""
    tensors: StoredTensors
    """An adapter's under PEFT's names, a full checkpoint's under the base's."""
    changes: Mapping[str, Change]
    """What it does to the base, by parameter."""
    repair: str | None = None
    """What was wrong with the names of an adapter's tensors, and how they are read."""
    hashes: Future[tuple[str, str]]
    """``fingerprint`` and ``weights_fingerprint``, as soon as they are there."""

    @property
    def fingerprint(self) -> str:
        """Over configuration and weights."""
        return self.hashes.result()[0]

    @property
    def weights_fingerprint(self) -> str:
        """Over the weights alone: equal for copies whose configuration was touched."""
        return self.hashes.result()[1]

    @property
    def path(self) -> Path:
        """Its folder on this machine."""
        return self.located.path

    @property
    def is_adapter(self) -> bool:
        """Whether it is a PEFT adapter, not a full checkpoint."""
        return self.kind != FULL

    @property
    def asking(self) -> str:
        """Over what says beside its weights how it is asked: its own tokenizer and template."""
        return fingerprint(side_files(self.path))

    @property
    def base_reference(self) -> str | None:
        """The base that an adapter says it was trained on."""
        named = self.config.get("base_model_name_or_path") if self.is_adapter else None
        return named if isinstance(named, str) and named else None


def read_expert(
    located: Located, base: Base | None, *, name: str, reference: str, where: str
) -> Expert:
    """Read the configuration and the tensor headers of an adapter or a full checkpoint.

    Another thread goes on hashing its files, once they are known to be sound. Raises PoolError for
    a folder that is neither, and for files that make no sense.
    """
    path = located.path
    changes: Mapping[str, Change]
    told: str | None = None
    if (path / CONFIG).exists() or not (path / "config.json").exists():
        config, file = read_config(path, name, where, reference), path / CONFIG
        kind, tensors = adapter_kind(config), StoredTensors([path / WEIGHTS], expert=name)
        if base is not None:
            tensors = as_loaded(tensors, base)
            if (repair := repaired(tensors, base)) is not None:
                tensors, told = repair.tensors, repair.told
        changes = {c.parameter: c for c in _adapter_changes(config, tensors, base, name)}
    else:
        kind, file = FULL, path / "config.json"
        config = read_json_object(file, expert=name, where=f"{path.name}/config.json")
        tensors = named_as(base, read_checkpoint(path, expert=name))
        changes = _replacements(tensors, base)
        if not changes:
            what, fix = (
                "the checkpoint holds no tensors",
                "save it again: model.save_pretrained(path)",
            )
            raise PoolError(what, expert=name, where=path.name, fix=fix)
    return Expert(
        name=name,
        reference=reference,
        located=located,
        kind=kind,
        config=config,
        tensors=tensors,
        changes=changes,
        repair=told,
        hashes=in_background(
            lambda: (fingerprint([*tensors.files, file]), fingerprint(tensors.files))
        ),
    )


def named_as(base: Base | None, tensors: StoredTensors) -> StoredTensors:
    """The checkpoint's tensors under the base's names.

    The same model is stored with and without the prefix that a class with a head adds
    (``transformer.h.0`` or ``h.0``).
    """
    if base is not None and base.loaded is not None:
        tensors = base.loaded.as_loaded(tensors)
    if base is None or any(name in base.tensors for name in tensors):
        return tensors
    prefixes = sorted({name.split(".")[0] + "." for name in base.tensors})
    prefix = next((p for p in prefixes if any(p + n in base.tensors for n in tensors)), None)
    if prefix is not None:
        return tensors.renamed(lambda n: n if n in base.tensors else prefix + n)
    stripped = tensors.renamed(lambda n: n.partition(".")[2] or n)
    return stripped if any(name in base.tensors for name in stripped) else tensors


def _replacements(tensors: StoredTensors, base: Base | None) -> dict[str, Replacement]:
    """One replacement per parameter; buffers, and copies of a tied embedding, are none."""
    changes = {}
    for name, header in tensors.items():
        parameter = base.parameter(name) if base else name
        if not header.is_float or (parameter != name and parameter in tensors):
            continue
        if (
            base is not None
            and name in _BUFFERS
            and name in base.tensors
            and np.array_equal(tensors.floats(name), base.tensors.floats(name))
        ):
            continue
        changes[parameter] = Replacement(parameter=parameter, key=name, shape=header.shape)
    return changes


def _adapter_changes(
    config: Mapping[str, Any], tensors: StoredTensors, base: Base | None, name: str
) -> Iterable[Change]:
    """What an adapter does to the base, from its tensors' names. Raises PoolError."""
    computed = is_computed(config)
    if not tensors:
        what, fix = "the adapter holds no tensors", "save the adapter again"
        raise PoolError(what, code="MG102", expert=name, where=WEIGHTS, fix=fix)
    check_lists(config, max(len(tensors), len(base.tensors) if base else 0), name)
    for key in tensors:
        if not key.startswith(PREFIX) and not (computed and _SHARED.fullmatch(key)):
            raise PoolError(
                f"tensor {key!r} does not begin with {PREFIX!r}",
                code="MG102",
                expert=name,
                where=WEIGHTS,
                fix=f"PEFT names tensors {PREFIX}<module>.lora_A.weight; a changed prefix makes it "
                "drop them without a word",
            )
    if computed:
        return _computed(config, tensors, base)
    return LoraAdapter(config=config, tensors=tensors, base=base, expert=name).changes()


def _computed(config: Mapping[str, Any], tensors: StoredTensors, base: Base | None) -> list[Change]:
    """One change per module of the base that the tensors' names begin with."""
    known = base.tensors if base is not None else {}
    keys: dict[str, list[str]] = {}
    for key in tensors:
        if key.startswith(PREFIX):
            keys.setdefault(_owner(key.removeprefix(PREFIX), base), []).append(key)
    if config["peft_type"] in _WITH_BIASES:
        for parameter in list(keys):
            bias = parameter.removesuffix("weight") + "bias"
            if bias in known:
                keys.setdefault(bias, []).extend(keys[parameter])
    return [Computed(parameter=parameter, keys=tuple(found)) for parameter, found in keys.items()]


def _owner(key: str, base: Base | None) -> str:
    """The parameter that a tensor of the adapter works on: its longest beginning in the base."""
    known = base.tensors if base is not None else {}
    whole = key.replace(".base_layer.bias", ".bias")
    if whole in known:
        return whole
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        parameter = f"{'.'.join(parts[:length])}.weight"
        if (stored := base.parameter(parameter) if base is not None else parameter) in known:
            return stored
    return ".".join(parts[:-1]) + ".weight"
