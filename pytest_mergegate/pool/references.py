"""A reference in a gate file (a directory, ``org/name``, ``org/name@revision``) to a directory."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_mergegate.errors import PoolError

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


def resolve(reference: str, *, root: Path, expert: str | None, where: str) -> Path:
    """The local directory behind ``reference``; relative paths start at ``root``.

    A reference whose first folder exists beside the gate file is local, never fetched: a
    misspelled path must not become a stranger's repository. Raises PoolError.
    """
    local = root / Path(reference).expanduser()
    if local.is_dir():
        return local.resolve()
    if local.is_file():
        raise PoolError(
            f"{reference!r} is a file, not a directory",
            expert=expert,
            where=where,
            fix="give the folder that holds it",
        )
    first = reference.split("/")[0]  # not Path's parts, which drop a leading "./"
    if not _HUB.fullmatch(reference) or first in {".", ".."} or (root / first).exists():
        raise PoolError(
            f"there is no directory {reference!r} in {root.name or root}/",
            expert=expert,
            where=where,
            fix="correct the path; it is relative to the gate file",
        )
    return _from_hub(reference, expert=expert, where=where)


def _from_hub(reference: str, *, expert: str | None, where: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = reference.partition("@")
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=_PATTERNS)
        )
    except (OSError, ValueError) as error:  # every huggingface_hub error is one of these
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PoolError(
            f"{reference!r} is neither a directory beside the gate file nor to be had from the "
            f"hub ({reason})",
            expert=expert,
            where=where,
            fix="correct the path, or make the repository available (network, HF_TOKEN, cache)",
        ) from None
