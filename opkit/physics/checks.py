"""Checks of points and data before training; they read values, so they run outside `jit`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .conditions import BoundaryConditions, InitialConditions
from .geometry import BoundaryPoints, Geometry


def check_points(region: Geometry, points: Float[Array, "n d"] | BoundaryPoints) -> None:
    """Raise `ValueError` unless points are in a region, or boundary points on its boundary; it tells the first.

    A point off by rounding passes. Points that are not finite, as of a sample that rejection did not fill, don't.
    """
    on_boundary = isinstance(points, BoundaryPoints)
    x = points.points if on_boundary else points
    if isinstance(x, Tracer):
        raise ValueError("`points` are traced; expected values: check them outside jit.")
    if x.ndim != 2 or x.shape[1] != region.ndim:
        raise ValueError(f"`points` has shape {x.shape}; expected (n, {region.ndim}).")
    distance = np.asarray(jax.vmap(region.signed_distance)(x))
    off = np.abs(distance) if on_boundary else distance
    wrong = np.flatnonzero(~(off <= 1e3 * np.finfo(off.dtype).eps * np.abs(region.bounds).max()))
    if len(wrong):
        where = "off the boundary of" if on_boundary else "outside"
        raise ValueError(
            f"`points`: {len(wrong)} of {len(x)} are {where} the region {region.bounds[0].tolist()} to "
            f"{region.bounds[1].tolist()}; the first is number {wrong[0]}, {np.asarray(x[wrong[0]]).tolist()}."
        )
    if on_boundary and not np.isin(points.pieces, np.arange(len(region.pieces))).all():
        raise ValueError(f"`points.pieces` has an index of no piece; there are {len(region.pieces)}.")


def check_agreement(
    boundary: BoundaryConditions, initial: InitialConditions, points: BoundaryPoints, *, tolerance: float = 1e-6
) -> None:
    """Raise `ValueError` unless the initial value satisfies the boundary conditions at the points, moved to the start.

    **Arguments:** `points`: of the boundary of space and time; those on the piece `start` are left out.
    """
    sides = [i for i, name in enumerate(boundary.region.pieces) if name != "start"]
    kept = np.isin(points.pieces, sides)
    at = jax.vmap(initial.at_start)(points.points[kept])

    def value(x: Array) -> Array:
        found = jnp.atleast_1d(jnp.asarray(initial.value(x)).astype(x.dtype))
        if initial.components is None:
            return found
        return jnp.zeros(max(initial.components) + 1, x.dtype).at[jnp.asarray(initial.components)].set(found)

    gap = np.abs(jax.vmap(boundary, (None, 0, 0, 0))(value, at, points.normals[kept], points.pieces[kept])).max(-1)
    if gap.size and not gap.max() <= tolerance:
        worst = int(np.argmax(np.where(np.isnan(gap), np.inf, gap)))
        name = boundary.region.pieces[int(points.pieces[kept][worst])]
        raise ValueError(
            f"`initial` and `boundary` do not agree: on the piece {name!r}, at {np.asarray(at[worst]).tolist()}, they "
            f"differ by {gap[worst]:.3g}. Hard conditions need data that meet."
        )
