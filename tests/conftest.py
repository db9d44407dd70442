"""Shared by all tests: no network, one thread, seeds that can be replayed, and a tiny pool."""

from __future__ import annotations

import os
import secrets
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

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
    _warm = tempfile.TemporaryDirectory(prefix="mergegate-warm-")  # see warm.py
    os.environ |= {"MERGEGATE_TEST_WARM": _warm.name, "MERGEGATE_TEST_WARM_OWNER": str(os.getpid())}

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


LONGEST = (
    *("test_ray.py", "test_validation.py", "test_docs_commands.py", "test_experts.py"),
    *("test_cache.py", "test_action.py", "test_past_merges.py", "test_fault_injection.py"),
    *("test_fuzz.py", "test_families.py", "test_runner.py", "test_neighbours.py"),
    *("test_naive_reference.py", "test_promises.py", "test_baseline.py", "test_official_route.py"),
    *("test_html_report.py", "test_harness.py", "test_offload.py", "test_chosen_base.py"),
)
"""Files that are begun first, so that no worker is left with one of them when the others end."""
APART = ("test_docs_commands.py::", "test_the_card_is_what_the_shipped_merges_give")
"""Tests that share nothing with the rest of their file, and may go to any worker."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For ``--dist loadfile``: a file's tests go to one worker, with what they share, but those
    that share nothing."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            alone = any(part in nodeid for part in APART)
            return nodeid if alone else super()._split_scope(nodeid)

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


_FOLDER = Path.cwd()


@pytest.fixture(autouse=True)
def _same_folder() -> Iterator[None]:
    """Every test begins and ends in the folder where the run began: gates are looked for from
    there, and a worker's next test would look elsewhere."""
    assert Path.cwd() == _FOLDER
    yield
    after = Path.cwd()
    os.chdir(_FOLDER)
    assert after == _FOLDER


@pytest.fixture(scope="session")
def seed() -> int:
    """Another number in every run; a failure says how to have the same again."""
    return _RUN_SEED


@pytest.fixture(scope="session")
def tiny_pool(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """The gate file of three random experts with labelled examples. A test may put other gate files
    beside it, and changes nothing else."""
    from pools import write_pool

    return write_pool(tmp_path_factory.mktemp("tiny"), seed)


@pytest.fixture
def pool_copy(tiny_pool: Path, tmp_path: Path) -> Path:
    """The gate file of a copy of ``tiny_pool`` to spoil."""
    from pools import copy_pool

    return copy_pool(tiny_pool, tmp_path / "pool")


@pytest.fixture(scope="session")
def random_base(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> Callable[[str], tuple[Path, Any]]:
    """The folder of an architecture's random base, written once and not to be changed, and the
    model, to be copied."""
    from architectures import ARCHITECTURES
    from variants import load

    def write(architecture: str) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp(architecture) / "base"
        ARCHITECTURES[architecture].write(folder, seed)
        return folder, load(folder, architecture)

    return cache(write)


@pytest.fixture
def forked_mergekit(monkeypatch: pytest.MonkeyPatch) -> None:
    """mergekit's processes are forks of one that has imported it, instead of importing it anew."""
    from warm import commands

    from pytest_mergegate.merging import mergekit_process

    started = SimpleNamespace(executable=str(commands() / "python"))
    monkeypatch.setattr(mergekit_process, "sys", started)


@pytest.fixture
def any_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts that do not ask whether the base would pass too, in this process.

    The base of a random pool nearly always would, by the limits that let random merges pass.
    """
    monkeypatch.setattr("pytest_mergegate.verdict.judge.why_vacuous", lambda *_: "")
