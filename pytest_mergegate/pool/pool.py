"""The pool: one base, its experts and their examples, read as far as headers go."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mergegate.errors import PoolError
from pytest_mergegate.pool.adapters import Expert, read_adapter
from pytest_mergegate.pool.examples import Example, read_examples
from pytest_mergegate.pool.references import resolve
from pytest_mergegate.pool.tensor_files import (
    TensorHeader,
    checkpoint_files,
    fingerprint,
    read_headers,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_mergegate.gatefile import Gate


@dataclass(frozen=True, kw_only=True)
class Base:
    """The checkpoint that every expert was fine-tuned from."""

    reference: str
    path: Path
    fingerprint: str
    """Over weights, configuration and tokenizer."""
    architecture: str
    original_name: str | None
    """The name the checkpoint was saved under, where its configuration keeps it."""
    tensors: Mapping[str, TensorHeader]

    @property
    def parameters(self) -> int:
        """Number of parameters stored."""
        return sum(header.size for header in self.tensors.values())


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Everything a gate works on."""

    base: Base
    experts: tuple[Expert, ...]
    examples: Mapping[str, tuple[Example, ...]]
    """By expert; an expert without examples is absent."""
    examples_fingerprint: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """The experts' names, in the gate's order."""
        return tuple(expert.name for expert in self.experts)

    def labelled(self, name: str) -> bool:
        """Whether expert ``name``'s examples have targets (all have, or none has)."""
        return name in self.examples and self.examples[name][0].target is not None


def read_pool(gate: Gate) -> tuple[Pool | None, tuple[PoolError, ...]]:
    """Read what a gate names; the pool is None where anything could not be read.

    Every expert is tried, so that one run reports all that is wrong.
    """
    errors: list[PoolError] = []
    base: Base | None = None
    try:
        base = read_base(gate)
    except PoolError as error:
        errors.append(error)
    experts: list[Expert] = []
    examples: dict[str, tuple[Example, ...]] = {}
    fingerprints: dict[str, str] = {}
    for name, spec in gate.spec.experts.items():
        try:
            where = gate.where("experts", name, "path")
            path = resolve(spec.path, root=gate.root, expert=name, where=where)
            experts.append(read_adapter(path, name=name, reference=spec.path, where=where))
        except PoolError as error:
            errors.append(error)
        try:
            if file := gate.spec.examples_of(name):
                where = gate.where("experts", name, "examples")
                examples[name] = read_examples(gate.root / file, expert=name, where=where)
                fingerprints[name] = fingerprint([gate.root / file])
        except PoolError as error:
            errors.append(error)
    if errors or base is None:
        return None, tuple(errors)
    pool = Pool(
        base=base,
        experts=tuple(experts),
        examples=examples,
        examples_fingerprint=fingerprints,
    )
    return pool, ()


def pool_state(gate: Gate) -> list[tuple[str, int, int, int]]:
    """Path, size, time of change and inode of every file a gate reads from disk.

    Differs as soon as a file was written to: what was computed before is then stale. Modules
    beside the gate file count, since they may hold its metrics.
    """
    spec = gate.spec
    named = [spec.base, *(expert.path for expert in spec.experts.values())]
    named += [file for name in spec.experts if (file := spec.examples_of(name))]
    paths = [gate.root / Path(name).expanduser() for name in named]
    files = {file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))}
    files |= set(gate.root.glob("*.py"))
    states = [(file, file.stat()) for file in sorted(files) if file.is_file()]
    return [(str(f), s.st_size, max(s.st_mtime_ns, s.st_ctime_ns), s.st_ino) for f, s in states]


def read_base(gate: Gate) -> Base:
    """Read the base's configuration and tensor headers. Raises PoolError."""
    where = gate.where("base")
    path = resolve(gate.spec.base, root=gate.root, expert=None, where=where)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        architecture = str((config.get("architectures") or [config["model_type"]])[0])
    except FileNotFoundError:
        raise PoolError(
            f"the base {path.name}/ has no config.json",
            where=where,
            fix="point base: to a folder that save_pretrained wrote",
        ) from None
    except (ValueError, KeyError, AttributeError, OSError, RecursionError) as error:
        raise PoolError(
            f"config.json of the base is malformed ({type(error).__name__}: {error})",
            where=f"{path.name}/config.json",
        ) from None
    files = checkpoint_files(path)
    tensors = {name: header for file in files for name, header in read_headers(file).items()}
    side = [p for p in path.iterdir() if p.suffix in {".json", ".model", ".txt", ".jinja"}]
    return Base(
        reference=gate.spec.base,
        path=path,
        fingerprint=fingerprint([*files, *side]),
        architecture=architecture,
        original_name=config.get("_name_or_path") or None,
        tensors=tensors,
    )
