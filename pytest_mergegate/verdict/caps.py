"""The options that tighten a budget in every gate, as the table of budgets has them."""

from __future__ import annotations

from pytest_mergegate.gate.option_table import cap_option
from pytest_mergegate.verdict.budgets import BUDGETS

CAPS = tuple(
    cap_option(budget.name, option.metavar, option.help, budget.most)
    for budget in BUDGETS.values()
    if (option := budget.option) is not None
)
