"""Rows of tokens that begin alike: a system prompt, a template, an instruction."""

from collections.abc import Sequence
from itertools import takewhile

from pytest_mergegate.engine.models.readings import Tokens

_FEWEST = 8
"""A shorter beginning is not worth a pass of its own."""
_LEAST_SAVED = 256
"""Tokens that are not read again, for which a pass is made."""


def by_beginning(rows: Sequence[Tokens], most: Sequence[int]) -> list[tuple[Tokens, list[int]]]:
    """The rows' indices in groups, and what the rows of a group begin with; nothing in common has
    the group of all that share too little.

    ``most`` is how many tokens of each row may be taken for its beginning.
    """
    ordered = sorted(range(len(rows)), key=lambda index: rows[index][: most[index]])
    groups: list[tuple[Tokens, list[int]]] = []
    for index in ordered:
        own = rows[index][: most[index]]
        if groups:
            begins, members = groups[-1]
            alike = takewhile(lambda pair: pair[0] == pair[1], zip(begins, own, strict=False))
            common = tuple(token for token, _ in alike)
            # what the group saves with this row in it, against what it saves without
            saved, before = len(members) * len(common), (len(members) - 1) * len(begins)
            if len(common) >= _FEWEST and saved > before:
                groups[-1] = common, [*members, index]
                continue
        groups.append((own, [index]))
    shared = [(b, m) for b, m in groups if (len(m) - 1) * len(b) >= _LEAST_SAVED]
    taken = {index for _, members in shared for index in members}
    alone = [index for index in range(len(rows)) if index not in taken]
    return [*shared, *([((), alone)] if alone else [])]
