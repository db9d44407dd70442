"""Tasks of EleutherAI's lm-evaluation-harness, on the model in memory."""

import contextlib
import functools
import io
import logging
import random
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pytest_mergegate import metrics
from pytest_mergegate.common.errors import GateError, PoolError
from pytest_mergegate.common.working_folder import apart, working_in
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.evaluation.lending import lent, no_scores
from pytest_mergegate.evaluation.scoring import Scored

_SEED = 1234
"""The harness's own default, for few-shot examples and what a task draws at random."""
_BATCH = 16


def harness_scores(engine: Engine, name: str, *, expert: str, tasks: Path | None) -> Scored:
    """Score the loaded model on every sample of the task ``name``, by its first metric.

    Tasks are looked up among the harness's own, and in the folder ``tasks`` of the team's. Raises
    GateError without the package, PoolError for a task that gives no scores in [0, 1] and for a
    name that stands in both places.
    """
    if engine.model.reading != "greedy":
        raise PoolError(
            f"lm_eval:{name} asks a language model, and the base is a {engine.model.kind}",
            code="MG203",
            expert=expert,
            fix="use metric: exact_match or accuracy",
        )
    _require_package()
    with lent(engine.model, f"lm_eval:{name}", expert=expert) as (module, tokenizer):
        try:
            with _undisturbed(module.device), _place_of(name, tasks, expert) as own:
                # looked up, and its data read, once for all models of a gate
                if (kept := f"lm_eval:{name}") not in engine.kept:
                    engine.kept[kept] = _find_task(name, own)
                task = engine.kept[kept]
                samples = _samples(task, name, module, tokenizer)
        except (KeyboardInterrupt, GateError):
            raise
        except BaseException as error:  # a task's own code may exit
            said = next(iter(str(error).strip().splitlines()), "")
            why = f"did not run ({type(error).__name__}: {said})"
            raise _refused(name, why, expert, f"did not run ({type(error).__name__})") from error
    listed = task.get_config("metric_list")
    first = listed[0]["metric"] if listed else samples[0]["metrics"][0]
    metric = str(getattr(first, "__name__", first))
    if task.higher_is_better().get(metric) is False:
        raise _refused(name, f"is measured by {metric}, of which less is better", expert)
    scores = [_score(sample, metric, k, name, expert) for k, sample in enumerate(samples)]
    chance = 0.0
    if task.OUTPUT_TYPE == "multiple_choice":
        chance = metrics.majority_rate([repr(sample["target"]) for sample in samples])
    return Scored(scores=np.array(scores), chance=chance, of_outputs=False)


def _require_package() -> None:
    try:
        with apart():
            import lm_eval.evaluator
            import lm_eval.tasks  # noqa: F401
    except ImportError:
        raise GateError(
            "metric lm_eval: needs the lm-eval package",
            fix="pip install 'pytest-mergegate[lm-eval]'",
        ) from None


def _find_task(name: str, own: Path | None) -> Any:
    """The one task of that name, in the folder ``own`` where it is the team's."""
    if own is None and not _harness_has(name):
        raise LookupError(
            f"no task of that name in the harness or in the folder lm_eval_tasks ({name})"
        )
    manager = _harness_tasks() if own is None else _own_tasks(own)
    if name not in manager.all_subtasks:
        raise LookupError(f"{name} is a group of tasks; name one of them")
    found = manager.load_task_or_group(name)[name]
    if found.get_config("num_fewshot") is None:
        found.set_config(key="num_fewshot", value=0)
    return found


def _own_tasks(folder: Path) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(folder), include_defaults=False)


@contextlib.contextmanager
def _place_of(name: str, tasks: Path | None, expert: str) -> Iterator[Path | None]:
    """Work where relative paths of the task may start: in the folder ``tasks``, which is returned,
    where it is the team's own, else in an empty one.

    datasets and evaluate take a folder there for a data set or a metric of the hub, code and all.
    """
    if tasks is None or name not in _own_tasks(tasks).all_tasks:
        with apart():
            yield None
        return
    if _harness_has(name):
        raise no_scores(
            f"lm_eval:{name}",
            f"is a task in {tasks.name}/, and one that the harness brings",
            expert,
            "give the task in your folder another name",
        )
    with working_in(tasks):
        yield tasks


@functools.cache
def _harness_has(name: str) -> bool:
    """Whether the harness itself brings a task or a group of that name."""
    from lm_eval import tasks

    folder, written = Path(tasks.__file__).parent, name.encode()
    if not any(written in file.read_bytes() for file in folder.rglob("*.y*ml")):
        return False  # to parse all of them takes many seconds
    return name in _harness_tasks().all_tasks


@functools.cache
def _harness_tasks() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _samples(task: Any, name: str, module: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """What the harness logs of every sample, after the task's first filter."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    kind = "seq2seq" if module.config.is_encoder_decoder else "causal"
    model = HFLM(pretrained=module, tokenizer=tokenizer, backend=kind, batch_size=_BATCH)
    task.set_fewshot_seed(seed=_SEED)
    results = evaluate(lm=model, task_dict={name: task}, log_samples=True, bootstrap_iters=0)
    samples = results["samples"][name]
    first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    return sorted(first, key=lambda sample: int(sample["doc_id"]))


def _score(sample: Mapping[str, Any], metric: str, index: int, name: str, expert: str) -> float:
    value = sample.get(metric)
    if not isinstance(value, (int, float, np.number, np.bool_)):
        known = ", ".join(sample["metrics"])
        why = f"has no score per sample under its first metric, {metric} (samples carry {known}"
        raise _refused(name, f"{why}, the first one {str(value)[:40]})", expert, f"{why})")
    number = float(value)
    if not 0 <= number <= 1:
        raise _refused(name, f"scored sample {index + 1} as {number:g} by {metric}", expert)
    return number


def _refused(name: str, why: str, expert: str, discreet: str | None = None) -> PoolError:
    fix = (
        "name a single task whose first metric scores each sample between 0 and 1, such as acc or "
        "exact_match"
    )
    return no_scores(f"lm_eval:{name}", why, expert, fix, discreet)


@contextlib.contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Neither log nor progress bars, and random numbers of its own."""
    log, devices = logging.getLogger("lm_eval"), [device] if device.type == "cuda" else []
    level, drawn, numpy_drawn = log.level, random.getstate(), np.random.get_state()
    log.setLevel(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=devices),
        ):
            warnings.simplefilter("ignore")
            torch.manual_seed(_SEED)
            random.seed(_SEED)
            np.random.seed(_SEED)
            yield
    finally:
        log.setLevel(level)
        random.setstate(drawn)
        np.random.set_state(numpy_drawn)
