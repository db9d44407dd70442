"""The pool: one base, its experts and their examples, read as far as headers go."""

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.places import place_of
from pytest_mergegate.common.files.repository import check_contained, is_contained
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.mergekit.file import MergekitFile
from pytest_mergegate.gate.sections import HARNESS
from pytest_mergegate.gate.spec import GateSpec
from pytest_mergegate.pool.adapters import CONFIG, read_adapter_config
from pytest_mergegate.pool.base import Base, read_base
from pytest_mergegate.pool.examples import Example, join, read_examples
from pytest_mergegate.pool.experts import Expert, read_expert
from pytest_mergegate.pool.fingerprints import fingerprint
from pytest_mergegate.pool.finished import FinishedMerge, read_finished
from pytest_mergegate.pool.references import Located, in_ci, locate
from pytest_mergegate.pool.statistics import WeightStatistics, weight_statistics
from pytest_mergegate.pool.threads import workers

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Everything a gate works on."""

    base: Base
    experts: tuple[Expert, ...]
    rows: Mapping[str, tuple[Example, ...]]
    """By expert, the lines of its file of examples; an expert without examples is absent."""
    examples: Mapping[str, tuple[Example, ...]]
    """By expert, what is asked: rows with one question are one example."""
    examples_fingerprint: Mapping[str, str]
    statistics: Mapping[str, WeightStatistics]
    """By expert, what a look at every stored number found."""
    spec: GateSpec
    """What the gate asks of the pool."""
    mergekit: MergekitFile | None = None
    """The mergekit configuration that the gate was made of, and by which it merges."""
    merged: FinishedMerge | None = None
    """The finished merge that is gated; None where the gate makes its merges."""
    tasks: Path | None = None
    """The folder of the team's own tasks of lm-evaluation-harness."""

    @property
    def names(self) -> tuple[str, ...]:
        """The experts' names, in the gate's order."""
        return tuple(expert.name for expert in self.experts)

    def wait_for_hashes(self, *, base: bool) -> None:
        """Raises PoolError where a file of an expert, or of the base, could not be hashed."""
        for expert in self.experts:
            expert.hashes.result()
        if base:
            _ = self.base.fingerprint

    def numbers(self, name: str) -> tuple[int, ...]:
        """Where each example of expert ``name`` first stands among its rows, counted from 1."""
        first: dict[Hashable, int] = {}
        for number, row in enumerate(self.rows[name], start=1):
            first.setdefault(row.question, number)
        return tuple(first.values())

    def labelled(self, name: str) -> bool:
        """Whether expert ``name`` can be scored: its examples have targets (all have, or none
        has), or a task of lm-evaluation-harness brings its own."""
        if self.spec.experts[name].metric.startswith(HARNESS):
            return True
        return name in self.examples and bool(self.examples[name][0].references)


def read_pool(gate: Gate) -> tuple[Pool | None, tuple[PoolError, ...]]:
    """Read what a gate names; the pool is None where anything could not be read.

    Everything is tried, so that one run reports all that is wrong.
    """
    problems, names = _Problems(), gate.spec.experts
    located = problems.each(names, lambda name: _locate(gate, name))
    base = problems.tried(_read_base, gate, located)
    named = [("the base", base.located)] if base is not None else []
    named += [(f"expert {shown(name)}", own) for name, own in located.items()]
    if base is not None and gate.spec.vocabulary == "pad":
        from pytest_mergegate.pool.padding import padded

        base, located = problems.tried(padded, base, located) or (None, {})
    experts = problems.each(located, lambda name: _read_expert(gate, name, located[name], base))
    statistics: dict[str, WeightStatistics] = {}
    if base is not None:
        with workers() as threads:
            futures = {n: threads.submit(weight_statistics, e, base) for n, e in experts.items()}
            statistics = problems.each(futures, lambda name: futures[name].result())
    read = problems.each(names, lambda name: _read_examples(gate, name))
    tasks = problems.tried(_task_folder, gate)
    merged = problems.tried(_read_merged, gate, base, dict(named)) if base is not None else None
    if problems or base is None:
        return None, tuple(problems)
    pool = Pool(
        base=base,
        experts=tuple(experts.values()),
        rows={name: rows for name, (rows, _) in read.items()},
        examples={name: join(rows) for name, (rows, _) in read.items()},
        examples_fingerprint={name: content for name, (_, content) in read.items()},
        statistics=statistics,
        spec=gate.spec,
        mergekit=gate.mergekit if gate.spec.merged is None else None,
        merged=merged,
        tasks=tasks,
    )
    return pool, ()


class _Problems(list[PoolError]):
    """All that is wrong with a pool."""

    def tried(self, read: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """What ``read`` returns; None where it raises PoolError, which is noted."""
        try:
            return read(*args, **kwargs)
        except PoolError as error:
            self.append(error)
            return None

    def each(self, names: Iterable[str], read: Callable[[str], R | None]) -> dict[str, R]:
        """What ``read`` returns of each name, as far as it returns anything."""
        tried = ((name, self.tried(read, name)) for name in names)
        return {name: found for name, found in tried if found is not None}


def _locate(gate: Gate, name: str) -> Located:
    path, where = gate.spec.experts[name].path, gate.where("experts", name, "path")
    return locate(path, root=gate.root, expert=name, where=where, contained=True)


def _read_expert(gate: Gate, name: str, located: Located, base: Base | None) -> Expert:
    reference, where = gate.spec.experts[name].path, gate.where("experts", name, "path")
    return read_expert(located, base, name=name, reference=reference, where=where)


def _read_base(gate: Gate, experts: Mapping[str, Located]) -> Base:
    named = gate.spec.base
    reference = named or _adapters_choice(gate, experts)
    where = gate.where("base") if named else CONFIG
    # a name that comes from an adapter must not lead out of the repository
    located = locate(
        reference,
        root=gate.root,
        expert=None,
        where=where,
        own=named is not None,
        allowed=gate.spec.allowed_bases,
        with_code=gate.spec.trust_remote_code,
    )
    return read_base(located, reference, where)


def _read_merged(gate: Gate, base: Base, named: Mapping[str, Located]) -> FinishedMerge | None:
    """None where the gate makes its merges; ``named`` is what goes into one, as the gate has it."""
    reference, where = gate.spec.merged, gate.where("merged")
    if reference is None:
        return None
    located = locate(reference, root=gate.root, expert=None, where=where, contained=True)
    return read_finished(located, reference, where, base, named)


def _adapters_choice(gate: Gate, experts: Mapping[str, Located]) -> str:
    """The base that every adapter says it was trained on, where they may choose one: with it come
    the template of chats, the tokenizer and, of a repository, whatever lies there by now."""
    found: dict[str, object] = {}
    for name, located in experts.items():
        if (located.path / CONFIG).is_file():
            config = read_adapter_config(located.path, expert=name)
            found[name] = config.get("base_model_name_or_path")
    agreed, *others = list(found.values()) or [None]
    if not isinstance(agreed, str) or not agreed or any(other != agreed for other in others):
        said = ", ".join(f"{name}: {base}" for name, base in found.items()) or "none is there"
        what = f"the gate names no base, and its adapters do not agree on one ({shown(said)})"
        fix = "write base: in the gate file"
        raise PoolError(what, code="MG101", where=gate.name, fix=fix)
    if in_ci():
        base = shown(agreed)
        what = f"the gate names no base, and in CI adapters do not choose it (they name '{base}')"
        fix = f"write base: {base} in the gate file, if that is the one meant"
        raise PoolError(what, code="MG101", where=gate.name, fix=fix)
    return agreed


def _read_examples(gate: Gate, name: str) -> tuple[tuple[Example, ...], str] | None:
    """The rows of an expert's examples and their fingerprint; None where it has none."""
    file = gate.spec.examples_of(name)
    if file is None:
        return None
    path, where = gate.root / file, gate.where("experts", name, "examples")
    check_contained(path, root=gate.root, expert=name, where=where)
    return read_examples(path, expert=name, where=where), fingerprint([path])


def _task_folder(gate: Gate) -> Path | None:
    """The folder ``lm_eval_tasks``, which holds code; None where the gate has none.

    Raises PoolError where it is no folder, where it is, holds or lies in one that holds experts or
    examples, and where a link in it leads out of the repository or to such a folder.
    """
    named = gate.spec.lm_eval_tasks
    if named is None:
        return None
    where = gate.where("lm_eval_tasks")
    path = gate.root / named
    if not path.is_dir():
        what = f"lm_eval_tasks: there is no folder {shown(named)}"
        fix = "correct the path; it is relative to the gate file"
        raise PoolError(what, code="MG301", where=where, fix=fix)
    check_contained(path, root=gate.root, expert=None, where=where)
    strangers = [(whose, p) for whose, at in _of_strangers(gate) for p in _places(at, gate.root)]
    for folder in (path, *(entry for entry in path.rglob("*") if entry.is_symlink())):
        real = folder.resolve()
        for whose, place in strangers:
            if real.is_relative_to(place) or place.is_relative_to(real):
                raise PoolError(
                    f"lm_eval_tasks: the folder {shown(folder.name)} holds, or lies in, "
                    f"{shown(place.name)}, where {whose} is kept; a task's YAML is run as code, "
                    "and whoever sends an expert could write one",
                    code="MG301",
                    where=where,
                    fix="move the tasks to a folder of their own, such as tasks/ beside the gate "
                    "file",
                )
    return path.resolve()


def _of_strangers(gate: Gate) -> Iterator[tuple[str, Path]]:
    """Every expert and every file of examples, in words, and where it lies if it lies anywhere."""
    for name, expert in gate.spec.experts.items():
        yield f"expert {shown(name)}", place_of(gate.root, expert.path)
        if (file := gate.spec.examples_of(name)) is not None:
            yield f"the file of examples of {shown(name)}", gate.root / file


def _places(path: Path, root: Path) -> Iterator[Path]:
    """What is there, and the folder that holds it; of links, the place where they lie counts as
    well as the one that they lead to.

    A folder in which the gate file itself lies holds more than experts.
    """
    if os.path.exists(path):  # noqa: PTH110 - no error for a name that is too long
        for place in {path.parent.resolve() / path.name, path.resolve()}:
            yield place
            if not root.resolve().is_relative_to(place.parent):
                yield place.parent


def pool_state(gate: Gate) -> list[tuple[str, int, int, int]]:
    """Path, size, time of change and inode of every file a gate reads from disk.

    Differs as soon as a file was written to: what was computed before is then stale. Modules
    beside the gate file count, since they may hold its metrics. What leads out of the repository
    is refused by the gate, not walked.
    """
    spec = gate.spec
    paths = [path for _, path in _of_strangers(gate) if is_contained(path, root=gate.root)]
    paths += [place_of(gate.root, named) for named in (spec.base, spec.merged) if named]
    files = {file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))}
    files |= set(gate.root.glob("*.py"))
    files |= set((gate.root / spec.lm_eval_tasks).rglob("*")) if spec.lm_eval_tasks else set()
    states = [(file, file.stat()) for file in sorted(files) if file.is_file()]
    return [(str(f), s.st_size, max(s.st_mtime_ns, s.st_ctime_ns), s.st_ino) for f, s in states]
