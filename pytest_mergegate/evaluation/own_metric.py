"""A metric of the user's own: found, run, and not trusted to behave."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.functions import Unusable, load_function
from pytest_mergegate.evaluation.lending import lent, no_scores
from pytest_mergegate.gate.options import Scorer
from pytest_mergegate.pool.examples import Example

if TYPE_CHECKING:  # which import torch
    from pytest_mergegate.engine.models.model import Model
    from pytest_mergegate.engine.running.engine import Engine

Scores = NDArray[np.float64]
_RETURNS = "returns one number in [0, 1] per example"


@dataclass(frozen=True, kw_only=True)
class OwnMetric:
    """A function ``package.module:function``, or what the hook knows by that name, and the examples
    of one expert that it is asked to score."""

    metric: str
    expert: str
    examples: Sequence[Example]
    numbers: Sequence[int]
    """Those by which errors name the examples."""
    kind: Literal["metric", "distance"] = "metric"

    @property
    def _rows(self) -> list[dict[str, Any]]:
        """The examples as in their file."""
        return [one.model_dump(mode="json", exclude_none=True) for one in self.examples]

    @property
    def _item(self) -> str:
        """What it gives a number each."""
        return "example" if self.kind == "metric" else "pair of outputs"

    def refused(self, why: str, fix: str | None = None, discreet: str | None = None) -> PoolError:
        """The error for a metric that gives no scores."""
        return no_scores(f"{self.kind} {self.metric}", why, self.expert, fix, discreet)

    def load(self, root: Path) -> Callable[..., Any]:
        """The function; a module beside the gate file, in ``root``, comes first.

        Raises PoolError, also for a module that raises or exits when it is imported.
        """
        try:
            return load_function(self.metric, root)
        except Unusable as error:
            raise self.refused(error.why, error.fix) from None

    def takes_model(self, function: Callable[..., Any]) -> bool:
        """Whether it is a function of (model, tokenizer, examples), not of (outputs, targets) or
        of (outputs, targets, inputs).

        One that can be called with two arguments gets two. Raises PoolError for neither.
        """
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # some functions written in C
            return False
        for count in (2, 3):
            try:
                signature.bind(*range(count))
            except TypeError:
                continue
            return count == 3 and not takes_inputs(function)
        raise self.refused(
            f"takes {signature}, and is called with two arguments or with three",
            "write (outputs, targets), (outputs, targets, inputs) or (model, tokenizer, examples); "
            f"{_RETURNS}",
        )

    def of_outputs(self, function: Callable[..., Any], outputs: Sequence[str]) -> Scores:
        """Scores [n] by a function of outputs and targets, the best of an example's references.

        Raises PoolError naming what it could not score.
        """
        of = [k for k, one in enumerate(self.examples) for _ in one.references]
        targets = [right for one in self.examples for right in one.references]
        best = np.zeros(len(self.examples))
        np.maximum.at(best, of, self._of_pairs(function, [outputs[k] for k in of], targets, of))
        return best

    def between(
        self, function: Callable[..., Any], outputs: Sequence[str], others: Sequence[str]
    ) -> Scores:
        """Distances [n] of outputs by a function of two lists of them. Raises PoolError as
        ``of_outputs``, and where an output is away from itself."""
        found = self._of_pairs(function, outputs, others, range(len(outputs)))
        for output, other, distance in zip(outputs, others, found, strict=True):
            if output == other and distance != 0:
                raise self.refused(
                    f"is {distance:g} between {output[:40]!r} and itself",
                    "a distance is 0 between equal outputs, and 1 where nothing is left of one",
                    f"is {distance:g} between an output and itself",
                )
        return found

    def _of_pairs(
        self,
        function: Callable[..., Any],
        outputs: Sequence[str],
        others: Sequence[str],
        of: Sequence[int],
    ) -> Scores:
        """What ``function`` gives every pair of texts, each ``of`` one of the examples.

        It is called twice: one that gives the same answers different scores measures nothing.
        """
        beside = "target" if self.kind == "metric" else "other output"

        inputs = [row["input"] for row in self._rows] if takes_inputs(function) else None

        def ask(picked: Sequence[int]) -> Any:
            pairs = [outputs[k] for k in picked], [others[k] for k in picked]
            if inputs is None:
                return function(*pairs)
            return function(*pairs, [inputs[of[k]] for k in picked])

        def shown(k: int) -> str:
            return f"output {outputs[k]!r}, {beside} {others[k]!r}"

        usage = f"it takes (outputs, {beside}s) and {_RETURNS}"
        once, again = (self._scores(ask, shown, usage, of) for _ in range(2))
        if differing := np.flatnonzero(once != again).tolist():
            place = differing[0]
            raise self.refused(
                f"scored {self._item} {self.numbers[of[place]]} as {once[place]:g}, and as "
                f"{again[place]:g} when asked again",
                f"a {self.kind} must give equal outputs equal scores; seed what it draws at random",
            )
        return once

    def of_model(self, function: Callable[..., Any], model: "Model") -> Scores:
        """Scores [n] by a function of the loaded model. Raises PoolError as ``of_outputs``.

        It is called once: it may cost as much as everything else together.
        """

        def ask(picked: Sequence[int]) -> list[Any]:
            rows = [self._rows[k] for k in picked]
            with lent(model, f"metric {self.metric}", expert=self.expert) as (module, tokenizer):
                return _listed(function(module, tokenizer, rows))

        return self._scores(
            ask,
            lambda k: f"input {self.examples[k].input!r}",
            f"it takes (model, tokenizer, examples) and {_RETURNS}",
            range(len(self.examples)),
        )

    def by_hook(self, scorer: Scorer | None, engine: "Engine") -> Scores | None:
        """Scores [n] by the hook, where there is one that knows the metric; else None.

        Raises PoolError as ``of_model``, and where the hook scores an expert's examples under one
        model and leaves them to others under another: no loss lies between two metrics.
        """
        if scorer is None:
            return None
        left = False

        def scored(module: Any, tokenizer: Any, rows: Sequence[Any]) -> Sequence[float]:
            nonlocal left
            found = scorer(metric=self.metric, model=module, tokenizer=tokenizer, examples=rows)
            left = found is None
            return [0.0] * len(rows) if found is None else found

        scores = self.of_model(scored, engine.model)
        key = f"left by the hook: {self.metric} of {self.expert}"
        if engine.kept.setdefault(key, left) != left:
            raise no_scores(
                f"pytest_mergegate_evaluate scored metric {self.metric}",
                f"under one model, and returned None under another ({engine.model.loaded})",
                self.expert,
                "a hook answers for a metric always, or never; raise where it cannot",
            )
        return None if left else scores

    def _scores(
        self,
        ask: Callable[[Sequence[int]], Any],
        shown: Callable[[int], str],
        usage: str,
        of: Sequence[int],
    ) -> Scores:
        """What ``ask`` scores the items with the given indices, checked.

        ``shown`` is what the metric gets of one item, ``usage`` how such a metric is written, and
        ``of`` the index of the example to which each item belongs.
        """
        count = len(of)

        def culprit() -> str:
            """Name the first example that by itself gives no score either."""
            for index in range(count):
                try:
                    scored = len(_listed(ask([index]))) == 1
                except (KeyboardInterrupt, PoolError):
                    raise
                except BaseException:
                    scored = False
                if not scored:
                    return f" ({self._item} {self.numbers[of[index]]}: {shown(index)})"
            return ""

        try:
            scores = _listed(ask(range(count)))
        except (KeyboardInterrupt, PoolError):
            raise
        except BaseException as error:  # sys.exit and pytest.skip must not end or skip the gate
            why = f"raised {type(error).__name__}: {error}{culprit()}"
            raise self.refused(why, usage, f"raised {type(error).__name__}") from error
        if len(scores) != count:
            asked = "examples" if count == len(self.examples) else "pairs of output and reference"
            asked = asked if self.kind == "metric" else "pairs of outputs"
            why = f"returned {len(scores)} scores for {count} {asked}"
            fix = f"return one number in [0, 1] for each of the {asked}"
            raise self.refused(f"{why}{culprit()}", fix, why)
        return np.array(
            [self._checked(one, self.numbers[k]) for one, k in zip(scores, of, strict=True)]
        )

    def _checked(self, value: Any, number: int) -> float:
        try:
            score = float(value)
        except (TypeError, ValueError, OverflowError):
            score = math.nan
        if not 0 <= score <= 1:
            why = f"scored {self._item} {number} as {repr(value)[:40]}"
            discreet = f"scored {self._item} {number} as no number in [0, 1]"
            raise self.refused(why, "scores are numbers between 0 and 1", discreet)
        return score


def _listed(found: Any) -> list[Any]:
    """The numbers in their order; text has none, and what has no order is of no example."""
    if isinstance(found, str | bytes | Mapping | Set):
        raise TypeError(f"a {type(found).__name__} is no list of numbers")
    return list(found)


def takes_inputs(function: Callable[..., Any]) -> bool:
    """Whether a function of texts asks for the inputs, too, by the name of its third argument."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some functions written in C
        return False
    return names[2:3] == ["inputs"]
