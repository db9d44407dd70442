"""A finished merge that an option names. Every pytest session imports this."""

import re
from pathlib import Path

from pytest_mergegate.common.errors import UsageError

_ON_THE_HUB = re.compile(r"[\w.-]+/[\w.-]+(@\S+)?")


def named_merge(value: str, option: str, start: Path) -> str:
    """A folder by its whole path, or a repository of the hub as it is. Raises UsageError."""
    folder = start / Path(value).expanduser()
    on_the_hub = _ON_THE_HUB.fullmatch(value) and not folder.exists()
    if not on_the_hub and not folder.is_dir():
        raise UsageError(f"{option}: there is no folder {folder}")
    return value if on_the_hub else str(folder)
