"""The executor ``ray``: models run in workers of a Ray cluster, one job per model and block, or one
errand per merge."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, TypeVar

from numpy.typing import NDArray

from pytest_mergegate.common.errors import GateError, PoolError, first_line
from pytest_mergegate.common.plain import load
from pytest_mergegate.engine.running.cache import Arrays, Corrupt, Key, key_text, unpack
from pytest_mergegate.engine.running.executors import (
    ROWS,
    Errand,
    Found,
    Job,
    Rows,
    look_up,
    without,
)
from pytest_mergegate.engine.running.ray_cluster import Worker, WorkerEntry, connected
from pytest_mergegate.engine.running.workspace import Workspace
from pytest_mergegate.gate.gatefile import Gate

J = TypeVar("J", Job, Errand)
_LOSSES = 2
"""Of one job, or of workers that start: one is bad luck."""
_PATIENCE = 10.0
"""Seconds between looks at whether there is a node left to wait for."""


@dataclass(eq=False, kw_only=True)
class _Member:
    """A worker and the job it has."""

    actor: Any
    job: Any = None
    """A job, or an errand."""
    model: str | None = ""
    """Whose weights it has in place; no expert's name is empty."""


class RayExecutor:
    """Runs what the cache misses on the cluster at ``address`` (None: see ``connected``).

    A context manager: workers keep the base in memory until the end of the block.
    """

    def __init__(self, gate: Gate, address: str | None = None) -> None:
        self._gate = gate
        self._address = address
        self._open = ExitStack()
        self._members: dict[Any, _Member] = {}
        """By the reference of what they are doing: to start, or a job."""
        self._idle: list[_Member] = []
        self._failed_starts = 0
        self._computing: Mapping[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "_ray" in self.__dict__:
            for member in [*self._members.values(), *self._idle]:
                self._ray.kill(member.actor)
        self._members, self._idle = {}, []
        self._open.close()

    @cached_property
    def _ray(self) -> Any:
        return self._open.enter_context(connected(self._address))

    def run(
        self, workspace: Workspace, jobs: Sequence[Job], progress: Callable[[float], None]
    ) -> Found:
        """The results of all ``jobs``. Raises GateError."""
        self._computing = workspace.computing
        results: Found = {}
        singles: list[Job] = []
        for job in jobs:
            found = look_up(workspace, job)
            results |= found
            if missing := without(job, found):
                asked = replace(missing, answer_limit=workspace.answer_limit)
                singles += [replace(asked, blocks=(block,)) for block in missing.blocks]
        total = len(results) + len(singles)
        for job, entry in self._computed(singles, workspace.device):
            if isinstance(entry, GateError):
                raise entry
            results[job.model, job.blocks[0]] = _kept(workspace, job, entry)
            progress(len(results) / total)
        return results

    def work(
        self, workspace: Workspace, errands: Sequence[Errand], given: object
    ) -> Generator[tuple[Errand, Arrays | GateError]]:
        """Each of ``errands``, begun in their order, with what came of it, as they come in; what is
        under way when nobody asks for more is given up. Raises GateError."""
        self._computing, shared = workspace.computing, self._ray.put(given)
        begun = [replace(errand, given=shared) for errand in errands]
        try:
            for errand, entry in self._computed(begun, workspace.device):
                if isinstance(entry, GateError):
                    yield errand, entry
                else:
                    yield errand, _checked(entry, errand.key, errand.label)
        finally:
            for reference, member in list(self._members.items()):
                if member.job is not None:
                    self._ray.kill(member.actor)
                    del self._members[reference]

    def _computed(
        self, jobs: Sequence[J], device: str
    ) -> Iterator[tuple[J, WorkerEntry | GateError]]:
        """Each job with its result, in the order in which they come in."""
        left, losses = list(jobs), Counter[Job | Errand]()
        if left:  # a worker for each model, as far as the cluster goes
            wanted = min(self._room(device), len({job.model for job in left}))
            for _ in range(wanted - len(self._members) - len(self._idle)):
                self._start(device)
        while left or any(member.job for member in self._members.values()):
            while left and self._idle:
                self._assign(self._idle.pop(), left)
            done, _ = self._ray.wait(list(self._members), timeout=_PATIENCE)
            if not done:
                self._room(device)
            for reference in done:
                member = self._members.pop(reference)
                job: J | None = member.job
                member.job = None
                answer = self._answer(reference, job)
                if not isinstance(answer, Exception) or isinstance(answer, GateError):
                    self._idle.append(member)
                else:
                    self._replace(member, device, answer, starting=job is None)
                    if job is None:
                        continue
                    losses[job] += 1
                    if losses[job] < _LOSSES:
                        left.insert(0, job)
                        continue
                    answer = _lost(job, answer)
                if job is None:
                    self._failed_starts = 0
                else:
                    yield job, answer

    def _answer(self, reference: Any, job: Job | Errand | None) -> Any:
        """What a worker has returned, or the error that says that it was lost."""
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except exceptions.RayTaskError as error:  # a bug, as it would be in this process
            cause = getattr(error, "cause", None)
            raise cause if isinstance(cause, Exception) else error from error
        except (
            exceptions.RayActorError,
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.OutOfMemoryError,
            exceptions.ObjectLostError,
        ) as error:
            return error
        except exceptions.RayError as error:
            what = "a worker" if job is None else job.label
            raise GateError(
                f"Ray failed to run {what}: {first_line(error)}", fix="see ray status"
            ) from None

    def _room(self, device: str) -> int:
        """Workers that the cluster has room for. Raises GateError where it has for none."""
        resource, advice = "CPU", " with ray start"
        if device != "cpu":
            resource, advice = "GPU", ", or use the device cpu"
        count = int(self._ray.cluster_resources().get(resource, 0))
        if count < 1:
            raise GateError(
                f"the Ray cluster has no node with a {resource}",
                fix=f"start a worker node{advice}",
            )
        return count

    def _start(self, device: str) -> None:
        needs = {"num_cpus": 1} if device == "cpu" else {"num_cpus": 0, "num_gpus": 1}
        actor = (
            self._ray.remote(Worker)
            .options(**needs, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD")
            # Ray shows each worker only its GPU
            .remote(self._gate, device.partition(":")[0], self._computing)
        )
        self._members[actor.ready.remote()] = _Member(actor=actor)

    def _assign(self, member: _Member, left: list[J]) -> None:
        """Give ``member`` a job of the model it has, else of one that no other works on."""
        taken = {other.model for other in self._members.values()}
        job = next(
            (job for job in left if job.model == member.model),
            next((job for job in left if job.model not in taken), left[-1]),
        )
        left.remove(job)
        member.job, member.model = job, job.model
        self._members[member.actor.run.remote(job)] = member

    def _replace(self, member: _Member, device: str, error: Exception, *, starting: bool) -> None:
        """Start another worker in the place of a lost one; it waits for a node to run on."""
        self._ray.kill(member.actor)  # it may have been cut off only
        self._failed_starts += starting
        if self._failed_starts >= _LOSSES:
            raise GateError(
                f"no Ray worker starts: {first_line(error)}",
                fix="install the same version of pytest-mergegate on every node",
            )
        self._start(device)


def _lost(job: Job | Errand, error: Exception) -> GateError:
    return GateError(
        f"{job.label} has lost {_LOSSES} Ray workers, the last one to: {first_line(error)}",
        fix="the usual cause is memory: give the nodes more, or run with the executor local; "
        "ray logs has the details",
    )


def _kept(workspace: Workspace, job: Job, entry: WorkerEntry) -> Rows:
    """The rows of a result that was computed from the files that are seen here."""
    key = job.blocks[0].key(workspace, job.kind, job.model)
    arrays = _checked(entry, key, job.label, job.model)
    workspace.cache.keep_packed(key, entry.file)
    rows: Rows = load(ROWS[job.kind], arrays)
    return rows


def _checked(
    entry: WorkerEntry, key: Key, label: str, expert: str | None = None
) -> dict[str, NDArray[Any]]:
    """What a worker computed, from the files that are seen here: else ``key`` is another one."""
    if key_text(entry.key) != key_text(key):
        other = ", ".join(name for name in key if entry.key.get(name) != key[name])
        raise PoolError(
            f"the Ray worker on {entry.node} sees other files or versions than this machine "
            f"({label} differs in {other})",
            expert=expert,
            fix="give every node the same files and the same installed packages",
        )
    try:
        return unpack(key, entry.file)
    except Corrupt as problem:
        raise PoolError(
            f"the result of {label} from the Ray worker on {entry.node} cannot be used, {problem}",
            expert=expert,
            fix="run again; if it happens again, look at the node's memory and versions",
        ) from None
