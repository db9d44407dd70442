"""Threads: as many as there are cores, and one that nobody has to wait for."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = ParamSpec("P")
R = TypeVar("R")


def thread_count() -> int:
    """As many as cores, unless OMP_NUM_THREADS says otherwise, as it does for torch."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextmanager
def workers(
    count: int | None = None, initializer: Callable[[], None] | None = None
) -> Iterator[ThreadPoolExecutor]:
    """``count`` threads (default: ``thread_count``), each begun with ``initializer``.

    Where an exception leaves the block, Ctrl-C too, what has not begun is dropped.
    """
    with ThreadPoolExecutor(count or thread_count(), initializer=initializer) as threads:
        try:
            yield threads
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


class Background:
    """Runs one function after the other in a thread that ends with the process.

    Leaving the ``with`` block waits for nothing: what was submitted still gets done. An executor
    of the standard library would hold up a Ctrl-C until gigabytes are hashed.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        Thread(target=self._work, name="mergegate-background", daemon=True).start()

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run ``function`` after all that was submitted before."""
        future: Future[R] = Future()

        def task() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        self._tasks.put(task)
        return future

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: Any) -> None:
        self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
