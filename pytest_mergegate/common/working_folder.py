"""An empty folder to work in, for libraries that read settings, or modules, from the working one.

The working directory is that of a repository to which strangers send files. numba takes its
settings from there, matplotlib the module that it draws with, evaluate the code of its metrics,
and Ray hands its path to every worker.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    """A new folder, gone after the block."""
    with tempfile.TemporaryDirectory(prefix="mergegate-", ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Have ``folder`` as the working directory inside the block.

    Unlike ``contextlib.chdir``, this comes back to a working directory that was moved or removed.
    """
    # only a descriptor leads back there; Windows, which has none, removes no folder that is in use
    by_descriptor = os.chdir in os.supports_fd
    before = os.open(".", getattr(os, "O_PATH", os.O_RDONLY)) if by_descriptor else Path.cwd()
    try:
        os.chdir(folder)
        yield
    finally:
        os.chdir(before)
        if isinstance(before, int):
            os.close(before)


@contextlib.contextmanager
def apart() -> Iterator[Path]:
    """Have an empty folder as the working directory inside the block."""
    with empty_folder() as folder, working_in(folder):
        yield folder
