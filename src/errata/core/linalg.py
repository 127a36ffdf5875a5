"""The least-squares problems at the heart of MEMIT and its kin, in float64."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from errata.errors import SingularSystemError

_FIRST_JITTER, _LAST_JITTER = 1e-12, 1e-6
# Of a key's whitened length, so much must lie outside the span of the others: less is the rounding of float32 keys.
_INDEPENDENT = 1e-6


@dataclass(frozen=True)
class Cholesky:
    """Lower factor of a symmetric matrix; `jitter` is what was added to its diagonal, relative to the mean diagonal."""

    factor: Float[Tensor, "n n"]
    jitter: float


def cholesky(matrix: Float[Tensor, "n n"]) -> Cholesky:
    """Factor a symmetric positive matrix in float64, adding as little jitter as it takes (none if none is needed).

    A second moment from few tokens, or with neurons that never fire, is singular; the ridge system is not, as long as
    the tiny diagonal stays tiny. Raises SingularSystemError beyond 10⁻⁶ of the mean diagonal, or for non-finite input.
    """
    matrix = matrix.double()
    scale = float(matrix.diagonal().mean())
    if not torch.isfinite(matrix).all() or scale <= 0:
        raise SingularSystemError("The system has no positive finite diagonal; check the second moments and the keys.")
    jitter = 0.0
    while True:
        shifted = matrix if jitter == 0 else matrix + jitter * scale * torch.eye(len(matrix)).to(matrix)
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0:
            return Cholesky(factor, jitter)
        jitter = _FIRST_JITTER if jitter == 0 else jitter * 10
        if jitter > _LAST_JITTER * 1.001:
            raise SingularSystemError(
                f"A {len(matrix)}×{len(matrix)} system is not positive definite even with jitter {_LAST_JITTER:g}. "
                "Use more tokens for the second moments, or a larger prior_weight."
            )


@dataclass(frozen=True)
class Ridge:
    """A solved ridge problem: weight_update = adjointᵀ · residuals.

    jitter: the most that was added to a diagonal, relative to its mean.  moment_jitter: what of it a second moment that
    is singular needed; any more is the keys', whose prior is too weak.
    """

    adjoint: Float[Tensor, "fact d_mlp"]
    form: str
    jitter: float
    moment_jitter: float = 0.0


def mean_leverage(keys: Float[Tensor, "fact d_mlp"], moment_cholesky: Cholesky) -> float:
    """The mean of kᵀC⁻¹k over `keys`: how many tokens of the corpus a key counts for, whatever its scale. In float64.

    λ and this number are what a ridge weighs against each other; for the corpus's own tokens it is d_mlp in the mean.
    """
    factor = moment_cholesky.factor.to(keys.device)
    return float(torch.linalg.solve_triangular(factor, keys.double().T, upper=False).square().sum(0).mean())


def ridge_adjoint(
    keys: Float[Tensor, "fact d_mlp"],
    second_moment: Float[Tensor, "d_mlp d_mlp"],
    *,
    prior_weight: float,
    form: Literal["auto", "primal", "dual"] = "auto",
    moment_cholesky: Cholesky | None = None,
) -> Ridge:
    """The factor A with ΔW = AᵀR that stores residuals R at `keys` K while disturbing the corpus least.

    Aᵀ = (λC + KᵀK)⁻¹Kᵀ: MEMIT (Meng et al. 2023), eqs. 14–15, transposed because facts are rows here. C averages over
    corpus tokens; λ (`prior_weight`) makes it count as that many. With fewer facts than d_mlp the dual form
    A = (λI + KC⁻¹Kᵀ)⁻¹KC⁻¹ is the same matrix for an n×n solve, and C's Cholesky can be reused. All in float64.
    Raises SingularSystemError where the system is not positive definite.
    """
    K, C = keys.double(), second_moment.double()
    if form == "dual" or (form == "auto" and K.shape[0] < K.shape[1]):
        chol_c = moment_cholesky or cholesky(C)
        whitened = torch.cholesky_solve(K.T, chol_c.factor).T
        gram = K @ whitened.T
        gram = (gram + gram.T) / 2 + prior_weight * torch.eye(len(K)).to(K)
        inner = cholesky(gram)
        adjoint = torch.cholesky_solve(whitened, inner.factor)
        return Ridge(adjoint, "dual", max(chol_c.jitter, inner.jitter), chol_c.jitter)
    system = cholesky(prior_weight * C + K.T @ K)
    adjoint = torch.cholesky_solve(K.T, system.factor).T.contiguous()
    is_moment_s = bool(system.jitter) and bool(torch.linalg.cholesky_ex(C).info)
    return Ridge(adjoint, "primal", system.jitter, system.jitter if is_moment_s else 0.0)


def equality_adjoint(keys: Float[Tensor, "fact d_mlp"], moment_cholesky: Cholesky, *, softness: float) -> Ridge:
    """The factor A with ΔW = AᵀR that maps every key onto its value exactly, moving the corpus's keys least.

    A = (KC⁻¹Kᵀ + αI)⁻¹KC⁻¹: EMMET (Gupta et al. 2024), the batched form of ROME's constrained problem, transposed
    because facts are rows here; `softness` is α, 0 for constraints that hold exactly. In float64. With C' = sC it is
    MEMIT's solution for λ = αs. Raises SingularSystemError where α = 0 and keys depend on each other: constraints that
    contradict each other have no solution, and with jitter they would only seem to have one.
    """
    K = keys.double()
    whitened = torch.cholesky_solve(K.T, moment_cholesky.factor).T
    if softness == 0:
        inner = _independent_cholesky(K, moment_cholesky)
    else:
        gram = K @ whitened.T
        inner = cholesky((gram + gram.T) / 2 + softness * torch.eye(len(K)).to(K))
    adjoint = torch.cholesky_solve(whitened, inner.factor)
    return Ridge(adjoint, "equality", max(moment_cholesky.jitter, inner.jitter), moment_cholesky.jitter)


def _independent_cholesky(keys: Float64[Tensor, "fact d_mlp"], moment_cholesky: Cholesky) -> Cholesky:
    """The factor of KC⁻¹Kᵀ without jitter; SingularSystemError where a key lies in the span of those before it.

    L⁻¹Kᵀ = QR gives Rᵀ. R's diagonal is what is left of each key beside the others; in Cholesky's pivots it is squared,
    and rounding would hide it.
    """
    whitened = torch.linalg.solve_triangular(moment_cholesky.factor, keys.T, upper=False)
    if not whitened.isfinite().all():
        raise SingularSystemError("The keys are not finite numbers; check the model.")
    lengths = whitened.norm(dim=0)
    upper = torch.linalg.qr(whitened / lengths.clamp(min=torch.finfo(lengths.dtype).tiny), mode="r").R
    alone = upper.diagonal().abs()
    dependent = (alone < _INDEPENDENT).nonzero()[:, 0].tolist()
    if dependent or keys.shape[0] > keys.shape[1]:
        first = dependent[0] if dependent else keys.shape[1]
        raise SingularSystemError(
            f"The {len(keys)} keys depend on each other (number {first + 1} on those before it), so no update gives "
            "each its own value: set a softness above 0, or drop facts (two about one subject after the same text have "
            "the same key)."
        )
    return Cholesky((upper * lengths).T.contiguous(), 0.0)


def null_space(
    values: Float64[Tensor, " d_mlp"], vectors: Float64[Tensor, "d_mlp d_mlp"], *, below: float
) -> Float64[Tensor, "d_mlp free"]:
    """U₀: those of a second moment's eigenvectors (columns) whose eigenvalue is smaller than `below`.

    Directions in which the corpus's keys hardly reach: what is written there is hardly read (Fang et al. 2025).
    """
    return vectors[:, values < below].contiguous()


def null_space_adjoint(
    keys: Float[Tensor, "fact d_mlp"],
    basis: Float64[Tensor, "d_mlp free"],
    *,
    ridge: float,
    past_keys: Float[Tensor, "past d_mlp"] | None = None,
) -> Ridge:
    """The factor A with ΔW = AᵀR that stores residuals without leaving the span of `basis`.

    Aᵀ = U₀(U₀ᵀ(KᵀK + H)U₀ + L₂I)⁻¹U₀ᵀKᵀ with H = K_pᵀK_p of earlier edits: AlphaEdit's (Fang et al. 2025)
    (P(KᵀK + H) + L₂I)⁻¹PKᵀ, P = U₀U₀ᵀ, without its d_mlp × d_mlp system that is not symmetric. In float64.
    Raises SingularSystemError where the system is not positive definite.
    """
    inside = keys.double() @ basis
    earlier = None if past_keys is None or not len(past_keys) else past_keys.to(basis) @ basis
    if earlier is None and len(inside) < inside.shape[1]:
        system = cholesky(inside @ inside.T + ridge * torch.eye(len(inside)).to(inside))
        solved = torch.cholesky_solve(inside, system.factor)
        return Ridge(solved @ basis.T, "null-space dual", system.jitter)
    gram = inside.T @ inside + (0 if earlier is None else earlier.T @ earlier)
    system = cholesky(gram + ridge * torch.eye(inside.shape[1]).to(inside))
    return Ridge(torch.cholesky_solve(inside.T, system.factor).T @ basis.T, "null-space primal", system.jitter)
