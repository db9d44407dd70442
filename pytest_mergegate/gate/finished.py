"""What a gate file may not say beside a finished merge."""

from collections.abc import Collection

from pytest_mergegate.gate.budget import Budget

_ABOUT_MAKING = {
    "merge": "keep merge:, which says how to make one, or merged:",
    "dtype": "it computes in the precision that it is stored in; write reference_dtype for the "
    "experts' own",
}
"""Keys of a gate that makes its merges, and what to say of each."""


def wrong_beside(
    merged: str | None, given: Collection[str], experts: Collection[str], budget: Budget
) -> tuple[str, ...] | None:
    """What is wrong with the keys that are ``given`` beside ``merged:``, or without it, and where;
    None where nothing is."""
    if merged is None:
        if "reference_dtype" in given:
            said = "reference_dtype is for a finished merge (merged: PATH); write dtype"
            return said, "reference_dtype"
        return None
    if not experts:
        return "a finished merge is held to at least one expert", "experts"
    for key, why in _ABOUT_MAKING.items():
        if key in given:
            return f"merged: names a merge that exists already; {why}", key
    if budget.automatic:
        name = next(iter(budget.automatic))
        said = (
            "recorded merges, by which auto@RATE sets a limit, say nothing of a model that was "
            f"made elsewhere; write a number for {name}"
        )
        return said, "budget", name
    return None
