"""What a pool's models take in memory, by what its files say; nothing of them is loaded."""

from pytest_mergegate.pool.pool import Pool

_HEADROOM = 1.1
"""States and one layer's inputs, for each byte of weights."""


def bytes_needed(pool: Pool, each: int) -> int:
    """Of the base, and of the expert that changes most of it, in numbers of so many bytes
    ``each``."""
    sizes = {name: header.size for name, header in pool.base.tensors.items()}
    changed = (sum(sizes.get(name, 0) for name in expert.changes) for expert in pool.experts)
    return int(_HEADROOM * each * (sum(sizes.values()) + max(changed, default=0)))
