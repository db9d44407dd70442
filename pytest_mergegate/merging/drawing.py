"""What merges draw at random, so that it hangs on the gate's seed and the parameter alone."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pytest_mergegate.merging.method import Method


@contextmanager
def seeded(method: Method, parameter: str) -> Iterator[None]:
    """Have torch's generator in one state per tensor: neither their order nor what ran before may
    matter, and what comes after is drawn as if nothing had been drawn here."""
    digest = hashlib.sha256(f"{method.seed}:{parameter}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        yield
