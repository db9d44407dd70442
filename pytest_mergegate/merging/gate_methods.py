"""Merge methods of a gate, with the weights each of them is handed, held against mergekit."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from mergekit import merge_methods
from mergekit.merge_methods.base import (
    BasePolicy,
    InputContract,
    MergeMethodSpec,
    ParameterScope,
    ParameterSpec,
)

from pytest_mergegate.common.errors import GateError, GateFileError
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.merge_methods import (
    METHODS,
    MethodTraits,
    Parameters,
    is_function,
    traits_of,
)
from pytest_mergegate.gate.merge_section import MethodSpec
from pytest_mergegate.merging.method import Method
from pytest_mergegate.merging.own_method import load_method, takes_weights

_WITHIN_ONE = ("density", "t")
"""Parameters that are shares."""


def plan_methods(gate: Gate, names: Sequence[str]) -> tuple[Method, ...]:
    """The gate's methods under uniform or given weights.

    Raises GateFileError with ``file:line`` for a method or a parameter that neither we nor the
    installed mergekit know.
    """
    as_it_stands = gate.mergekit is not None and gate.mergekit.why_official is not None
    plan = _as_it_stands if as_it_stands else _plan
    problems: list[GateError] = []
    methods = []
    for index, spec in enumerate(gate.spec.merge.methods):
        try:
            methods.append(plan(spec, gate, names))
        except GateError as error:
            where = error.where or gate.where("merge", "methods", index)
            problems.append(GateError(error.what, where=where, fix=error.fix))
    if problems:
        raise GateFileError(problems)
    return tuple(methods)


def _as_it_stands(spec: MethodSpec, gate: Gate, _: Sequence[str]) -> Method:
    """A mergekit configuration that no method and weights of a gate say."""
    assert gate.mergekit is not None
    if spec.method not in (known := _mergekits()):
        fix = _instead(spec.method, known, "use one of")
        raise GateError(f"mergekit has no merge method {spec.method!r}", fix=fix)
    return Method(
        label=spec.label,
        name=spec.method,
        parameters={},
        weights={},
        seed=gate.spec.merge.seed,
        takes_base=False,
        takes_weights=False,
        route="official",
        config=gate.mergekit.config,
    )


def _plan(spec: MethodSpec, gate: Gate, names: Sequence[str]) -> Method:
    merge, run = gate.spec.merge, spec.run_on(len(names))
    traits = traits_of(run)
    if traits.own and merge.route == "official":
        fix = "leave merge.route out: it is merged in place"
        raise GateError(f"mergekit has no merge method {run!r}", fix=fix)
    if is_function(run):
        return _plan_function(spec, gate, names)
    declared = _declaration(spec.method, run)
    given = spec.parameters
    parameters = {parameter.name: parameter for parameter in declared.parameters}
    _check_parameters(spec.method, given, parameters)
    weight = parameters.get("weight")
    takes_weights = weight is not None and weight.scope is not ParameterScope.SHARED
    scale = float(given.pop("weight", 1.0)) if takes_weights else 1.0
    filled = {"weight", traits.share_parameter, *given}
    if missing := [p.name for p in parameters.values() if p.required and p.name not in filled]:
        raise GateError(
            f"{spec.method} needs {', '.join(missing)}",
            fix=f"write {{method: {spec.method}, {missing[0]}: ...}}",
        )
    takes_base = declared.contract.base is BasePolicy.REQUIRED and traits.base != "expert"
    _check_inputs(declared, names, takes_base)
    method = Method(
        label=spec.label_of(run),
        name=run,
        parameters=given,
        weights=dict.fromkeys(names, scale),
        seed=merge.seed,
        takes_base=takes_base,
        takes_weights=takes_weights,
        route=merge.route,
    )
    return replace(method, weights=_weights(method, gate))


def _plan_function(spec: MethodSpec, gate: Gate, names: Sequence[str]) -> Method:
    """A function of the team's own, which is imported here: a typo fails at once."""
    function = load_method(spec.method, gate.root, spec.parameters)
    method = Method(
        label=spec.label,
        name=spec.method,
        parameters=spec.parameters,
        weights=dict.fromkeys(names, 1.0),
        seed=gate.spec.merge.seed,
        takes_base=True,
        takes_weights=takes_weights(function),
        root=str(gate.root),
    )
    return replace(method, weights=_weights(method, gate))


def _mergekits() -> dict[str, MergeMethodSpec]:
    """What the installed mergekit declares of its methods."""
    return {method.spec.name: method.spec for method in merge_methods.registered_methods()}


def _declaration(name: str, run: str) -> MergeMethodSpec:
    """The inputs and parameters of ``run``, which is run for method ``name``."""
    own = {row.name: _declared(row) for row in METHODS.values() if row.own}
    known = {**_mergekits(), **own}
    if run not in known or name not in known:
        fix = _instead(name, known, "use one of")
        raise GateError(f"there is no merge method {name!r}", fix=fix)
    return known[run]


def _declared(row: MethodTraits) -> MergeMethodSpec:
    """A method of our own, as mergekit would declare it."""
    weight = ParameterSpec(name="weight", value_type=float, scope=ParameterScope.INPUT)
    shared = [
        ParameterSpec(name=n, value_type=type(v), scope=ParameterScope.SHARED, default=v)
        for n, v in row.parameters.items()
    ]
    base = BasePolicy.REQUIRED if row.base == "required" else BasePolicy.OPTIONAL
    return MergeMethodSpec(
        name=row.name,
        parameters=(weight, *shared) if row.takes_weights else tuple(shared),
        contract=InputContract(base=base, min_non_base=row.fewest, max_non_base=row.most),
    )


def _check_parameters(method: str, given: Parameters, known: Mapping[str, ParameterSpec]) -> None:
    for name, value in given.items():
        if name not in known:
            fix = _instead(name, known, "its parameters are")
            raise GateError(f"{method} has no parameter {name!r}", fix=fix)
        try:
            known[name].validate(value)
        except ValueError:
            raise GateError(f"{method} does not take {name}={value!r}") from None
    for name in _WITHIN_ONE:
        if name in given and not 0 <= given[name] <= 1:
            raise GateError(f"{name} must be between 0 and 1, not {given[name]!r}")


def _check_inputs(declared: MergeMethodSpec, names: Sequence[str], takes_base: bool) -> None:
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
            fix="use a method for any number of experts, such as linear or ties",
        ) from None


def _weights(method: Method, gate: Gate) -> dict[str, float]:
    """Of experts, from the scale that all of them have so far."""
    wanted, scales = gate.spec.merge.weights, method.weights
    averages = method.traits.combines == "average"
    if not isinstance(wanted, dict):
        # an average needs shares; a sum of task vectors takes each of them at full scale
        share = len(scales) if averages or not method.takes_weights else 1
        return {name: scale / share for name, scale in scales.items()}
    if not method.is_weighted:
        raise GateError(
            f"{method.name} takes no weights, and merge.weights gives some",
            fix="use weights: uniform, or a method with weights",
        )
    # nothing is left of the sum but round-off
    if averages and abs(sum(wanted.values())) <= 1e-9 * max(1.0, *map(abs, wanted.values())):
        raise GateError(
            "merge.weights sum to zero, and an average divides by their sum",
            where=gate.where("merge", "weights"),
        )
    return {name: scale * float(wanted[name]) for name, scale in scales.items()}


def _instead(name: str, known: Collection[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"{otherwise} {', '.join(known)}"
