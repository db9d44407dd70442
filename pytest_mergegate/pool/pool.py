"""The pool: one base, its experts and their examples, read as far as headers go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.containment import check_contained
from pytest_mergegate.common.files.places import placed
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.spec import HARNESS
from pytest_mergegate.pool.adapter_names import CONFIG
from pytest_mergegate.pool.adapters import read_adapter_config
from pytest_mergegate.pool.base import Base, read_base
from pytest_mergegate.pool.chosen_base import refuse_in_ci
from pytest_mergegate.pool.examples import Example, read_examples
from pytest_mergegate.pool.experts import Expert, read_expert
from pytest_mergegate.pool.fingerprints import fingerprint
from pytest_mergegate.pool.references import Located, locate
from pytest_mergegate.pool.statistics import WeightStatistics, weight_statistics
from pytest_mergegate.pool.task_folder import task_folder
from pytest_mergegate.pool.threads import Background, workers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.gate.mergekit.file import MergekitFile
    from pytest_mergegate.gate.spec import GateSpec


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Everything a gate works on."""

    base: Base
    experts: tuple[Expert, ...]
    examples: Mapping[str, tuple[Example, ...]]
    """By expert; an expert without examples is absent."""
    examples_fingerprint: Mapping[str, str]
    statistics: Mapping[str, WeightStatistics]
    """By expert, what a look at every stored number found."""
    spec: GateSpec
    """What the gate asks of the pool."""
    mergekit: MergekitFile | None = None
    """The mergekit configuration that the gate was made of."""
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

    def labelled(self, name: str) -> bool:
        """Whether expert ``name`` can be scored: its examples have targets (all have, or none
        has), or a task of lm-evaluation-harness brings its own."""
        if self.spec.experts[name].metric.startswith(HARNESS):
            return True
        return name in self.examples and self.examples[name][0].target is not None


def read_pool(gate: Gate) -> tuple[Pool | None, tuple[PoolError, ...]]:
    """Read what a gate names; the pool is None where anything could not be read.

    Every expert is tried, so that one run reports all that is wrong.
    """
    reading = _Reading(gate)
    located = {name: reading.locate_expert(name) for name in gate.spec.experts}
    base = reading.base({name: where for name, where in located.items() if where is not None})
    experts = reading.experts(located, base)
    for name in gate.spec.experts:
        reading.examples_of(name)
    tasks = reading.tasks()
    if reading.errors or base is None:
        return None, tuple(reading.errors)
    pool = Pool(
        base=base,
        experts=tuple(experts),
        examples=reading.examples,
        examples_fingerprint=reading.fingerprints,
        statistics=reading.statistics,
        spec=gate.spec,
        mergekit=gate.mergekit,
        tasks=tasks,
    )
    return pool, ()


@dataclass
class _Reading:
    """A pool while it is read, and all that is wrong with it."""

    gate: Gate
    errors: list[PoolError] = field(default_factory=list)
    examples: dict[str, tuple[Example, ...]] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, WeightStatistics] = field(default_factory=dict)

    def tasks(self) -> Path | None:
        try:
            return task_folder(self.gate)
        except PoolError as error:
            self.errors.append(error)
            return None

    def locate_expert(self, name: str) -> Located | None:
        spec, where = self.gate.spec.experts[name], self.gate.where("experts", name, "path")
        try:
            return locate(spec.path, root=self.gate.root, expert=name, where=where, contained=True)
        except PoolError as error:
            self.errors.append(error)
            return None

    def base(self, experts: Mapping[str, Located]) -> Base | None:
        named = self.gate.spec.base
        try:
            reference = named or self._adapters_choice(experts)
            where = self.gate.where("base") if named else CONFIG
            # a name that comes from an adapter must not lead out of the repository
            located = locate(
                reference,
                root=self.gate.root,
                expert=None,
                where=where,
                own=named is not None,
                allowed=self.gate.spec.allowed_bases,
                with_code=self.gate.spec.trust_remote_code,
            )
            return read_base(located, reference, where)
        except PoolError as error:
            self.errors.append(error)
            return None

    def _adapters_choice(self, experts: Mapping[str, Located]) -> str:
        """The base that the adapters agree on, where they may choose one."""
        reference = self._agreed_base(experts)
        refuse_in_ci(reference, self.gate)
        return reference

    def _agreed_base(self, experts: Mapping[str, Located]) -> str:
        """The base that every adapter says it was trained on."""
        found: dict[str, object] = {}
        for name, located in experts.items():
            if (located.path / CONFIG).is_file():
                config = read_adapter_config(located.path, expert=name)
                found[name] = config.get("base_model_name_or_path")
        named = list(found.values())
        if named and isinstance(named[0], str) and named[0] and named.count(named[0]) == len(named):
            return named[0]
        said = ", ".join(f"{name}: {base}" for name, base in found.items()) or "none is there"
        raise PoolError(
            f"the gate names no base, and its adapters do not agree on one ({shown(said)})",
            code="MG101",
            where=self.gate.name,
            fix="write base: in the gate file",
        )

    def experts(self, located: Mapping[str, Located | None], base: Base | None) -> list[Expert]:
        """Read all of them; another thread goes on hashing their files."""
        found: list[Expert] = []
        with Background() as hashing:
            for name, where in located.items():
                try:
                    if where is not None:
                        found.append(self._expert(name, where, base, hashing))
                except PoolError as error:
                    self.errors.append(error)
        if base is not None:
            self._look_at_weights(found, base)
        return found

    def _expert(
        self, name: str, located: Located, base: Base | None, hashing: Background
    ) -> Expert:
        return read_expert(
            located,
            base,
            name=name,
            reference=self.gate.spec.experts[name].path,
            where=self.gate.where("experts", name, "path"),
            hashing=hashing,
        )

    def _look_at_weights(self, experts: Sequence[Expert], base: Base) -> None:
        with workers() as threads:
            futures = [threads.submit(weight_statistics, expert, base) for expert in experts]
            for expert, future in zip(experts, futures, strict=True):
                try:
                    self.statistics[expert.name] = future.result()
                except PoolError as error:
                    self.errors.append(error)

    def examples_of(self, name: str) -> None:
        file = self.gate.spec.examples_of(name)
        if file is None:
            return
        path, where = self.gate.root / file, self.gate.where("experts", name, "examples")
        try:
            check_contained(path, root=self.gate.root, expert=name, where=where)
            self.examples[name] = read_examples(path, expert=name, where=where)
            self.fingerprints[name] = fingerprint([path])
        except PoolError as error:
            self.errors.append(error)


def pool_state(gate: Gate) -> list[tuple[str, int, int, int]]:
    """Path, size, time of change and inode of every file a gate reads from disk.

    Differs as soon as a file was written to: what was computed before is then stale. Modules
    beside the gate file count, since they may hold its metrics.
    """
    spec = gate.spec
    paths = [placed(gate.root, spec.base)] if spec.base else []
    for name, expert in spec.experts.items():
        strangers = [placed(gate.root, expert.path)]
        strangers += [gate.root / file] if (file := spec.examples_of(name)) else []
        paths += [path for path in strangers if _stays_inside(path, gate.root)]
    files = {file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))}
    files |= set(gate.root.glob("*.py"))
    files |= set((gate.root / spec.lm_eval_tasks).rglob("*")) if spec.lm_eval_tasks else set()
    states = [(file, file.stat()) for file in sorted(files) if file.is_file()]
    return [(str(f), s.st_size, max(s.st_mtime_ns, s.st_ctime_ns), s.st_ino) for f, s in states]


def _stays_inside(path: Path, root: Path) -> bool:
    """Whether nothing of a stranger's leads out; what does is refused by the gate, not walked."""
    try:
        check_contained(path, root=root, expert=None, where="")
    except PoolError:
        return False
    return True
