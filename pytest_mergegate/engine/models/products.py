"""Whether this machine is slow at products of half precision, by trying it."""

import time

import torch

_ROWS, _COLUMNS = 64, 512
_TIMES = 5
_WORTH = 1.5
"""How many times slower than float32's those products must be: below that, the memory that half
precision saves is worth more."""


def are_slow(precision: str, device: str) -> bool:
    """Whether products of matrices in ``precision`` take longer than in float32; tried in turns."""
    seconds = dict.fromkeys((torch.float32, getattr(torch, precision)), float("inf"))
    pairs = {
        dtype: [torch.ones(n, _COLUMNS, dtype=dtype, device=device) for n in (_ROWS, _COLUMNS)]
        for dtype in seconds
    }
    with torch.inference_mode():
        for _ in range(_TIMES + 1):  # the first may have to choose how
            for dtype, pair in pairs.items():
                start = time.perf_counter()
                # asking for a number waits for the device
                float(torch.nn.functional.linear(*pair)[0, 0])
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    single, half = seconds.values()
    return half > _WORTH * single
