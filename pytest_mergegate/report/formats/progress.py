"""A progress bar on standard error for work that takes long."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pytest_mergegate.common.plain_text import clean


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None] | None]:
    """Show a bar while the block runs; call the result with (what, fraction).

    None where nobody is looking: in CI, and where standard error is no terminal.
    """
    if os.environ.get("CI") or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("mergegate: {task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading the pool", total=1.0)

        def tell(what: str, fraction: float) -> None:
            progress.update(task, description=clean(what), completed=fraction)

        yield tell
