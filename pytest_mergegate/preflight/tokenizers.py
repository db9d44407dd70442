"""The tokenizers of a pool's experts against the base's; each distinct pair is compared once."""

from collections.abc import Iterator

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tokenizer_files import Differences, TokenizerFiles, differences


def tokenizer_differences(pool: Pool) -> Iterator[tuple[Expert, Differences | PoolError]]:
    """Experts whose own tokenizer is not the base's, or cannot be read or compared."""
    for expert in pool.experts:
        try:
            base = TokenizerFiles.of(pool.base.path)
            found = differences(base, TokenizerFiles.of(expert.path, expert.name))
        except PoolError as error:
            yield expert, error
            if error.expert is None:  # the base's, which no expert can be compared with
                return
        else:
            if found is not None:
                yield expert, found
