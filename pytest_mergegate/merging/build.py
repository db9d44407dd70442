"""The gated merge made again, as a model for the user's own hands or as a folder; and one expert.

A folder is written beside its place, read back, and only then put there.
"""

import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files.writing import PARTIAL, refuse_links
from pytest_mergegate.engine.models.families import load_model
from pytest_mergegate.engine.models.loading import quiet
from pytest_mergegate.engine.models.placement import Placement
from pytest_mergegate.engine.models.readings import Row
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.engine.running.finished import FinishedEngine
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.merging.by_peft import MergedAdapter, check_adapter, copy_adapter
from pytest_mergegate.merging.gate_methods import plan_methods
from pytest_mergegate.merging.merge import Merged, merge
from pytest_mergegate.merging.method import JudgedMerge
from pytest_mergegate.pool.base import read_base
from pytest_mergegate.pool.pool import Pool, read_pool
from pytest_mergegate.pool.references import Located

_GENERATION = "generation_config.json"
_WRITTEN = ("config.json", _GENERATION, "adapter_config.json")
_BESIDE = {".json", ".model", ".txt", ".jinja", ".tiktoken", ".bpe", ".vocab"}
"""Suffixes of what belongs to a tokenizer and its templates."""
_TOLERANCE = 1e-5
"""Of states in float32, relative to the largest."""


def build_merged_model(gate: Gate, judged: JudgedMerge | None, device: str) -> Any:
    """The merge that was ``judged``, bit for bit, as a transformers model of its own.

    Without one it is the gate's first method. Raises GateError, also where the merge has become
    another one since.
    """
    if gate.spec.merged is not None:
        return _finished_model(gate, judged, device)
    engine = read_engine(gate, device)
    merged = merge_again(gate, engine, judged)
    module = _with_weights(engine, merged.weights)
    check_judged(merged, judged)
    return module


def _finished_model(gate: Gate, judged: JudgedMerge | None, device: str) -> Any:
    """The finished merge, in the precision in which it was asked."""
    pool = _read(gate)
    assert pool.merged is not None
    if judged is not None and pool.merged.fingerprint != judged.digest:
        raise GateError(
            f"{gate.spec.merged} is another model than the one that was judged",
            fix="run the gate again when nothing writes to it",
        )
    engine = FinishedEngine(pool, device)
    names = [expert.name for expert in engine.pool.experts]
    return _with_weights(engine, engine.mixed_weights(dict.fromkeys(names, 1.0)) if names else {})


def merge_again(gate: Gate, engine: Engine, judged: JudgedMerge | None) -> Merged:
    """The merge that was ``judged``, or without one the gate's first method. Raises GateError."""
    planned = {m.label: m for m in plan_methods(gate, engine.pool.names)}
    if judged is None:
        return merge(next(iter(planned.values())), engine)
    # the report's weights: under `weights: optimal` no gate file knows them
    return merge(replace(planned[judged.method], weights=dict(judged.weights)), engine)


def check_judged(merged: Merged, judged: JudgedMerge | None) -> None:
    """Raise GateError where the merge, all of it asked for, has become another one since."""
    if judged is not None and merged.digest != judged.digest:
        raise GateError(
            f"merged again, {judged.method} gives other weights than those that were judged",
            fix="run the gate again with --mergegate-no-cache; files may have changed meanwhile",
        )


def build_expert_model(gate: Gate, name: str, device: str) -> Any:
    """The base with expert ``name``'s task vector added. Raises GateError."""
    if name not in gate.spec.experts:
        raise GateError(
            f"the pool has no expert {name!r}", fix=f"its experts: {', '.join(gate.spec.experts)}"
        )
    engine = read_engine(gate, device)
    return _with_weights(engine, engine.mixed_weights({name: 1.0}))


def read_engine(gate: Gate, device: str) -> Engine:
    """The gate's pool, loaded, and all of it in memory. Raises GateError."""
    engine = Engine(_read(gate), device)
    if engine.model.is_streamed:
        raise GateError(
            "the base is larger than the memory that the process may use",
            fix="give it more, or choose dtype: bfloat16",
        )
    return engine


def _read(gate: Gate) -> Pool:
    pool, errors = read_pool(gate)
    if pool is None:
        raise errors[0]
    return pool


def _with_weights(engine: Engine, weights: Mapping[str, Tensor]) -> Any:
    for parameter, weight in weights.items():
        held = engine.model.parameters[parameter]
        held.data = weight.to(held.device, held.dtype)
    engine.model.module.mergegate_tokenizer = engine.model.tokenizer
    return engine.model.module


def write_merged(
    gate: Gate,
    judged: JudgedMerge | None,
    *,
    device: str,
    fingerprints: Mapping[str | None, str | None],
    target: Path,
) -> None:
    """Write the merge that was ``judged`` to ``target``: as a transformers model, or, where PEFT
    made one adapter, as that.

    Without one it is the gate's only method. ``fingerprints`` are those of the report, of each
    expert by name and of the base under None. ``target`` must not exist, or be an empty folder;
    nothing is left there where anything fails. Raises GateError.
    """
    if judged is None and len(gate.spec.merge.methods) > 1:
        raise GateError(
            "none of the gate's methods was judged, so none of them can be written",
            fix="leave one method, or set budget.max_disagreement",
        )
    engine = read_engine(gate, device)
    _check_inputs(engine, fingerprints)
    merged = merge_again(gate, engine, judged)
    with engine.model.swapped("merge", merged.weights):
        check_judged(merged, judged)
        if isinstance(merged, MergedAdapter):
            _put(target, partial(copy_adapter, merged), partial(_check_adapter, merged, engine))
        else:
            _put(target, partial(_save, engine), partial(_check, engine))


def _put(target: Path, save: Callable[[Path], None], check: Callable[[Path], None]) -> None:
    """Write the loaded merge beside ``target``, check it there, and move it in place."""
    staging = target.parent / f".{uuid.uuid4().hex}{PARTIAL}"
    try:
        refuse_links(target)
        staging.mkdir()
        save(staging)
        check(staging)
        if target.exists():
            target.rmdir()
        staging.rename(target)
    except OSError as error:
        raise GateError(
            f"{target} could not be written ({error.strerror or error})",
            fix="make room there, or choose another folder",
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_inputs(engine: Engine, fingerprints: Mapping[str | None, str | None]) -> None:
    """Raise GateError where a file was written to since the gate passed."""
    now: dict[str | None, str] = {e.name: e.fingerprint for e in engine.pool.experts}
    now[None] = engine.pool.base.fingerprint
    changed = [name for name, own in now.items() if fingerprints.get(name) not in (None, own)]
    if changed:
        raise GateError(
            f"{changed[0] or 'the base'} was changed while the gate ran, and what would be written "
            "was never gated",
            fix="run the gate again",
        )


def _save(engine: Engine, folder: Path) -> None:
    module, base = engine.model.module, engine.pool.base.path
    named = module.config._name_or_path
    module.config._name_or_path = ""  # a path on this machine
    try:
        with quiet():
            module.save_pretrained(folder)
    finally:
        module.config._name_or_path = named
    (folder / _GENERATION).unlink(missing_ok=True)
    suffixes = _BESIDE | ({".py"} if engine.pool.spec.trust_remote_code else set())
    for file in sorted(base.iterdir()):
        beside = file.suffix in suffixes and not file.name.endswith(".index.json")
        wanted = file.name == _GENERATION or (beside and file.name not in _WRITTEN)
        if wanted and file.is_file():
            shutil.copyfile(file, folder / file.name)
    if (templates := base / "additional_chat_templates").is_dir():
        shutil.copytree(templates, folder / templates.name)


def _check(engine: Engine, folder: Path) -> None:
    """Raise GateError where what was written is not what was gated."""
    gated = engine.model
    located = read_base(Located(path=folder.resolve()), folder.name, folder.name)
    trusted = engine.pool.spec.trust_remote_code
    dtype: torch.dtype = gated.module.dtype
    placement = Placement(device=gated.device, dtype=dtype, trust_remote_code=trusted)
    read = load_model(located, placement)
    if read.names != gated.names:
        odd = sorted({*read.names.items()} ^ {*gated.names.items()})[0][0]
        raise _differs(f"{odd!r} is missing, new, or tied to another parameter")
    numbers = read.module.state_dict()
    for name, own in gated.module.state_dict().items():
        if not torch.equal(own, numbers[name]):
            raise _differs(f"{name!r} has other numbers")
    tolerance = max(_TOLERANCE, float(torch.finfo(dtype).eps) if dtype != torch.float32 else 0.0)
    rows = _probes(engine)
    states = (model.states(rows, engine.positions) for model in (gated, read))
    for own, other in zip(*states, strict=True):
        if not float((own - other).abs().max()) <= tolerance * float(own.abs().max()):
            raise _differs("it gives other hidden states on the probes")


def _check_adapter(merged: MergedAdapter, engine: Engine, folder: Path) -> None:
    """Raise GateError where the adapter is another one to PEFT."""
    if how := check_adapter(merged, engine, folder):
        raise _differs(how)


def _probes(engine: Engine) -> list[Row]:
    """Every expert's probes, the merge's own answers forced where states are read at answers."""
    forced = engine.positions in engine.model.forced_positions
    rows: list[Row] = []
    for task in engine.tasks.values():
        drawn = task.order[: engine.pool.spec.probes.per_task]
        answers = engine.answers(task, drawn) if forced else [[] for _ in drawn]
        pairs = zip(drawn, answers, strict=True)
        rows += [(task.prompts[index], tuple(answer[:-1])) for index, answer in pairs]
    return rows


def _differs(how: str) -> GateError:
    return GateError(
        f"the merge as it was written is not the one that was gated: {how}",
        fix="nothing was left there; report this with the versions of transformers and torch",
    )
