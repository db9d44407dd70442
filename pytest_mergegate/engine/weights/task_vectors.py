"""Task vectors τ = θ_i − θ₀, one parameter at a time."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pytest_mergegate.common.errors import PoolError, first_line
from pytest_mergegate.pool.adapters import CONFIG, is_drawn
from pytest_mergegate.pool.changes import Computed, Factors
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.statistics import NEGLIGIBLE

T = TypeVar("T")
_DRAWN = 1e-5
"""Of the largest weight: how far two starts that were drawn anew may be apart."""


class TaskVectors:
    """The experts' task vectors, read lazily from their safetensors files and the base's."""

    def __init__(self, pool: Pool) -> None:
        self._base = pool.base
        self._experts: dict[str, Expert] = {expert.name: expert for expert in pool.experts}
        self._computed = ComputedDeltas(pool)

    def rename(self, parameters: Iterable[str]) -> None:
        """Have the parameters of full checkpoints go by the loaded model's names, ``parameters``.

        transformers renames and fuses the tensors of some architectures when it loads them; what
        the files' names leave out would count as unchanged.
        """
        names = list(parameters)
        for name, expert in self._experts.items():
            if not expert.is_adapter and set(expert.changes) != set(names):
                changes = {p: Computed(parameter=p, keys=()) for p in names}
                self._experts[name] = replace(expert, changes=changes)

    @property
    def names(self) -> tuple[str, ...]:
        """The experts, in the pool's order."""
        return tuple(self._experts)

    def parameters(self, *names: str) -> list[str]:
        """Sorted parameters that any of the experts ``names`` (default: all) changes."""
        chosen = names or self.names
        return sorted({p for name in chosen for p in self._experts[name].changes})

    def factors(self, name: str, parameter: str) -> tuple[Tensor, Tensor] | None:
        """(L [rows, rank], R [rank, columns]) in float32 with τ = L @ R; None where the expert
        leaves ``parameter`` alone, or where its τ has no factors."""
        expert = self._experts[name]
        change = expert.changes.get(parameter)
        if not isinstance(change, Factors) or change.magnitude_key or change.base_key:
            return None
        a, b = (torch.from_numpy(expert.tensors.floats(k)) for k in (change.key_a, change.key_b))
        b = b * change.scale
        return (a.T, b.T) if change.transposed else (b, a)

    def delta(self, name: str, parameter: str) -> Tensor | None:
        """Dense float32 τ of one parameter, in its shape; None where it is left alone."""
        expert = self._experts[name]
        change = expert.changes.get(parameter)
        if change is None:
            return None
        if isinstance(change, Computed):
            return self._computed.delta(expert, parameter)
        if factors := self.factors(name, parameter):
            return factors[0] @ factors[1]
        from pytest_mergegate.engine.weights.delta_rows import delta_rows, whole_delta  # numba

        base = self._base
        rows = delta_rows(change, expert.tensors, base, lambda: np.empty(0))
        return torch.from_numpy(whole_delta(rows, base.tensors, parameter))

    def parts(
        self, parameter: str, scales: Mapping[str, float]
    ) -> tuple[Tensor | None, list[tuple[Tensor, Tensor, float]]]:
        """Σ λ_j τ_j of one parameter as a dense float32 tensor (None for zero), and the
        (L, R, λ) whose products are to be added to it."""
        dense, terms = None, []
        for name, scale in scales.items():
            if factors := self.factors(name, parameter):
                terms.append((*factors, scale))
            elif (delta := self.delta(name, parameter)) is not None:
                dense = scale * delta if dense is None else dense.add_(delta, alpha=scale)
        return dense, terms

    def mix(self, parameter: str, scales: Mapping[str, float]) -> Tensor | None:
        """Dense float32 Σ λ_j τ_j of one parameter; None where none of the experts changes it."""
        total, terms = self.parts(parameter, scales)
        for left, right, scale in terms:
            total = (
                scale * (left @ right) if total is None else total.addmm_(left, right, alpha=scale)
            )
        return total


class ComputedDeltas:
    """Dense task vectors that only a library can work out, of whole experts, kept in files: PEFT
    those of IA3, LoHa, LoKr, VeRA, ...; transformers those of checkpoints whose tensors it renames
    or fuses when it loads them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: dict[str, Mapping[str, Tensor]] = {}
        self._one_at_a_time = Lock()

    def delta(self, expert: Expert, parameter: str) -> Tensor:
        """Float32 τ of one parameter.

        Raises PoolError where PEFT does not take the adapter, or transformers the checkpoint.
        """
        with self._one_at_a_time:
            if expert.name not in self._known:
                self._known[expert.name] = self._compute(expert)
            return self._known[expert.name][parameter]

    def _compute(self, expert: Expert) -> Mapping[str, Tensor]:
        from pytest_mergegate.engine.models.families import pick_family
        from pytest_mergegate.engine.models.loading import load_config, load_module
        from pytest_mergegate.engine.models.streaming import SpilledWeights
        from pytest_mergegate.engine.weights.adapters import refused

        trusted, path = self._pool.spec.trust_remote_code, self._pool.base.path
        family = pick_family(load_config(path, trust_remote_code=trusted))

        def load() -> Any:
            return load_module(path, family.auto_class, family.kind, trust_remote_code=trusted)

        module = load()
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        after = _drawn(_after, module, expert, seed=0)
        del module
        if is_drawn(expert.config):
            _check_drawn(after, _drawn(_after, load(), expert, seed=1), expert)
        deltas = SpilledWeights()
        size = moved = 0.0
        for name, own in before.items():
            delta = after[name] - own
            if name in expert.changes:
                size += float(own.double().square().sum())
                deltas[name] = delta
            elif expert.is_adapter and bool(delta.any()):
                raise refused(expert, f"it changes {name!r} besides the modules it names")
            moved += float(delta.double().square().sum())
        # the rule of MG107, which its own file could not apply to tensors alone
        if moved < NEGLIGIBLE**2 * size and "MG107" not in self._pool.spec.ignore:
            raise PoolError(
                f"the {'adapter' if expert.is_adapter else 'checkpoint'} changes nothing: "
                f"‖ΔW‖ is below {NEGLIGIBLE:g} of ‖W‖",
                code="MG107",
                expert=expert.name,
                fix="it was saved untrained, or its tensors were lost; save it again",
            )
        return deltas


def _drawn(make: Callable[[Any, Expert], T], module: Any, expert: Expert, *, seed: int) -> T:
    """What is made with a seed of its own; nothing else hears of it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(module, expert)


def _check_drawn(one: Mapping[str, Tensor], other: Mapping[str, Tensor], expert: Expert) -> None:
    """Raise PoolError where a start that is worked out from random numbers hangs on them."""
    for name, own in one.items():
        if not float((own - other[name]).abs().max()) <= _DRAWN * float(own.abs().max()):
            start = expert.config.get("init_lora_weights")
            raise PoolError(
                f"init_lora_weights={start!r}: its start was worked out from random numbers, which "
                f"it does not hold, and others give another {name!r}",
                code="MG002",
                expert=expert.name,
                where=CONFIG,
                fix="save it converted where its start is: save_pretrained(path, "
                "path_initial_model_for_weight_conversion=...); or list it merged",
            )


def _after(module: Any, expert: Expert) -> Mapping[str, Tensor]:
    """The parameters of the expert; ``module`` is the base, and is used up."""
    from pytest_mergegate.engine.models.loading import load_module
    from pytest_mergegate.engine.weights.adapters import merged_by_peft, refused

    if not expert.is_adapter:
        # the base's own class and configuration: nothing that the expert's folder names
        family = type(module)
        tuned = load_module(
            expert.path, family, family.__name__, config=module.config, expert=expert.name
        )
        own = dict(module.named_buffers())
        for name, buffer in tuned.named_buffers():
            if not torch.equal(buffer, own[name]):  # such as BART's final_logits_bias
                raise PoolError(
                    f"{name!r} is not the base's, and is no parameter that a merge would change",
                    code="MG002",
                    expert=expert.name,
                    fix="leave this expert out of the pool, or save it with the base's values",
                )
        return {name: p.detach() for name, p in tuned.named_parameters()}
    try:
        return merged_by_peft(module, expert)
    except PoolError:
        raise
    except Exception as error:  # a stranger's configuration can break PEFT in any way
        raise refused(expert, first_line(error)) from None
