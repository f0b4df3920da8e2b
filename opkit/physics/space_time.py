"""Regions of space over an interval of time."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .geometry import BoundaryPoints, Geometry


class SpaceTime(Geometry):
    """The points `(t, x)`, `t` from `start` to `end` and `x` in a region of space.

    Its boundary is where an evolution equation takes its data: the piece `start`, and the pieces of the region at all
    times. The end is no piece of it. Boundary points are uniform on the start and on the sides, half of them on each;
    those on the sides have normals without a component in time.

    **Raises:** `ValueError` where `start` is not below `end`; when it is combined with another region: combine those of
    space.
    """

    space: Geometry
    start: float = eqx.field(static=True)
    end: float = eqx.field(static=True)

    def __init__(self, space: Geometry, start: float, end: float):
        if not start < end:
            raise ValueError(f"`start` is {start} and `end` {end}; expected the start below the end.")
        self.space, self.start, self.end = space, float(start), float(end)

    @property
    def pieces(self) -> tuple[str, ...]:
        """See `Geometry`."""
        return ("start", *self.space.pieces)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Geometry`."""
        lower, upper = self.space.bounds
        return np.concatenate([[self.start], lower]), np.concatenate([[self.end], upper])

    @property
    def boundary_measure(self) -> float:
        """See `Geometry`; unknown."""
        raise ValueError("a `SpaceTime` cannot be combined with other regions; combine the regions of space in it.")

    def signed_distance(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """See `Geometry`; as of combined regions, and to the end as well."""
        beyond = jnp.maximum(self.start - x[0], x[0] - self.end)
        return jnp.maximum(self.space.signed_distance(x[1:]), beyond)

    def sample(self, n: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        """See `Geometry`."""
        when, where = jax.random.split(key)
        return self._at(self._times(n, when), self.space.sample(n, key=where))

    def sample_boundary(self, n: int, *, key: PRNGKeyArray) -> BoundaryPoints:
        """See `Geometry`."""
        when, inside, on = jax.random.split(key, 3)
        first = self.space.sample(n - n // 2, key=inside)
        points, normals, pieces = self.space.sample_boundary(n // 2, key=on)
        starts = jnp.full(len(first), self.start, first.dtype)
        down = jnp.zeros((len(first), self.ndim), first.dtype).at[:, 0].set(-1)
        return BoundaryPoints(
            jnp.concatenate([self._at(starts, first), self._at(self._times(len(points), when), points)]),
            jnp.concatenate([down, self._at(jnp.zeros(len(points), points.dtype), normals)]),
            jnp.concatenate([jnp.zeros(len(first), pieces.dtype), pieces + 1]),
        )

    def _times(self, n: int, key: PRNGKeyArray) -> Array:
        return jax.random.uniform(key, (n,), minval=self.start, maxval=self.end)

    def _at(self, times: Array, points: Array) -> Array:
        return jnp.concatenate([times[:, None].astype(points.dtype), points], 1)
