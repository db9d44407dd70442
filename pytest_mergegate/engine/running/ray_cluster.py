"""Connecting to Ray, quietly; what was started here is stopped here."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import warnings
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.errors import GateError, first_line
from pytest_mergegate.common.working_folder import apart, empty_folder, working_in

if TYPE_CHECKING:
    from collections.abc import Iterator

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
