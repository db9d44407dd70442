"""Merges by singular vectors: Core Space merging, TSV-M and Iso-C.

All three are worked out in Core Space: in the directions that the experts' factors span, where a
task vector of a LoRA is a matrix of as many rows and columns as all ranks together. Nothing is lost
there, and nothing as large as the weight is decomposed; TSV-M and Iso-C are the same in any
orthonormal directions. Changes that have no factors (full checkpoints, DoRA) are decomposed whole.

Parameters that are no matrix (norms, biases, fused experts) get the mean of the task vectors, as in
the code of TSV-M and Iso-C. An embedding is a matrix there, and here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pytest_mergegate.engine.weights.mixing import FactoredTensor
from pytest_mergegate.merging.method import Method
from pytest_mergegate.merging.ties import put_ties

_ZERO = torch.finfo(torch.float32).eps
"""Of the largest singular value: at or below it one is no more than round-off of stored numbers,
and its vectors are any."""
_Combine = Callable[[Sequence[Tensor], int], Tensor]
"""One core matrix of the experts' and the smaller side of the weight."""


def put_core_space(
    method: Method, base: FactoredTensor, experts: Mapping[str, FactoredTensor], place: Tensor
) -> None:
    """Write the merge of one parameter to ``place``: TIES in Core Space.

    Panariello et al. 2025, arXiv 2509.17786: with τ_t = B_t A_t, U the left singular vectors of
    [B_1 ... B_T] and V the right ones of [A_1; ...; A_T], the core matrices M_t = Uᵀ B_t A_t V are
    merged, and θ₀ + λ U M Vᵀ is the merge. A LoRA's scale counts to B. What has no factors is given
    those of its own singular values, B_t = P Σ^½ and A_t = Σ^½ Qᵀ.
    """
    trimmed = replace(method, parameters={"density": method.parameters.get("density", 1.0)})

    def combine(cores: Sequence[Tensor], _: int) -> Tensor:
        merged = torch.empty(cores[0].shape)
        own = {
            name: FactoredTensor(core.float(), whole=True)
            for name, core in zip(experts, cores, strict=True)
        }
        put_ties(trimmed, FactoredTensor(torch.zeros(merged.shape)), own, merged)
        return merged.double()

    _put(method, base, experts, place, combine, factored=True)


def put_tsv_m(
    method: Method, base: FactoredTensor, experts: Mapping[str, FactoredTensor], place: Tensor
) -> None:
    """Write the merge of one parameter to ``place``, by task singular vectors.

    TSV-Merge, Gargiulo et al. 2025, arXiv 2412.00081: of every τ_t = U_t Σ_t V_tᵀ the largest
    min(rows, columns) / T singular values stay; with U = [U_1 ... U_T] = P D Qᵀ its nearest
    orthonormal columns are P Qᵀ, V alike, and θ₀ + λ (P_U Q_Uᵀ) Σ (P_V Q_Vᵀ)ᵀ is the merge. At
    least one value of every expert stays. Where experts share a direction, P Qᵀ is the partial
    isometry; the authors' code completes it with vectors of which any would do.
    """
    _put(method, base, experts, place, _task_singular_vectors)


def put_iso_c(
    method: Method, base: FactoredTensor, experts: Mapping[str, FactoredTensor], place: Tensor
) -> None:
    """Write the merge of one parameter to ``place``, all of its directions alike.

    Marczak et al. 2025, arXiv 2502.04959, equation of Iso-C: with Σ τ_t = U S Vᵀ the merge is
    θ₀ + λ σ̄ U Vᵀ, σ̄ the mean singular value. Mean and directions are of the singular values above
    zero: a sum of LoRAs has no more of them than all ranks together (as in Core Space), and vectors
    beyond these are any.
    """
    _put(method, base, experts, place, _isotropic)


@dataclass(frozen=True)
class _CoreSpace:
    """Task vectors in as few directions as they span."""

    cores: Sequence[Tensor]
    """One [p, q] each, in float64."""
    left: Tensor | None = None
    """[rows, p], orthonormal columns; None where the cores are the task vectors."""
    right: Tensor | None = None
    """[q, columns], orthonormal rows."""


def _put(
    method: Method,
    base: FactoredTensor,
    experts: Mapping[str, FactoredTensor],
    place: Tensor,
    combine: _Combine,
    *,
    factored: bool = False,
) -> None:
    scale = float(method.parameters.get("lambda", 1.0))
    if place.ndim != 2:
        mean = torch.stack([own.change(base) for own in experts.values()]).mean(0)
        place.copy_((base.own.double() + scale * mean).reshape(place.shape))
        return
    space = _core_space(base, [*experts.values()], factored=factored)
    if not all(bool(torch.isfinite(core).all()) for core in space.cores):
        place.fill_(torch.nan)  # to be seen: no singular values are to be had of it
        return
    merged = combine(space.cores, min(base.own.shape))
    if space.left is None or space.right is None:
        place.copy_(base.own.double() + scale * merged)
        return
    left = (space.left @ merged).float()
    FactoredTensor(base.own, [(left, space.right.float(), scale)]).put(place)


def _core_space(
    base: FactoredTensor, experts: Sequence[FactoredTensor], *, factored: bool
) -> _CoreSpace:
    """The experts' task vectors; where they have no factors and none are asked for, as they are."""
    known = [own.factors for own in experts]
    terms = [term for term in known if term is not None]
    if len(terms) < len(known):
        changes = [own.change(base) for own in experts]
        if not factored or not all(bool(torch.isfinite(change).all()) for change in changes):
            return _CoreSpace(changes)
        lefts, rights = zip(*map(_balanced, changes), strict=True)
    else:
        count, columns = base.own.shape
        none = (torch.zeros(count, 0), torch.zeros(0, columns), 1.0)
        lefts = tuple(torch.hstack([b.double() * s for b, _, s in t or [none]]) for t in terms)
        rights = tuple(torch.vstack([a.double() for _, a, _ in t or [none]]) for t in terms)
    stacks = torch.hstack(lefts), torch.vstack(rights)
    if not all(bool(torch.isfinite(stack).all()) for stack in stacks):
        return _CoreSpace(stacks)
    left, _, _ = torch.linalg.svd(stacks[0], full_matrices=False)
    _, _, right = torch.linalg.svd(stacks[1], full_matrices=False)
    pairs = zip(lefts, rights, strict=True)
    return _CoreSpace([(left.T @ b) @ (a @ right.T) for b, a in pairs], left, right)


def _balanced(change: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors of a matrix that share its singular values."""
    left, values, right = _decomposed(change)
    root = values.sqrt()
    return left * root, root[:, None] * right


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [rows, k], S [k] and Vᵀ [k, columns] of the singular values above zero."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    count = int((values > _ZERO * values[:1]).sum())
    return left[:, :count], values[:count], right[:count]


def _nearest_orthonormal(columns: Tensor) -> Tensor:
    left, _, right = _decomposed(columns)
    return left @ right


def _task_singular_vectors(cores: Sequence[Tensor], smaller: int) -> Tensor:
    most = max(1, smaller // len(cores))
    found = [_decomposed(core) for core in cores]
    left = _nearest_orthonormal(torch.hstack([u[:, :most] for u, _, _ in found]))
    right = _nearest_orthonormal(torch.vstack([v[:most] for _, _, v in found]))
    return (left * torch.hstack([s[:most] for _, s, _ in found])) @ right


def _isotropic(cores: Sequence[Tensor], _: int) -> Tensor:
    left, values, right = _decomposed(torch.stack([*cores]).sum(0))
    mean = values.mean() if len(values) else torch.zeros((), dtype=torch.float64)
    return mean * (left @ right)
