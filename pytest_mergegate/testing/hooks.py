"""Hooks that this plugin calls: implement them in a conftest.py, or in a plugin of your own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mergegate.report.types import Report


@pytest.hookspec(firstresult=True)
def pytest_mergegate_evaluate(
    metric: str, model: Any, tokenizer: Any, examples: Sequence[dict[str, Any]]
) -> Sequence[float] | None:
    """Score the examples of one expert under one model: the base, the expert, a merge.

    ``metric`` is what the gate file says, if that is ``package.module:function``, whether or not
    there is such a function; ``model`` is the transformers model with its weights in place, on
    loan, and ``examples`` are the expert's, as in its file: ``target`` is a list where several
    references are right, also where lines with one input were joined. Return one number in
    [0, 1] per example, or None to leave the metric to others, and to the function of that name.
    Scores are not kept from one run to the next. What is raised, or is no such number, is an error
    of the gate that names the example. Under pytest-xdist it is called in workers.
    """


@pytest.hookspec
def pytest_mergegate_report(report: Report, config: pytest.Config) -> None:
    """A gate was taken to its verdicts.

    Called once for every gate when the session ends, whatever came of it, before reports are
    written; under pytest-xdist in the controller. An exception fails the run.
    """
