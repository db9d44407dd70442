"""Compiling loops over numbers with numba, and remembering the machine code between processes."""

import os
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from pytest_mergegate.common.working_folder import apart

with apart():
    import numba
    from numba.core import config as numba_settings


P = ParamSpec("P")
R = TypeVar("R")

# numba reads .numba_config.yaml from the working directory when it is imported, and again before
# whatever it compiles. That file names a folder of machine code, which numba unpickles, and
# modules, which it imports; a stranger may have written it. Settings come from the environment
# alone, also where somebody else has imported numba before.
numba_settings._config_fname = os.devnull
numba_settings.reload_config()  # type: ignore[no-untyped-call]

# sums may be reordered, which vector units need; NaN and infinity keep their meaning
_REORDERED = {"reassoc", "nsz", "contract"}


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile ``function`` when it is first called; it runs without the interpreter's lock.

    The machine code is kept beside this package, or in the user's cache folder, where one of
    them can be written to, and compiled again in every process where neither can.
    """
    prepared = partial(numba.njit, nogil=True, error_model="numpy", fastmath=_REORDERED)
    try:
        made: Callable[P, R] = prepared(cache=True)(function)
    except RuntimeError:  # numba found no folder to write to
        made = prepared(cache=False)(function)
    return made
