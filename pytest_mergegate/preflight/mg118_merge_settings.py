"""MG118: merge settings that do something else than their name promises."""

from collections.abc import Iterator, Sequence

from pytest_mergegate.gate.merge_section import MethodSpec
from pytest_mergegate.gate.mergekit.file import sources
from pytest_mergegate.gate.spec import GateSpec
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, note, warning

_SOME = 0.5
"""In place of a density that is no single number."""
_TOO_MUCH = 1.5
"""Sum of the weights from which what the experts share is counted about twice."""


ABOUT_MAKING = True


def find(pool: Pool) -> Findings:
    """Settings that run, and mislead; what is impossible is refused elsewhere."""
    mergekit, experts = pool.mergekit is not None, len(pool.experts)
    if pool.mergekit is not None and pool.mergekit.why_official is not None:
        experts = 2  # how many each slice has is between it and mergekit
    for label, method in _methods(pool):
        for message, fix in _traps(method, pool.spec, experts, mergekit=mergekit):
            yield warning(f"{label}: {message}", fix)
        given = method.parameters
        rescales = method.traits.rescales_unlike_paper and given.get("rescale", True)
        if mergekit and rescales and given.get("density", 1.0) != 1:
            yield note(
                f"{label}: what is kept is scaled up to the L1 norm of the whole, "
                "not by 1/density as in the paper",
                "nothing, where it is meant; rescale: false turns it off",
            )


def _methods(pool: Pool) -> Sequence[tuple[str, MethodSpec]]:
    """The methods; of a configuration that says more than a gate can, what it says of density."""
    file, methods = pool.mergekit, pool.spec.merge.methods
    if file is None or file.why_official is None:
        return [(method.label, method) for method in methods]
    said = [file.config, *(file.config.get("slices") or ()), *sources(file.config)]
    densities = [(part.get("parameters") or {}).get("density") for part in said]
    density = next((d for d in densities if d is not None and d != 1), None)
    # weights that may differ from tensor to tensor are not added up
    update: dict[str, object] = {"normalize": True}
    if density is not None:
        update["density"] = density if type(density) in (int, float) else _SOME
    return [(method.label, method.model_copy(update=update)) for method in methods]


def _traps(
    method: MethodSpec, spec: GateSpec, experts: int, *, mergekit: bool
) -> Iterator[tuple[str, str]]:
    given, traits = method.parameters, method.traits
    run = method.run_on(experts)
    if run != method.method:
        yield (
            f"merges two models, the pool has {experts}: {run} is run instead",
            f"write {'merge_method' if mergekit else 'method'}: {run}, or linear, which is the "
            "same at usual LoRA sizes",
        )
    density = given.get("density", 1.0)
    if traits.trims and density == 1:
        what = "density 1.0" if "density" in given else "without a density, which is then 1.0,"
        nothing = "drops" if traits.draws else "trims"
        yield (f"{what} {nothing} nothing", _write(method, "density: 0.5", mergekit=mergekit))
    if traits.draws and density != 1 and "seed" not in spec.merge.model_fields_set:
        yield (
            f"draws at random, and the gate file names no seed: the gate uses {spec.merge.seed}, "
            "mergekit's own run draws anew",
            ("write mergegate: {merge: {seed: 0}}" if mergekit else "write merge.seed")
            + ", and give mergekit the same with --random-seed",
        )
    own = spec.merge.weights
    weights = list(own.values()) if isinstance(own, dict) else [1.0] * experts
    weight = given.get("weight", 1.0)
    normalizes = traits.parameters.get("normalize") and given.get("normalize", True)
    common = len(set(weights)) == 1 and weights[0] * weight != 1
    if traits.trims and normalizes and common:
        yield (
            "the common weight of all experts cancels: the method divides by the sum of the "
            "weights unless normalize is false",
            f"{_write(method, 'lambda: ...', mergekit=mergekit)} to scale the merge",
        )
    total = float(weight) * float(given.get("lambda", 1.0)) * sum(weights)
    if traits.combines == "sum" and not given.get("normalize", False) and total > _TOO_MUCH:
        yield (
            f"the weights sum to {total:.3g}: what the experts share is added that many times",
            f"{_write(method, f'weight: {1 / experts:.2g}', mergekit=mergekit)}, or weights of "
            "each model that sum to about 1",
        )


def _write(method: MethodSpec, setting: str, *, mergekit: bool) -> str:
    """What to write, in the syntax of the file that the finding is about."""
    if mergekit:
        return f"write parameters: {{{setting}}}"
    return f"write {{method: {method.method}, {setting}}}"
