"""MG110: an expert with tokens or embedding rows that the base does not have."""

from collections.abc import Iterable, Iterator

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.tokenizers import tokenizer_differences
from pytest_mergegate.preflight.told import error, grouped


def find(pool: Pool) -> Iterable[Finding]:
    """Every token of an expert must have its row in the base, under the same meaning."""
    resized = {finding.expert: finding for finding in _resized(pool)}
    yield from resized.values()
    rows = pool.base.tensors[pool.base.embedding].shape[0] if pool.base.embedding else None
    beyond: dict[str, tuple[str, str]] = {}
    unused: dict[str, tuple[str, str]] = {}
    for expert, found in tokenizer_differences(pool):
        if isinstance(found, PoolError) or not found.added or expert.name in resized:
            continue
        token, number = found.added[-1]
        said = f"{len(found.added)} tokens are not the base's, such as '{shown(token, 40)}' "
        if rows is not None and number >= rows:
            said += f"with id {number}; the base's embedding has {rows} rows"
            beyond[expert.name] = (said, "resize the base's embedding first, and train from that")
        else:
            said += f"with id {number}; the base never uses that row"
            unused[expert.name] = (said, "keep such tokens out of the inputs, or out of the merge")
    yield from grouped(pool, "error", beyond)
    yield from grouped(pool, "warning", unused)


def _resized(pool: Pool) -> Iterator[Finding]:
    for expert in pool.experts:
        for change in expert.changes.values():
            if pool.base.is_resized_by(change):
                yield error(
                    f"{shown(change.parameter)!r} has {change.shape[0]} rows, "
                    f"{pool.base.tensors[change.parameter].shape[0]} in the base",
                    "resize every expert's embedding, and the base's, to one vocabulary first",
                    expert=expert.name,
                    final=True,
                )
                break
