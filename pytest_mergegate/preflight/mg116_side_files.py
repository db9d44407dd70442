"""MG116: chat template, special tokens or generation settings that differ from the base's, and
would be lost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import read_json_object
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tokenizer_files import SPECIAL_TOKENS, default_template, special_tokens
from pytest_mergegate.preflight.told import Findings, grouped, warning

ABOUT_MAKING = True
_GENERATION = "generation_config.json"
_PROVENANCE = {"transformers_version", "_from_model_config"}


def find(pool: Pool) -> Findings:
    """A merge is saved with the base's files; what an expert was trained with may be others."""
    yield from grouped(pool, _templates(pool))
    yield from grouped(pool, _special_tokens(pool))
    yield from grouped(pool, _settings(pool))


def _templates(pool: Pool) -> Findings:
    ours = default_template(pool.base.path)
    what = "the base has none" if ours is None else "it is not the base's"
    for expert in pool.experts:
        if default_template(expert.path) not in (None, ours):
            fix = "put that template beside the base, or gate the expert with its own apart"
            yield warning(f"trained with a chat template of its own; {what}", fix, expert.name)


def _special_tokens(pool: Pool) -> Findings:
    """Where an answer ends, and what it is padded with: the merge goes by the base's."""
    ours = special_tokens(pool.base.path)
    for expert in pool.experts:
        theirs = special_tokens(expert.path)
        odd = [
            f"{name} is {_quoted(theirs[name])}, in the base {_quoted(ours.get(name))}"
            for name in SPECIAL_TOKENS
            if name in theirs and theirs[name] != ours.get(name)
        ]
        if odd and ours:
            fix = "answer as the expert was trained to: put its tokens beside the base, or train "
            fix += "with the base's"
            yield warning(f"special tokens are not the base's: {'; '.join(odd)}", fix, expert.name)


def _quoted(token: str | None) -> str:
    return "not set" if token is None else f"'{shown(token, 40)}'"


def _settings(pool: Pool) -> Findings:
    ours = _object(pool.base.path / _GENERATION)
    for expert in pool.experts:
        theirs = _object(expert.path / _GENERATION)
        keys = sorted({*theirs, *ours} - _PROVENANCE) if theirs else ()
        odd = [shown(key, 40) for key in keys if theirs.get(key) != ours.get(key)]
        if odd:
            told = odd if len(odd) <= 5 else [*odd[:4], f"{len(odd) - 4} more"]
            said = f"{_GENERATION} differs from the base's in: {', '.join(told)}"
            fix = "decide which settings the merge is to ship with, and put them beside the base"
            yield warning(said, fix, expert.name)


def _object(path: Path) -> Mapping[str, Any]:
    """What a JSON file holds; one that is missing, or no JSON, says nothing."""
    try:
        return read_json_object(path, expert=None)
    except PoolError:
        return {}
