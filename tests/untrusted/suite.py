"""What a gate has to say of files from strangers."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mergegate import assess
from pytest_mergegate.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.report.types import FindingRecord, Report

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SECONDS = 30  # of a machine busy with other tests; alone, each takes less than two


def expert(gate: Path) -> Path:
    """The folder of the expert that a stranger wrote."""
    return gate.parent / "adapters" / "b"


def checked(gate: Path, **settings: Any) -> Report:
    """The report, which no bug of ours may be in."""
    report = assess(gate, **settings)
    for finding in report.findings:
        assert finding.code != "MG900", finding.message
        assert "\n" not in finding.message
        assert "Traceback" not in finding.message
        assert "TOP-SECRET" not in finding.message + finding.fix
        assert len(finding.message) < 1000
    return report


def refused(gate: Path, code: str, name: str | None = "b") -> FindingRecord:
    """The one error of a gate that cannot be computed."""
    report = checked(gate)
    assert report.status == "error"
    assert not report.verdicts
    errors = [finding for finding in report.findings if finding.severity == "error"]
    assert [(e.code, e.expert) for e in errors] == [(code, name)], errors
    assert errors[0].fix
    return errors[0]


def configure(folder: Path, **changes: Any) -> None:
    """Replace settings of an adapter's configuration."""
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


_seen: list[tuple[str, str]] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None or event not in {"open", "os.listdir", "os.scandir"}:
        return
    if isinstance(path := arguments[0], (str, Path)):  # not a descriptor
        _seen.append((str(path), os.path.realpath(path)))


sys.addaudithook(_note)  # it cannot be taken away again


@contextmanager
def reads() -> Iterator[list[tuple[str, str]]]:
    """Every file that is opened and every folder that is listed meanwhile, by whomever; as it was
    named, and what that was then."""
    global _seen
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None


def mergegate(*arguments: object) -> int:
    """The exit code of the command, in this process."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return int(exit.code or 0)
