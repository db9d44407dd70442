"""What a plan writes: for each group a gate file, and a mergekit configuration of its merge."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files.places import as_found
from pytest_mergegate.common.files.writing import write_file
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.gatefile import Gate, load_gate
from pytest_mergegate.gate.merge_methods import is_function
from pytest_mergegate.gate.mergekit.gate import gate_of_mergekit
from pytest_mergegate.gate.sections import BUILTIN_METRICS, HARNESS
from pytest_mergegate.merging.mergekit_process import configuration
from pytest_mergegate.merging.method import Method
from pytest_mergegate.planning.forecasts import GroupForecast
from pytest_mergegate.planning.weights import proposed_gate
from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.pool import Pool

_SETTINGS = (
    *("probes", "conflict", "certificate", "budget", "ignore"),
    *("judge", "dtype", "trust_remote_code"),
)
_SYNTAX = ("+", "@")
"""What mergekit takes for its own in a path."""


def plan_files(
    gate: Gate, pool: Pool, groups: Sequence[GroupForecast], folder: Path
) -> tuple[dict[Path, str], list[str]]:
    """The files for every group of two or more, by path, not yet written, and what is missing among
    them. Raises GateError."""
    _check_code(gate, folder)
    texts: dict[Path, str] = {}
    missing: list[str] = []
    merged = [group for group in groups if len(group.names) > 1]
    for number, group in enumerate(merged, start=1):
        name = f"group-{number}"
        head = (
            f"# Written by `mergegate plan {shown(gate.name)}`: {len(group.names)} of its experts"
        )
        part = proposed_gate(gate, group)
        data = _gate_data(part, pool, folder)
        texts[folder / f"{name}.mergegate.yaml"] = f"{head}.\n{_dumped(data)}"
        if group.best is None:
            continue
        try:
            config = _mergekit_data(part, pool, group.best.method, folder)
        except GateError as error:
            missing.append(f"{name}.mergekit.yaml: {error}")
            continue
        how = f"{head},\n# for mergekit-yaml, and for `mergegate check`."
        texts[folder / f"{name}.mergekit.yaml"] = f"{how}\n{_dumped(config)}"
    return texts, missing


def write_files(texts: Mapping[Path, str], *, force: bool) -> None:
    """Write them all, or none where one is there already and ``force`` is off; then read each
    back as a gate. Raises GateError."""
    there = [path for path in texts if path.exists() or path.is_symlink()]
    if there and not force:
        raise GateError(
            f"--write: {there[0]} is there already",
            fix="--force overwrites it, another folder keeps it",
        )
    for path, text in texts.items():
        write_file(path, text, new=not force)
    for path in texts:
        load_gate(path)


def _dumped(data: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=100)
    return text


def _check_code(gate: Gate, folder: Path) -> None:
    """Raise GateError where a metric, distance or method is found only beside the gate file."""
    if folder.resolve() == gate.root.resolve():
        return
    code: list[tuple[str, str | None]] = []
    for name, expert in gate.spec.experts.items():
        is_own = expert.metric not in BUILTIN_METRICS and not expert.metric.startswith(HARNESS)
        code.append((f"{shown(name)} is scored", expert.metric if is_own else None))
        code.append((f"{shown(name)} is compared", expert.distance))
    methods = (m.method for m in gate.spec.merge.methods)
    code += [("the pool is merged", method) for method in methods if is_function(method)]
    for what, function in code:
        module = (function or "").partition(":")[0].partition(".")[0]
        beside = (gate.root / f"{module}.py").exists() or (gate.root / module).is_dir()
        if function is not None and beside:
            raise GateError(
                f"--write: {what} by {shown(function)}, which is looked for beside the gate file",
                fix=f"write into the gate's own folder: --write {gate.root}",
            )


def _gate_data(gate: Gate, pool: Pool, folder: Path) -> dict[str, Any]:
    merge, paths = gate.spec.merge, {e.name: _reference(e, folder) for e in pool.experts}
    methods = [
        {"method": m.method, **m.parameters} if m.parameters else m.method for m in merge.methods
    ]
    said = merge.model_dump(mode="json", exclude_unset=True)
    return {
        "base": _reference(pool.base, folder),
        "experts": {n: {"path": paths[n]} | _read(gate, n, folder) for n in gate.spec.experts},
        **_settings(gate, folder),
        "merge": {**said, "methods": methods, "weights": merge.weights},
    }


def _settings(gate: Gate, folder: Path) -> dict[str, Any]:
    """What the gate file says beside its pool and its merges."""
    said = gate.spec.model_dump(mode="json", exclude_unset=True)
    found = {key: said[key] for key in _SETTINGS if said.get(key) not in (None, {})}
    if gate.spec.lm_eval_tasks is not None:
        found["lm_eval_tasks"] = _relative(gate.root / gate.spec.lm_eval_tasks, folder)
    # as of now, whatever the default will be
    found["budget"] = gate.spec.effective_budget.model_dump(exclude_none=True)
    return found


def _read(gate: Gate, name: str, folder: Path) -> dict[str, Any]:
    """How an expert is read: all of its keys but the path."""
    expert = gate.spec.experts[name]
    said = expert.model_dump(mode="json", exclude_defaults=True, exclude={"path", "examples"})
    file = gate.spec.examples_of(name)
    return {"examples": _relative(gate.root / file, folder), **said} if file else said


def _reference(model: Base | Expert, folder: Path) -> str:
    """As a gate file in ``folder`` names a model; one of the hub as it was named."""
    on_hub = model.located.repository is not None
    return model.reference if on_hub else _relative(model.path, folder)


def _relative(path: Path, folder: Path) -> str:
    try:
        found = os.path.relpath(Path(os.path.normpath(path.absolute())), folder.resolve())
    except ValueError:  # another drive
        return path.absolute().as_posix()
    return as_found(found)


def _mergekit_data(gate: Gate, pool: Pool, method: Method, folder: Path) -> dict[str, Any]:
    """A mergekit configuration. Its paths are absolute: mergekit would look up relative ones that
    are not beside the working directory on the hub. Raises GateError."""
    experts = [next(e for e in pool.experts if e.name == name) for name in method.weights]
    base = _absolute(pool.base)
    written = {
        expert.name: f"{base}+{_absolute(expert)}" if expert.is_adapter else _absolute(expert)
        for expert in experts
    }
    config = configuration(method, written, base, gate.spec.dtype)
    section = {k: v for k, v in _settings(gate, folder).items() if k != "dtype"}
    if not method.takes_base and not any(expert.is_adapter for expert in experts):
        section["base"] = base
    section["merge"] = {"seed": gate.spec.merge.seed}
    config["mergegate"] = section
    _, _, file = gate_of_mergekit(config, {(): 1}, name="the configuration", root=folder)
    if file.why_official is not None:
        raise GateError(f"mergekit's form of this merge is another one ({file.why_official})")
    called = {text: name for name, text in file.written.items()}
    section["experts"] = {called[text]: _read(gate, n, folder) for n, text in written.items()}
    return config


def _absolute(model: Base | Expert) -> str:
    if model.located.repository is not None:
        return model.reference
    path = model.path.as_posix()
    if any(mark in path for mark in _SYNTAX):
        raise GateError(
            f"mergekit cannot read the path {shown(path)}: it takes '+' and '@' for its own syntax",
            fix="move the models, or merge with mergegate check GATE --output DIR",
        )
    return path
