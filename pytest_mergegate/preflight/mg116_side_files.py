"""MG116: chat template or generation settings that differ from the base's, and would be lost."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.json_files import read_json_object
from pytest_mergegate.common.files.regular_files import open_regular
from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.fingerprints import content_hash
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tokenizer_files import SETTINGS
from pytest_mergegate.preflight.told import grouped

_TEMPLATE, _GENERATION = "chat_template.jinja", "generation_config.json"
_PROVENANCE = {"transformers_version", "_from_model_config"}
_LIMIT = 1 << 20
_Told = dict[str, tuple[str, str]]


def find(pool: Pool) -> Iterable[Finding]:
    """A merge is saved with the base's files; what an expert was trained with may be others."""
    base = pool.base.path
    reader = _Reader()
    templates: _Told = {}
    settings: _Told = {}
    for expert in pool.experts:
        theirs = reader.template(expert.path)
        if theirs is not None and theirs != (ours := reader.template(base)):
            what = "the base has none" if ours is None else "it is not the base's"
            templates[expert.name] = (
                f"trained with a chat template of its own; {what}",
                "put that template beside the base, or gate the expert with its own apart",
            )
        generation = reader.generation(expert.path)
        if generation and (keys := _differing(generation, reader.generation(base))):
            settings[expert.name] = (
                f"{_GENERATION} differs from the base's in: {', '.join(keys)}",
                "decide which settings the merge is to ship with, and put them beside the base",
            )
    yield from grouped(pool, "warning", templates)
    yield from grouped(pool, "warning", settings)


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    keys = sorted({*theirs, *ours} - _PROVENANCE)
    odd = [shown(key, 40) for key in keys if theirs.get(key) != ours.get(key)]
    return odd[:5] if len(odd) <= 5 else [*odd[:4], f"{len(odd) - 4} more"]


class _Reader:
    """JSON side files, each content read once; one that is no JSON says nothing."""

    def __init__(self) -> None:
        self._objects: dict[str, Mapping[str, Any]] = {}

    def generation(self, folder: Path) -> Mapping[str, Any]:
        return self._object(folder / _GENERATION)

    def template(self, folder: Path) -> str | None:
        """The default chat template."""
        try:
            if (folder / _TEMPLATE).exists():
                with open_regular(folder / _TEMPLATE, expert=None) as file:
                    return file.read(_LIMIT).decode("utf-8", errors="replace").strip()
        except PoolError:
            return None
        template = self._object(folder / SETTINGS).get("chat_template")
        if isinstance(template, list):  # several, by name
            named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
            template = named[0].get("template") if named else None
        return template.strip() if isinstance(template, str) else None

    def _object(self, path: Path) -> Mapping[str, Any]:
        try:
            if not path.exists():
                return {}
            content = content_hash(path)
            if content not in self._objects:
                self._objects[content] = read_json_object(path, expert=None)
            return self._objects[content]
        except PoolError:
            return {}
