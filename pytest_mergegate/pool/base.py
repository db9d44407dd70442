"""The base: the checkpoint that every expert was fine-tuned from."""

import math
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import read_json_object
from pytest_mergegate.pool.adapters import CONFIG as ADAPTER_CONFIG
from pytest_mergegate.pool.adapters import read_adapter_config
from pytest_mergegate.pool.changes import Change, Factors, Replacement
from pytest_mergegate.pool.checkpoints import read_checkpoint
from pytest_mergegate.pool.fingerprints import fingerprint, known_fingerprint
from pytest_mergegate.pool.loaded_names import LoadedNames, loaded_names
from pytest_mergegate.pool.references import Located, last_part
from pytest_mergegate.pool.tensors import StoredTensors
from pytest_mergegate.pool.threads import in_background

OUTPUT_LAYERS = ("lm_head", "cls.predictions.decoder")
"""What makes logits over the vocabulary, under today's names."""
OUTPUT_WEIGHTS = tuple(f"{layer}.weight" for layer in OUTPUT_LAYERS)
_EMBEDDINGS = (
    *("embed_tokens.weight", "wte.weight", "shared.weight", "word_embeddings.weight"),
    "embed_in.weight",
)
_UNTIED_BY_DEFAULT = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "phi", "phi3", "gpt_neox")
_TIED_BY_DEFAULT = ("gpt2", "opt", "bloom", "t5", "bart", "bert", "roberta", "gemma", "gemma2")
_BACKBONES = {name: f"{name}." for name in ("bert", "roberta", "distilbert")}
_BACKBONES |= {"gpt2": "transformer.", "opt": "model."}
"""Backbones whose checkpoints are also found without the prefix that a model with a head adds."""
_SAMPLE = 1 << 16
"""Numbers of a parameter that its norm is estimated from."""
_SIDE_FILES = {".json", ".model", ".txt", ".jinja", ".tiktoken", ".bpe", ".vocab"}


@dataclass(frozen=True, kw_only=True)
class Base:
    """The checkpoint that every expert was fine-tuned from."""

    reference: str
    located: Located
    config: Mapping[str, Any]
    architecture: str
    tensors: StoredTensors
    """Under the names that the loaded model gives its parameters."""
    origin: Path | None = None
    """The folder that this is a copy of, with another vocabulary."""
    loaded: LoadedNames | None = None
    """How transformers names and joins its tensors, where the files hold them otherwise."""
    called: str = "the base"
    """In messages: a finished merge is read like a base."""
    tokenizer: Path | None = None
    """Where its tokenizer lies, if not beside the weights."""

    @property
    def path(self) -> Path:
        """Its folder on this machine."""
        return self.located.path

    @property
    def model_type(self) -> str:
        """transformers' name of the architecture, such as ``gpt2``."""
        return str(self.config.get("model_type") or "")

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name that it is known by, also that under which it was saved."""
        saved_as = self.config.get("_name_or_path")
        known = (self.reference, str(self.path), self.located.repository, saved_as)
        return frozenset(last_part(name) for name in known if isinstance(name, str) and name)

    @property
    def fingerprint(self) -> str:
        """Over weights, configuration and tokenizer."""
        return self._hash.result()

    def start_hashing(self) -> None:
        """Have another thread work out the fingerprint."""
        _ = self._hash

    @cached_property
    def _hash(self) -> Future[str]:
        return in_background(fingerprint, self._files)

    @property
    def known_fingerprint(self) -> str | None:
        """The fingerprint; None where gigabytes would have to be read for it."""
        return known_fingerprint(self._files)

    @property
    def _files(self) -> set[Path]:
        return {*self.tensors.files, *side_files(self.path)}

    @cached_property
    def _norms(self) -> dict[str, float]:
        return {}

    def norm(self, parameter: str) -> float:
        """‖W‖ (Frobenius) of a parameter, estimated from a sample of its numbers."""
        if parameter not in self._norms:
            sample = self.tensors.sample(parameter, _SAMPLE).astype(np.float64)
            scale = math.sqrt(self.tensors[parameter].size / max(sample.size, 1))
            # np.linalg.norm would wake the threads of a BLAS, hundreds of times
            self._norms[parameter] = math.sqrt(float(np.square(sample).sum())) * scale
        return self._norms[parameter]

    @property
    def parameters(self) -> int:
        """Number of parameters stored."""
        return sum(header.size for header in self.tensors.values())

    @property
    def embedding(self) -> str | None:
        """Name of the input embedding's parameter."""
        return next((n for n in self.tensors if n.endswith(_EMBEDDINGS)), None)

    @property
    def ties_embeddings(self) -> bool:
        """Whether the output layer is the input embedding, by flag, else by what is stored."""
        flag = self.config.get("tie_word_embeddings")
        if isinstance(flag, bool):
            return flag
        if any(name in self.tensors for name in OUTPUT_WEIGHTS):
            return self.model_type in _TIED_BY_DEFAULT
        return self.model_type not in _UNTIED_BY_DEFAULT

    def is_embedding(self, name: str) -> bool:
        """Whether ``name`` is a parameter of the input embedding or of the output layer."""
        return name in (*OUTPUT_WEIGHTS, "lm_head.bias") or name.endswith(_EMBEDDINGS)

    def parameter(self, name: str) -> str:
        """The stored parameter behind ``name``: a tied output layer's is the embedding."""
        if name in OUTPUT_WEIGHTS and name not in self.tensors and self.ties_embeddings:
            return self.embedding or name
        return name

    def is_resized_by(self, change: Change) -> TypeGuard[Factors | Replacement]:
        """Whether a change of the embedding or the output layer is for another vocabulary."""
        header = self.tensors.get(change.parameter)
        if header is None or not isinstance(change, (Factors, Replacement)):
            return False
        if change.parameter != self.embedding and not change.parameter.endswith(OUTPUT_WEIGHTS):
            return False
        same_width = len(change.shape) == 2 and change.shape[1:] == header.shape[1:]
        return same_width and change.shape != header.shape

    def stores_transposed(self, parameter: str) -> bool:
        """Whether a square weight is stored as [inputs, outputs] (GPT-2's Conv1D)."""
        conv1d = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}
        names = {"c_attn", "c_proj", "c_fc", "q_attn"}
        return self.model_type in conv1d and parameter.split(".")[-2] in names


def side_files(folder: Path) -> list[Path]:
    """What lies beside a model's weights and says how it is run: configuration, tokenizer."""
    return sorted(p for p in folder.iterdir() if p.suffix in _SIDE_FILES and p.is_file())


def read_base(located: Located, reference: str, where: str, *, called: str = Base.called) -> Base:
    """Read the configuration and the tensor headers of the base, or of what is ``called``
    otherwise. Raises PoolError."""
    path, file = located.path, f"{located.path.name}/config.json"
    if not (path / "config.json").exists():
        raise _no_config(path, where, called)
    config = read_json_object(path / "config.json", expert=None, where=file)
    # transformers would load other weights than those read here
    if (path / ADAPTER_CONFIG).exists():
        raise PoolError(
            f"{called} {path.name}/ holds an {ADAPTER_CONFIG} beside its config.json, and "
            "transformers would load that adapter with it",
            where=path.name,
            fix="move the adapter to a folder of its own",
        )
    if (written := config.get("transformers_weights")) is not None:
        what = (
            f"config.json of {called} names its weights itself (transformers_weights: {written!r})"
        )
        fix = f"save {called} again with save_pretrained, under the usual names"
        raise PoolError(what, where=file, fix=fix)
    architectures = config.get("architectures") or [config.get("model_type")]
    if not isinstance(architectures, list) or not isinstance(architectures[0], str):
        what = f"config.json of {called} names neither architectures nor model_type"
        raise PoolError(what, where=file, fix=f"save {called} again with save_pretrained")
    model_type, stored = str(config.get("model_type") or ""), read_checkpoint(path)
    loaded = loaded_names(config, stored)
    named = _as_loaded(stored, architectures[0], model_type)
    return Base(
        reference=reference,
        located=located,
        config=config,
        architecture=architectures[0],
        tensors=loaded.as_loaded(stored) if loaded is not None else named,
        loaded=loaded,
        called=called,
    )


def _no_config(path: Path, where: str, called: str) -> PoolError:
    if not (path / ADAPTER_CONFIG).exists():
        what = f"{called} {path.name}/ has no config.json"
        fix = "name a folder that save_pretrained wrote"
        return PoolError(what, where=where, fix=fix)
    named = read_adapter_config(path, expert=None).get("base_model_name_or_path")
    return PoolError(
        f"{path.name}/ is an adapter, not a base",
        where=where,
        fix=f"write base: {named!s}, which it was trained on, and list the adapter among the "
        "experts",
    )


def _as_loaded(tensors: StoredTensors, architecture: str, model_type: str) -> StoredTensors:
    """The tensors under the model's names: with the prefix that a model with a head adds."""
    prefix = _BACKBONES.get(model_type, "")
    headless = architecture.endswith("Model") and not architecture.endswith("HeadModel")
    if headless or any(name.startswith(prefix) for name in tensors):
        return tensors

    def prefixed(name: str) -> str:
        head = name in OUTPUT_WEIGHTS or name.startswith(("classifier", "score"))
        return name if head else prefix + name

    return tensors.renamed(prefixed)
