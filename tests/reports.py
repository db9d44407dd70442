"""Comparing reports of the same gate."""

from __future__ import annotations

import re
from typing import Any

import pytest

NUMBER = re.compile(r"\d[\d.e+-]*")


def lasting(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what differs from run to run."""
    findings = [f for f in report["findings"] if f["code"] != "MG501"]
    passing = ("created", "seconds", "tokens", "cache")
    return {k: v for k, v in report.items() if k not in passing} | {"findings": findings}


def same(one: Any, other: Any, where: str = "") -> None:
    """Two reports say the same, to within the round-off of other batches.

    An MDS is one over a similarity, which may be nearly zero.
    """
    if not where:
        one, other = lasting(one), lasting(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for k, (left, right) in enumerate(zip(one, other, strict=True)):
            same(left, right, f"{where}/{k}")
    elif isinstance(one, float) and abs(one) > 1:
        assert 1 / one == pytest.approx(1 / other, rel=1e-5, abs=1e-5), where
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5), where
    elif isinstance(one, str):
        assert NUMBER.sub("#", one) == NUMBER.sub("#", other), where
    else:
        assert one == other, where
