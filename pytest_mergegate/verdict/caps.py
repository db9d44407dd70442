"""The options that tighten a budget in every gate, as the table of budgets has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.gate.option_table import cap_option
from pytest_mergegate.verdict.budgets import BUDGETS

if TYPE_CHECKING:
    from pytest_mergegate.gate.option_table import Option


def cap_options() -> tuple[Option, ...]:
    """One for each budget that has an option."""
    return tuple(
        cap_option(budget.name, option.metavar, option.help, budget.most)
        for budget in BUDGETS.values()
        if (option := budget.option) is not None
    )
