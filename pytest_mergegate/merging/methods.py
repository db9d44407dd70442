"""Merge methods of a gate, with the weights each of them is handed, held against mergekit."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING

from mergekit import merge_methods
from mergekit.merge_methods.base import (
    BasePolicy,
    InputContract,
    MergeMethodSpec,
    ParameterScope,
    ParameterSpec,
)

from pytest_mergegate.common.errors import GateError, GateFileError
from pytest_mergegate.gate.merge_methods import METHODS, traits_of
from pytest_mergegate.merging.method import Method

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.gate.merge_methods import MethodTraits, Parameters
    from pytest_mergegate.gate.spec import MethodSpec

_WITHIN_ONE = ("density", "t")
"""Parameters that are shares."""


def plan_methods(gate: Gate, names: Sequence[str]) -> tuple[Method, ...]:
    """The gate's methods under uniform or given weights.

    Raises GateFileError with ``file:line`` for a method or a parameter that neither we nor the
    installed mergekit know.
    """
    if gate.mergekit is not None and gate.mergekit.why_official is not None:
        return (_as_it_stands(gate, gate.mergekit.config),)
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


def _as_it_stands(gate: Gate, config: Mapping[str, object]) -> Method:
    """A mergekit configuration that no method and weights of a gate say."""
    spec = gate.spec.merge.methods[0]
    known = _mergekits()
    if spec.method not in known:
        problem = GateError(
            f"mergekit has no merge method {spec.method!r}",
            where=gate.where("merge", "methods"),
            fix=_instead(spec.method, known, "use one of"),
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
        config=config,
    )


def _plan(spec: MethodSpec, gate: Gate, names: Sequence[str], where: str) -> Method:
    run = spec.run_on(len(names))
    traits, declared = traits_of(run), _declaration(spec.method, run, where)
    if traits.own and gate.spec.merge.route == "official":
        fix = "leave merge.route out: it is merged in place"
        raise GateError(f"mergekit has no merge method {run!r}", where=where, fix=fix)
    given = spec.parameters
    parameters = {parameter.name: parameter for parameter in declared.parameters}
    _check_parameters(spec.method, given, parameters, where)
    takes_weights = "weight" in parameters and (
        parameters["weight"].scope is not ParameterScope.SHARED
    )
    scale = float(given.pop("weight", 1.0)) if takes_weights else 1.0
    filled = {"weight", traits.share_parameter, *given}
    if missing := [p.name for p in parameters.values() if p.required and p.name not in filled]:
        raise GateError(
            f"{spec.method} needs {', '.join(missing)}",
            where=where,
            fix=f"write {{method: {spec.method}, {missing[0]}: ...}}",
        )
    takes_base = declared.contract.base is BasePolicy.REQUIRED and traits.base != "expert"
    _check_inputs(declared, names, takes_base, where)
    method = Method(
        label=spec.label_of(run),
        name=run,
        parameters=given,
        weights={},
        seed=gate.spec.merge.seed,
        takes_base=takes_base,
        takes_weights=takes_weights,
        route=gate.spec.merge.route,
    )
    return replace(method, weights=_weights(method, scale, gate, names, where))


def _mergekits() -> dict[str, MergeMethodSpec]:
    """What the installed mergekit declares of its methods."""
    return {method.spec.name: method.spec for method in merge_methods.registered_methods()}


def _declaration(name: str, run: str, where: str) -> MergeMethodSpec:
    """The inputs and parameters of ``run``, which is run for method ``name``."""
    own = {row.name: _declared(row) for row in METHODS.values() if row.own}
    known = {n: d for n, d in {**_mergekits(), **own}.items() if traits_of(n).refused is None}
    if run not in known or name not in known:
        raise GateError(
            f"merge method {name!r} cannot merge a pool of experts",
            where=where,
            fix=_instead(name, known, "use one of"),
        )
    return known[run]


def _declared(row: MethodTraits) -> MergeMethodSpec:
    """A method of our own, as mergekit would declare it."""
    weight = ParameterSpec(name="weight", value_type=float, scope=ParameterScope.INPUT)
    shared = [
        ParameterSpec(name=n, value_type=type(v), scope=ParameterScope.SHARED, default=v)
        for n, v in row.parameters.items()
    ]
    return MergeMethodSpec(
        name=row.name,
        parameters=(*([weight] if row.takes_weights else []), *shared),
        contract=InputContract(
            base=BasePolicy.REQUIRED if row.base == "required" else BasePolicy.OPTIONAL,
            min_non_base=row.fewest,
            max_non_base=row.most,
        ),
    )


def _check_parameters(
    method: str, given: Parameters, known: Mapping[str, ParameterSpec], where: str
) -> None:
    for name, value in given.items():
        if name not in known:
            fix = _instead(name, known, "its parameters are")
            raise GateError(f"{method} has no parameter {name!r}", where=where, fix=fix)
        try:
            known[name].validate(value)
        except ValueError:
            raise GateError(f"{method} does not take {name}={value!r}", where=where) from None
    for name in _WITHIN_ONE:
        if name in given and not 0 <= given[name] <= 1:
            raise GateError(f"{name} must be between 0 and 1, not {given[name]!r}", where=where)


def _check_inputs(
    declared: MergeMethodSpec, names: Sequence[str], takes_base: bool, where: str
) -> None:
    """Hold the pool against the method's contract."""
    ids: list[object] = [("base",), *names] if takes_base else list(names)
    # a walk calls its first expert the base
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


def _weights(
    method: Method, scale: float, gate: Gate, names: Sequence[str], where: str
) -> dict[str, float]:
    wanted, averages = gate.spec.merge.weights, method.traits.combines == "average"
    if not isinstance(wanted, dict):
        # an average needs shares; a sum of task vectors takes each of them at full scale
        each = scale / len(names) if averages or not method.takes_weights else scale
        return dict.fromkeys(names, each)
    if not method.is_weighted:
        raise GateError(
            f"{method.name} takes no weights, and merge.weights gives some",
            where=where,
            fix="use weights: uniform, or a method with weights",
        )
    total = sum(wanted.values())
    # nothing is left of the sum but round-off
    if averages and abs(total) <= 1e-9 * max(1.0, *map(abs, wanted.values())):
        raise GateError(
            "merge.weights sum to zero, and an average divides by their sum",
            where=gate.where("merge", "weights"),
        )
    return {name: scale * float(wanted[name]) for name in names}


def _instead(name: str, known: Collection[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"{otherwise} {', '.join(known)}"
