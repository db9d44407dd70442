"""Calibrations as plain data, to keep and to ship."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from pytest_mergegate.history.calibration.fit import Calibration

if TYPE_CHECKING:
    from collections.abc import Mapping

_CALIBRATION = TypeAdapter(Calibration)


def to_plain(calibration: Calibration) -> dict[str, Any]:
    """What JSON can hold."""
    return asdict(calibration)


def from_plain(plain: Mapping[str, Any]) -> Calibration:
    """What ``to_plain`` gave."""
    return _CALIBRATION.validate_python(plain)


def for_strangers(calibration: Calibration) -> Calibration:
    """The same without the experts it was made of, whom no other team has."""
    effects = calibration.model.effects
    nobody = replace(effects.experts, known={})
    model = replace(calibration.model, effects=replace(effects, experts=nobody))
    return replace(calibration, model=model)


@cache
def own_code() -> str:
    """Over the code that calibrates: what another version has kept is not used."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
