"""Adapters whose tensors were renamed on the way: read where exactly one reading fits them all."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.adapters import PREFIX, WRAPPED
from pytest_mergegate.pool.base import OUTPUT_LAYERS, Base
from pytest_mergegate.pool.tensors import StoredTensors

Rename = Callable[[str], str | None]
"""Another name for a tensor; None where the rule does not apply to it."""
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\."
)
"""What torch.compile, DDP, FSDP and activation checkpointing put into the names of modules."""
_INFIX = re.compile(
    r"\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|ia3_l|"
    r"hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2|vera_lambda_[bd]|oft_[rR])"
    r"\.(?P<adapter>(?!weight\b|bias\b)\w+)(?=\.|$)"
)
"""A tensor of an adapter under the name that it has in a model, with the adapter's own in it."""
_HEADS = tuple(f"{layer}." for layer in OUTPUT_LAYERS)
_FACTOR = re.compile(r"(?P<module>.+?)(\.base_layer)*\.lora_[AB]\.weight")


@dataclass(frozen=True, kw_only=True)
class Repair:
    """How an adapter's tensors are read, and what was wrong with their names."""

    tensors: StoredTensors
    told: str
    """What was undone, in words, with the first name as it is stored and as it is read."""


def as_loaded(tensors: StoredTensors, base: Base) -> StoredTensors:
    """An adapter's tensors under the names that PEFT loads them under: of some architectures the
    modules moved since it was saved."""
    return tensors if base.loaded is None else tensors.renamed(_Fitting(base).as_loaded)


def repaired(tensors: StoredTensors, base: Base) -> Repair | None:
    """The tensors under names that fit ``base``; None where they fit as PEFT reads them, or where
    no reading, or more than one, fits every one of them."""
    fitting = _Fitting(base)
    if not tensors or fitting.fits_all(tensors):
        return None
    found: dict[tuple[str, ...], tuple[str, dict[str, str]]] = {}
    for told, rename in _readings(tensors):
        names = {key: rename(key) for key in tensors}
        read = {key: name for key, name in names.items() if name is not None}
        if len(read) == len(tensors) == len({*read.values()}) and fitting.fits_all(read.values()):
            found.setdefault(tuple(read.values()), (told, read))
    if len(found) != 1:
        return None
    ((told, read),) = found.values()
    first = next(key for key, name in read.items() if key != name)
    said = f"{told}: {shown(first)!r} is read as {shown(read[first])!r}"
    return Repair(tensors=tensors.renamed(read.get), told=said)


def _readings(tensors: StoredTensors) -> Iterator[tuple[str, Rename]]:
    """Each way in which names may have been changed, alone and after those that PEFT never
    writes were left out."""
    adapters = {match["adapter"] for key in tensors if (match := _INFIX.search(key))}
    infix = adapters.pop() if len(adapters) == 1 else None

    there = {_WRAPPERS.sub("", key) for key in tensors}

    def plain(key: str) -> str:
        key = _WRAPPERS.sub("", key)
        whole = WRAPPED.sub(".", key)
        # PEFT stores a resized module under both names
        key = key if whole in there else whole
        found = _INFIX.search(key)
        if infix is None or found is None:
            return key
        return key[: found.end("part")] + key[found.end("adapter") :]

    left_out = [f"{name!r}" for name in sorted({m for k in tensors for m in _WRAPPERS.findall(k)})]
    left_out += [f"'.{infix}.', the adapter's own name,"] if infix else []
    also = f"with {' and '.join(left_out)} left out" if left_out else ""

    def inside(key: str) -> str:
        rest = key.removeprefix(PREFIX)
        head = rest.removeprefix("base_model.")  # which stands beside the model
        return PREFIX + head if head.startswith(_HEADS) else f"{PREFIX}model.{rest}"

    edits: list[tuple[str, Rename]] = [
        ("", lambda key: key if key.startswith(PREFIX) else None),
        (
            f"without {PREFIX!r}",
            lambda key: None if key.startswith("base_model.") else PREFIX + key,
        ),
        (f"with {PREFIX!r} twice", _without(PREFIX, PREFIX)),
        ("with a doubled 'model.'", _without(PREFIX, "model.")),
        ("without the model's own 'model.'", inside),
        ("with 'base_model.' for its prefix", _instead("base_model.")),
        ("with 'model.' for its prefix", _instead("model.")),
    ]
    for told, edit in edits:
        said = "tensors are named " + (f"{told}, {also}" if told and also else told or also)
        yield said, _after(plain, edit)


def _after(plain: Callable[[str], str], edit: Rename) -> Rename:
    return lambda key: edit(plain(key))


def _without(before: str, doubled: str) -> Rename:
    def rename(key: str) -> str | None:
        rest = key.removeprefix(before)
        if rest == key or not rest.startswith(doubled):
            return None
        return before + rest.removeprefix(doubled)

    return rename


def _instead(prefix: str) -> Rename:
    def rename(key: str) -> str | None:
        if key.startswith(PREFIX) or not key.startswith(prefix):
            return None
        return PREFIX + key.removeprefix(prefix)

    return rename


class _Fitting:
    """Whether names are PEFT's, of modules or parameters of a base."""

    def __init__(self, base: Base) -> None:
        self._base = base
        stacks = [name for name, header in base.tensors.items() if len(header.shape) == 3]
        self._stacks = {name.rpartition(".")[0] for name in stacks}
        self._parts = base.tensors.places() if base.loaded is not None else {}

    def fits_all(self, names: Iterable[str]) -> bool:
        """Whether every name is one."""
        return all(map(self.fits, names))

    def fits(self, name: str) -> bool:
        """Whether a name is one."""
        if not name.startswith(PREFIX) or _INFIX.search(name) or _WRAPPERS.search(name):
            return False
        whole = WRAPPED.sub(".", name.removeprefix(PREFIX))
        factor = _FACTOR.fullmatch(whole)
        module = factor["module"] if factor else ""
        if module in self._stacks or f"{module}.weight" in self._parts:
            return True
        parts = whole.split(".")
        owners = [whole, *(f"{'.'.join(parts[:n])}.weight" for n in range(len(parts) - 1, 0, -1))]
        return any(self._base.parameter(owner) in self._base.tensors for owner in owners)

    def as_loaded(self, name: str) -> str:
        """The name that PEFT itself loads it under, where transformers moved modules."""
        loaded = self._base.loaded
        if loaded is None or not name.startswith(PREFIX) or self.fits(name):
            return name
        moved = PREFIX + loaded.rename(name.removeprefix(PREFIX))
        return moved if self.fits(moved) else name
