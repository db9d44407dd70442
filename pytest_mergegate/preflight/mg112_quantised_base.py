"""MG112: an adapter that was trained on a quantised copy of the base."""

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.identity import identify
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, grouped, warning

_FIX = (
    "what the adapter learned also makes up for the rounding of those weights: compare its scores "
    "on the full base before merging"
)


def find(pool: Pool) -> Findings:
    """The merge adds such a change to weights that it was not trained on."""
    signs = ((expert.name, _sign(expert, pool.base)) for expert in pool.experts)
    yield from grouped(pool, (warning(sign, _FIX, name) for name, sign in signs if sign))


def _sign(expert: Expert, base: Base) -> str | None:
    trained_on = expert.base_reference
    if trained_on is not None and identify(trained_on, base, expert.path) == "quantised":
        return f"trained on {shown(trained_on)!r}, a quantised copy"
    if expert.is_adapter and expert.config.get("loftq_config"):
        return "loftq_config is set: trained on a quantised base that LoftQ changed"
    return None
