"""MG109: an expert was trained with another tokenizer than the base's."""

from collections.abc import Iterable

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tokenizer_files import Differences
from pytest_mergegate.preflight.tokenizers import tokenizer_differences
from pytest_mergegate.preflight.told import grouped

_OTHER_IDS = (
    "merge only experts that were trained with one tokenizer; if the files beside this expert are "
    "not the ones that it was trained with, replace or remove them"
)
_OTHER_RULES = "use the tokenizer of the base, or remove the copy if it is not what was trained on"


def find(pool: Pool) -> Iterable[Finding]:
    """The same text must be the same ids; the merge gets the base's tokenizer."""
    errors: dict[str, tuple[str, str]] = {}
    warnings: dict[str, tuple[str, str]] = {}
    for expert, found in tokenizer_differences(pool):
        if isinstance(found, PoolError):
            yield Finding.of(found)
        elif (said := _other_ids(found)) is not None:
            errors[expert.name] = (said, _OTHER_IDS)
        elif found.uncompared is not None:
            warnings[expert.name] = (f"could not compare {found.uncompared}", _OTHER_RULES)
        elif found.parts:
            said = f"the tokenizer differs from the base's in: {', '.join(found.parts)}"
            warnings[expert.name] = (said, _OTHER_RULES)
    yield from grouped(pool, "error", errors)
    yield from grouped(pool, "warning", warnings)


def _other_ids(found: Differences) -> str | None:
    if found.moved is not None:
        token, ours, theirs = found.moved
        return f"token {_quoted(token)} has id {ours} in the base and {theirs} in the expert"
    if found.replaced is not None:
        number, token, theirs_token = found.replaced
        return (
            f"id {number} is token {_quoted(token)} in the base and {_quoted(theirs_token)} "
            "in the expert"
        )
    if found.lacking:
        ours, theirs = found.sizes
        return (
            f"the tokenizer has {theirs} tokens, the base's {ours}; it lacks "
            f"{', '.join(map(_quoted, found.lacking))}"
        )
    return None


def _quoted(token: str) -> str:
    return f"'{shown(token, 40)}'"
