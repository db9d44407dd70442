"""MG116: chat template, special tokens or generation settings that differ from the base's, and
would be lost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import open_regular, read_json_object
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tokenizer_files import SETTINGS
from pytest_mergegate.preflight.told import Findings, grouped, warning

_TEMPLATE, _GENERATION = "chat_template.jinja", "generation_config.json"
_SPECIAL = ("eos_token", "pad_token", "bos_token", "unk_token")
_SPECIAL_MAP = "special_tokens_map.json"
_PROVENANCE = {"transformers_version", "_from_model_config"}
_LIMIT = 1 << 20


def find(pool: Pool) -> Findings:
    """A merge is saved with the base's files; what an expert was trained with may be others."""
    yield from grouped(pool, _templates(pool))
    yield from grouped(pool, _special_tokens(pool))
    yield from grouped(pool, _settings(pool))


def _templates(pool: Pool) -> Findings:
    ours = _template(pool.base.path)
    what = "the base has none" if ours is None else "it is not the base's"
    for expert in pool.experts:
        if _template(expert.path) not in (None, ours):
            fix = "put that template beside the base, or gate the expert with its own apart"
            yield warning(f"trained with a chat template of its own; {what}", fix, expert.name)


def _special_tokens(pool: Pool) -> Findings:
    """Where an answer ends, and what it is padded with: the merge goes by the base's."""
    ours = _tokens(pool.base.path)
    for expert in pool.experts:
        theirs = _tokens(expert.path)
        odd = [
            f"{name} is {_quoted(theirs[name])}, in the base {_quoted(ours.get(name))}"
            for name in _SPECIAL
            if name in theirs and theirs[name] != ours.get(name)
        ]
        if odd and ours:
            fix = "answer as the expert was trained to: put its tokens beside the base, or train "
            fix += "with the base's"
            yield warning(f"special tokens are not the base's: {'; '.join(odd)}", fix, expert.name)


def _tokens(folder: Path) -> dict[str, str | None]:
    """The special tokens that the files in a folder name."""
    named = {**_object(folder / _SPECIAL_MAP), **_object(folder / SETTINGS)}
    found: dict[str, str | None] = {}
    for name in _SPECIAL:
        value = named.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if name in named and (value is None or isinstance(value, str)):
            found[name] = value
    return found


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


def _template(folder: Path) -> str | None:
    """The default chat template."""
    try:
        if (folder / _TEMPLATE).exists():
            with open_regular(folder / _TEMPLATE, expert=None) as file:
                return file.read(_LIMIT).decode("utf-8", errors="replace").strip()
    except PoolError:
        return None
    template = _object(folder / SETTINGS).get("chat_template")
    if isinstance(template, list):  # several, by name
        named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        template = named[0].get("template") if named else None
    return template.strip() if isinstance(template, str) else None


def _object(path: Path) -> Mapping[str, Any]:
    """What a JSON file holds; one that is missing, or no JSON, says nothing."""
    try:
        return read_json_object(path, expert=None)
    except PoolError:
        return {}
