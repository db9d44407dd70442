"""MG109: an expert was trained with another tokenizer than the base's."""

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tokenizer_files import Differences, tokenizer_differences
from pytest_mergegate.preflight.told import Findings, error, grouped, warning

_OTHER_IDS = (
    "merge only experts that were trained with one tokenizer; if the files beside this expert are "
    "not the ones that it was trained with, replace or remove them"
)
_OTHER_RULES = "use the tokenizer of the base, or remove the copy if it is not what was trained on"


def find(pool: Pool) -> Findings:
    """The same text must be the same ids; the merge gets the base's tokenizer."""
    found = list(tokenizer_differences(pool))
    yield from (Finding.of(problem) for _, problem in found if isinstance(problem, PoolError))
    yield from grouped(pool, (said for e, d in found if (said := _told(e.name, d)) is not None))


def _told(expert: str, found: Differences | PoolError) -> Finding | None:
    if isinstance(found, PoolError):
        return None
    if (said := _other_ids(found)) is not None:
        return error(said, _OTHER_IDS, expert)
    if found.uncompared is not None:
        return warning(f"could not compare {found.uncompared}", _OTHER_RULES, expert)
    if found.parts:
        said = f"the tokenizer differs from the base's in: {', '.join(found.parts)}"
        return warning(said, _OTHER_RULES, expert)
    return None


def _other_ids(found: Differences) -> str | None:
    if found.moved is not None:
        token, ours, theirs = found.moved
        return f"token {_quoted(token)} has id {ours} in the base and {theirs} in the expert"
    if found.replaced is not None:
        number, token, other = found.replaced
        said = f"id {number} is token {_quoted(token)} in the base"
        return f"{said} and {_quoted(other)} in the expert"
    if found.lacking:
        ours, theirs = found.sizes
        said = f"the tokenizer has {theirs} tokens, the base's {ours}; it lacks "
        return said + ", ".join(map(_quoted, found.lacking))
    return None


def _quoted(token: str) -> str:
    return f"'{shown(token, 40)}'"
