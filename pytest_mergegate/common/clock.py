"""How long the stages took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds by name; what is timed within something else does not count for that."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._nested = 0.0

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add to the seconds of ``name``, less what was timed within."""
        start, outer, self._nested = time.perf_counter(), self._nested, 0.0
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - self._nested
            self._nested = outer + spent
