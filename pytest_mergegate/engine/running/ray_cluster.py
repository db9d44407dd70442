"""Connecting to Ray, quietly, and what a worker does there: its own copy of the base, one expert
after the other in place."""

import contextlib
import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytest_mergegate.common.errors import GateError, first_line
from pytest_mergegate.common.plain import dump
from pytest_mergegate.common.working_folder import apart, empty_folder, working_in
from pytest_mergegate.engine.running.cache import Arrays, Cache, Key, pack
from pytest_mergegate.engine.running.executors import ROWS, Errand, Job, compute
from pytest_mergegate.engine.running.workspace import Workspace
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.pool.pool import read_pool

_OBJECT_STORE = 256 << 20
"""Bytes; results are small, and Ray's default is a third of the memory."""
_HOST_PORT = re.compile(r"(?P<host>[\w.-]+|\[[\da-fA-F:.]+\]):(?P<port>\d{1,5})")
_PATIENCE = 10.0
"""Seconds."""
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # or, under `uv run`, every worker would install what the working directory asks for
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
"""For what is started: nothing is reported to anyone, and no tips on standard error."""


def import_ray() -> Any:
    """The package. Raises GateError where it is not installed."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings(), apart():
            warnings.simplefilter("ignore")
            import ray
    except ImportError as error:
        raise GateError(
            f"the ray executor needs ray ({first_line(error)})",
            fix="pip install 'pytest-mergegate[ray]'",
        ) from None
    return ray


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, connected to ``address``, else to RAY_ADDRESS, else to a cluster started for this.

    A connection that the process has already is used, and left as it is. Raises GateError.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = {}
    if target == "local":
        own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    with empty_folder() as folder:  # workers start in it, and look for modules there first
        try:
            _reach(target)
            with warnings.catch_warnings(), working_in(folder):
                warnings.simplefilter("ignore")
                ray.init(address=target, log_to_driver=False, logging_level=logging.CRITICAL, **own)
        except (OSError, ValueError, OverflowError, RuntimeError) as error:
            raise GateError(
                f"there is no Ray cluster at {target!r}, or none that answers: {first_line(error)}",
                fix="ray status shows whether it runs; the executor ray starts one of its own",
            ) from None
        try:
            yield ray
        finally:
            ray.shutdown()


def _reach(target: str) -> None:
    """Raises OSError where nothing listens at HOST:PORT; Ray would go on trying for minutes."""
    if found := _HOST_PORT.fullmatch(target):
        host = found["host"].strip("[]")
        socket.create_connection((host, int(found["port"])), timeout=_PATIENCE).close()


@dataclass(frozen=True, kw_only=True)
class WorkerEntry:
    """The result of one block of a job, as the cache keeps it."""

    node: str
    """The machine it comes from."""
    key: Key
    """What it depends on, as seen there."""
    file: bytes


class Worker:
    """Runs jobs of one block each, and errands; the base is loaded once, by the first of them."""

    def __init__(self, gate: Gate, device: str, computing: Mapping[str, str]) -> None:
        self._computing = computing
        self._gate = gate
        self._device = device
        self._in_place: str | None = None
        self._swapped = contextlib.ExitStack()

    def ready(self) -> None:
        """Return, once there is a process to run it."""

    def run(self, job: Job | Errand) -> WorkerEntry | GateError:
        """The result of ``job``; or what is wrong, as a value, so that Ray adds nothing to it."""
        try:
            if job.model != self._in_place:
                self._swapped.close()
                self._in_place = None
            key, arrays = self._work(job) if isinstance(job, Errand) else self._read(job)
        except GateError as error:
            return error
        return WorkerEntry(node=socket.gethostname(), key=key, file=pack(key, arrays))

    def _work(self, errand: Errand) -> tuple[Key, Arrays]:
        given = import_ray().get(errand.given)
        return errand.function(self._gate, self._workspace, errand.name, given)

    def _read(self, job: Job) -> tuple[Key, Arrays]:
        workspace, (block,) = self._workspace, job.blocks
        if job.answer_limit is not None:
            workspace.let_answers_grow(job.answer_limit)
        if block.answers is not None:
            block.tell(workspace)
        key = block.key(workspace, job.kind, job.model)
        if job.model is not None and job.model != self._in_place:
            # whose weights stay for the next job
            self._swapped.enter_context(workspace.engine.expert(job.model))
            self._in_place = job.model
        (rows,) = compute(workspace.engine, job.kind, [block])
        return key, dump(ROWS[job.kind], rows)

    @cached_property
    def _workspace(self) -> Workspace:
        from pytest_mergegate.engine.weights.task_vectors import TaskVectors

        pool, errors = read_pool(self._gate)
        if pool is None:
            raise errors[0]
        return Workspace(
            pool,
            device=self._device,
            cache=Cache(folder=None),
            vectors=lambda: TaskVectors(pool),
            computing=self._computing,
        )
