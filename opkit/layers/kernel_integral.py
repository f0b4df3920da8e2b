"""Integral operators with learned kernels, on any points with quadrature weights.

Each layer has `on(source, a, ...)`, which does once what depends on the points and on the input function `a` alone (the
search, the kernel on every edge), and returns the linear map of features `(n, c)` to `(q, c)` that remains; a network
that applies one layer several times calls `on` once.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from solvers import Domain, Points, as_points

from .edges import Edges, Neighbourhood
from .pointwise_mlp import PointwiseMLP

KernelKind = Literal["matrix", "diagonal"]
Apply = Callable[[Float[Array, "n c"]], Float[Array, "q c"]]


class KernelIntegral(eqx.Module):
    """`(K v)(x_i) = sum_j w_ij k(x_i, y_j, a(x_i), a(y_j)) v(y_j)` over the neighbours `y_j` of `x_i`.

    `w_ij` are the quadrature weights of the points times the neighbourhood's window (see `Ball`). With `normalise` they
    are divided by their sum: a mean over the ball, which needs no weights where points are uniformly distributed.
    Without, the sum is the integral over the ball. On smooth functions the error is that of the quadrature: with a
    smooth window second order on `nodes` and `cells` grids, `n^(-1/2)` on random points; with a plain ball first order
    on grids.

    **Arguments:** `channels`: of `v`, in and out. `ndim`, `attributes`: of the coordinates and of `a`. `neighbourhood`:
    `Ball` for an integral. `hidden`: widths of the kernel's MLP, `PointwiseMLP`, from `(x, y, a(x), a(y))`, where `y`
    is the image nearest to `x`. `kind`: whether the kernel gives matrices `(channels, channels)` or `"diagonal"` ones,
    at `1 / channels` of the cost. Any layer with the same channels may take the place of the MLP in `kernel`.

    **Raises:** `ValueError` for another `kind`, wrong shapes, or a sum over a cloud without weights.

    Li et al. (2020), Neural operator: graph kernel network for partial differential equations, arXiv:2003.03485,
    equation 6.
    """

    kernel: Any
    neighbourhood: Neighbourhood
    channels: int = eqx.field(static=True)
    kind: KernelKind = eqx.field(static=True)
    normalise: bool = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        ndim: int,
        attributes: int,
        neighbourhood: Neighbourhood,
        hidden: Sequence[int] = (64, 64),
        kind: KernelKind = "matrix",
        normalise: bool = True,
        key: PRNGKeyArray,
    ):
        if kind not in get_args(KernelKind):
            raise ValueError(f"`kind` is {kind!r}; expected one of {get_args(KernelKind)}.")
        out = channels**2 if kind == "matrix" else channels
        self.kernel = PointwiseMLP((2 * (ndim + attributes), *hidden, out), key=key)
        self.neighbourhood, self.channels, self.kind, self.normalise = neighbourhood, channels, kind, normalise

    def on(
        self,
        source: Domain,
        a: Float[Array, "n p"],
        query: Domain | None = None,
        a_query: Float[Array, "q p"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Apply:
        """The map from `source` to `query`, `None` for the same points; `a` and `a_query` are the values of `a`."""
        cloud = as_points(source)
        if cloud.weights is None and not self.normalise:
            raise ValueError("`source` has no weights, which an integral needs; give some, or take `normalise=True`.")
        edges = self.neighbourhood(source, query, dtype=a.dtype)
        at = cloud if query is None else as_points(query)
        values = self.kernel.channels_last(_attributes(edges, at, a if a_query is None else a_query, a))
        weights = edges.mean_weights() if self.normalise else edges.weights
        if self.kind == "diagonal":
            values = values * weights[..., None]
            return lambda v: jnp.einsum("qkc,qkc->qc", values, edges.gather(v))
        values = (values * weights[..., None]).reshape(*values.shape[:2], self.channels, self.channels)
        return lambda v: jnp.einsum("qkoi,qki->qo", values, edges.gather(v))


class LowRankIntegral(eqx.Module):
    """`(K v)(x) = sum_r phi_r(x, a(x)) <psi_r, v>`, `<psi, v> = sum_j w_j psi(y_j, a(y_j)) . v(y_j)`.

    An integral over the whole domain at a cost linear in the points. With `normalise` the weights are divided by their
    sum. Its error is the quadrature's.

    **Arguments:** `rank`: terms of the sum. The others as for `KernelIntegral`; `phi` and `psi` are MLPs to
    `rank * channels`.

    Kovachki et al. (2023), Neural operator: learning maps between function spaces, arXiv:2108.08481, section 4.2.
    """

    left: Any
    right: Any
    rank: int = eqx.field(static=True)
    normalise: bool = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        ndim: int,
        attributes: int,
        rank: int = 16,
        hidden: Sequence[int] = (64, 64),
        normalise: bool = True,
        key: PRNGKeyArray,
    ):
        if rank < 1:
            raise ValueError(f"`rank` is {rank}; expected at least 1.")
        sizes = (ndim + attributes, *hidden, rank * channels)
        self.left, self.right = (PointwiseMLP(sizes, key=jax.random.fold_in(key, i)) for i in range(2))
        self.rank, self.normalise = rank, normalise

    def on(
        self,
        source: Domain,
        a: Float[Array, "n p"],
        query: Domain | None = None,
        a_query: Float[Array, "q p"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Apply:
        """The map from `source` to `query`, as for `KernelIntegral`."""
        cloud = as_points(source)
        if cloud.weights is None and not self.normalise:
            raise ValueError("`source` has no weights, which an integral needs; give some, or take `normalise=True`.")
        at = cloud if query is None else as_points(query)
        here = jnp.concatenate([at.coordinates.astype(a.dtype), a if a_query is None else a_query], -1)
        there = jnp.concatenate([cloud.coordinates.astype(a.dtype), a], -1)
        left, right = (
            f.channels_last(x).reshape(len(x), self.rank, -1) for f, x in ((self.left, here), (self.right, there))
        )
        weights = jnp.ones(cloud.shape, a.dtype) if cloud.weights is None else cloud.weights.astype(a.dtype)
        weights = weights if cloud.mask is None else jnp.where(cloud.mask, weights, 0)
        weights = weights / jnp.sum(weights) if self.normalise else weights
        return lambda v: jnp.einsum("qrc,r->qc", left, jnp.einsum("nrc,nc->r", right * weights[:, None, None], v))


class MultilevelIntegral(eqx.Module):
    """A V-cycle of kernel integrals over nested random subsets of the points, long ranges on few of them.

    With levels `l = 0` (all points) to `L`: `w_0 = v` and `w_{l+1} = K_{l+1,l} w_l`, then `z_L = K_LL w_L` and
    `z_l = K_ll w_l + K_{l,l+1} z_{l+1}`; the result is `z_0`. All are `KernelIntegral`s.

    **Arguments:** `neighbourhoods`: one a level, of growing radius; transfers between two levels take the coarser
    one's. Clouds and subsets are searched, so that a `Ball` needs its `most`. `ratio`: points of one level over those
    of the next. The others as for `KernelIntegral`.

    **Call:** as for `KernelIntegral`, without another `query`. `key` draws the subsets; without one they are always the
    same. They bring an error of order `m^(-1/2)` in their number `m` of points.

    **Raises:** `ValueError` for no level, a `ratio` below 1, or another `query`.

    Li et al. (2020), Multipole graph neural operator for parametric partial differential equations, arXiv:2006.09535.
    """

    down: tuple[KernelIntegral, ...]
    same: tuple[KernelIntegral, ...]
    up: tuple[KernelIntegral, ...]
    ratio: int = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        ndim: int,
        attributes: int,
        neighbourhoods: Sequence[Neighbourhood],
        ratio: int = 4,
        hidden: Sequence[int] = (64, 64),
        kind: KernelKind = "matrix",
        normalise: bool = True,
        key: PRNGKeyArray,
    ):
        if not neighbourhoods or ratio < 1:
            raise ValueError(
                f"`neighbourhoods` has {len(neighbourhoods)} entries, `ratio` is {ratio}; expected at least 1 of each."
            )

        def integrals(part: int, chosen: Sequence[Neighbourhood]) -> tuple[KernelIntegral, ...]:
            keys = (jax.random.fold_in(jax.random.fold_in(key, part), level) for level in range(len(chosen)))
            shared: Any = {"ndim": ndim, "attributes": attributes, "hidden": hidden, "kind": kind}
            return tuple(
                KernelIntegral(channels, neighbourhood=near, normalise=normalise, key=k, **shared)
                for near, k in zip(chosen, keys, strict=True)
            )

        coarser = neighbourhoods[1:]
        self.down, self.same, self.up = integrals(0, coarser), integrals(1, neighbourhoods), integrals(2, coarser)
        self.ratio = ratio

    def on(
        self,
        source: Domain,
        a: Float[Array, "n p"],
        query: Domain | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Apply:
        """The map on `source`, as for `KernelIntegral`."""
        if query is not None:
            raise ValueError("`query` is given; a V-cycle ends on the points it begins on. Interpolate from there.")
        count = as_points(source).shape[0]
        sizes = [-(-count // self.ratio**level) for level in range(1, len(self.same))]
        order, subsets = nested_subsets(as_points(source), sizes, key=jax.random.key(0) if key is None else key)
        clouds, values = [source, *subsets], [a, *(a[order[:size]] for size in sizes)]
        pairs = list(zip(clouds, clouds[1:], values, values[1:], strict=False))
        down = [k.on(fine, b, coarse, c) for k, (fine, coarse, b, c) in zip(self.down, pairs, strict=True)]
        up = [k.on(coarse, c, fine, b) for k, (fine, coarse, b, c) in zip(self.up, pairs, strict=True)]
        same = [k.on(cloud, b) for k, cloud, b in zip(self.same, clouds, values, strict=True)]

        def cycle(v: Float[Array, "n c"]) -> Float[Array, "n c"]:
            levels = [v]
            for restrict in down:
                levels.append(restrict(levels[-1]))
            z = same[-1](levels[-1])
            for level in reversed(range(len(up))):
                z = same[level](levels[level]) + up[level](z)
            return z

        return cycle


def nested_subsets(
    points: Points, sizes: Sequence[int], *, key: PRNGKeyArray
) -> tuple[Int[Array, " n"], tuple[Points, ...]]:
    """Random subsets of the cloud, each within the one before: the first `sizes[l]` points in a random order.

    Returns the order, masked points last, and the subsets. Their weights are scaled to keep the sum of the cloud's.

    **Raises:** `ValueError` for sizes that grow, or exceed the number of points.
    """
    if any(m < 1 or m > n for n, m in zip([points.shape[0], *sizes], sizes, strict=False)):
        raise ValueError(f"`sizes` is {tuple(sizes)} of {points.shape[0]} points; expected numbers that do not grow.")
    mask = jnp.ones(points.shape, bool) if points.mask is None else points.mask
    order = jnp.argsort(jnp.where(mask, jax.random.uniform(key, points.shape, jnp.float32), 1))

    def subset(size: int) -> Points:
        first = order[:size]
        weights = points.weights
        if weights is not None:
            weights = jnp.where(mask, weights, 0)
            weights = weights[first] * (jnp.sum(weights) / jnp.sum(weights[first]))
        return Points(points.coordinates[first], weights, mask[first])

    return order, tuple(subset(size) for size in sizes)


def _attributes(
    edges: Edges, query: Points, a_query: Float[Array, "q p"], a: Float[Array, "n p"]
) -> Float[Array, "q k e"]:
    """`(x, y, a(x), a(y))` of each edge."""
    x = query.coordinates.astype(a.dtype)[:, None]
    there = edges.gather(a)
    here = jnp.broadcast_to(a_query[:, None], there.shape)
    return jnp.concatenate([jnp.broadcast_to(x, edges.offset.shape), x - edges.offset, here, there], -1)
