"""An expert of the pool: a PEFT adapter or a full checkpoint, read as far as headers go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.json_files import read_json_object
from pytest_mergegate.pool.adapter_names import CONFIG as ADAPTER_CONFIG
from pytest_mergegate.pool.adapter_names import WEIGHTS
from pytest_mergegate.pool.adapters import adapter_kind, read_changes, read_config
from pytest_mergegate.pool.base import parameters_of
from pytest_mergegate.pool.checkpoints import checkpoint_changes, named_as
from pytest_mergegate.pool.fingerprints import fingerprint
from pytest_mergegate.pool.shards import checkpoint_files, refuse_two_saves
from pytest_mergegate.pool.stored import StoredTensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from pytest_mergegate.pool.base import Base
    from pytest_mergegate.pool.changes import Change
    from pytest_mergegate.pool.references import Located
    from pytest_mergegate.pool.threads import Background

FULL = "full"


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
    """Under the names in its files; a full checkpoint's under the base's names."""
    changes: Mapping[str, Change]
    """What it does to the base, by parameter."""
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
    def base_reference(self) -> str | None:
        """The base that an adapter says it was trained on."""
        named = self.config.get("base_model_name_or_path") if self.is_adapter else None
        return named if isinstance(named, str) and named else None


def _hash(config: Path, weights: Sequence[Path]) -> tuple[str, str]:
    return fingerprint([*weights, config]), fingerprint(weights)


def read_expert(
    located: Located,
    base: Base | None,
    *,
    name: str,
    reference: str,
    where: str,
    hashing: Background,
) -> Expert:
    """Read the configuration and the tensor headers of an adapter or a full checkpoint.

    ``hashing`` hashes its files, once they are known to be sound. Raises PoolError for a folder
    that is neither, and for files that make no sense.
    """
    path = located.path
    if not (path / ADAPTER_CONFIG).exists() and (path / "config.json").exists():
        return _read_full(located, base, name=name, reference=reference, hashing=hashing)
    config = read_config(path, name, where)
    tensors = StoredTensors([path / WEIGHTS], expert=name)
    changes = {change.parameter: change for change in read_changes(config, tensors, base, name)}
    return Expert(
        name=name,
        reference=reference,
        located=located,
        kind=adapter_kind(config),
        config=config,
        tensors=tensors,
        changes=changes,
        hashes=hashing.submit(_hash, path / ADAPTER_CONFIG, [path / WEIGHTS]),
    )


def _read_full(
    located: Located,
    base: Base | None,
    *,
    name: str,
    reference: str,
    hashing: Background,
) -> Expert:
    path = located.path
    config = read_json_object(path / "config.json", expert=name, where=f"{path.name}/config.json")
    refuse_two_saves(path, expert=name)
    files = checkpoint_files(path, expert=name)
    tensors = named_as(base, parameters_of(StoredTensors(files, expert=name)))
    changes = checkpoint_changes(tensors, base)
    if not changes:
        raise PoolError(
            "the checkpoint holds no tensors",
            expert=name,
            where=path.name,
            fix="save it again: model.save_pretrained(path)",
        )
    return Expert(
        name=name,
        reference=reference,
        located=located,
        kind=FULL,
        config=config,
        tensors=tensors,
        changes=changes,
        hashes=hashing.submit(_hash, path / "config.json", files),
    )
