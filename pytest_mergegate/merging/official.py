"""The official route: mergekit's own ``run_merge`` writes the merge, and it is read from there."""

import json
import math
import shutil
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.models.families import pick_family
from pytest_mergegate.engine.models.loading import load_module
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.merging import mergekit_process
from pytest_mergegate.merging.in_place import drawn, merge_parameter
from pytest_mergegate.merging.merge import Merged
from pytest_mergegate.merging.method import Method, linear_scales
from pytest_mergegate.pool.checkpoints import read_checkpoint
from pytest_mergegate.pool.experts import named_as

_SAMPLE = 16
"""Tensors that are merged again in place, to compare."""
_TOLERANCE = 1e-3
_TRIMMED_TOLERANCE = 0.05
"""Where round-off decides which entries at a threshold are kept."""


class OfficialWeights(Mapping[str, "Tensor"]):
    """The parameters of a merge that mergekit wrote, read when they are asked for, in the precision
    in which the model holds them. The folder goes with the object."""

    def __init__(self, folder: Path, merged: Path, engine: Engine) -> None:
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        base, module = engine.pool.base, engine.model.module
        self._dtypes = engine.model.dtypes
        named = named_as(base, read_checkpoint(merged))
        # a copy of the tied embedding, written out, is the embedding
        self._stored = named.renamed(lambda n: n if base.parameter(n) == n else None)
        self._loaded: dict[str, Tensor] = {}
        known = set(self._dtypes)
        if not known <= set(named) and known != set(base.tensors):
            # an architecture whose tensors transformers renames or fuses when it loads them
            kind, config = pick_family(module.config).kind, module.config
            read = load_module(merged, type(module), kind, dtype=module.dtype, config=config)
            self._loaded = {name: p.detach() for name, p in read.named_parameters()}
        found = self._loaded or self._stored
        _check_shapes({name: tuple(tensor.shape) for name, tensor in found.items()}, engine)
        self._names = sorted(known)

    def keep(self, names: set[str]) -> None:
        """Leave out all parameters but ``names``: the others are the base's."""
        self._names = [name for name in self._names if name in names]

    def __getitem__(self, name: str) -> Tensor:
        own = self._loaded.get(name)
        read = torch.from_numpy(self._stored.floats(name)) if own is None else own
        return read.to(self._dtypes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _check_shapes(found: Mapping[str, tuple[int, ...]], engine: Engine) -> None:
    sizes = {name: tuple(p.shape) for name, p in engine.model.parameters.items()}
    buffers = {name for name, _ in engine.model.module.named_buffers()}
    for name in sorted({*sizes, *found}):
        own, new = (
            "×".join(map(str, of[name])) if name in of else "absent" for of in (sizes, found)
        )
        if own != new and not (own == "absent" and name in buffers):
            raise GateError(
                f"the merge is of another architecture than the base: {name!r} is {new}, in the "
                f"base {own}",
                fix="merges that stack or drop layers, or change the vocabulary, cannot be gated",
            )


def merge_officially(method: Method, engine: Engine) -> Merged:
    """Have mergekit write the merge, and hold it against the arithmetic in place on a sample.

    Raises GateError where mergekit fails, where the result is of another architecture or not
    finite, and where it is not what the method stands for.
    """
    key = json.dumps(["official", method.plain], sort_keys=True)
    if key in engine.kept:
        kept: Merged = engine.kept[key]
        return kept
    weights, merged = run_officially(method, engine), Merged(method)
    experts, changed = set(engine.vectors.parameters()), set()
    for name, weight in weights.items():
        # what no expert changes may differ from the base's all the same
        own = engine.model.base_weight(name).to(weight.dtype)
        if name in experts or not torch.equal(weight.cpu(), own):
            changed.add(name)
            merged.note(name, weight)
    weights.keep(changed)
    merged.weights = weights
    if method.config is None:
        merged.fidelity = _difference(method, engine, weights)
    else:
        engine.kept[key] = merged  # its scales are measured on it, before it is run
    return merged


def run_officially(method: Method, engine: Engine) -> OfficialWeights:
    """What mergekit writes for ``method``; its folder is gone once nobody holds the result."""
    folder = mergekit_process.new_folder()
    try:
        merged = mergekit_process.run(method, engine.pool, folder)
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
    for parameter in drawn(engine.vectors.parameters(), _SAMPLE):
        deltas = [engine.vectors.delta(name, parameter) for name in names]
        own = engine.model.base_weight(parameter)
        flat = [torch.zeros(own.numel()) if d is None else d.flatten() for d in deltas]
        stacked = torch.stack(flat).to(torch.float64)
        moved = (weights[parameter].cpu() - own if parameter in weights else own * 0).flatten()
        gram += stacked @ stacked.T
        right += stacked @ moved.to(torch.float64)
    found = torch.linalg.pinv(gram, hermitian=True) @ right
    return dict(zip(names, found.tolist(), strict=True))


def _difference(method: Method, engine: Engine, weights: OfficialWeights) -> float | None:
    """‖official − in place‖ / ‖in place − θ₀‖ on a sample; None where the method draws at random.

    Raises GateError beyond the tolerance.
    """
    if method.traits.draws and method.parameters.get("density", 1.0) != 1:
        return None
    error, norm, rounding = 0.0, 0.0, 0.0
    epsilon = torch.finfo(engine.model.dtype).eps
    in_place = replace(method, route="in_place")
    for parameter in drawn(engine.vectors.parameters(), _SAMPLE):
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
        odd = [e for e in engine.pool.experts if e.is_adapter and e.kind != "lora"]
        kinds = ", ".join(f"{expert.name} ({expert.kind})" for expert in odd)
        raise GateError(
            f"{method.label}: broken merge: what mergekit wrote is off its own arithmetic by "
            f"{difference:.2%}",
            fix=f"mergekit merges plain LoRA adapters; use route: in_place for {kinds}"
            if odd
            else "use route: in_place, and report this with the versions of mergekit, PEFT and "
            "torch",
        )
    return difference
