"""What a model is called, whatever folder or cache it lies in, and by its quantised copies."""

import re
from pathlib import PurePath

_CACHED = re.compile(r"models--(?:.+--)?(?P<name>[^-](?:(?!--).)*)")
_KINDS = r"bnb|gptq|awq|hqq|eetq|nf4|int[348]|fp8|[348]-?bits?|w[48]a(?:8|16)|quantized"
_LAST_WORD = re.compile(rf"(.+)[-_](?:(?P<kind>{_KINDS})|unsloth|dynamic|g32|g64|g128)", re.I)
_LENGTH = 200


def last_part(reference: str) -> str:
    """The model's name in lower case: of a path, a repository or a snapshot in the hub's cache."""
    without_revision = reference if PurePath(reference).is_absolute() else reference.split("@")[0]
    path = PurePath(without_revision.rstrip("/\\").replace("\\", "/"))
    for part in path.parts:
        if (match := _CACHED.fullmatch(part[:_LENGTH])) is not None:
            return match["name"].lower()
    return path.name.lower()


def unquantised(name: str) -> str | None:
    """``name`` without ``-bnb-4bit``, ``-GPTQ-Int4`` and the like; None if it has no such end."""
    found = False
    while len(name) <= _LENGTH and (match := _LAST_WORD.fullmatch(name)) is not None:
        name, found = match[1], found or match["kind"] is not None
    return name if found else None
