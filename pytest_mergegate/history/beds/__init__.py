"""Merges of trained experts that ship with the package: what forecasts are calibrated on.

Each bed is ``NAME.registry.jsonl.gz``, a registry like a team's own, and ``NAME.json``, which says
how it was made. Every pool was gated twice: a line's scores come from one set of examples, the
losses from another that neither training nor the scores had seen, so that no score has seen the
inputs that it is judged by. ``benchmarks/validation.py`` makes these files.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from pytest_mergegate.history.registry.lines import RegistryLine

LINES: Final = ".registry.jsonl.gz"


@dataclass(frozen=True, kw_only=True)
class Bed:
    """The merges of one bed."""

    name: str
    about: Mapping[str, Any]
    """How it was made: architecture, experts, packages, seconds."""
    lines: tuple[RegistryLine, ...]


def bed_names() -> tuple[str, ...]:
    """The beds there are, in the order of the alphabet."""
    found = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(LINES) for name in found if name.endswith(LINES)))


@cache
def load_bed(name: str) -> Bed:
    """One bed; read once per process."""
    folder = files(__name__)
    text = gzip.decompress((folder / f"{name}{LINES}").read_bytes()).decode("utf-8")
    return Bed(
        name=name,
        about=json.loads((folder / f"{name}.json").read_text("utf-8")),
        lines=tuple(RegistryLine.model_validate_json(line) for line in text.splitlines()),
    )


def load_beds() -> tuple[Bed, ...]:
    """All of them."""
    return tuple(load_bed(name) for name in bed_names())
