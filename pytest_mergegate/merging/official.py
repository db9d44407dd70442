"""The official route: mergekit's own ``run_merge`` writes the merge, and it is read from there."""

from __future__ import annotations

import json
import math
import random
import shutil
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.models.families import pick_family
from pytest_mergegate.engine.models.loading import load_module
from pytest_mergegate.merging import mergekit_process
from pytest_mergegate.merging.in_place import merge_parameter
from pytest_mergegate.merging.linked_models import LinkedModels
from pytest_mergegate.merging.merge import Merged
from pytest_mergegate.merging.mergekit_config import check_layers, check_tokenizer, configuration
from pytest_mergegate.merging.method import linear_scales
from pytest_mergegate.pool.checkpoints import named_as, read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.merging.method import Method

_SAMPLE = 16
"""Tensors that are merged again in place, to compare."""
_TOLERANCE = 1e-3
_TRIMMED_TOLERANCE = 0.05
"""Where round-off decides which entries at a threshold are kept."""
_DRAWING = ("dare_", "della")


class OfficialWeights(Mapping[str, "Tensor"]):
    """The parameters of a merge that mergekit wrote, read when they are asked for, in the precision
    in which the model holds them. The folder goes with the object."""

    def __init__(self, folder: Path, merged: Path, engine: Engine) -> None:
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.folder = merged
        """What mergekit wrote."""
        base = engine.pool.base
        named = named_as(base, read_checkpoint(merged))
        own = set(named)
        # a copy of the tied embedding, written out, is the embedding
        self._stored = named.renamed(lambda n: n if base.parameter(n) == n else None)
        self._loaded: dict[str, Tensor] = {}
        self._dtypes = {name: p.dtype for name, p in engine.model.parameters.items()}
        known = set(engine.model.parameters)
        if not known <= own and known != set(base.tensors):
            self._load(engine)
        self._check_shapes(engine)
        self._names = tuple(sorted(known))

    def _load(self, engine: Engine) -> None:
        """For architectures whose tensors transformers renames or fuses when it loads them."""
        module = engine.model.module
        family = pick_family(module.config)
        loaded = load_module(
            self.folder, type(module), family.kind, dtype=module.dtype, config=module.config
        )
        self._loaded = {name: p.detach() for name, p in loaded.named_parameters()}

    def _check_shapes(self, engine: Engine) -> None:
        sizes = {name: tuple(p.shape) for name, p in engine.model.parameters.items()}
        stored = {name: header.shape for name, header in self._stored.items()}
        found = {n: tuple(t.shape) for n, t in self._loaded.items()} or stored
        odd = sorted(n for n in {*sizes, *found} if sizes.get(n) != found.get(n))
        odd = [n for n in odd if n in sizes or not _is_buffer(n, engine)]
        if odd:
            raise GateError(
                f"the merge is of another architecture than the base: {odd[0]!r} is "
                f"{_shape(found.get(odd[0]))}, in the base {_shape(sizes.get(odd[0]))}",
                fix="merges that stack or drop layers, or change the vocabulary, cannot be gated",
            )

    def keep(self, names: set[str]) -> None:
        """Leave out all parameters but ``names``: the others are the base's."""
        self._names = tuple(name for name in self._names if name in names)

    def __getitem__(self, name: str) -> Tensor:
        if name in self._loaded:
            return self._loaded[name].to(self._dtypes[name])
        return torch.from_numpy(self._stored.floats(name)).to(self._dtypes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class OfficialMerge(Merged):
    """A merge that mergekit wrote, held against the arithmetic in place on a sample."""

    def __init__(self, method: Method, engine: Engine) -> None:
        """Raises GateError where mergekit fails, where the result is of another architecture or
        not finite, and where it is not what the method stands for."""
        self._digests = {}
        weights = run_officially(method, engine)
        weights.keep(self._changed(method, engine, weights))
        self.fidelity = None if method.config is not None else _check(method, engine, weights)
        self.weights = weights

    def _changed(self, method: Method, engine: Engine, weights: OfficialWeights) -> set[str]:
        """Parameters that the experts change, or that differ from the base's all the same."""
        experts = set(engine.vectors.parameters())
        changed = set()
        for name in weights:
            merged = weights[name].cpu()
            if not bool(torch.isfinite(merged).all()):
                raise GateError(f"{method.label} gives NaN or infinity in {name!r}")
            own = engine.model.base_weight(name).to(merged.dtype)
            if name in experts or not torch.equal(merged, own):
                changed.add(name)
                self._note(name, merged)
        return changed


def merge_officially(method: Method, engine: Engine) -> OfficialMerge:
    """Have mergekit write the merge. Raises GateError."""
    key = json.dumps(["official", method.plain], sort_keys=True)
    if key not in engine.kept:
        merged = OfficialMerge(method, engine)
        if method.config is None:
            return merged
        engine.kept[key] = merged  # its scales are measured on it, before it is run
    kept: OfficialMerge = engine.kept[key]
    return kept


def run_officially(method: Method, engine: Engine) -> OfficialWeights:
    """What mergekit writes for ``method``; its folder is gone once nobody holds the result."""
    pool = engine.pool
    check_layers(method, pool)
    folder = mergekit_process.new_folder()
    try:
        models = LinkedModels(pool, folder / "models")
        merged = mergekit_process.run(
            configuration(method, pool, models),
            folder,
            seed=method.seed,
            lora_dtype=None if method.config is not None else pool.spec.dtype,
            trust=pool.spec.trust_remote_code,
            called=models.called,
        )
        shutil.rmtree(folder / "models")
        check_tokenizer(method, pool, merged)
        return OfficialWeights(folder, merged, engine)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def official_scales(method: Method, engine: Engine) -> dict[str, float]:
    """λ_j by least squares: mergekit's merge of a configuration, on the experts' task vectors.

    Its weights may be any, so every expert has a scale of its own.
    """
    weights = merge_officially(method, engine).weights
    names = engine.vectors.names
    gram = torch.zeros(len(names), len(names), dtype=torch.float64)
    right = torch.zeros(len(names), dtype=torch.float64)
    for parameter in _sample(engine.vectors.parameters()):
        deltas = [engine.vectors.delta(name, parameter) for name in names]
        own = engine.model.base_weight(parameter)
        flat = [torch.zeros(own.numel()) if d is None else d.flatten() for d in deltas]
        stacked = torch.stack(flat).to(torch.float64)
        moved = (weights[parameter].cpu() - own if parameter in weights else own * 0).flatten()
        gram += stacked @ stacked.T
        right += stacked @ moved.to(torch.float64)
    found = torch.linalg.pinv(gram, hermitian=True) @ right
    return dict(zip(names, found.tolist(), strict=True))


def _check(method: Method, engine: Engine, weights: OfficialWeights) -> float | None:
    """‖official − in place‖ / ‖in place − θ₀‖ on a sample; None where the method draws at random.

    Raises GateError beyond the tolerance.
    """
    if method.name.startswith(_DRAWING) and method.parameters.get("density", 1.0) != 1:
        return None
    error, norm, rounding = 0.0, 0.0, 0.0
    epsilon = torch.finfo(engine.model.module.dtype).eps
    in_place = replace(method, route="in_place")
    for parameter in _sample(engine.vectors.parameters()):
        expected = merge_parameter(in_place, engine, parameter).cpu().double()
        error += float((weights[parameter].cpu().to(torch.float64) - expected).square().sum())
        norm += float((expected - engine.model.base_weight(parameter)).square().sum())
        rounding += float((expected * epsilon).square().sum())
    if norm == 0:
        return None
    difference = math.sqrt(error / norm)
    smooth = linear_scales(method) is not None
    allowed = (_TOLERANCE if smooth else _TRIMMED_TOLERANCE) + math.sqrt(rounding / norm)
    if not difference <= allowed:
        raise GateError(
            f"{method.label}: broken merge: what mergekit wrote is off its own arithmetic by "
            f"{difference:.2%}",
            fix=_advice(engine),
        )
    return difference


def _advice(engine: Engine) -> str:
    odd = [e for e in engine.pool.experts if e.is_adapter and e.kind != "lora"]
    if odd:
        kinds = ", ".join(f"{expert.name} ({expert.kind})" for expert in odd)
        return f"mergekit merges plain LoRA adapters; use route: in_place for {kinds}"
    return "use route: in_place, and report this with the versions of mergekit, PEFT and torch"


def _sample(parameters: list[str]) -> list[str]:
    # drawn, not every n-th: that would be the same module of every layer
    return random.Random(0).sample(parameters, min(_SAMPLE, len(parameters)))


def _is_buffer(name: str, engine: Engine) -> bool:
    return name in dict(engine.model.module.named_buffers())


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "×".join(map(str, shape))
