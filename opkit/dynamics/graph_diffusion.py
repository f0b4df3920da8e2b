"""Graph networks as diffusion: features flow along edges, by weights that attention gives them."""

from typing import Any, Literal, get_args

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from opkit.layers import Pointwise

from .integrator import Integrator
from .penalties import Regulariser
from .regularise import Regularised

DiffusionKind = Literal["linear", "nonlinear"]


class Graph(eqx.Module):
    """A directed graph of `nodes` nodes by its edges, from `senders` to `receivers`: `(e,)` each, node numbers.

    `mask`: `False` where an edge is padding, so that graphs of several sizes share one program. A padded edge may have
    any nodes.
    """

    senders: Int[Array, " e"]
    receivers: Int[Array, " e"]
    mask: Bool[Array, " e"]
    nodes: int = eqx.field(static=True)

    @staticmethod
    def of(
        edges: Int[np.ndarray, "2 e"] | Int[Array, "2 e"],
        nodes: int,
        *,
        self_loops: bool = True,
        length: int | None = None,
    ) -> "Graph":
        """The graph of the edges `(senders, receivers)`, with a loop at every node, padded to `length` edges.

        An undirected edge is two. **Raises:** `ValueError` for a node number out of range, or too small a `length`.
        """
        edges = np.asarray(edges)
        if edges.ndim != 2 or len(edges) != 2:
            raise ValueError(f"`edges` has shape {edges.shape}; expected (2, edges): senders, then receivers.")
        if edges.size and not 0 <= edges.min() <= edges.max() < nodes:
            raise ValueError(f"`edges` has node {edges.min()} to {edges.max()}; expected 0 to {nodes - 1}.")
        if self_loops:
            loops = np.arange(nodes)
            edges = np.concatenate([edges[:, edges[0] != edges[1]], [loops, loops]], 1)
        count = edges.shape[1]
        length = count if length is None else length
        if length < count:
            raise ValueError(f"`length` is {length}; the graph has {count} edges, its loops among them.")
        senders, receivers = jnp.asarray(np.pad(edges, ((0, 0), (0, length - count))), jnp.int32)
        return Graph(senders, receivers, jnp.arange(length) < count, nodes)


def segment_softmax(logits: Float[Array, "e *h"], graph: Graph) -> Float[Array, "e *h"]:
    """Weights `exp(l_e) / sum exp(l_e')` over the edges with the same receiver; zero for padding."""
    mask = graph.mask.reshape(-1, *[1] * (logits.ndim - 1))
    # the shift by the largest cancels, and so does its gradient
    largest = jax.ops.segment_max(jnp.where(mask, lax.stop_gradient(logits), -jnp.inf), graph.receivers, graph.nodes)
    weights = jnp.where(mask, jnp.exp(jnp.where(mask, logits - largest[graph.receivers], 0)), 0)
    totals = jax.ops.segment_sum(weights, graph.receivers, graph.nodes)
    return weights / jnp.where(totals > 0, totals, 1)[graph.receivers]


def graph_diffusion(x: Float[Array, "n c"], weights: Float[Array, " e"], graph: Graph) -> Float[Array, "n c"]:
    """`sum_j a_ij (x_j - x_i)` over the edges from `j` to `i`: `(A - I) x` where the weights of a node sum to one.

    Constants are conserved whatever the weights, and a node without edges stays as it is.
    """
    flow = weights[:, None] * (x[graph.senders] - x[graph.receivers])
    return jax.ops.segment_sum(flow, graph.receivers, graph.nodes)


class GraphAttention(eqx.Module):
    """Weights of the edges, `a_ij = mean_h softmax_j((Q_h x_i) . (K_h x_j) / sqrt(d))`: row-stochastic.

    **Arguments:** `width`: the features of a node. `heads`. `size`: `d`, of each head.

    Veličković et al. (2018), Graph attention networks, arXiv:1710.10903, with the scaled dot product of Vaswani et al.
    (2017), arXiv:1706.03762.
    """

    query: Float[Array, "h d c"]
    key: Float[Array, "h d c"]

    def __init__(self, width: int, *, heads: int = 4, size: int = 8, key: PRNGKeyArray):
        drawn = jax.random.normal(key, (2, heads, size, width)) / width**0.5
        self.query, self.key = drawn

    def __call__(self, x: Float[Array, "n c"], graph: Graph) -> Float[Array, " e"]:
        """The weight of each edge."""
        query, key = (jnp.einsum("hdc,nc->nhd", w.astype(x.dtype), x) for w in (self.query, self.key))
        logits = jnp.sum(query[graph.receivers] * key[graph.senders], -1) / self.query.shape[1] ** 0.5
        return jnp.mean(segment_softmax(logits, graph), 1)


class DiffusionField(eqx.Module):
    """`f(t, x, args) = alpha (A - I) x + beta x_0`, with `args = (x_0, graph, weights)`.

    `weights` is the frozen `A`, or `None` for `A(x)` by `attention` at every evaluation. `alpha` is the sigmoid of
    `rate`; `beta` is `source`, no term where it is `None`.
    """

    attention: GraphAttention
    rate: Float[Array, ""]
    source: Float[Array, ""] | None

    def __call__(
        self, t: Any, x: Float[Array, "n c"], args: tuple[Float[Array, "n c"], Graph, Float[Array, " e"] | None]
    ) -> Float[Array, "n c"]:
        """`dx/dt`; `t` is not read."""
        x0, graph, weights = args
        weights = self.attention(x, graph) if weights is None else weights
        dx = jax.nn.sigmoid(self.rate).astype(x.dtype) * graph_diffusion(x, weights, graph)
        return dx if self.source is None else dx + self.source.astype(x.dtype) * x0


class GraphDiffusion(eqx.Module):
    """Graph neural diffusion: encode the features of every node, let them diffuse for a time, decode.

        x_0 = E u,    x' = alpha (A - I) x + beta x_0,    y = D x(t_1)

    `A` is the row-stochastic attention over a node's neighbours: frozen at `x_0` (`"linear"`) or that of `x`
    (`"nonlinear"`). Time takes the place of depth. Without source each channel stays between its least and largest
    value in `x_0` (maximum principle; explicit solvers keep it where their steps are stable).

    The linear field is stiff for long times: an implicit solver with a matrix-free linear one takes long steps,

        root_finder = optimistix.Newton(rtol=1e-4, atol=1e-4, linear_solver=lineax.GMRES(rtol=1e-5, atol=1e-5))
        Integrator(diffrax.Kvaerno3(root_finder=root_finder), ...)

    (to be used, not trained: its derivatives form a dense matrix of all nodes and channels).

    **Arguments:** `in_size`, `width`, `out_size`: features of a node in `u`, `x`, `y`. `kind`. `heads`, `head_size`:
    see `GraphAttention`. `source`: whether there is a `beta`, zero at the start. `integrator`.

    **Call:** `u: (nodes, in_size)`, `graph`, the time `t1`; returns `(nodes, out_size)` and the solve, with the penalty
    to add to the loss. `regulariser`, `step`, `key`: see `regularised_solve`. **Raises:** `ValueError` for another
    `kind`, or features of another number of nodes.

    Chamberlain et al. (2021), GRAND: graph neural diffusion, arXiv:2106.10934.
    """

    encoder: Pointwise
    vector_field: DiffusionField
    decoder: Pointwise
    integrator: Integrator
    kind: DiffusionKind = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        width: int,
        out_size: int,
        *,
        kind: DiffusionKind = "linear",
        heads: int = 4,
        head_size: int = 8,
        source: bool = True,
        integrator: Integrator | None = None,
        key: PRNGKeyArray,
    ):
        if kind not in get_args(DiffusionKind):
            raise ValueError(f"`kind` is {kind!r}; expected one of {get_args(DiffusionKind)}.")
        encoder_key, attention_key, decoder_key = (jax.random.fold_in(key, i) for i in range(3))
        self.encoder = Pointwise(in_size, width, key=encoder_key)
        self.decoder = Pointwise(width, out_size, key=decoder_key)
        attention = GraphAttention(width, heads=heads, size=head_size, key=attention_key)
        self.vector_field = DiffusionField(attention, jnp.zeros(()), jnp.zeros(()) if source else None)
        self.integrator = Integrator() if integrator is None else integrator
        self.kind = kind

    def __call__(
        self,
        u: Float[Array, "n cin"],
        graph: Graph,
        t1: Float[Array, ""] | float,
        *,
        regulariser: Regulariser | None = None,
        step: Any = 0,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "n cout"], Regularised]:
        """Apply to one graph."""
        if len(u) != graph.nodes:
            raise ValueError(f"`u` has {len(u)} rows; expected one for each of the graph's {graph.nodes} nodes.")
        x0 = self.encoder.channels_last(u)
        weights = self.vector_field.attention(x0, graph) if self.kind == "linear" else None
        out = self.integrator(
            diffrax.ODETerm(self.vector_field), 0.0, t1, x0, (x0, graph, weights),
            regulariser=regulariser, step=step, key=key,
        )  # fmt: skip
        return self.decoder.channels_last(out.ys[-1]), out
