"""A merge method with everything it is run with; needs neither torch nor mergekit."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, Literal, Protocol

from pytest_mergegate.common.plain import result
from pytest_mergegate.gate.merge_methods import MethodTraits, traits_of


class JudgedMerge(Protocol):
    """What a report says of a merge, to make it again; nothing but data."""

    @property
    def method(self) -> str:
        """The method's label."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Per expert: under ``weights: optimal`` no gate file knows them."""

    @property
    def digest(self) -> str:
        """Over the merged parameters."""


@result
class Method:
    """One merge method with everything it is run with."""

    label: str
    """Name and parameters, unique in the gate."""
    name: str
    """As the table has it, and mergekit."""
    parameters: Mapping[str, bool | int | float]
    """As given in the gate, except for ``weight``."""
    weights: Mapping[str, float]
    """Per expert, as mergekit is handed them; relative shares for methods without weights."""
    seed: int
    takes_base: bool
    takes_weights: bool
    route: Literal["in_place", "official", "peft"] = "in_place"
    """``official`` has mergekit write the whole merge, in a process of its own; ``peft`` has PEFT
    make one adapter."""
    config: Mapping[str, Any] | None = None
    """A mergekit configuration to be run as it stands, its models named as in ``MergekitFile``."""
    root: str | None = None
    """Beside what a function of the team's own is looked for: the method is its name. None for
    other methods. Its code may change from run to run: nothing that comes of it is kept."""

    @property
    def traits(self) -> MethodTraits:
        """The method's row of the table."""
        return traits_of(self.name)

    @property
    def is_weighted(self) -> bool:
        """Whether it merges differently under other ``weights``."""
        return self.takes_weights or self.traits.share_parameter is not None

    @property
    def mergekit_parameters(self) -> dict[str, Any]:
        """Parameters in the form that ``merge_tensors`` takes."""
        parameters: dict[str, Any] = dict(self.parameters)
        if self.takes_weights:
            parameters["weight"] = dict(self.weights)
        if self.traits.share_parameter is not None:
            first, second = self.weights.values()
            parameters.setdefault(self.traits.share_parameter, second / (first + second))
        return parameters

    @property
    def plain(self) -> dict[str, Any]:
        """As plain data, from which ``Method(**plain)`` is the same again."""
        return {**asdict(self), "parameters": dict(self.parameters), "weights": dict(self.weights)}

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Experts in the order in which they are merged: by name, so that what an expert is dealt
        at random does not hang on its place in the gate. A walk alone tells its two ends apart."""
        return list(names) if self.traits.base == "expert" else sorted(names)


def with_shares(method: Method, shares: Mapping[str, float]) -> Method:
    """The same method with the mean weight kept and ``shares`` (summing to one) between experts."""
    mean = sum(method.weights.values()) / len(method.weights)
    weights = {name: mean * len(shares) * share for name, share in shares.items()}
    return replace(method, weights=weights)


def linear_scales(method: Method) -> dict[str, float] | None:
    """λ_j with merged = θ₀ + Σ λ_j τ_j, exact or in expectation; None where the method is not so,
    and for a configuration, whose weights may differ from tensor to tensor."""
    scales = method.traits.scales
    if method.config is not None or scales is None:
        return None
    return scales(method.weights, method.mergekit_parameters)


def is_sum(method: Method) -> bool:
    """Whether a method with ``linear_scales`` is just that sum of task vectors, exactly.

    What mergekit wrote is judged itself, not the sum that it should be.
    """
    known = method.traits.is_scaled_sum and linear_scales(method) is not None
    return known and method.route != "official"


def scales_base(method: Method) -> bool:
    """Whether the method is an average that scales θ₀ itself."""
    return method.traits.scales_base and linear_scales(method) is None


def has_surrogate(method: Method) -> bool:
    """Whether some sum θ₀ + Σ λ_j τ_j can stand for the method before it is merged: not for an
    average that scales θ₀, nor for a configuration that may do anything to any tensor."""
    return method.config is None and not scales_base(method)
