"""A metric of the user's own: found, run, and not trusted to behave."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.evaluation.questions import Questions, checked_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    from pytest_mergegate.engine.models.model import Model
    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.gate.options import Scorer
    from pytest_mergegate.pool.examples import Example

_RETURNS = "returns one number in [0, 1] per example"


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


def takes_model(function: Callable[..., Any], metric: str, *, expert: str) -> bool:
    """Whether it is a function of (model, tokenizer, examples), not of (outputs, targets).

    One that can be called with two arguments gets two. Raises PoolError for neither.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C
        return False
    if _binds(signature, 2):
        return False
    if _binds(signature, 3):
        return True
    raise PoolError(
        f"metric {metric} takes {signature}, and is called with two arguments or with three",
        code="MG301",
        expert=expert,
        fix=f"write (outputs, targets) or (model, tokenizer, examples); {_RETURNS}",
    )


def apply_metric(
    function: Callable[..., Any],
    metric: str,
    outputs: Sequence[str],
    targets: Sequence[str],
    *,
    expert: str,
) -> NDArray[np.float64]:
    """Scores [n] of a function of outputs. Raises PoolError naming the example it could not score.

    It is called twice: a metric that gives the same answers different scores measures nothing.
    """
    questions = Questions(
        metric=metric,
        expert=expert,
        count=len(outputs),
        ask=lambda picked: function([outputs[k] for k in picked], [targets[k] for k in picked]),
        shown=lambda k: f"output {outputs[k]!r}, target {targets[k]!r}",
        usage=f"it takes (outputs, targets) and {_RETURNS}",
    )
    once, again = checked_scores(questions), checked_scores(questions)
    if differing := np.flatnonzero(once != again).tolist():
        raise PoolError(
            f"metric {metric} scored example {differing[0] + 1} as {once[differing[0]]:g}, and as "
            f"{again[differing[0]]:g} when asked again",
            code="MG301",
            expert=expert,
            fix="a metric must give equal outputs equal scores; seed what it draws at random",
        )
    return once


def apply_to_model(
    function: Callable[..., Any],
    metric: str,
    model: Model,
    examples: Sequence[Example],
    expert: str,
) -> NDArray[np.float64]:
    """Scores [n] of a function of the loaded model. Raises PoolError naming the example that it
    could not score.

    It is called once: it may cost as much as everything else together.
    """

    from pytest_mergegate.evaluation.lending import lent  # which needs torch

    def ask(picked: Sequence[int]) -> list[Any]:
        rows = [examples[k].model_dump(mode="json", exclude_none=True) for k in picked]
        with lent(model, f"metric {metric}", expert=expert) as (module, tokenizer):
            return list(function(module, tokenizer, rows))

    questions = Questions(
        metric=metric,
        expert=expert,
        count=len(examples),
        ask=ask,
        shown=lambda k: f"input {examples[k].input!r}",
        usage=f"it takes (model, tokenizer, examples) and {_RETURNS}",
    )
    return checked_scores(questions)


def ask_scorer(
    scorer: Scorer | None, metric: str, engine: Engine, examples: Sequence[Example], expert: str
) -> NDArray[np.float64] | None:
    """Scores [n] by the hook, where there is one that knows ``metric``; else None.

    Raises PoolError as for a function of the loaded model, and where the hook scores an expert's
    examples under one model and leaves them to others under another: no loss lies between two
    metrics.
    """
    if scorer is None:
        return None
    left = False

    def scored(module: Any, tokenizer: Any, rows: Sequence[Any]) -> Sequence[float]:
        nonlocal left
        found = scorer(metric=metric, model=module, tokenizer=tokenizer, examples=rows)
        left = found is None
        return [0.0] * len(rows) if found is None else found

    scores = apply_to_model(scored, metric, engine.model, examples, expert)
    if engine.kept.setdefault(f"left by the hook: {metric} of {expert}", left) != left:
        raise PoolError(
            f"pytest_mergegate_evaluate scored metric {metric} under one model, and returned None "
            f"under another ({engine.model.loaded})",
            code="MG301",
            expert=expert,
            fix="a hook answers for a metric always, or never; raise where it cannot",
        )
    return None if left else scores


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


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
