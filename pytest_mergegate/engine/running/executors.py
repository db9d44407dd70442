"""Where models run: in this process, or in workers that hand back cache entries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from pytest_mergegate.common.plain import dump, load
from pytest_mergegate.engine.running.blocks import ROWS, Block, Kind, Rows, compute

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_mergegate.engine.running.workspace import Workspace

Found = dict[tuple[str | None, Block], Rows]
"""By model (None: the base) and block."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model on blocks of probes."""

    kind: Kind
    model: str | None
    """An expert; None for the base."""
    blocks: tuple[Block, ...]


class Executor(Protocol):
    """Runs jobs; what the cache holds is not run."""

    def run(
        self, workspace: Workspace, jobs: Sequence[Job], progress: Callable[[float], None]
    ) -> Found:
        """The results of all ``jobs``. Raises PoolError."""


class LocalExecutor:
    """One model after the other, in this process."""

    def run(
        self, workspace: Workspace, jobs: Sequence[Job], progress: Callable[[float], None]
    ) -> Found:
        """The results of all ``jobs``. Raises PoolError."""
        results: Found = {}
        for done, job in enumerate(jobs, start=1):
            found = look_up(workspace, job)
            results |= found
            if missing := without(job, found):
                with workspace.cache.lock(lock_key(workspace, job)):
                    found = look_up(workspace, missing, again=True)  # another process's, by now
                    if missing := without(missing, found):
                        found |= run_job(workspace, missing)
                results |= found
            progress(done / len(jobs))
        return results


def look_up(workspace: Workspace, job: Job, *, again: bool = False) -> Found:
    """What is known of ``job``, and what the cache holds of it."""
    look = workspace.cache.peek if again else workspace.cache.find
    found: Found = {}
    for block in job.blocks:
        if (rows := workspace.ahead.get((job.kind, job.model, block))) is not None:
            found[job.model, block] = rows
            continue
        arrays = look(block.key(workspace, job.kind, job.model))
        if arrays is not None:
            found[job.model, block] = load(ROWS[job.kind], arrays)
    return found


def without(job: Job, found: Found) -> Job | None:
    """What is left of ``job``; None where that is nothing."""
    left = tuple(block for block in job.blocks if (job.model, block) not in found)
    return replace(job, blocks=left) if left else None


def run_job(workspace: Workspace, job: Job) -> Found:
    """Compute all of ``job`` with the workspace's engine, and keep it."""
    engine = workspace.engine
    if job.model is None:
        computed = compute(engine, job.kind, job.blocks)
    else:
        with engine.expert(job.model):
            computed = compute(engine, job.kind, job.blocks)
    for block, rows in zip(job.blocks, computed, strict=True):
        key = block.key(workspace, job.kind, job.model)
        workspace.cache.keep(key, dump(ROWS[job.kind], rows))
    return {(job.model, b): rows for b, rows in zip(job.blocks, computed, strict=True)}


def lock_key(workspace: Workspace, job: Job) -> dict[str, object]:
    """One process at a time computes one model; on a GPU, one process at a time computes."""
    if workspace.device != "cpu":
        return {"device": workspace.device}
    own = "base" if job.model is None else workspace.models[job.model]
    return workspace.key("lock", model=own)
