"""The pool that a marked test means."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_mergegate.gate.gatefile import Gate, gate_from
from pytest_mergegate.gate.sections import Budget


def gate_of(request: pytest.FixtureRequest) -> Gate:
    """The gate of ``request``'s test: of its markers, else of the ``merge_pool`` fixture.

    Markers are read from the outermost inwards: a class names the pool, a method may set a limit
    of its own. Paths start at the test's folder, else at the rootdir. Raises GateFileError.
    """
    markers = list(request.node.iter_markers("mergeable"))[::-1]
    arguments = {key: value for marker in markers for key, value in marker.kwargs.items()}
    budget = {k: v for k, v in arguments.items() if k in Budget.model_fields}
    described = {k: v for k, v in arguments.items() if k not in Budget.model_fields}
    named = [marker.args[0] for marker in markers if marker.args]
    folder, rootdir = request.node.path.parent, request.config.rootpath
    if named:
        source = named[0]
    elif described:
        source = described
    else:
        source, folder = request.getfixturevalue("merge_pool"), rootdir
    if isinstance(source, (str, Path)) and not (folder / source).exists():
        folder = rootdir
    return gate_from(source, root=folder, budget=budget)


def default_pool(files: Sequence[Path], rootdir: Path) -> Path:
    """The gate file of tests that name none; fails the test where there is none, or several."""
    if len(files) == 1:
        return files[0]
    if files:
        pytest.fail(
            f"mergegate_files lists {len(files)} gate files; say which one with "
            "@mergeable(<path>) or the merge_pool fixture",
            pytrace=False,
        )
    default = rootdir / "mergegate.yaml"
    if not default.is_file():
        pytest.fail(
            "no pool to gate: give @mergeable a gate file, override the merge_pool fixture, "
            f"set ini mergegate_files, or write {default.name} in the rootdir",
            pytrace=False,
        )
    return default
