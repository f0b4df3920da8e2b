"""Operators on grids brought to other geometries: mapped meshes, and clouds deformed onto a reference box."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers import Domain, Grid, Points, as_module, as_points, interpolate_scattered

from .point_inputs import point_coordinates, point_values


class Deformation(eqx.Module):
    """`xi = x + field(x)`: a map to reference coordinates to be learned, near the identity where `field` is small."""

    field: Callable[..., Any]

    def __init__(self, field: Callable[..., Any]):
        self.field = as_module(field)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """Evaluate at one point."""
        return x + self.field(x)


class GeoFNO(eqx.Module):
    """The geometry-aware FNO: an operator on a reference grid, for functions on points of another geometry.

    The inner operator sees on the reference grid the values, with `metric` the physical volume over the reference's,
    and the physical coordinates. Points come to the grid in one of two ways:

    - `to_reference=None`: they are those of the grid under a map, in row-major order (body-fitted meshes, see
      `solvers.mapped_points`): nothing but their coordinates changes. Consistency is the inner operator's.
    - `to_reference`: maps a point `x` to the reference box, given or learned (`Deformation`). Values are interpolated
      to the grid there, and answers back to the points, at second order in the distances of both; gradients reach the
      map through the interpolation. For any cloud, and any `query`. No order of consistency is claimed.

    **Arguments:** `op`: any operator on grids, such as `FNO`, built for `in_channels + ndim + metric` channels.
    `in_channels`: of `u`. `reference`: the grid. `to_reference`, `metric`: see above; the volumes are ratios of the
    points' weights to the grid's, or the determinants of the given map.

    **Call:** `u: (in_channels, *domain.shape)`; `args` and `key` are handed on. `query` may differ from `domain` where
    there is `to_reference`. Returns `(out_channels, *query.shape)`.

    **Raises:** `ValueError` for a domain that does not fit the reference, or the inner operator's.

    Li, Huang, Liu and Anandkumar (2023), Fourier neural operator with learned deformations for PDEs on general
    geometries, arXiv:2207.05209; with interpolation in the place of its Fourier sums over scattered points.
    """

    op: Any
    to_reference: Callable[..., Any] | None
    reference: Grid
    in_channels: int = eqx.field(static=True)
    metric: bool = eqx.field(static=True)

    def __init__(
        self,
        op: Callable[..., Any],
        *,
        in_channels: int,
        reference: Grid,
        to_reference: Callable[[Array], Array] | None = None,
        metric: bool = False,
    ):
        self.op, self.in_channels, self.reference, self.metric = op, in_channels, reference, metric
        self.to_reference = None if to_reference is None else as_module(to_reference)

    def __call__(
        self,
        u: Float[Array, "cin *n"],
        domain: Domain,
        query: Domain | None = None,
        *,
        args: PyTree = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "cout *m"]:
        """Apply to one sample."""
        v = point_values(u, domain, in_channels=self.in_channels, ndim=self.reference.ndim)
        cloud, nodes = as_points(domain), as_points(self.reference, v.dtype)
        x = point_coordinates(domain, v.dtype)
        mapping = self.to_reference
        if mapping is None:
            if cloud.shape != nodes.shape or not (query is None or query is domain):
                raise ValueError(
                    f"`domain` has {cloud.shape[0]} points; expected the {nodes.shape[0]} of the reference grid, and "
                    "no other `query`. For other points give `to_reference`."
                )
            v = jnp.concatenate([v, *([self._volumes(cloud, nodes)] if self.metric else []), x], -1)
            return self._on_reference(v, args, key).T.reshape(-1, *domain.shape)
        if self.metric:
            jacobians = jax.vmap(jax.jacfwd(mapping))(x)
            v = jnp.concatenate([v, 1 / jnp.abs(jnp.linalg.det(jacobians))[:, None]], -1)
        here = Points(jax.vmap(mapping)(x), mask=cloud.mask)
        out = self._on_reference(interpolate_scattered(jnp.concatenate([v, x], -1), here, nodes), args, key)
        query = domain if query is None else query
        there = Points(jax.vmap(mapping)(point_coordinates(query, v.dtype)))
        return interpolate_scattered(out, nodes, there).T.reshape(-1, *query.shape)

    def _on_reference(self, v: Float[Array, "n c"], args: PyTree, key: PRNGKeyArray | None) -> Float[Array, "n cout"]:
        w = self.op(v.T.reshape(-1, *self.reference.shape), self.reference, args=args, key=key)
        return w.reshape(len(w), -1).T

    def _volumes(self, cloud: Points, nodes: Points) -> Float[Array, "n 1"]:
        if cloud.weights is None or nodes.weights is None:
            raise ValueError("`domain` has no weights, which `metric` needs; see solvers.mapped_points.")
        return (cloud.weights.astype(nodes.weights.dtype) / nodes.weights)[:, None]
