"""Messages between neighbouring points: learned, averaged, and so blind to the numbering of the points."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .edges import Edges
from .pointwise import Pointwise
from .pointwise_mlp import PointwiseMLP


class MessagePassing(eqx.Module):
    """`m_ij = phi(f_i, f_j, u_i - u_j, x_i - x_j, theta)`, `f_i + psi(f_i, mean_j m_ij, theta)`.

    `phi` has two layers with an activation after each, `psi` two with one between. The mean has the edges' weights (see
    `Edges`). Renumbering the points renumbers the result, and coordinates enter by their differences alone.

    **Arguments:** `channels`: of `f`. `ndim`: of the coordinates. `values`: channels of `u`. `parameters`: the length
    of `theta`. `hidden`: the width of `phi` and `psi`.

    **Call:** `channels_last(f, u, edges, theta)`, `f: (n, channels)`, `u: (n, values)`, `theta: (parameters,)` or
    `None`. **Raises:** `ValueError` for wrong channels.

    Brandstetter, Worrall and Welling (2022), Message passing neural PDE solvers, arXiv:2202.03376, equations 8 and 9.
    """

    receivers: Pointwise
    senders: Pointwise
    between: Pointwise
    message: Pointwise
    update: PointwiseMLP
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        ndim: int,
        values: int,
        parameters: int = 0,
        hidden: int | None = None,
        activation: Callable[[Array], Array] = jax.nn.silu,
        key: PRNGKeyArray,
    ):
        hidden = channels if hidden is None else hidden
        keys = [jax.random.fold_in(key, i) for i in range(5)]
        self.receivers, self.senders = (Pointwise(channels, hidden, use_bias=False, key=k) for k in keys[:2])
        self.between = Pointwise(values + ndim + parameters, hidden, key=keys[2])
        self.message = Pointwise(hidden, hidden, key=keys[3])
        self.update = PointwiseMLP(
            (channels + hidden + parameters, hidden, channels), activation=activation, key=keys[4]
        )
        self.activation = activation

    def channels_last(
        self,
        f: Float[Array, "n c"],
        u: Float[Array, "n p"],
        edges: Edges,
        theta: Float[Array, " t"] | None = None,
    ) -> Float[Array, "n c"]:
        """Apply to the features of one sample."""
        difference = jnp.concatenate([u[:, None] - edges.gather(u), edges.offset], -1)
        # the first layer of phi is linear: the parts of f are multiplied once a point, not once an edge
        m = self.receivers.channels_last(f)[:, None] + edges.gather(self.senders.channels_last(f))
        m = self.activation(m + self.between.channels_last(_with(difference, theta)))
        m = self.activation(self.message.channels_last(m))
        mean = jnp.einsum("nk,nkc->nc", edges.mean_weights(), m)
        return f + self.update.channels_last(_with(jnp.concatenate([f, mean], -1), theta))


class FluxPassing(eqx.Module):
    """Messages with two halves, `(s_ij, r_ij) = phi(f_i, f_j, x_i - x_j, |x_i - x_j|)` for the edge from `j` to `i`:
    `f_i + psi(f_i, mean_j r_ij, mean_l s_li)`.

    One half is averaged at the receiver of an edge, the other at its sender: what leaves a point tells on it too, in
    graphs that are not symmetric as well. Symmetries as for `MessagePassing`.

    **Arguments:** `channels`, `ndim`, `hidden`, `activation`: as there. **Call:** `channels_last(f, edges)`.

    Liu et al. (2025), An efficient graph-transformer operator for learning physical dynamics with manifolds embedding,
    arXiv:2512.10227.
    """

    receivers: Pointwise
    senders: Pointwise
    between: Pointwise
    message: Pointwise
    update: PointwiseMLP
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        ndim: int,
        hidden: int | None = None,
        activation: Callable[[Array], Array] = jax.nn.silu,
        key: PRNGKeyArray,
    ):
        hidden = channels if hidden is None else hidden
        keys = [jax.random.fold_in(key, i) for i in range(5)]
        self.receivers, self.senders = (Pointwise(channels, hidden, use_bias=False, key=k) for k in keys[:2])
        self.between = Pointwise(ndim + 1, hidden, key=keys[2])
        self.message = Pointwise(hidden, 2 * hidden, key=keys[3])
        self.update = PointwiseMLP((channels + 2 * hidden, hidden, channels), activation=activation, key=keys[4])
        self.activation = activation

    def channels_last(self, f: Float[Array, "n c"], edges: Edges) -> Float[Array, "n c"]:
        """Apply to the features of one sample."""
        square = jnp.sum(edges.offset**2, -1, keepdims=True)
        # the root has no derivative at zero, where an edge from a point to itself stands
        distance = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        m = self.receivers.channels_last(f)[:, None] + edges.gather(self.senders.channels_last(f))
        m = m + self.between.channels_last(jnp.concatenate([edges.offset, distance], -1))
        sent, received = jnp.split(self.message.channels_last(self.activation(m)), 2, -1)
        mean = jnp.einsum("nk,nkc->nc", edges.mean_weights(), received)
        return f + self.update.channels_last(jnp.concatenate([f, mean, edges.mean_at_senders(sent)], -1))


def _with(x: Float[Array, "*n c"], theta: Float[Array, " t"] | None) -> Float[Array, "*n m"]:
    """The parameters behind the features of every point."""
    if theta is None:
        return x
    return jnp.concatenate([x, jnp.broadcast_to(theta.astype(x.dtype), (*x.shape[:-1], theta.size))], -1)
