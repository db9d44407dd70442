"""Names that quantised copies of a model go by."""

from __future__ import annotations

import re

_KINDS = r"bnb|gptq|awq|hqq|eetq|nf4|int[348]|fp8|[348]-?bits?|w[48]a(?:8|16)|quantized"
_LAST_WORD = re.compile(rf"(.+)[-_](?:(?P<kind>{_KINDS})|unsloth|dynamic|g32|g64|g128)", re.I)
_LENGTH = 200


def unquantised(name: str) -> str | None:
    """``name`` without ``-bnb-4bit``, ``-GPTQ-Int4`` and the like; None if it has no such end."""
    found = False
    while len(name) <= _LENGTH and (match := _LAST_WORD.fullmatch(name)) is not None:
        name, found = match[1], found or match["kind"] is not None
    return name if found else None
