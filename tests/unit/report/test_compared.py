"""What moved between two reports on one merge."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_mergegate.report import compared
from report.formats.made import merged, report


def gains(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[Any, Any]]:
    """How the gain kept of an expert moved, where that is told."""
    method = {"method": "linear", "parameters": {}, "weights": {}, "fidelity": 0, "digest": ""}
    one, other = (
        report(names=["a"], failing=(), merges=[method | {"experts": [merged("a", 0.1, **given)]}])
        for given in (before, after)
    )
    found = compared._of_merges(one, other)
    return [(c.before, c.after) for c in found if c.quantity == "gain_kept"]


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ({"gain_kept": 0.9}, {"gain_kept": 0.4}, [(0.9, 0.4)]),
        ({"gain_kept": 0.9}, {"gain_kept_reason": "expert_gain_unclear"}, [(0.9, None)]),
        pytest.param({}, {"gain_kept": 0.4}, [], id="an older report says nothing of it"),
        ({"gain_kept_reason": "no_targets"}, {"gain_kept": 0.4}, []),
        ({"gain_kept": 0.9}, {"gain_kept_reason": "stage_not_run"}, []),
    ],
)
def test_a_gain_that_both_have_measured(
    before: dict[str, Any], after: dict[str, Any], moved: list[tuple[Any, Any]]
) -> None:
    assert gains(before, after) == moved
