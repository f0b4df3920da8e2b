"""From a function to numbers: inner products with learned basis functions."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers import Domain, as_module, as_points


class AdaFNN(eqx.Module):
    """`y = head(scores)`, `score_ck = integral beta_k(x) u_c(x) dx`, the functions `beta_k` learned.

    The integrals are quadrature on the domain: every resolution is taken, and the scores converge at the order of
    `Grid.weights` (second on `nodes` and `cells`; spectral on periodic `left` axes; with `chebyshev` spectral), or that
    of a cloud's weights. With `normalise`, `beta_k` is divided by its L2 norm on the domain, so that a score's scale is
    the input's, and penalties cannot be met by shrinking.

    **Arguments:** `basis`: fields, each from `(d,)` to one or more of the functions. `head`: `(channels * bases,)`,
    channel by channel, to `(out,)`.

    **Call:** `op(u, domain)`, `u: (channels, *domain.shape)` to `(out,)`; `args`, `key` are not used. **Raises:**
    `ValueError` for another shape, or a cloud without weights.

    Yao, Mueller and Wang (2021), Deep learning for functional data analysis with adaptive basis layers,
    arXiv:2106.10414.
    """

    basis: tuple[Callable[[Array], Array], ...]
    head: Callable[[Array], Array]
    normalise: bool = eqx.field(static=True)

    def __init__(
        self, basis: Sequence[Callable[[Array], Array]], head: Callable[[Array], Array], *, normalise: bool = True
    ):
        if not basis:
            raise ValueError("`basis` is empty; expected at least one field.")
        self.basis, self.head, self.normalise = tuple(as_module(f) for f in basis), as_module(head), normalise

    def __call__(
        self, u: Float[Array, "c *n"], domain: Domain, *, args: PyTree = None, key: PRNGKeyArray | None = None
    ) -> Float[Array, " out"]:
        """Apply to one sample."""
        return self.head(self.scores(u, domain).reshape(-1)).astype(u.dtype)

    def scores(self, u: Float[Array, "c *n"], domain: Domain) -> Float[Array, "c bases"]:
        """The inner products."""
        if u.shape[1:] != domain.shape:
            raise ValueError(
                f"`u` has shape {u.shape}; expected (channels, *{domain.shape}). Batches come from jax.vmap."
            )
        beta, weights = self.bases(domain, u.dtype)
        return (u.reshape(len(u), -1) * weights) @ beta

    def bases(
        self, domain: Domain, dtype: DTypeLike | None = None
    ) -> tuple[Float[Array, "n bases"], Float[Array, " n"]]:
        """The basis functions on the points, and the weights of quadrature, by default in JAX's default float."""
        points = as_points(domain)
        if points.weights is None:
            raise ValueError("`domain` is Points without `weights`; an integral needs them.")
        weights = points.weights if points.mask is None else jnp.where(points.mask, points.weights, 0)
        weights = weights.astype(dtype or jnp.result_type(float))
        values = [jax.vmap(f)(points.coordinates.astype(weights.dtype)) for f in self.basis]
        beta = jnp.concatenate(values, axis=1).astype(weights.dtype)
        return (beta / jnp.sqrt(weights @ beta**2) if self.normalise else beta), weights


def orthogonality(op: AdaFNN, domain: Domain) -> Float[Array, " pairs"]:
    """The cosines `<beta_i, beta_j> / (|beta_i| |beta_j|)` of all pairs `i < j`: residuals, zero when orthogonal."""
    beta, weights = op.bases(domain)
    unit = beta / jnp.sqrt(weights @ beta**2)
    gram = unit.T @ (weights[:, None] * unit)
    return gram[jnp.triu_indices(len(gram), 1)]


def sparsity(op: AdaFNN, domain: Domain) -> Float[Array, " bases"]:
    """`integral |beta_k| / (|beta_k| sqrt(volume))`, from 1 for a constant down to 0 for a narrow bump: an L1 penalty.

    A basis function that is zero on most of the domain tells where the input matters. Enters a loss as its value, not
    as its square.
    """
    beta, weights = op.bases(domain)
    return weights @ jnp.abs(beta) / jnp.sqrt((weights @ beta**2) * jnp.sum(weights))
