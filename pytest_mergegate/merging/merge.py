"""One merge: merged weights, how faithful they are, and the linear scale they amount to."""

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.engine.models.streaming import SpilledWeights
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.engine.weights.mixing import in_lanes
from pytest_mergegate.merging.fidelity import check_fidelity
from pytest_mergegate.merging.in_place import drawn, lazy_weights, merge_parameter, one_at_a_time
from pytest_mergegate.merging.method import Method, linear_scales, scales_base

_SCALE_SAMPLE = 16
_CHUNK = 1 << 18
"""Numbers that are held in float64 at a time."""


class Merged:
    """The parameters that a merge changes, each made or read when it is asked for."""

    weights: Mapping[str, Tensor]
    """In the precision in which the model holds them. Raises GateError where mergekit refuses, or
    where a number is not finite."""

    def __init__(self, method: Method, fidelity: float | None = None) -> None:
        self._label = method.label
        self._digests: dict[str, str] = {}
        self.fidelity = fidelity
        """The largest relative error of the identities that the method has to satisfy; None where
        mergekit alone made the merge, and it cannot be made again in place."""
        self.weights = {}

    @property
    def digest(self) -> str:
        """Over every merged parameter, once all of them were asked for."""
        assert len(self._digests) == len(self.weights)
        whole = "".join(f"{name}:{self._digests[name]};" for name in sorted(self._digests))
        return hashlib.sha256(whole.encode()).hexdigest()

    def note(self, parameter: str, merged: Tensor) -> None:
        """Take a parameter into the digest. Raises GateError where a number is not finite."""
        # the smallest and the largest are NaN where any number is, and quickly found
        if merged.numel() and not all(map(torch.isfinite, torch.aminmax(merged))):
            raise GateError(f"{self._label} gives NaN or infinity in {parameter!r}")
        numbers = merged.cpu().contiguous().view(torch.uint8).numpy()
        self._digests[parameter] = hashlib.sha256(numbers.data).hexdigest()


def merge(method: Method, engine: Engine) -> Merged:
    """Merge the pool's experts, parameter by parameter, or have mergekit write the merge.

    Raises GateError where mergekit refuses, and for a method that does not do what its name says
    (THEORY 8).
    """
    if method.route == "peft":
        return _by_peft(method, engine)
    if method.route == "official":
        from pytest_mergegate.merging.official import merge_officially

        return merge_officially(method, engine)
    if scales_base(method):
        raise GateError(
            f"{method.label}: weights that do not sum to 1, or scale, scale every parameter of the "
            "base, also those that no expert changes",
            fix="normalize them, leave scale out, or write merge.route: official",
        )
    merged = Merged(method, check_fidelity(method, engine))
    merged.weights = lazy_weights(method, engine, engine.vectors.parameters(), merged.note)
    if engine.model.is_streamed:
        kept = SpilledWeights()
        kept.update(merged.weights)
        merged.weights = kept
    return merged


def _by_peft(method: Method, engine: Engine) -> Merged:
    if engine.model.is_streamed:
        raise GateError(
            "route: peft takes the whole base in memory, and it is larger than the process may use",
            fix="give it more, or leave route out",
        )
    from pytest_mergegate.merging.by_peft import merge_by_peft

    return merge_by_peft(method, engine)


def effective_scales(method: Method, engine: Engine) -> dict[str, float]:
    """λ_j of the linear merge that comes nearest to the method's (THEORY 6).

    Known for linear methods; otherwise the least-squares scale of the merged task vector on
    Σ w_j τ_j, measured on a sample of really merged tensors.
    """
    known = linear_scales(method)
    if known is not None:
        return known
    if method.config is not None:
        from pytest_mergegate.merging.official import official_scales

        return official_scales(method, engine)
    made = _by_peft(method, engine).weights if method.route == "peft" else None

    def on_target(parameter: str) -> tuple[float, float]:
        """⟨merged task vector, Σ w_j τ_j⟩ and ‖Σ w_j τ_j‖² of one parameter."""
        target = engine.vectors.mix(parameter, method.weights)
        if target is None:
            return 0.0, 0.0
        own = engine.model.base_weight(parameter)
        if made is None:
            moved = merge_parameter(method, engine, parameter) - own
        else:
            moved = made[parameter].float() - own if parameter in made else own * 0
        return _product(moved, target), _product(target, target)

    sample = drawn(engine.vectors.parameters(), _SCALE_SAMPLE)
    found = in_lanes(on_target, sample, alone=one_at_a_time(method))
    dot, square = (math.fsum(column) for column in zip(*found, strict=True)) if found else (0, 0)
    scale = dot / square if square else 0.0  # what is NaN stays so, to be refused as a model
    return {name: scale * weight for name, weight in method.weights.items()}


def _product(left: Tensor, right: Tensor) -> float:
    """⟨left, right⟩ in float64."""
    chunks = (torch.split(tensor.flatten(), _CHUNK) for tensor in (left, right))
    pairs = zip(*chunks, strict=True)
    return math.fsum(float(one.double() @ other.double()) for one, other in pairs)
