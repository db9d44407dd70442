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
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_mergegate.pool.experts import Expert
    from pytest_mergegate.pool.pool import Pool

BASE = "base"
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
        self._pool, self._folder = pool, folder
        self._unique = uuid.uuid4().hex
        self._code = sorted(pool.base.path.glob("*.py")) if pool.spec.trust_remote_code else []
        self.called: dict[str, str] = {}
        """What messages call each linked folder."""
        self.base = self._link_base()
        self.called[self.base] = "the base"
        self.experts = {
            expert.name: self._reference(f"expert{index}", expert)
            for index, expert in enumerate(pool.experts)
        }
        """mergekit's references, by expert."""

    def _reference(self, name: str, expert: Expert) -> str:
        folder = self._new(name)
        if expert.is_adapter:
            _link([expert.path / WEIGHTS], folder)
            write_plain_configuration(expert, folder)
        else:
            self._link_checkpoint(expert, folder)
        self.called[str(folder)] = expert.name
        return f"{self.base}+{folder}" if expert.is_adapter else str(folder)

    def _new(self, name: str) -> Path:
        folder = self._folder / f"{name}-{self._unique}"
        folder.mkdir(parents=True)
        return folder

    def _link_base(self) -> str:
        folder, base = self._new(BASE), self._pool.base
        read = (f for f in base.path.iterdir() if f.suffix in _READ and f.name != _SETTINGS)
        _link([*read, *self._code], folder)
        _write(folder / _SETTINGS, self._settings)
        return str(folder)

    @property
    def _settings(self) -> dict[str, Any]:
        """The base's ``config.json``, which names code only where the gate trusts it."""
        return without_hooks(self._pool.base.config, code=self._pool.spec.trust_remote_code)

    def _link_checkpoint(self, expert: Expert, folder: Path) -> None:
        shards = {file for file in expert.tensors.files if file.parent == expert.path}
        index = expert.path / "model.safetensors.index.json"
        _link([*shards, index, *(expert.path / name for name in _OF_EXPERTS)], folder)
        own = {
            key: expert.config[key]
            for key, kind in _OWN_SIZES.items()
            if type(expert.config.get(key)) is kind
        }
        _write(folder / _SETTINGS, {**self._settings, **own})
        _link(self._code, folder)  # the base's, which its configuration may ask for
        if (expert.path / _TOKENIZER).is_file():
            where = f"{expert.path.name}/{_TOKENIZER}"
            given = read_json_object(expert.path / _TOKENIZER, expert=expert.name, where=where)
            _write(folder / _TOKENIZER, without_hooks(given, code=False))


def _link(files: Iterable[Path], folder: Path) -> None:
    for file in files:
        if file.is_file():
            (folder / file.name).symlink_to(file.resolve())


def _write(file: Path, settings: dict[str, Any]) -> None:
    file.write_text(json.dumps(settings), encoding="utf-8")
