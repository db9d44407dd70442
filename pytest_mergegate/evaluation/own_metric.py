"""A metric of the user's own: found, run, and not trusted to behave."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_mergegate.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

_HOW = "it takes (outputs, targets) and returns one number in [0, 1] per example"


def load_metric(metric: str, *, expert: str, root: Path) -> Callable[..., Any]:
    """The function behind ``package.module:function``; a module beside the gate file comes first.

    Raises PoolError, also for a module that raises or exits when it is imported.
    """
    module_name, _, name = metric.partition(":")
    try:
        with _importable_from(root):
            function = getattr(_module(module_name, root), name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit and pytest.skip must not end or skip the gate
        raise PoolError(
            f"metric {metric} cannot be imported ({type(error).__name__}: {error})",
            code="MG301",
            expert=expert,
            fix="write package.module:function; modules beside the gate file are found too",
        ) from None
    if not callable(function):
        raise PoolError(f"metric {metric} is not callable", code="MG301", expert=expert)
    return function  # type: ignore[no-any-return]  # checked to be callable, that is all


def apply_metric(
    function: Callable[..., Any],
    metric: str,
    outputs: Sequence[str],
    targets: Sequence[str],
    *,
    expert: str,
) -> NDArray[np.float64]:
    """Scores [n] of a user's function. Raises PoolError naming the example it could not score.

    It is called twice: a metric that gives the same answers different scores measures nothing.
    """
    once = _scores(function, metric, outputs, targets, expert)
    again = _scores(function, metric, outputs, targets, expert)
    if differing := np.flatnonzero(once != again).tolist():
        raise PoolError(
            f"metric {metric} scored example {differing[0] + 1} as {once[differing[0]]:g}, and as "
            f"{again[differing[0]]:g} when asked again",
            code="MG301",
            expert=expert,
            fix="a metric must give equal outputs equal scores; seed what it draws at random",
        )
    return once


def _scores(
    function: Callable[..., Any],
    metric: str,
    outputs: Sequence[str],
    targets: Sequence[str],
    expert: str,
) -> NDArray[np.float64]:
    try:
        scores = list(function(list(outputs), list(targets)))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit and pytest.skip must not end or skip the gate
        raise PoolError(
            f"metric {metric} raised {type(error).__name__}: {error}"
            f"{_culprit(function, outputs, targets)}",
            code="MG301",
            expert=expert,
            fix=_HOW,
        ) from error
    if len(scores) != len(outputs):
        raise PoolError(
            f"metric {metric} returned {len(scores)} scores for {len(outputs)} examples",
            code="MG301",
            expert=expert,
            fix="return one number in [0, 1] per example",
        )
    return np.array([_checked(s, k, metric, expert) for k, s in enumerate(scores)])


def _checked(value: Any, index: int, metric: str, expert: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= 1:
        raise PoolError(
            f"metric {metric} scored example {index + 1} as {repr(value)[:40]}",
            code="MG301",
            expert=expert,
            fix="scores are numbers between 0 and 1",
        )
    return number


def _culprit(function: Callable[..., Any], outputs: Sequence[str], targets: Sequence[str]) -> str:
    """Name the first example on which ``function`` raises by itself."""
    for index, (output, target) in enumerate(zip(outputs, targets, strict=True)):
        try:
            list(function([output], [target]))
        except KeyboardInterrupt:
            raise
        except BaseException:
            return f" (example {index + 1}: output {output!r}, target {target!r})"
    return ""


def _module(name: str, root: Path) -> ModuleType:
    """Import a module; two gates may each have one of the same name beside them."""
    beside = root.joinpath(*name.split(".")).with_suffix(".py")
    if not beside.is_file():
        return importlib.import_module(name)
    if "." in name:
        module = importlib.import_module(name)
        if getattr(module, "__file__", None) != str(beside):
            raise ImportError(f"{name} is {module.__file__} already, not {beside}")
        return module
    # under a name of its own: sys.modules would hand the second gate the first one's metric, and
    # the standard library's module of that name would come before both
    own = f"_mergegate_{hashlib.sha256(str(beside).encode()).hexdigest()[:12]}_{name}"
    spec = importlib.util.spec_from_file_location(own, beside)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _importable_from(root: Path) -> Iterator[None]:
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
