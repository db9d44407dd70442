"""What adapters may choose where the gate file names no base: with it come the template of chats,
the tokenizer and, of a repository, whatever lies there by now."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.plain_text import shown

if TYPE_CHECKING:
    from pytest_mergegate.gate.gatefile import Gate

_CODE = "MG101"


def refuse_in_ci(reference: str, gate: Gate) -> None:
    """Raise PoolError in CI, where adapters choose no base at all."""
    if in_ci():
        base = shown(reference)
        raise PoolError(
            f"the gate names no base, and in CI adapters do not choose it (they name '{base}')",
            code=_CODE,
            where=gate.name,
            fix=f"write base: {base} in the gate file, if that is the one meant",
        )


def refuse_repository(reference: str, where: str) -> PoolError:
    """The error for a repository of the hub that adapters name and the gate does not allow."""
    base = shown(reference)
    return PoolError(
        f"the gate names no base, and its adapters name '{base}', a repository of the hub that "
        "allowed_bases does not list",
        code=_CODE,
        where=where,
        fix=f"write base: {base} in the gate file, or allowed_bases: ['{base}']",
    )


def in_ci() -> bool:
    """Whether this runs in CI, as its services say by the variable ``CI``."""
    return os.environ.get("CI", "").strip().lower() not in ("", "0", "false", "no", "off")
