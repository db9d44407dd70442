"""The route of PEFT: its ``add_weighted_adapter`` makes one adapter of the pool's, which is saved,
read back, and is the merge. What it does wrong is judged like anything else.
"""

import json
import math
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from pytest_mergegate.common.errors import GateError, PoolError, first_line
from pytest_mergegate.engine.models.families import pick_family
from pytest_mergegate.engine.models.loading import load_config, load_module, quiet
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.engine.weights.adapters import (
    plain_configuration,
    put_state,
    stored_state,
    task_type_of,
)
from pytest_mergegate.engine.weights.mixing import MixedWeights, PlacedWeights
from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.gate.merge_methods import PEFT
from pytest_mergegate.merging.drawing import seeded
from pytest_mergegate.merging.in_place import drawn
from pytest_mergegate.merging.merge import Merged
from pytest_mergegate.merging.method import Method
from pytest_mergegate.pool.experts import Expert, read_expert
from pytest_mergegate.pool.references import Located

_MERGED = "merged"
_SAMPLE = 16
"""Parameters that are held against the sum of task vectors."""
_TOLERANCE = 1e-5
"""Of a reloaded adapter's change, beside the round-off of its sum with the base."""


class MergedAdapter(Merged):
    """A merge that is an adapter."""

    def __init__(self, method: Method, engine: Engine, folder: Path) -> None:
        super().__init__(method)
        self.folder = folder
        """Where it lies, as PEFT saved it."""
        base, where = engine.pool.base, f"the adapter that {method.label} made"
        located = Located(path=folder.resolve())
        self.adapter = read_expert(located, base, name=_MERGED, reference=where, where=where)
        alone = TaskVectors(replace(engine.pool, experts=(self.adapter,)))
        names = alone.parameters()
        engine.model.check_parameters(names)
        mixed = MixedWeights(names, engine.model, alone, {_MERGED: 1.0})

        def put(parameter: str, place: Tensor) -> None:
            mixed.put(parameter, place)
            self.note(parameter, place)

        self.vectors = alone
        self.weights = PlacedWeights(names, engine.model, put)


def merge_by_peft(method: Method, engine: Engine) -> MergedAdapter:
    """Have PEFT make one adapter of the pool's, and read it back.

    ``fidelity`` is how far its change is from the weighted sum of the experts', where the method is
    named after that. Raises GateError for experts that are no LoRA, and where PEFT refuses.
    """
    key = json.dumps(["peft", method.plain], sort_keys=True)
    if key in engine.kept:
        known: MergedAdapter = engine.kept[key]
        return known
    experts = [e for e in engine.pool.experts if e.name in method.weights]
    for expert in experts:
        if not expert.is_adapter or expert.config.get("peft_type") != "LORA":
            raise GateError(
                f"route: peft merges LoRA adapters, and {expert.name} is "
                f"{'a full checkpoint' if not expert.is_adapter else expert.kind}",
                fix="leave route out, or leave that expert out of the pool",
            )
    folder = Path(tempfile.mkdtemp(prefix="mergegate-")).resolve()
    try:
        _make(method, engine, experts, folder)
        merged = MergedAdapter(method, engine, folder / _MERGED)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(merged, shutil.rmtree, folder, ignore_errors=True)
    if "sum" in method.traits.identities:
        merged.fidelity = _off_the_sum(method, engine, merged.vectors)
    engine.kept[key] = merged
    return merged


def _make(method: Method, engine: Engine, experts: list[Expert], folder: Path) -> None:
    """Write PEFT's merge to ``folder``. Raises GateError with PEFT's own words."""
    given = dict(method.parameters)
    names = {expert.name: f"expert{k}" for k, expert in enumerate(experts)}
    try:
        with _without_advice(), seeded(method, "the adapter"):
            model = _adapted(_base_module(engine), experts, names)
            model.add_weighted_adapter(
                adapters=[names[expert.name] for expert in experts],
                weights=[float(method.weights[expert.name]) for expert in experts],
                adapter_name=_MERGED,
                combination_type=method.name.removeprefix(PEFT),
                svd_rank=given.get("svd_rank") or None,
                svd_full_matrices=False,  # of which PEFT keeps the first columns
                density=given.get("density", 1.0)
                if "density" in method.traits.parameters
                else None,
            )
            configuration = model.peft_config[_MERGED]
            configuration.task_type = task_type_of(experts[0])
            configuration.base_model_name_or_path = experts[0].base_reference
            model.save_pretrained(folder, selected_adapters=[_MERGED], save_embedding_layers=False)
    except PoolError:
        raise
    except Exception as error:  # PEFT raises whatever its libraries raise
        raise GateError(
            f"PEFT's add_weighted_adapter refuses {method.label} ({first_line(error)})",
            fix="use another combination type (cat takes adapters of any rank), or leave route out",
        ) from None
    (folder / _MERGED / "README.md").unlink(missing_ok=True)


def _base_module(engine: Engine) -> Any:
    """The base anew, in float32, to be used up. Raises PoolError."""
    path, trusted = engine.pool.base.path, engine.pool.spec.trust_remote_code
    family = pick_family(load_config(path, trust_remote_code=trusted))
    return load_module(path, family.auto_class, family.kind, trust_remote_code=trusted)


def _adapted(module: Any, experts: list[Expert], names: Mapping[str, str]) -> Any:
    """The base with all of the experts as adapters."""
    model: Any = None
    for expert in experts:
        configuration, name = plain_configuration(expert), names[expert.name]
        if model is None:
            model = get_peft_model(module, configuration, name, autocast_adapter_dtype=False)
        else:
            model.add_adapter(name, configuration, autocast_adapter_dtype=False)
        put_state(model, stored_state(expert), expert, name)
    return model.eval()


@contextmanager
def _without_advice() -> Iterator[None]:
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _off_the_sum(method: Method, engine: Engine, made: TaskVectors) -> float | None:
    """‖merged − Σ w_j τ_j‖ / ‖Σ w_j τ_j‖ on a sample of the parameters that any of them changes."""
    error = norm = 0.0
    names = sorted({*engine.vectors.parameters(*method.weights), *made.parameters()})
    for parameter in drawn(names, _SAMPLE):
        own = torch.zeros(engine.model.base_weight(parameter).shape)
        total = engine.vectors.mix(parameter, method.weights)
        wanted = own if total is None else total
        found = made.delta(_MERGED, parameter)
        difference = (own if found is None else found).double() - wanted.double()
        error += float(difference.square().sum())
        norm += float(wanted.double().square().sum())
    return math.sqrt(error / norm) if norm else None


def copy_adapter(merged: MergedAdapter, folder: Path) -> None:
    """Copy the adapter that was judged to ``folder``."""
    shutil.copytree(merged.folder, folder, dirs_exist_ok=True)


def check_adapter(merged: MergedAdapter, engine: Engine, folder: Path) -> str | None:
    """How the adapter in ``folder``, as PEFT loads it, is not the one that was judged; None where
    it is."""
    with _without_advice():
        read = PeftModel.from_pretrained(
            _base_module(engine), str(folder), autocast_adapter_dtype=False
        )
        found = dict(read.merge_and_unload().named_parameters())
    changed = {*merged.vectors.parameters()}
    for name, parameter in found.items():
        own = engine.model.base_weight(name).double()
        delta = merged.vectors.delta(_MERGED, name) if name in changed else None
        expected = own if delta is None else own + delta.double()
        size = 0.0 if delta is None else float(delta.double().norm())
        rounding = 4 * torch.finfo(torch.float32).eps * float(expected.norm())
        error = float((parameter.detach().cpu().double() - expected).norm())
        if not error <= _TOLERANCE * size + rounding:
            return f"{name!r} has other numbers"
    return None
