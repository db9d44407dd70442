"""Gate merges of fine-tuned models in pytest and CI, before they ship."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import version

    import pytest

    from pytest_mergegate.report.gating import assess
    from pytest_mergegate.report.types import Report

    __version__ = version("pytest-mergegate")

__all__ = ["Report", "__version__", "assess", "mergeable"]


def mergeable(pool: Any = None, /, **settings: Any) -> pytest.MarkDecorator:
    """Mark a test that runs only once a pool of experts is within its merge budget.

    ``pool`` is the path of a gate file, relative to the test file or to pytest's rootdir, or a
    mapping like one. Without it, ``base`` and ``experts`` describe the pool in place, or the
    ``merge_pool`` fixture names it. The other settings are budget keys: ``max_mds=3.0``,
    ``max_loss=10``, ``max_disagreement=0.3``. Unknown settings are an error at collection.
    """
    import pytest

    args = () if pool is None else (pool,)
    marker: pytest.MarkDecorator = pytest.mark.mergeable(*args, **settings)
    return marker


def __getattr__(name: str) -> Any:
    """Load what is heavy, or read from the disk, only when it is asked for (PEP 562)."""
    if name == "assess":
        from pytest_mergegate.report.gating import assess

        return assess
    if name == "Report":
        from pytest_mergegate.report.types import Report

        return Report
    if name == "__version__":
        from importlib.metadata import version

        return version("pytest-mergegate")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
