"""What is gated: the experts and the pool of a gate file, an item each; a marked test's pool."""

import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Self

import pytest

from pytest_mergegate.common.errors import GateError, GateFileError
from pytest_mergegate.common.files.documents import in_document
from pytest_mergegate.common.files.yaml_files import documents_of, read_text
from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.gate.budget import Budget
from pytest_mergegate.gate.discovery import gates_below, refusals
from pytest_mergegate.gate.gatefile import Gate, gate_from, load_gate
from pytest_mergegate.gate.sections import POOL
from pytest_mergegate.testing import off
from pytest_mergegate.testing.fixtures import SESSION, SKIP_REASON

_TOP_LEVEL = re.compile(r"^(experts|merge_method)\s*:", re.MULTILINE)


def looks_like_gate(path: Path) -> bool:
    """Whether a YAML file named on the command line is a gate, or a mergekit config."""
    try:
        return _TOP_LEVEL.search(read_text(path)) is not None
    except GateFileError:
        return False


_REFUSED: pytest.StashKey[dict[Path, GateFileError | None]] = pytest.StashKey()


class GateNotPassed(Exception):
    """A gate that failed or was inconclusive; its text says why."""


class _Gates(pytest.Collector):
    """What gates are read from."""

    def gate_items(self, place: Path) -> Iterator[pytest.Item]:
        """One item per expert of the gate at ``place``, and one for the pool as a whole."""
        session = self.config.stash.get(SESSION, None)
        try:
            merged = session.options.merged if session is not None else None
            gate = load_gate(place, merged=merged)
        except GateFileError as error:
            if session is not None:
                session.note_unreadable(self.nodeid, error)
            raise
        for name in gate.spec.experts:
            yield GateItem.from_parent(self, name=name, gate=gate, expert=name)
        yield GateItem.from_parent(self, name=POOL, gate=gate, expert=None)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """One clean line per problem instead of a traceback."""
        if isinstance(excinfo.value, GateError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


class GateDocument(_Gates):
    """One of several documents of a gate file: ``merge.yml::2``."""

    place: Path

    def collect(self) -> Iterator[pytest.Item]:
        """The gate's items."""
        return self.gate_items(self.place)


class GateFile(_Gates, pytest.File):
    """A gate file."""

    named = True
    """Whether it was named on the command line, rather than found in a folder."""

    @classmethod
    def found_by(cls, parent: pytest.Collector, path: Path, *, named: bool) -> Self:
        """The gate file at ``path``, under a node id that can be shown."""
        called: dict[str, Any] = {}
        if not str(path).isprintable():
            nodeid = clean(f"{parent.nodeid}/{path.name}").lstrip("/")
            called = {"nodeid": nodeid, "name": nodeid}
        found: Self = cls.from_parent(parent, path=path, **called)
        found.named = named
        return found

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        """The gate's items, or a collector of each document."""
        session = self.config.stash.get(SESSION, None)
        try:
            self._check_place()
        except GateFileError as error:
            if session is not None:
                session.note_unreadable(self.nodeid, error)
            raise
        places = documents_of(self.path)
        if len(places) == 1:
            yield from self.gate_items(self.path)
            return
        for number, place in enumerate(places, start=1):
            one: GateDocument = GateDocument.from_parent(self, name=str(number))
            one.place = place
            yield one

    def _check_place(self) -> None:
        """Raise GateFileError for one that was found among the data of strangers."""
        if self.named:
            return
        here = self.config.invocation_params.dir
        start = here if self.path.is_relative_to(here) else self.config.rootpath
        known = self.config.stash.setdefault(_REFUSED, {})
        if self.path not in known:  # the look around is for all of them at once
            files = {*gates_below(start), self.path}
            known |= dict.fromkeys(files) | refusals(files, start=start)
        if (refused := known[self.path]) is not None:
            raise refused


class GateItem(pytest.Item):
    """The verdicts on one expert, or, without an expert, on the pool as a whole."""

    def __init__(self, *, gate: Gate, expert: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gate = gate
        self.expert = expert
        if SESSION not in self.config.stash:
            self.add_marker(pytest.mark.skip(reason=SKIP_REASON))
            self.user_properties.append((off.PROPERTY, self.nodeid.partition("::")[0]))
        if self.config.pluginmanager.hasplugin("rerunfailures"):
            # a gate is computed once, so a rerun could only say the same again
            self.add_marker(pytest.mark.flaky(reruns=0))

    def setup(self) -> None:
        """Assess the pool, once for all of its items; an unreadable pool is an error."""
        self.config.stash[SESSION].require_computed(self, self.gate, self.expert)

    def runtest(self) -> None:
        """Hold the verdicts."""
        self.config.stash[SESSION].require_passed(self, self.gate, self.expert)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The text of the verdict; no traceback for what is no bug."""
        if isinstance(excinfo.value, (GateNotPassed, GateError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[PathLike[str] | str, int | None, str]:
        """The expert's line in the gate file, where annotations should point."""
        location = ("experts", self.expert) if self.expert else ()
        line = self.gate.lines.get(location, self.gate.lines.get(("experts",), 1))
        return self.path, line - 1, f"mergegate: {self.name}"


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
    if isinstance(source, (str, Path)) and not in_document(folder / source)[0].exists():
        folder = rootdir
    merged = request.config.stash[SESSION].options.merged
    return gate_from(source, root=folder, budget=budget, merged=merged)
