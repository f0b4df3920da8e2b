"""An operator made equivariant by averaging over a group."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers import Domain, Edge, Grid, symmetries


class Symmetrised(eqx.Module):
    """The mean over the symmetries `g` of the box of `g^-1 op(g u)`, for scalar fields on a `Grid`.

    Equivariant by construction (up to `edge`, on `left` grids) whatever `op` is, at no parameters and the cost of `op`
    times the size of the group: 2 in 1-D, 8 on a square, 48 on a cube. For problems whose equation, boundary
    conditions and data have the symmetry. Trained directly, or put around an `op` trained on reflected data.

    **Arguments:** `op`: any operator. `edge_in`, `edge_out`: what is known of the input and of the output at the right
    end of a `left` axis (see `solvers.Symmetry`); no other placement needs them. Of the input also one a channel.

    **Raises:** `ValueError` for a domain that is no `Grid`, or a `query` on another one.
    """

    op: Callable[..., Any]
    edge_in: Edge | tuple[Edge, ...] = eqx.field(static=True)
    edge_out: Edge = eqx.field(static=True)

    def __init__(
        self, op: Callable[..., Any], *, edge_in: Edge | Sequence[Edge] = "periodic", edge_out: Edge = "periodic"
    ):
        self.op, self.edge_out = op, edge_out
        self.edge_in = edge_in if isinstance(edge_in, str) else tuple(edge_in)

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
        if not isinstance(domain, Grid):
            raise ValueError(f"`domain` is a {type(domain).__name__}; the symmetries are those of a Grid's box.")
        if query is not None and query != domain:
            raise ValueError("`query` differs from `domain`; the outputs averaged are on the grid of the input.")
        group = symmetries(domain)
        images = jnp.stack([g(u, domain, edge=self.edge_in) for g in group])
        outputs = jax.vmap(lambda v: self.op(v, domain, args=args, key=key))(images)
        back = [g.inverse(v, domain, edge=self.edge_out) for g, v in zip(group, outputs, strict=True)]
        return jnp.mean(jnp.stack(back), axis=0)
