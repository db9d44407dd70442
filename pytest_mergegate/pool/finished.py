"""A merge that was made elsewhere and is there to be gated: what its folder holds."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.common.wording import FINISHED
from pytest_mergegate.pool.adapters import CONFIG as ADAPTER_CONFIG
from pytest_mergegate.pool.base import Base, read_base, side_files
from pytest_mergegate.pool.experts import Expert, named_as, read_expert
from pytest_mergegate.pool.fingerprints import fingerprint
from pytest_mergegate.pool.references import Located
from pytest_mergegate.pool.tensor_readers import FloatArray
from pytest_mergegate.pool.tensors import StoredTensors

CALLED: Final = "the finished merge"
TOKENIZERS: Final = (
    *("tokenizer.json", "vocab.json", "vocab.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
"""Files of which a tokenizer has one."""
_SAMPLE = 1 << 12
"""Numbers by which two tensors mostly differ already."""
_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class FinishedMerge:
    """A folder that transformers loads: a whole model, or an adapter on the gate's base."""

    reference: str
    located: Located
    model: Base
    """What is loaded: the folder's own model, or the gate's base under the adapter."""
    adapter: Expert | None
    """None for a whole model."""
    tensors: StoredTensors | None
    """Those of a whole model under the names of the base's, one for one; None for an adapter, and
    for a model that is made or stored otherwise."""

    @property
    def path(self) -> Path:
        """Its folder on this machine."""
        return self.located.path

    @property
    def kind(self) -> str:
        """``full``, or the kind of adapter."""
        return "full" if self.adapter is None else self.adapter.kind

    @cached_property
    def fingerprint(self) -> str:
        """Over all that it answers by: weights, configuration and tokenizer."""
        tensors = self.model.tensors if self.adapter is None else self.adapter.tensors
        return fingerprint({*tensors.files, *side_files(self.path)})

    def check_unchanged(self) -> None:
        """Raise PoolError where its weights were written to since their headers were read."""
        (self.model if self.adapter is None else self.adapter).tensors.check_unchanged()

    @property
    def architecture(self) -> str:
        """The class that its configuration names."""
        return self.model.architecture

    @property
    def dtype(self) -> str:
        """In which it computes: as its configuration says, which transformers goes by, else as
        most of its numbers are stored."""
        named = self.model.config.get("dtype") or self.model.config.get("torch_dtype")
        if named in _TYPES.values():
            return str(named)
        sizes: Counter[str] = Counter()
        for header in self.model.tensors.values():
            sizes[_TYPES.get(header.dtype, "float32")] += header.size
        return sizes.most_common(1)[0][0] if sizes else "float32"

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer through which it is asked."""
        return self.model.tokenizer or self.path

    @property
    def has_tokenizer(self) -> bool:
        """Whether its folder has one of its own."""
        return has_tokenizer(self.path)

    def holds_base_weight(self, base: Base, name: str) -> bool:
        """Whether tensor ``name`` is the base's, except for the precision in which it is stored."""
        tensors = self.tensors
        if tensors is None or not (tensors.is_float(name) and base.tensors.is_float(name)):
            return False
        if tensors[name].shape != base.tensors[name].shape:
            return False
        dtype = tensors[name].dtype
        samples = base.tensors.sample(name, _SAMPLE), tensors.sample(name, _SAMPLE)
        if not np.array_equal(rounded(samples[0], dtype), samples[1]):
            return False
        blocks = zip(base.tensors.blocks(name), tensors.blocks(name), strict=True)
        return all(np.array_equal(rounded(own, dtype), other) for own, other in blocks)


def rounded(numbers: FloatArray, dtype: str) -> FloatArray:
    """``numbers`` to the nearest that safetensors' ``dtype`` has, ties to even."""
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return numbers.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        bits = numbers.view(np.uint32)
        kept = bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))
        return (kept & np.uint32(0xFFFF0000)).view(np.float32)
    return numbers


def has_tokenizer(folder: Path) -> bool:
    """Whether there is a tokenizer in ``folder``."""
    return any((folder / name).exists() for name in TOKENIZERS)


def read_finished(
    located: Located, reference: str, where: str, base: Base, named: Mapping[str, Located]
) -> FinishedMerge:
    """Read the configuration and the tensor headers of a finished merge.

    Without a tokenizer of its own it is asked through that of the only expert that has one, else
    the base's. Raises PoolError, also for the folder of the base or of an expert, which are
    ``named`` in words, and no merge: held against itself one would pass.
    """
    path = located.path
    for whose, other in named.items():
        if path == other.path:
            raise PoolError(
                f"merged: {shown(reference)} is the folder of {whose}",
                code="MG131",
                where=where,
                fix="name the folder to which the merge, or the export, was written",
            )
    adapter = None
    if (path / ADAPTER_CONFIG).exists() and not (path / "config.json").exists():
        adapter = read_expert(located, base, name=FINISHED, reference=reference, where=where)
        model = replace(base, called=CALLED)
    else:
        model = read_base(located, reference, where, called=CALLED)
    if has_tokenizer(path):
        tokenizer = path
    else:
        places = {place.path for whose, place in named.items() if whose != base.called}
        own = [place for place in places if has_tokenizer(place)]
        tokenizer = own[0] if len(own) == 1 else base.path
    return FinishedMerge(
        reference=reference,
        located=located,
        model=replace(model, tokenizer=tokenizer),
        adapter=adapter,
        tensors=None if adapter is not None else _as_base(model, base),
    )


def _as_base(model: Base, base: Base) -> StoredTensors | None:
    """The tensors under the base's names, where it is the same architecture in the same numbers."""
    ours, theirs = model.config, base.config
    if model.architecture != base.architecture or "quantization_config" in ours:
        return None
    if ours.get("num_hidden_layers") != theirs.get("num_hidden_layers"):
        return None
    tensors = named_as(base, model.tensors)
    # of a model that is stored under other names, nothing is missing
    shared = sum(name in tensors for name in base.tensors)
    return tensors if 2 * shared > len(base.tensors) else None
