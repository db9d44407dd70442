"""A merge method of the team's own, ``package.module:function``: called, and not trusted to behave.

It takes the tensor of the base and those of the experts by name, in float32, and returns the merged
tensor. By keyword it gets the parameters that the gate file sets and, where it asks for them,
``weights`` by expert and the ``name`` of the parameter.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pytest_mergegate.common.errors import GateError, did_you_mean
from pytest_mergegate.common.functions import Unusable, load_function
from pytest_mergegate.gate.merge_methods import Parameters
from pytest_mergegate.merging.drawing import seeded
from pytest_mergegate.merging.method import Method

_WEIGHTS, _NAME = "weights", "name"
_HANDED = ("base", "experts", _WEIGHTS, _NAME)
_USAGE = "write merge(base, experts, *, weights, name, PARAMETER=...), which returns a tensor"


def load_method(reference: str, root: Path, given: Parameters) -> Callable[..., Any]:
    """The function, which takes the parameters ``given``. Raises GateError."""
    try:
        function = load_function(reference, root)
    except Unusable as error:
        raise GateError(f"method {reference} {error.why}", fix=error.fix) from None
    known = _keywords(reference, function)
    any_name = any(p.kind is p.VAR_KEYWORD for p in known.values())
    own = [name for name, p in known.items() if p.kind is not p.VAR_KEYWORD]
    parameters = [name for name in own if name not in _HANDED]
    for name in given:
        if name in _HANDED or (name not in parameters and not any_name):
            fix = did_you_mean(name, parameters, "its parameters are")
            raise GateError(f"{reference} has no parameter {name!r}", fix=fix)
    missing = [n for n in parameters if known[n].default is inspect.Parameter.empty]
    if missing := [name for name in missing if name not in given]:
        raise GateError(
            f"{reference} needs {', '.join(missing)}",
            fix=f"write {{method: {reference}, {missing[0]}: ...}}",
        )
    return function


def takes_weights(function: Callable[..., Any]) -> bool:
    """Whether it asks for the experts' weights."""
    return _WEIGHTS in inspect.signature(function).parameters


def keeps_one(method: Method) -> bool:
    """Whether one expert by itself must stay as it is; ``function.identity = False`` says that it
    does not, whatever the parameters."""
    return getattr(_loaded(method), "identity", True) is not False


def merge_by_function(
    method: Method, base: Tensor, experts: Mapping[str, Tensor], parameter: str
) -> Tensor:
    """What the function makes of one parameter, in float32.

    What it draws at random from torch is drawn anew for every parameter, by the gate's seed. Raises
    GateError where it raises, or returns something else than a tensor of that shape, of finite
    numbers in float32 or float64.
    """
    function = _loaded(method)
    known = inspect.signature(function).parameters
    handed: dict[str, Any] = dict(method.parameters)
    if _WEIGHTS in known:
        handed[_WEIGHTS] = {name: method.weights[name] for name in experts}
    if _NAME in known:
        handed[_NAME] = parameter
    own = base.clone(), {name: tensor.clone() for name, tensor in experts.items()}
    call, precision = partial(function, *own, **handed), torch.get_default_dtype()
    try:
        with torch.no_grad(), seeded(method, parameter):
            merged = call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit and pytest.skip must not end or skip the gate
        raise _refused(method, parameter, f"raised {type(error).__name__}: {error}") from None
    finally:
        torch.set_default_dtype(precision)
    if not isinstance(merged, Tensor):
        fix = "return torch.from_numpy(array)" if hasattr(merged, "__array__") else _USAGE
        raise _refused(method, parameter, f"returned a {type(merged).__name__}, no tensor", fix)
    if merged.shape != base.shape:
        shapes = f"{list(merged.shape)}, and the parameter is {list(base.shape)}"
        raise _refused(method, parameter, f"returned a tensor of the shape {shapes}")
    if merged.is_meta or merged.layout != torch.strided or merged.is_complex():
        kind = f"{merged.layout}, {merged.dtype}, on {merged.device}"
        raise _refused(
            method, parameter, f"returned a tensor that is none of plain numbers ({kind})"
        )
    if merged.dtype not in (torch.float32, torch.float64):
        what = f"returned {merged.dtype} of tensors in float32: precision is lost before the merge"
        fix = "compute in float32, in which it is called; what is written has the base's own dtype"
        raise _refused(method, parameter, what, fix)
    found = merged.detach().to("cpu", torch.float32)
    if found.numel() and not all(map(torch.isfinite, torch.aminmax(found))):
        fix = "look for a division by 0 where an expert changes nothing"
        raise _refused(method, parameter, "returned NaN or infinity", fix)
    return found


def _loaded(method: Method) -> Callable[..., Any]:
    assert method.root is not None
    return load_method(method.name, Path(method.root), method.parameters)


def _keywords(reference: str, function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What it can be handed beside base and experts. Raises GateError where it takes no two."""
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions written in C
        raise GateError(f"method {reference} has no signature", fix=_USAGE) from None
    taken = [*known.values()]
    both = [p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in taken[:2]]
    by_place = [p for p in taken[2:] if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)]
    if both != [True, True] or by_place:
        said = ", ".join(map(str, taken))
        raise GateError(
            f"method {reference} takes ({said}), and is called with base and experts", fix=_USAGE
        )
    return {p.name: p for p in taken[2:]}


def _refused(method: Method, parameter: str, why: str, fix: str = _USAGE) -> GateError:
    return GateError(f"method {method.name} {why} (parameter {parameter!r})", fix=fix)
