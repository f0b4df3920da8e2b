"""Unions, intersections and differences of regions."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .geometry import BoundaryPoints, Geometry, rejected
from .shapes import Box


class Combined(Geometry):
    """Two regions put together: `kind` is `"union"`, `"intersection"`, or `"difference"`, the first without the second.

    Its pieces are those of both, `0/...` and `1/...`; samples are drawn by rejection. The signed distance is the least
    or the greatest of the parts'. A boundary that both share and that is inside the union is no boundary of it.
    """

    first: Geometry
    second: Geometry
    kind: Literal["union", "intersection", "difference"] = eqx.field(static=True)

    def __init__(self, first: Geometry, second: Geometry, kind: Literal["union", "intersection", "difference"]):
        if first.ndim != second.ndim:
            raise ValueError(f"`first` has {first.ndim} dimensions and `second` {second.ndim}; expected as many.")
        if kind not in ("union", "intersection", "difference"):
            raise ValueError(f"`kind` is {kind!r}; expected 'union', 'intersection' or 'difference'.")
        self.first, self.second, self.kind = first, second, kind
        lower, upper = self.bounds
        if not (lower < upper).all():
            raise ValueError(f"the {kind} is empty: the first is within {first.bounds}, the second {second.bounds}.")

    @property
    def pieces(self) -> tuple[str, ...]:
        """See `Geometry`."""
        return tuple(f"{i}/{name}" for i, part in enumerate((self.first, self.second)) for name in part.pieces)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Geometry`."""
        (lower, upper), (other_lower, other_upper) = self.first.bounds, self.second.bounds
        match self.kind:
            case "union":
                return np.minimum(lower, other_lower), np.maximum(upper, other_upper)
            case "intersection":
                return np.maximum(lower, other_lower), np.minimum(upper, other_upper)
            case "difference":
                return lower, upper

    @property
    def boundary_measure(self) -> float:
        """See `Geometry`; a bound from above."""
        return self.first.boundary_measure + self.second.boundary_measure

    def signed_distance(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """See `Geometry`."""
        first, second = self.first.signed_distance(x), self.second.signed_distance(x)
        match self.kind:
            case "union":
                return jnp.minimum(first, second)
            case "intersection":
                return jnp.maximum(first, second)
            case "difference":
                return jnp.maximum(first, -second)

    def sample(self, n: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        """See `Geometry`."""
        box = Box(*(bound.tolist() for bound in self.bounds))
        return rejected(lambda key: box.sample(n, key=key), self.contains, n, key)

    def sample_boundary(self, n: int, *, key: PRNGKeyArray) -> BoundaryPoints:
        """See `Geometry`."""
        lower, upper = self.bounds
        size = float((upper - lower).max())
        reach = 1e-4 * size  # float32 tells the sides of a boundary apart at this distance

        def keep(drawn: BoundaryPoints) -> Array:
            distance = self.signed_distance(drawn.points)
            outside = self.signed_distance(drawn.points + reach * drawn.normals)
            inside = self.signed_distance(drawn.points - reach * drawn.normals)
            near = jnp.abs(distance) <= 100 * jnp.finfo(distance.dtype).eps * size
            return near & (outside > 0) & (inside < 0)

        return rejected(lambda key: self._proposed(n, key), keep, n, key)

    def _proposed(self, n: int, key: PRNGKeyArray) -> BoundaryPoints:
        """Points uniform on the boundaries of the primitive parts."""
        which, *keys = jax.random.split(key, 3)
        parts = (self.first, self.second)
        drawn = [
            part._proposed(n, k) if isinstance(part, Combined) else part.sample_boundary(n, key=k)
            for part, k in zip(parts, keys, strict=True)
        ]
        if self.kind == "difference":
            drawn[1] = drawn[1]._replace(normals=-drawn[1].normals)
        drawn[1] = drawn[1]._replace(pieces=drawn[1].pieces + len(self.first.pieces))
        measures = jnp.array([part.boundary_measure for part in parts])
        second = jax.random.uniform(which, (n,)) < measures[1] / measures.sum()
        pick = lambda a, b: jnp.where(second.reshape((n,) + (1,) * (a.ndim - 1)), b, a)
        return jax.tree.map(pick, *drawn)


def union(first: Geometry, second: Geometry) -> Combined:
    """The points in either."""
    return Combined(first, second, "union")


def intersection(first: Geometry, second: Geometry) -> Combined:
    """The points in both."""
    return Combined(first, second, "intersection")


def difference(first: Geometry, second: Geometry) -> Combined:
    """The points in the first that are not in the second."""
    return Combined(first, second, "difference")
