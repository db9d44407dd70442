"""MG133: a finished merge whose numbers were rounded more coarsely than they are stored."""

import numpy as np

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tensor_readers import FloatArray
from pytest_mergegate.preflight.mg131_no_merge import changed_parameters
from pytest_mergegate.preflight.told import Findings, warning

_SAMPLE = 1 << 16
_FEWEST = 64
"""Numbers that are not zero, from which their bits say how they were rounded."""
_COARSE = 3
"""Bits of the significand behind its first: as many as fp8 (e4m3) has; bfloat16 has 7."""
_SIGNIFICAND = 23


def find(pool: Pool) -> Findings:
    """Look at the bits of what experts change: trained numbers use all that there are."""
    merged = pool.merged
    if merged is None or merged.tensors is None:
        return
    coarse: dict[str, int] = {}
    for name in sorted(changed_parameters(pool) & merged.tensors.keys()):
        header = merged.tensors[name]
        if header.is_float and len(header.shape) > 1:
            bits = significand_bits(merged.tensors.sample(name, _SAMPLE))
            if bits is not None and bits <= _COARSE:
                coarse[name] = bits
    if coarse:
        first, bits = next(iter(coarse.items()))
        yield warning(
            f"{len(coarse)} tensors of the finished merge were rounded to {bits} bits behind the "
            f"first, as in fp8, though they are stored in {merged.tensors[first].dtype}, first "
            f"{shown(first)!r}",
            "export from the precision that was trained in, or gate what the quantised model "
            "answers with as many inputs as you have",
        )


def significand_bits(numbers: FloatArray) -> int | None:
    """How many bits behind the first the significands of ``numbers`` use; None where too few of
    them are not zero to tell."""
    bits = numbers[numbers != 0].view(np.uint32)
    if len(bits) < _FEWEST:
        return None
    used = int(np.bitwise_or.reduce(bits)) & ((1 << _SIGNIFICAND) - 1)
    return _SIGNIFICAND - ((used & -used).bit_length() - 1) if used else 0
