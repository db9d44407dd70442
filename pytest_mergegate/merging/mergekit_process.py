"""A run of mergekit: its configuration, the pool's models where it can read them, its process.

mergekit hands ``trust_remote_code`` to every model that it reads. Only the base may bring code, so
an expert's folder holds none, and no setting of an expert's that would name some.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files.reading import read_json_object
from pytest_mergegate.common.machine import thread_count
from pytest_mergegate.engine.weights.adapters import stored_state, write_plain_configuration
from pytest_mergegate.merging import run_mergekit
from pytest_mergegate.merging.method import Method
from pytest_mergegate.pool.adapters import WEIGHTS
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.hooks import without_hooks
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


def configuration(
    method: Method, experts: Mapping[str, str], base: str, dtype: str
) -> dict[str, Any]:
    """The mergekit configuration that ``method`` stands for.

    ``experts`` are mergekit's references by name, in the order of the merge. Raises GateError for
    a method that mergekit does not have.
    """
    if method.traits.own:
        raise GateError(f"mergekit has no merge method {method.name!r}")
    if method.config is not None:
        filled: dict[str, Any] = _filled(method.config, base, experts)
        return filled
    inputs: list[dict[str, Any]] = [{"model": reference} for reference in experts.values()]
    if method.takes_weights:
        for entry, name in zip(inputs, experts, strict=True):
            entry["parameters"] = {"weight": float(method.weights[name])}
    config: dict[str, Any] = {"merge_method": method.name, "models": inputs}
    if method.takes_base:
        config["base_model"] = base
    elif method.traits.base == "expert":
        config["base_model"] = inputs[0]["model"]
    shared = {k: v for k, v in method.mergekit_parameters.items() if k != "weight"}
    return {**config, **({"parameters": shared} if shared else {}), "dtype": dtype}


def _filled(part: Any, base: str, experts: Mapping[str, str]) -> Any:
    """``part`` with ``{"expert": NAME}`` replaced by its reference, NAME None by the base's."""
    if isinstance(part, dict):
        if set(part) == {"expert"}:
            return base if part["expert"] is None else experts[part["expert"]]
        return {key: _filled(value, base, experts) for key, value in part.items()}
    return [_filled(value, base, experts) for value in part] if isinstance(part, list) else part


def _check_layers(method: Method, pool: Pool) -> None:
    """Raise GateError for a configuration whose slices do not add up to the base's layers."""
    slices = (method.config or {}).get("slices")
    layers = pool.base.config.get("num_hidden_layers")
    if not slices or not isinstance(layers, int):
        return
    ranges = [part["sources"][0]["layer_range"] for part in slices]
    stacked = sum(end - first for first, end in ranges)
    if stacked != layers:
        raise GateError(
            f"the slices add up to {stacked} layers, the base has {layers}; merges that stack or "
            "drop layers cannot be gated yet",
            fix="gate the merge of whole models, before layers are stacked",
        )


def _check_tokenizer(method: Method, pool: Pool, merged: Path) -> None:
    """Raise GateError where a configuration gave the merge another vocabulary than the base's."""
    config = method.config or {}
    if not (config.get("tokenizer_source") or config.get("tokenizer")):
        return
    own, new = (_vocabulary(folder / "tokenizer.json") for folder in (pool.base.path, merged))
    if own is None or new is None or own != new:
        raise GateError(
            "the configuration gives the merge another vocabulary than the base's, which cannot "
            "be gated yet",
            fix="leave tokenizer and tokenizer_source out where all models share one vocabulary",
        )


def _vocabulary(file: Path) -> dict[str, int] | None:
    """Tokens and their ids; None where the file tells of none."""
    from transformers import PreTrainedTokenizerFast

    try:
        vocabulary: dict[str, int] = PreTrainedTokenizerFast(tokenizer_file=str(file)).get_vocab()
    except Exception:  # tokenizers raises nothing more specific
        return None
    return vocabulary


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
            as_stored = [] if expert.tensors.stored_names else [expert.path / WEIGHTS]
            folder = self._new(name, expert.name, as_stored)
            if not as_stored:
                save_file(stored_state(expert), folder / WEIGHTS)
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


def run(method: Method, pool: Pool, work: Path) -> Path:
    """Have mergekit merge the pool; returns the folder that it wrote, in ``work``.

    Raises GateError with mergekit's own last words, paths in them as messages call the models, and
    for a configuration that makes another architecture or vocabulary of it.
    """
    _check_layers(method, pool)
    models = LinkedModels(pool, work / "models")
    experts = {name: models.experts[name] for name in method.in_order(pool.names)}
    config = configuration(method, experts, models.base, pool.spec.dtype)
    out, job, lora, away = (work / name for name in ("merged", "job.json", "lora", "away"))
    options = {
        "quiet": True,
        "random_seed": method.seed,
        "write_model_card": False,
        "copy_tokenizer": True,
        "lora_merge_cache": str(lora),
        "lora_merge_dtype": None if method.config is not None else pool.spec.dtype,
        "trust_remote_code": pool.spec.trust_remote_code,
    }
    text = json.dumps({"config": config, "out": str(out), "options": options})
    job.write_text(text, encoding="utf-8")
    away.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", run_mergekit.__file__, str(job)],
        # mergekit picks its donor from a set
        env={
            **os.environ,
            "PYTHONHASHSEED": "0",
            "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": str(thread_count()),
        },
        cwd=away,  # no module, and no library's settings, from where the gate was started
        capture_output=True,
        check=False,
        text=True,
        errors="replace",
    )
    for folder in (lora, away, work / "models"):
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode != 0:
        fix = "check the method's settings, and whether mergekit knows this architecture"
        reason = next(filter(None, map(str.strip, reversed(done.stderr.splitlines()))), None)
        if done.returncode < 0:
            reason, fix = f"killed by signal {-done.returncode}", "give it more memory"
        for path, name in models.called.items():
            reason = reason and reason.replace(path, name)
        raise GateError(
            f"mergekit's own run of {config['merge_method']} failed "
            f"({reason or f'exit code {done.returncode}'})",
            fix=fix,
        )
    _check_tokenizer(method, pool, out)
    return out


def new_folder() -> Path:
    """A temporary folder whose path mergekit can read. Raises GateError."""
    folder = Path(tempfile.mkdtemp(prefix="mergegate-")).resolve()
    if {"+", "@"} & {*str(folder)}:
        folder.rmdir()
        raise GateError(
            f"mergekit cannot read the temporary folder {folder.parent}: it takes '+' and '@' in "
            "paths for its own syntax",
            fix="set TMPDIR to a folder without them",
        )
    return folder
