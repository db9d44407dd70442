"""What tests of the pytest surface share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from warm import commands

from plugin.gates import Gates

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


@pytest.fixture(scope="session")
def shared_pool(tiny_pool: Path) -> Path:
    """The gate file of the pool that all tests share.

    pytester forgets what was first imported inside one of its runs, and torch cannot be imported
    twice: so import all that a gate needs, by running one.
    """
    import numba

    import pytest_mergegate.merging.build
    import pytest_mergegate.testing.session  # noqa: F401
    from pytest_mergegate import assess

    # numba imports much of itself when it first compiles; what this run needs of it may be there
    # already, compiled, or in another worker's cache
    numba.njit(lambda number: number + 1)(1)
    assess(tiny_pool, max_loss=100.0, max_mds=100.0)
    return tiny_pool


NEIGHBOURS = ("randomly", "rerunfailures", "pytest_github_actions_annotate_failures")


@pytest.fixture(autouse=True)
def _no_neighbours(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hypothesis's plugin, which every run would import anew, only to say nothing, and
    without those that shuffle, repeat or annotate tests, unless a test asks for them."""
    off = (f"-p no:{name}" for name in ("hypothesispytest", *NEIGHBOURS))
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(off))


@pytest.fixture(autouse=True)
def _at_a_desk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As outside CI, where pytest's last lines do not say each failure whole once more."""
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of an inner pytest-xdist are forks of a process that has imported torch."""
    from execnet import gateway_io

    own = gateway_io.popen_args

    def popen_args(spec: Any) -> list[str]:
        _, *options = own(spec)
        return [str(commands() / "python"), *options]

    monkeypatch.setattr(gateway_io, "popen_args", popen_args)


@pytest.fixture
def gates(shared_pool: Path, pytester: pytest.Pytester) -> Gates:
    """Gate files in the folder where pytester runs."""
    return Gates(shared=shared_pool, folder=pytester.path)
