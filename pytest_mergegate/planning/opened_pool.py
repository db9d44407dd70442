"""The pool that is planned for: a gate's, with candidates, as far as its hidden states."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files.places import placed
from pytest_mergegate.engine.running.cache import Cache
from pytest_mergegate.gate.gatefile import Gate
from pytest_mergegate.gate.mergekit.gate import conventional_examples
from pytest_mergegate.gate.options import Options
from pytest_mergegate.gate.sections import POOL, ExpertSpec
from pytest_mergegate.history.past import Past
from pytest_mergegate.merging.gate_methods import plan_methods
from pytest_mergegate.planning.limits import refuse_unplanned
from pytest_mergegate.planning.weights import with_merge
from pytest_mergegate.pool.adapters import CONFIG
from pytest_mergegate.stages import pipeline
from pytest_mergegate.stages.context import Clock, Context, Results
from pytest_mergegate.stages.preflight import UnsoundPool, run_preflight
from pytest_mergegate.verdict.budgets import set_limits
from pytest_mergegate.verdict.evidence import budget_questions
from pytest_mergegate.verdict.past_merges import with_known_limits

_MODEL = "config.json"


def open_pool(gate: Gate, options: Options) -> tuple[Context, Results]:
    """Read the pool and its states; the gate of the context has all its limits as numbers.

    Raises GateError, also for what preflight finds.
    """
    refuse_unplanned(gate.spec)
    if gate.spec.merged is not None:
        raise GateError(
            "there is nothing to plan: the gate is of a finished merge",
            where=gate.where("merged"),
            fix="leave merged: out, and plan a merge of its experts",
        )
    if gate.mergekit is not None and gate.mergekit.why_official is not None:
        raise GateError(
            f"a merge cannot be planned for this mergekit configuration: "
            f"{gate.mergekit.why_official}",
            where=gate.name,
            fix="plan with a gate file, or a configuration of whole models and plain weights",
        )
    preflight = run_preflight(gate)
    if not preflight.ok or preflight.pool is None:
        raise UnsoundPool(preflight.findings)
    pool, cache = preflight.pool, Cache(folder=options.cache)
    past = Past(options.registry, cache)
    gate = with_known_limits(gate, pool, lambda: past.observations)
    plan_methods(gate, pool.names)  # a typo fails at once
    decisions = budget_questions(gate.spec, pool)
    context = Context(gate, pool, options, cache, Clock(), lambda: decisions)
    context.check_comparisons()
    about_pairs = any(
        kind.about == "pair" for kind, _ in set_limits(gate.spec.effective_budget.limits)
    )
    results = pipeline.read_states(context, conflicts=about_pairs)
    pool.wait_for_hashes(base=True)
    return context, results


def with_candidates(gate: Gate, entries: Sequence[str]) -> tuple[Gate, tuple[str, ...]]:
    """The gate with experts that might take another's place, and their names.

    Each entry is ``NAME=PATH`` or a glob of folders, from the working directory; folders that are
    no models, and the gate's own experts, are passed over in a glob. Raises GateError.
    """
    spec = gate.spec
    found: dict[str, str] = {}
    for name, path in (pair for entry in entries for pair in _named(entry, gate)):
        if name in spec.experts or found.get(name, path) != path or name == POOL:
            raise GateError(
                f"--candidates: there are two experts called {name}",
                fix=f"write --candidates ANOTHER_NAME={path}",
            )
        found[name] = path
    if not found:
        raise GateError(
            f"--candidates: no model in {', '.join(entries)} that the gate does not have already",
            fix="write NAME=PATH, or a glob of folders with adapter_config.json or config.json",
        )
    experts = {name: _expert(gate, name, path) for name, path in found.items()}
    wider = replace(gate, spec=spec.model_copy(update={"experts": {**spec.experts, **experts}}))
    if isinstance(given := spec.merge.weights, dict):
        mean = sum(given.values()) / len(given)
        wider = with_merge(wider, weights={**given, **dict.fromkeys(experts, mean)})
    return wider, tuple(experts)


def _named(entry: str, gate: Gate) -> Iterator[tuple[str, str]]:
    name, equals, path = entry.partition("=")
    if equals and name and not Path(entry).exists():
        if not name.isprintable() or "::" in name or not path:
            raise GateError(f"--candidates: {entry!r} is no NAME=PATH")
        local = Path(path).expanduser()
        yield name, str(local.absolute()) if local.exists() else path
        return
    own = {placed(gate.root, expert.path).resolve() for expert in gate.spec.experts.values()}
    start = Path(Path(entry).anchor)  # Path.glob takes no absolute pattern
    try:
        folders = sorted(start.glob(str(Path(entry).relative_to(start))))
    except (ValueError, NotImplementedError) as error:
        raise GateError(f"--candidates: {entry!r} is no usable glob ({error})") from None
    for folder in folders:
        model = (folder / CONFIG).is_file() or (folder / _MODEL).is_file()
        if model and folder.resolve() not in own:
            yield folder.resolve().name, str(folder.absolute())


def _expert(gate: Gate, name: str, path: str) -> ExpertSpec:
    """Read as the gate's experts are, where those are all read alike."""
    examples = None
    if gate.spec.examples is None:
        examples = conventional_examples(name, path, gate.root)
        if examples is None:
            raise GateError(
                f"--candidates: there are no inputs for {name}",
                where=gate.name,
                fix=f"put them into data/{name}.jsonl beside the gate file, or into "
                f"examples.jsonl in {path}",
            )
    first, *others = gate.spec.experts.values()
    alike = all(other.how_read == first.how_read for other in others)
    update: dict[str, object] = {"path": path, "examples": examples, "score": None}
    return (first if alike else ExpertSpec(path=path)).model_copy(update=update)
