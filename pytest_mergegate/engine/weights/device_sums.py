"""``kernels.add_pairs`` of task vectors in factors, on an accelerator: few large operations."""

from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.weights.delta_rows import Doubles, FactorRows
from pytest_mergegate.metrics.pairwise import CONFLICTING, DIFFERENCE, DOT, SIGN_CHANGES

_BYTES = 1 << 29
"""Of all task vectors at a time; a few times as much is needed beside them."""


class DeviceSums:
    """Sums over positions on one device, in float64."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._one_at_a_time = Lock()
        self._trusted = False

    def over(self, factors: Sequence[FactorRows], start: int, stop: int) -> Doubles:
        """[4, experts, experts] over some rows, as ``kernels.add_pairs`` writes them without
        dots."""
        columns = factors[0].shape[1]
        with self._one_at_a_time:  # threads would share the device's memory
            lefts = [torch.from_numpy(f.left[start:stop]).to(self.device).double() for f in factors]
            rights = [torch.from_numpy(f.right).to(self.device).double() for f in factors]
            step = max(_BYTES // (8 * columns * len(factors)), 1)
            total = lefts[0].new_zeros(4, len(factors), len(factors))
            for first in range(0, stop - start, step):
                rows = min(step, stop - start - first)
                deltas = total.new_empty(rows, len(factors), columns)
                for k, factor in enumerate(factors):
                    product = lefts[k][first : first + rows] @ rights[k]
                    # last, as on the CPU: what cancels out is zero then, whatever the scale
                    torch.mul(product, factor.scale, out=deltas[:, k])
                total += pair_sums(deltas)
            found: Doubles = np.triu(total.cpu().numpy())
        return found

    def check(self, factors: Sequence[FactorRows], rows: int, expected: Doubles) -> None:
        """Hold the first sums against the CPU's. Raises GateError where they differ."""
        if self._trusted:
            return
        least = 1e-12 * float(np.nan_to_num(expected).max(initial=0.0))
        found = self.over(factors, 0, rows)
        # what is not finite is the adapter's own doing, and told as such
        if not np.allclose(found, expected, rtol=1e-9, atol=least, equal_nan=True):
            raise GateError(
                f"{self.device} does not add up as the CPU does", fix="use the device cpu"
            )
        self._trusted = True


def pair_sums(deltas: Tensor) -> Tensor:
    """[4, experts, experts] of [rows, experts, columns]; of inner products only ‖a‖².

    With s the signs and m = |s|, the part of Σ|a| where b has a's sign is ½(Σ a·s_b + Σ|a|·m_b):
    all but Σ|a - b| are small matrix products.
    """
    signs, sizes = deltas.sign(), deltas.abs()
    present = signs.abs()
    same = (_products(deltas, signs) + _products(sizes, present)) / 2
    both = _products(present, present)
    counts, total = both.diagonal(), sizes.sum(dim=(0, 2))
    sums = deltas.new_zeros(4, *both.shape)
    sums[DIFFERENCE] = torch.cdist(deltas, deltas, p=1.0).sum(dim=0)
    sums[CONFLICTING] = (total[:, None] + total - same - same.T).clamp(min=0.0)
    # a position counts unless both are zero there or share a sign
    either = counts[:, None] + counts - both
    sums[SIGN_CHANGES] = either - (_products(signs, signs) + both) / 2
    for what, alone in ((DIFFERENCE, total), (CONFLICTING, total), (SIGN_CHANGES, counts)):
        sums[what].diagonal().copy_(alone)
    sums[DOT].diagonal().copy_(deltas.square().sum(dim=(0, 2)))
    return sums


def _products(left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left, right.transpose(1, 2)).sum(dim=0)
