"""Fixtures for users' own tests, and the gate of every marked test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_mergegate.report.types import Report
    from pytest_mergegate.testing.session import GateSession

SKIP_REASON = "merge gates are off; run pytest with --mergegate"
SESSION: pytest.StashKey[GateSession] = pytest.StashKey()
PROBLEM: pytest.StashKey[str] = pytest.StashKey()
"""What is wrong with a test's marker, where collection could not say so."""


def _session(request: pytest.FixtureRequest) -> GateSession:
    session = request.config.stash.get(SESSION, None)
    if session is None:
        pytest.skip(SKIP_REASON)
    return session


@pytest.fixture(autouse=True)
def _mergegate(request: pytest.FixtureRequest) -> None:
    """Assess the pool of a marked test before its body runs."""
    if problem := request.node.stash.get(PROBLEM, None):
        pytest.fail(problem, pytrace=False)
    if request.node.get_closest_marker("mergeable") and SESSION in request.config.stash:
        request.getfixturevalue("merge_report")


@pytest.fixture
def merge_pool(request: pytest.FixtureRequest) -> Any:
    """The pool of marked tests that name none: the path of a gate file, or a mapping like one.

    Override it in a module or a conftest; by default ini ``mergegate_files``, else
    ``mergegate.yaml`` in the rootdir. An override that is parametrised must stand among the
    test's arguments, as pytest parametrises only what it sees there.
    """
    files, default = _session(request).options.files, request.config.rootpath / "mergegate.yaml"
    if len(files) > 1:
        pytest.fail(
            f"mergegate_files lists {len(files)} gate files; say which one with "
            "@mergeable(<path>) or the merge_pool fixture",
            pytrace=False,
        )
    if not files and not default.is_file():
        pytest.fail(
            "no pool to gate: give @mergeable a gate file, override the merge_pool fixture, "
            f"set ini mergegate_files, or write {default.name} in the rootdir",
            pytrace=False,
        )
    return files[0] if files else default


@pytest.fixture
def merge_report(request: pytest.FixtureRequest) -> Report:
    """The report on the test's pool; for a marked test, its budgets hold once the body runs."""
    return _session(request).assess_for(request)


@pytest.fixture
def merged_model(request: pytest.FixtureRequest) -> Any:
    """The merged model that the gate judged, or else its first method's: a transformers model.

    A fresh one for every test: change it as you like.
    """
    return _session(request).built(request, None)


@pytest.fixture
def merged_tokenizer(merged_model: Any) -> Any:
    """The tokenizer of ``merged_model``: its base's, or a finished merge's own."""
    return merged_model.mergegate_tokenizer


@pytest.fixture
def expert_model(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """A function from an expert's name to the base with that expert's task vector added."""
    session = _session(request)
    return lambda name: session.built(request, name)
