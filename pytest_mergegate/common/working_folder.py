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

    Unlike ``contextlib.chdir``, this works where the working directory was removed.
    """
    try:
        before: Path | None = Path.cwd()
    except FileNotFoundError:
        before = None
    os.chdir(folder)
    try:
        yield
    finally:
        # some systems remove no folder that a process works in
        os.chdir(before or folder.anchor)


@contextlib.contextmanager
def apart() -> Iterator[Path]:
    """Have an empty folder as the working directory inside the block."""
    with empty_folder() as folder, working_in(folder):
        yield folder
