"""Experts that might take another's place, as a user names them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files.places import placed
from pytest_mergegate.gate.mergekit.gate import conventional_examples
from pytest_mergegate.gate.spec import POOL, ExpertSpec
from pytest_mergegate.pool.adapters import CONFIG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.gate.gatefile import Gate

_MODEL = "config.json"


def with_candidates(gate: Gate, entries: Sequence[str]) -> tuple[Gate, tuple[str, ...]]:
    """The gate with the candidates among its experts, and their names.

    Each entry is ``NAME=PATH`` or a glob of folders, from the working directory; folders that are
    no models, and the gate's own experts, are passed over in a glob. Raises GateError.
    """
    spec = gate.spec
    own = {_resolved(gate.root, expert.path) for expert in spec.experts.values()}
    found: dict[str, str] = {}
    for entry in entries:
        for name, path in _named(entry, own):
            if name in spec.experts or found.get(name, path) != path or name == POOL:
                raise GateError(
                    f"--candidates: there are two experts called {name}",
                    fix=f"write --candidates ANOTHER_NAME={path}",
                )
            found[name] = path
    if not found:
        raise GateError(
            f"--candidates: no model in {', '.join(entries)} that the gate does not have already",
            fix="write NAME=PATH, or a glob of folders with adapter_config.json or config.json",
        )
    experts = {name: _expert(gate, name, path) for name, path in found.items()}
    changes: dict[str, object] = {"experts": {**spec.experts, **experts}}
    if isinstance(spec.merge.weights, dict):
        given = spec.merge.weights
        mean = sum(given.values()) / len(given)
        weights = {**given, **dict.fromkeys(experts, mean)}
        changes["merge"] = spec.merge.model_copy(update={"weights": weights})
    return replace(gate, spec=spec.model_copy(update=changes)), tuple(experts)


def _named(entry: str, own: set[Path]) -> list[tuple[str, str]]:
    name, equals, path = entry.partition("=")
    if equals and name and not Path(entry).exists():
        if not name.isprintable() or "::" in name or not path:
            raise GateError(f"--candidates: {entry!r} is no NAME=PATH")
        local = Path(path).expanduser()
        return [(name, str(local.absolute()) if local.exists() else path)]
    start = Path(Path(entry).anchor)  # Path.glob takes no absolute pattern
    try:
        folders = sorted(start.glob(str(Path(entry).relative_to(start))))
    except (ValueError, NotImplementedError) as error:
        raise GateError(f"--candidates: {entry!r} is no usable glob ({error})") from None
    return [
        (folder.resolve().name, str(folder.absolute()))
        for folder in folders
        if folder.resolve() not in own
        and ((folder / CONFIG).is_file() or (folder / _MODEL).is_file())
    ]


def _resolved(root: Path, path: str) -> Path:
    return placed(root, path).resolve()


def _expert(gate: Gate, name: str, path: str) -> ExpertSpec:
    """Read as the gate's experts are, where those are all read alike."""
    examples = None
    if gate.spec.examples is None:
        examples = conventional_examples(name, path, gate.root)
        if examples is None:
            raise GateError(
                f"--candidates: there are no inputs for {name}",
                where=gate.name,
                fix=f"put them into data/{name}.jsonl beside the gate file, or into "
                f"examples.jsonl in {path}",
            )
    read = [expert.how_read for expert in gate.spec.experts.values()]
    alike = all(how == read[0] for how in read)
    first = next(iter(gate.spec.experts.values()))
    update: dict[str, object] = {"path": path, "examples": examples, "score": None}
    return (first if alike else ExpertSpec(path=path)).model_copy(update=update)
