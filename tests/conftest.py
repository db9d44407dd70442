"""Shared by all tests: no network, one thread, seeds that can be replayed, and a tiny pool."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

# by environment, before anything imports them: the unit tests of the equations need none of them,
# and what pytester starts inherits it
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit it, and share the memo
    _cache = tempfile.TemporaryDirectory(prefix="mergegate-cache-")
    os.environ["MERGEGATE_CACHE"] = _cache.name
    os.environ["HF_DATASETS_CACHE"] = f"{_cache.name}/datasets"

pytest_plugins = ["pytester"]

_SEED = "MERGEGATE_TEST_SEED"
# in the environment, so that the workers of pytest-xdist draw the same
_RUN_SEED = int(os.environ.setdefault(_SEED, str(secrets.randbelow(2**31))))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    """Say beside a failure how to replay it."""
    report = yield
    if report.failed and "seed" in getattr(item, "fixturenames", ()):
        report.sections.append(("replay with", f"{_SEED}={_RUN_SEED}"))
    return report


@pytest.fixture(scope="session")
def seed() -> int:
    """Another number in every run; a failure says how to have the same again."""
    return _RUN_SEED


@pytest.fixture(scope="session")
def tiny_pool(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """The gate file of three random experts with labelled examples; not to be written to."""
    from pools import write_pool

    return write_pool(tmp_path_factory.mktemp("tiny"), seed)


@pytest.fixture
def pool_copy(tiny_pool: Path, tmp_path: Path) -> Path:
    """The gate file of a copy of ``tiny_pool`` to spoil."""
    shutil.copytree(tiny_pool.parent, tmp_path / "pool")
    return tmp_path / "pool" / tiny_pool.name


@pytest.fixture
def any_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts that do not ask whether the base would pass too, in this process.

    The base of a random pool nearly always would, by the limits that let random merges pass.
    """
    monkeypatch.setattr("pytest_mergegate.verdict.judge.why_vacuous", lambda *_: "")
