"""Merge methods of a gate, in mergekit's names, with the weights each of them is handed."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from mergekit import merge_methods
from mergekit.merge_methods.base import BasePolicy, MergeMethodSpec, ParameterScope

from pytest_mergegate.common.errors import GateError, GateFileError
from pytest_mergegate.merging.method import Method

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.gate.mergekit.file import MergekitFile
    from pytest_mergegate.gate.spec import MethodSpec

MERGEKIT_UNUSABLE = ("passthrough", "arcee_fusion", "nearswap")
"""Methods that take no pool of experts."""
_AVERAGES = frozenset(("linear", "slerp", "multislerp"))
"""Methods whose weights are shares of a whole."""


def plan_methods(gate: Gate, names: Sequence[str]) -> tuple[Method, ...]:
    """The gate's methods under uniform or given weights.

    Raises GateFileError with ``file:line`` for a method or a parameter that the installed
    mergekit does not know.
    """
    if gate.mergekit is not None and gate.mergekit.why_official is not None:
        return (_as_it_stands(gate, gate.mergekit),)
    problems: list[GateError] = []
    methods = []
    for index, spec in enumerate(gate.spec.merge.methods):
        try:
            methods.append(_plan(spec, gate, names, gate.where("merge", "methods", index)))
        except GateError as error:
            problems.append(error)
    if problems:
        raise GateFileError(problems)
    return tuple(methods)


def _as_it_stands(gate: Gate, file: MergekitFile) -> Method:
    """A mergekit configuration that no method and weights of a gate say."""
    spec = gate.spec.merge.methods[0]
    known = {method.spec.name for method in merge_methods.registered_methods()}
    if spec.method not in known:
        close = difflib.get_close_matches(spec.method, known, n=1)
        problem = GateError(
            f"mergekit has no merge method {spec.method!r}",
            where=gate.where("merge", "methods"),
            fix=f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(known)}",
        )
        raise GateFileError([problem])
    return Method(
        label=spec.label,
        name=spec.method,
        parameters={},
        weights={},
        seed=gate.spec.merge.seed,
        takes_base=False,
        takes_weights=False,
        route="official",
        config=file.config,
    )


def _plan(spec: MethodSpec, gate: Gate, names: Sequence[str], where: str) -> Method:
    known = {method.spec.name: method.spec for method in merge_methods.registered_methods()}
    run = spec.run_on(len(names))
    declared = known.get(run)
    if declared is None or spec.method in MERGEKIT_UNUSABLE:
        usable = [name for name in known if name not in MERGEKIT_UNUSABLE]
        close = difflib.get_close_matches(spec.method, usable, n=1)
        raise GateError(
            f"merge method {spec.method!r} cannot merge a pool of experts",
            where=where,
            fix=f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(usable)}",
        )
    given = dict(spec.parameters)
    parameters = {parameter.name: parameter for parameter in declared.parameters}
    for name, value in given.items():
        if name not in parameters:
            close = difflib.get_close_matches(name, parameters, n=1)
            raise GateError(
                f"{spec.method} has no parameter {name!r}",
                where=where,
                fix=f"did you mean {close[0]!r}?"
                if close
                else f"its parameters are {', '.join(parameters)}",
            )
        try:
            parameters[name].validate(value)
        except ValueError:
            raise GateError(f"{spec.method} does not take {name}={value!r}", where=where) from None
    takes_weights = "weight" in parameters and (
        parameters["weight"].scope is not ParameterScope.SHARED
    )
    _check_ranges(given, where)
    scale = float(given.pop("weight", 1.0)) if takes_weights else 1.0
    required = [p.name for p in parameters.values() if p.required and p.name not in given]
    if missing := [name for name in required if name not in {"weight", "t"}]:
        raise GateError(
            f"{spec.method} needs {', '.join(missing)}",
            where=where,
            fix=f"write {{method: {spec.method}, {missing[0]}: ...}}",
        )
    takes_base = declared.contract.base is BasePolicy.REQUIRED and run != "slerp"
    _check_inputs(declared, names, takes_base, where)
    return Method(
        label=spec.label if run == spec.method else f"{spec.label} (as {run})",
        name=run,
        parameters=given,
        weights=_weights(run, scale, gate, names, takes_weights, where),
        seed=gate.spec.merge.seed,
        takes_base=takes_base,
        takes_weights=takes_weights,
        route=gate.spec.merge.route,
    )


def _vanishes(weights: Collection[float]) -> bool:
    """Whether nothing is left of the sum but round-off."""
    return abs(sum(weights)) <= 1e-9 * max(1.0, *map(abs, weights))


def _check_inputs(
    declared: MergeMethodSpec, names: Sequence[str], takes_base: bool, where: str
) -> None:
    """Hold the pool against mergekit's own contract of the method."""
    ids: list[object] = [("base",), *names] if takes_base else list(names)
    # slerp calls its first expert the base
    base = ids[0] if declared.contract.base is BasePolicy.REQUIRED else None
    try:
        declared.contract.validate_ids(ids, base)
    except ValueError as error:
        reason = str(error).removeprefix("Merge method ")
        raise GateError(
            f"{declared.name} does not fit a pool of {len(names)} experts: it {reason}",
            where=where,
            fix="use a method for any number of experts, such as linear or ties",
        ) from None


def _check_ranges(given: Mapping[str, bool | int | float], where: str) -> None:
    for name in ("density", "t"):
        if name in given and not 0 <= given[name] <= 1:
            raise GateError(f"{name} must be between 0 and 1, not {given[name]!r}", where=where)


def _weights(
    method: str,
    scale: float,
    gate: Gate,
    names: Sequence[str],
    takes_weights: bool,
    where: str,
) -> dict[str, float]:
    wanted = gate.spec.merge.weights
    if isinstance(wanted, dict):
        if not takes_weights and method != "slerp":
            raise GateError(
                f"{method} takes no weights, and merge.weights gives some",
                where=where,
                fix="use weights: uniform, or a method with weights",
            )
        if method in _AVERAGES and _vanishes(wanted.values()):
            raise GateError(
                "merge.weights sum to zero, and an average divides by their sum",
                where=gate.where("merge", "weights"),
            )
        return {name: scale * float(wanted[name]) for name in names}
    # an average needs shares; a sum of task vectors takes each of them at full scale
    each = scale / len(names) if method in _AVERAGES or not takes_weights else scale
    return dict.fromkeys(names, each)
