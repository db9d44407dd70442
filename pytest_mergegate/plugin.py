"""pytest's hooks; anything heavy is imported only once the gates are on."""

from pathlib import Path

import pytest

from pytest_mergegate.common.errors import did_you_mean
from pytest_mergegate.common.files.places import is_gate_name
from pytest_mergegate.testing import fixtures, hooks
from pytest_mergegate.testing.off import GatesOff
from pytest_mergegate.testing.options import add_options, enabled, options_of
from pytest_mergegate.verdict.budgets import BUDGETS

_SIGNATURE = "mergeable(pool=None, /, **budget)"
_POOL_KEYS = frozenset(
    {"base", "experts", "examples", "probes", "conflict", "certificate", "merge", "judge", "ignore"}
    | {"dtype", "trust_remote_code", "allowed_bases", "lm_eval_tasks"}
    | {"merged", "reference_dtype", "vocabulary"}
)
_BUDGET_KEYS = frozenset(BUDGETS)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini keys."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that others may implement."""
    pluginmanager.add_hookspecs(hooks)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and the fixtures, and the gates themselves where they are on."""
    config.addinivalue_line(
        "markers",
        f"{_SIGNATURE}: run the test only once a pool of experts is within its merge budget "
        "(pytest-mergegate)",
    )
    config.pluginmanager.register(fixtures, "mergegate-fixtures")
    if enabled(config):
        from pytest_mergegate.testing.session import GateSession

        session = GateSession(config, options_of(config))
        config.stash[fixtures.SESSION] = session
        config.pluginmanager.register(session, "mergegate-session")
    elif not hasattr(config, "workerinput"):
        config.pluginmanager.register(GatesOff(), "mergegate-off")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Gate files: all of them where the gates are on, else those named on the command line."""
    if file_path.suffix not in {".yaml", ".yml"}:
        return None
    named = parent.session.isinitpath(file_path)
    if not named and not (is_gate_name(file_path.name) and enabled(parent.config)):
        return None
    from pytest_mergegate.testing.items import GateFile, looks_like_gate

    if is_gate_name(file_path.name) or looks_like_gate(file_path):
        return GateFile.found_by(parent, file_path, named=named)
    return None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A link to a folder around the project, as an expert's may be one to ``/``: nobody's tests
    are there that are not found without it."""
    if not enabled(config) or not collection_path.is_symlink():
        return None
    root = config.rootpath.resolve()
    return True if root.is_relative_to(collection_path.resolve()) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the markers, and skip the gates with a reason where they are off."""
    off = not enabled(config)
    for item in items:
        markers = list(item.iter_markers("mergeable"))
        if not markers:
            continue
        if problem := _marker_problem(markers):
            problem = f"{item.nodeid}: {problem}"
            if not hasattr(config, "workerinput"):
                raise pytest.UsageError(problem)
            # of a worker's UsageError xdist shows nothing but a crash, so the test fails with it
            item.stash[fixtures.PROBLEM] = problem
        if off:
            item.add_marker(pytest.mark.skip(reason=fixtures.SKIP_REASON))


def _marker_problem(markers: list[pytest.Mark]) -> str | None:
    """What is wrong with a test's markers: its own, its class's and its module's."""
    problems = [problem for marker in markers if (problem := _problem_of(marker))]
    if problems:
        return problems[0]
    if sum(bool(marker.args or set(marker.kwargs) & _POOL_KEYS) for marker in markers) > 1:
        # the inner one would silently take the other pool's gate away
        return "several mergeable markers name a pool; a test gates one, so write two tests"
    return None


def _problem_of(marker: pytest.Mark) -> str | None:
    known = _POOL_KEYS | _BUDGET_KEYS
    if len(marker.args) > 1:
        return f"{_SIGNATURE} takes one pool, got {marker.args!r}"
    if unknown := sorted(set(marker.kwargs) - known):
        hint = did_you_mean(unknown[0], sorted(known), "known")
        return f"mergeable has no setting {unknown[0]!r}; {hint}"
    if marker.args and set(marker.kwargs) & _POOL_KEYS:
        return f"mergeable takes a gate file or {', '.join(sorted(_POOL_KEYS))}, not both"
    return None
