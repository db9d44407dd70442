"""MG132: a finished merge that is asked, or ends its answers, in another way than an expert."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import read_json_object
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.finished import FinishedMerge, has_tokenizer
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tokenizer_files import default_template, special_tokens
from pytest_mergegate.preflight.told import Findings, grouped, warning

_TOKENS = {"eos_token": "ends text with", "pad_token": "pads with", "bos_token": "begins text with"}
_SAME = "save the tokenizer and the generation settings of the expert beside the merge"


def find(pool: Pool) -> Findings:
    """Hold the merge's files against those that each expert is run with: its own, or the base's."""
    merged = pool.merged
    if merged is None:
        return
    if merged.adapter is None and not merged.has_tokenizer:
        yield warning(
            "the finished merge has no tokenizer, and was asked through that of "
            f"{shown(merged.tokenizer.name)}/",
            "save it beside the weights: tokenizer.save_pretrained(path); whoever loads the merge "
            "needs one",
        )
    yield from grouped(pool, _differing(pool, merged))


def _differing(pool: Pool, merged: FinishedMerge) -> Findings:
    for expert in pool.experts:
        folders = (expert.path, pool.base.path)
        for said in (*_texts(merged, folders), *_endings(merged, folders)):
            yield warning(f"the finished merge {said}", _SAME, expert.name)


def _texts(merged: FinishedMerge, folders: tuple[Path, ...]) -> Iterator[str]:
    """Special tokens and chat templates of the tokenizers."""
    if not merged.has_tokenizer:
        return
    own = next(filter(has_tokenizer, folders), folders[-1])
    for key, does in _TOKENS.items():
        theirs, ours = special_tokens(own).get(key), special_tokens(merged.path).get(key)
        if theirs != ours:
            yield f"{does} {_quoted(ours)}, the expert with {_quoted(theirs)}"
    theirs = next(filter(None, map(default_template, folders)), None)
    ours = default_template(merged.path)
    if theirs != ours:
        what = "has no chat template" if ours is None else "has another chat template than"
        yield f"{what}, and the expert has one" if ours is None else f"{what} the expert"


def _endings(merged: FinishedMerge, folders: tuple[Path, ...]) -> Iterator[str]:
    """The tokens at which generation stops."""
    if merged.adapter is not None:
        return
    theirs = next((ends for f in folders if (ends := _ends(f)) is not None), None)
    ours = _ends(merged.path)
    if theirs != ours:
        yield f"ends generation at {_ids(ours)}, the expert at {_ids(theirs)}"


def _ends(folder: Path) -> frozenset[int] | None:
    for name in ("generation_config.json", "config.json"):
        ends = _object(folder / name).get("eos_token_id")
        found = ends if isinstance(ends, list) else [ends]
        if known := frozenset(end for end in found if type(end) is int):
            return known
    return None


def _ids(ends: frozenset[int] | None) -> str:
    return "no token" if ends is None else f"token {', '.join(map(str, sorted(ends)))}"


def _quoted(token: str | None) -> str:
    return "no token" if token is None else f"'{shown(token, 40)}'"


def _object(path: Path) -> Mapping[str, Any]:
    """What a JSON file holds; one that is missing, or no JSON, says nothing."""
    try:
        return read_json_object(path, expert=None)
    except PoolError:
        return {}
