"""Threads: as many as there are cores, and two that nobody has to wait for."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from queue import SimpleQueue
from threading import Thread
from typing import ParamSpec, TypeVar

from pytest_mergegate.common.machine import thread_count

P = ParamSpec("P")
R = TypeVar("R")


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


def in_background(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
    """Run ``function`` in a thread that ends with the process, two at a time.

    An executor of the standard library would hold up a Ctrl-C until gigabytes are hashed.
    """
    future: Future[R] = Future()

    def task() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    _waiting(os.getpid()).put(task)
    return future


@cache
def _waiting(_process: int) -> SimpleQueue[Callable[[], None]]:
    """The tasks of this process, and the threads that see to them; a fork has none of them."""
    tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def work() -> None:
        while True:
            tasks.get()()

    for _ in range(2):
        Thread(target=work, name="mergegate-background", daemon=True).start()
    return tasks
