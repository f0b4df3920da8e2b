"""Models that correct models: each trained on what those before it left over."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers import Domain, Frozen, Operator

from .windows import check_same


class Boosted(eqx.Module):
    """`f(u) + scale g(u, f(u))`: a trained operator `f`, frozen, and `g`, which learns what it leaves over.

    Networks learn low wavenumbers first; a second one, whose target is the residual, has the others for its largest.
    Trained like any operator, by `supervised` or a recipe, from a `g` that takes the channels of `u` and of `f(u)` in
    turn. Boosted operators can be boosted.

    **Arguments:** `scale`: the size of the residual, so that what `g` learns is of order 1.

    **Call:** on the grid of the input. **Raises:** `ValueError` for another `query`.

    Qin et al. (2024), Toward a better understanding of Fourier neural operators from a spectral perspective,
    arXiv:2404.07200 (SpecBoost).
    """

    first: Frozen[Any]
    second: Operator
    scale: float = eqx.field(static=True)

    def __init__(self, first: Operator, second: Operator, *, scale: float = 1.0):
        self.first, self.second, self.scale = Frozen(first), second, float(scale)

    def __call__(
        self,
        u: Float[Array, "cin *n"],
        domain: Domain,
        query: Domain | None = None,
        *,
        args: PyTree = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "cout *n"]:
        """Apply to one sample."""
        check_same(query, domain)
        v = self.first.value(u, domain, args=args, key=key)
        return v + self.scale * self.second(jnp.concatenate([u, v]), domain, args=args, key=key)
