"""What a Ray worker does: its own copy of the base, one expert after the other in place."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.plain import dump
from pytest_mergegate.engine.running.blocks import ROWS, compute
from pytest_mergegate.engine.running.cache import Cache
from pytest_mergegate.engine.running.entries import pack
from pytest_mergegate.engine.running.workspace import Workspace
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from pytest_mergegate.engine.running.entries import Key
    from pytest_mergegate.engine.running.executors import Job
    from pytest_mergegate.gate.gatefile import Gate


@dataclass(frozen=True, kw_only=True)
class WorkerEntry:
    """The result of one block of a job, as the cache keeps it."""

    node: str
    """The machine it comes from."""
    key: Key
    """What it depends on, as seen there."""
    file: bytes


class Worker:
    """Runs jobs of one block each; the base is loaded once, by the first of them."""

    def __init__(self, gate: Gate, device: str) -> None:
        self._gate = gate
        self._device = device
        self._in_place: str | None = None
        self._swapped = ExitStack()

    def ready(self) -> None:
        """Return, once there is a process to run it."""

    def run(self, job: Job) -> WorkerEntry | GateError:
        """The result of ``job``; or what is wrong, as a value, so that Ray adds nothing to it."""
        try:
            return self._run(job)
        except GateError as error:
            return error

    def _run(self, job: Job) -> WorkerEntry:
        workspace, (block,) = self._workspace, job.blocks
        if block.answers is not None:
            block.tell(workspace)
        key = block.key(workspace, job.kind, job.model)
        self._put_in_place(job.model)
        (rows,) = compute(workspace.engine, job.kind, [block])
        return WorkerEntry(
            node=socket.gethostname(), key=key, file=pack(key, dump(ROWS[job.kind], rows))
        )

    @cached_property
    def _workspace(self) -> Workspace:
        from pytest_mergegate.engine.weights.task_vectors import TaskVectors

        pool, errors = read_pool(self._gate)
        if pool is None:
            raise errors[0]
        return Workspace(
            pool,
            self._gate.spec,
            device=self._device,
            cache=Cache(folder=None),
            vectors=lambda: TaskVectors(pool),
        )

    def _put_in_place(self, model: str | None) -> None:
        """Have ``model``'s weights loaded; they stay for the next job."""
        if model == self._in_place:
            return
        self._swapped.close()
        self._in_place = None
        if model is not None:
            self._swapped.enter_context(self._workspace.engine.expert(model))
            self._in_place = model
