"""A pool's models in a folder of their own, for mergekit: weights linked, settings written anew.

mergekit hands ``trust_remote_code`` to every model that it reads. Only the base may bring code, so
an expert's folder holds none, and no setting of an expert's that would name some.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.files.json_files import read_json_object
from pytest_mergegate.engine.models.plain_models import without_hooks
from pytest_mergegate.engine.weights.plain_adapters import write_plain_configuration
from pytest_mergegate.pool.adapters import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pytest_mergegate.pool.experts import Expert
    from pytest_mergegate.pool.pool import Pool

_SETTINGS = "config.json"
_READ = {".safetensors", ".json", ".model", ".txt", ".jinja", ".tiktoken", ".vocab"}
"""Of the base: nothing that is unpickled, and no code unless the gate trusts it."""
_TOKENIZER = "tokenizer_config.json"
_OF_EXPERTS = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "spiece.model", "chat_template.jinja"),
)
_OWN_SIZES = {"tie_word_embeddings": bool, "vocab_size": int}
"""In what a checkpoint of the base's architecture may differ from the base."""


class LinkedModels:
    """The pool's models in ``folder``, under paths that mergekit can read.

    It takes '+' and '@' in a path for its own syntax, and looks relative ones up on the hub. The
    names are new every time, as its caches go by the path.
    """

    def __init__(self, pool: Pool, folder: Path) -> None:
        self._folder, self._unique = folder, uuid.uuid4().hex
        trust, base = pool.spec.trust_remote_code, pool.base
        self._code = sorted(base.path.glob("*.py")) if trust else []
        self._settings = without_hooks(base.config, code=trust)
        self.called: dict[str, str] = {}
        """What messages call each linked folder."""
        read = (f for f in base.path.iterdir() if f.suffix in _READ and f.name != _SETTINGS)
        own = self._new("base", "the base", [*read, *self._code])
        _write(own / _SETTINGS, self._settings)
        self.base = str(own)
        self.experts = {
            e.name: self._reference(f"expert{k}", e) for k, e in enumerate(pool.experts)
        }
        """mergekit's references, by expert."""

    def _new(self, name: str, called: str, files: Iterable[Path]) -> Path:
        folder = self._folder / f"{name}-{self._unique}"
        folder.mkdir(parents=True)
        for file in files:
            if file.is_file():
                (folder / file.name).symlink_to(file.resolve())
        self.called[str(folder)] = called
        return folder

    def _reference(self, name: str, expert: Expert) -> str:
        if expert.is_adapter:
            folder = self._new(name, expert.name, [expert.path / WEIGHTS])
            write_plain_configuration(expert, folder)
            return f"{self.base}+{folder}"
        shards = {file for file in expert.tensors.files if file.parent == expert.path}
        beside = (expert.path / name for name in ("model.safetensors.index.json", *_OF_EXPERTS))
        # the code is the base's, which its configuration may ask for
        folder = self._new(name, expert.name, [*shards, *beside, *self._code])
        sizes = {k: v for k, v in expert.config.items() if type(v) is _OWN_SIZES.get(k)}
        _write(folder / _SETTINGS, {**self._settings, **sizes})
        if (expert.path / _TOKENIZER).is_file():
            where = f"{expert.path.name}/{_TOKENIZER}"
            given = read_json_object(expert.path / _TOKENIZER, expert=expert.name, where=where)
            _write(folder / _TOKENIZER, without_hooks(given, code=False))
        return str(folder)


def _write(file: Path, settings: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(settings), encoding="utf-8")
