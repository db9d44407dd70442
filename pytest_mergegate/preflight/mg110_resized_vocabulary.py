"""MG110: an expert with tokens or embedding rows that the base does not have."""

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tokenizer_files import tokenizer_differences
from pytest_mergegate.preflight.told import Findings, error, grouped, warning


def find(pool: Pool) -> Findings:
    """Every token of an expert must have its row in the base, under the same meaning."""
    resized = {finding.expert: finding for finding in _resized(pool)}
    yield from resized.values()
    added = (finding for finding in _added(pool) if finding.expert not in resized)
    yield from grouped(pool, added)


def _added(pool: Pool) -> Findings:
    rows = pool.base.tensors[pool.base.embedding].shape[0] if pool.base.embedding else None
    for expert, found in tokenizer_differences(pool):
        if isinstance(found, PoolError) or not found.added:
            continue
        token, number = found.added[-1]
        if pool.spec.vocabulary == "pad" and rows is not None and number < rows:
            said = f"{len(found.added)} tokens are not the base's, such as '{shown(token, 40)}' "
            said += f"with id {number}: vocabulary: pad gives them rows of the base"
            fix = "nothing, where the merge is meant to have these tokens"
            yield warning(said, fix, expert.name)
            continue
        said = f"{len(found.added)} tokens are not the base's, such as '{shown(token, 40)}' "
        if rows is not None and number >= rows:
            said += f"with id {number}; the base's embedding has {rows} rows"
            fix = "write vocabulary: pad, or resize the base's embedding, and train from that"
            yield error(said, fix, expert.name)
        else:
            said += f"with id {number}; the base never uses that row"
            fix = "keep such tokens out of the inputs, or out of the merge"
            yield warning(said, fix, expert.name)


def _resized(pool: Pool) -> Findings:
    for expert in pool.experts:
        change = next(filter(pool.base.is_resized_by, expert.changes.values()), None)
        if change is not None:
            yield error(
                f"{shown(change.parameter)!r} has {change.shape[0]} rows, "
                f"{pool.base.tensors[change.parameter].shape[0]} in the base",
                "write vocabulary: pad, or resize every expert's embedding, and the base's, to one "
                "vocabulary first",
                expert.name,
                final=True,
            )
