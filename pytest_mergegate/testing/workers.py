"""What the xdist workers of one run share: each gate is computed by the first to get there."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from pytest_mergegate.common.files.writing import make_private_folder, write_file
from pytest_mergegate.report.types import Report


def shared(config: pytest.Config, key: str, compute: Callable[[], Report]) -> Report:
    """Compute, or under xdist take what another worker of this run has computed for ``key``."""
    directory = _directory(config)
    if directory is None:
        return compute()
    make_private_folder(directory)
    file = directory / f"{key}.json"
    with FileLock(f"{file}.lock"):
        if file.is_file():
            return Report.from_json(file.read_text(encoding="utf-8"))
        report = compute()
        write_file(file, report.to_json(None), mode=0o600)
        return report


def clean_up(config: pytest.Config) -> None:
    """Remove what the workers of this run have left for each other."""
    if directory := _directory(config):
        shutil.rmtree(directory, ignore_errors=True)


def _directory(config: pytest.Config) -> Path | None:
    """Named after the run's random id; None without xdist."""
    dsession = config.pluginmanager.getplugin("dsession")
    run = getattr(getattr(dsession, "nodemanager", None), "testrunuid", None)
    # not the environment's PYTEST_XDIST_TESTRUNUID: a pytest that a worker starts inherits it
    run = getattr(config, "workerinput", {}).get("testrunuid", run)
    if run is None:
        return None
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"pytest-mergegate-{user}-{run}"
