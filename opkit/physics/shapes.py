"""Boxes, balls, polygons and clouds of points."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from .geometry import BoundaryPoints, Geometry, rejected

Coordinates = ArrayLike | Sequence[Any]


class Box(Geometry):
    """The box between two corners; in one dimension an interval. Its pieces are `x0-` and `x0+`, `x1-`, ...: the sides
    across each axis.

    **Raises:** `ValueError` where `lower` is not below `upper`.
    """

    lower: tuple[float, ...] = eqx.field(static=True)
    upper: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, lower: Coordinates, upper: Coordinates):
        first, second = np.atleast_1d(np.asarray(lower, float)), np.atleast_1d(np.asarray(upper, float))
        if first.ndim != 1 or first.shape != second.shape or not (first < second).all():
            raise ValueError(f"`lower` is {lower} and `upper` {upper}; expected a corner (d,) below another.")
        self.lower, self.upper = tuple(first.tolist()), tuple(second.tolist())

    @property
    def pieces(self) -> tuple[str, ...]:
        """See `Geometry`."""
        return tuple(f"x{axis}{side}" for axis in range(len(self.lower)) for side in "-+")

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Geometry`."""
        return np.asarray(self.lower), np.asarray(self.upper)

    @property
    def boundary_measure(self) -> float:
        """See `Geometry`."""
        lower, upper = self.bounds
        return float(2 * (np.prod(upper - lower) / (upper - lower)).sum())

    def signed_distance(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """See `Geometry`."""
        beyond = jnp.maximum(jnp.asarray(self.lower, x.dtype) - x, x - jnp.asarray(self.upper, x.dtype))
        return _length(jnp.maximum(beyond, 0)) + jnp.minimum(jnp.max(beyond), 0)

    def sample(self, n: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        """See `Geometry`."""
        return jax.random.uniform(key, (n, self.ndim), minval=jnp.array(self.lower), maxval=jnp.array(self.upper))

    def sample_boundary(self, n: int, *, key: PRNGKeyArray) -> BoundaryPoints:
        """See `Geometry`."""
        inside, which = jax.random.split(key)
        lower, upper = self.bounds
        areas = np.repeat(np.prod(upper - lower) / (upper - lower), 2)
        piece = jax.random.choice(which, len(areas), (n,), p=jnp.asarray(areas / areas.sum()))
        return self._on_sides(self.sample(n, key=inside), piece)

    def _on_sides(self, points: Array, piece: Array) -> BoundaryPoints:
        sides = jnp.asarray(np.stack([*zip(self.lower, self.upper, strict=True)]), points.dtype)
        axis, sign = piece // 2, 2 * (piece % 2) - 1
        onto = jax.nn.one_hot(axis, self.ndim, dtype=points.dtype)
        points = jnp.where(onto == 1, sides[axis, piece % 2][:, None], points)
        return BoundaryPoints(points, onto * sign[:, None], piece)


class Ball(Geometry):
    """The ball, in two dimensions the disc. Its piece is the `sphere`.

    **Raises:** `ValueError` for a radius that is not positive.
    """

    centre: tuple[float, ...] = eqx.field(static=True)
    radius: float = eqx.field(static=True)

    def __init__(self, centre: Coordinates, radius: float):
        if not radius > 0 or np.ndim(centre) != 1:
            raise ValueError(f"`centre` is {centre} and `radius` {radius}; expected (d,) and a positive number.")
        self.centre, self.radius = tuple(np.asarray(centre, float).tolist()), float(radius)

    @property
    def pieces(self) -> tuple[str, ...]:
        """See `Geometry`."""
        return ("sphere",)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Geometry`."""
        return np.asarray(self.centre) - self.radius, np.asarray(self.centre) + self.radius

    @property
    def boundary_measure(self) -> float:
        """See `Geometry`."""
        return 2 * math.pi ** (self.ndim / 2) / math.gamma(self.ndim / 2) * self.radius ** (self.ndim - 1)

    def signed_distance(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """See `Geometry`."""
        return _length(x - jnp.asarray(self.centre, x.dtype)) - self.radius

    def sample(self, n: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        """See `Geometry`."""
        along, out = jax.random.split(key)
        radius = self.radius * jax.random.uniform(out, (n, 1)) ** (1 / self.ndim)
        return jnp.array(self.centre) + radius * self._directions(n, along)

    def sample_boundary(self, n: int, *, key: PRNGKeyArray) -> BoundaryPoints:
        """See `Geometry`."""
        normals = self._directions(n, key)
        return BoundaryPoints(jnp.array(self.centre) + self.radius * normals, normals, jnp.zeros(n, jnp.int32))

    def _directions(self, n: int, key: PRNGKeyArray) -> Array:
        normal = jax.random.normal(key, (n, self.ndim))
        return normal / jnp.linalg.norm(normal, axis=-1, keepdims=True)


class Polygon(Geometry):
    """The region inside a closed line through corners `(k, 2)`, given in either sense. Its pieces are `edge0`, from the
    first corner to the second, `edge1`, ...

    **Raises:** `ValueError` for fewer than three corners, equal ones in succession, or edges that cross.
    """

    corners: tuple[tuple[float, float], ...] = eqx.field(static=True)

    def __init__(self, corners: Coordinates):
        given = np.asarray(corners, float)
        if given.ndim != 2 or given.shape[1] != 2 or len(given) < 3:
            raise ValueError(f"`corners` has shape {given.shape}; expected (k, 2), three or more.")
        _check_simple(given)
        self.corners = tuple((float(x), float(y)) for x, y in given)

    @property
    def pieces(self) -> tuple[str, ...]:
        """See `Geometry`."""
        return tuple(f"edge{i}" for i in range(len(self.corners)))

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Geometry`."""
        corners = np.asarray(self.corners)
        return corners.min(0), corners.max(0)

    @property
    def boundary_measure(self) -> float:
        """See `Geometry`."""
        return float(np.linalg.norm(self._edges()[1], axis=-1).sum())

    def signed_distance(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """See `Geometry`."""
        begin, along = (jnp.asarray(a, x.dtype) for a in self._edges())
        part = jnp.clip(jnp.sum((x - begin) * along, -1) / jnp.sum(along**2, -1), 0, 1)
        distance = jnp.min(jax.vmap(_length)(x - begin - part[:, None] * along))
        # crossings of the ray to the right
        end = begin + along
        straddles = (begin[:, 1] > x[1]) != (end[:, 1] > x[1])
        at = begin[:, 0] + (x[1] - begin[:, 1]) * along[:, 0] / jnp.where(straddles, along[:, 1], 1)
        inside = jnp.sum(straddles & (x[0] < at)) % 2 == 1
        return jnp.where(inside, -distance, distance)

    def sample(self, n: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        """See `Geometry`."""
        box = Box(*(bound.tolist() for bound in self.bounds))
        return rejected(lambda key: box.sample(n, key=key), self.contains, n, key)

    def sample_boundary(self, n: int, *, key: PRNGKeyArray) -> BoundaryPoints:
        """See `Geometry`."""
        begin, along = self._edges()
        lengths = np.linalg.norm(along, axis=-1)
        turned = np.stack([along[:, 1], -along[:, 0]], -1) / lengths[:, None]
        normals = turned * np.sign(_area(np.asarray(self.corners)))
        which, where = jax.random.split(key)
        piece = jax.random.choice(which, len(lengths), (n,), p=jnp.asarray(lengths / lengths.sum()))
        part = jax.random.uniform(where, (n, 1))
        points = jnp.asarray(begin)[piece] + part * jnp.asarray(along)[piece]
        return BoundaryPoints(points, jnp.asarray(normals)[piece].astype(points.dtype), piece)

    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each edge begins, and the vector to its end."""
        corners = np.asarray(self.corners)
        return corners, np.roll(corners, -1, axis=0) - corners


class PointCloud(Geometry):
    """Points of an interior and of a boundary, from a mesh or a measurement; samples are drawn from them.

    **Arguments:** `points`: `(n, d)`. `boundary`, `normals`: `(m, d)`, unit and outward, if there is a boundary.
    `pieces_of`: `(m,)`, the index in `names` of each boundary point's piece; by default all are of the first.

    **Raises:** `ValueError` for shapes that do not fit, or an index without a name; when a signed distance is asked
    for, and for more samples than points.
    """

    points: Float[Array, "n d"]
    boundary: Float[Array, "m d"]
    normals: Float[Array, "m d"]
    pieces_of: Int[Array, " m"]
    names: tuple[str, ...] = eqx.field(static=True)
    corners: tuple[tuple[float, ...], tuple[float, ...]] = eqx.field(static=True)

    def __init__(
        self,
        points: Coordinates,
        boundary: Coordinates | None = None,
        normals: Coordinates | None = None,
        *,
        pieces_of: Coordinates | None = None,
        names: Sequence[str] = ("boundary",),
    ):
        inner = np.asarray(points)
        if inner.ndim != 2:
            raise ValueError(f"`points` has shape {inner.shape}; expected (n, d).")
        outer = inner[:0] if boundary is None else np.asarray(boundary)
        directions = inner[:0] if normals is None else np.asarray(normals)
        if outer.shape != directions.shape or outer.ndim != 2 or outer.shape[1] != inner.shape[1]:
            raise ValueError(
                f"`boundary` has shape {outer.shape} and `normals` {directions.shape}; expected (m, {inner.shape[1]})."
            )
        which = np.zeros(len(outer), np.int32) if pieces_of is None else np.asarray(pieces_of, np.int32)
        if which.shape != outer.shape[:1] or not ((which >= 0) & (which < len(names))).all():
            raise ValueError(f"`pieces_of` has shape {which.shape}; expected an index into {tuple(names)} a point.")
        every = np.concatenate([inner, outer])
        self.points, self.boundary, self.normals = map(jnp.asarray, (inner, outer, directions))
        self.pieces_of, self.names = jnp.asarray(which), tuple(names)
        self.corners = tuple(every.min(0).tolist()), tuple(every.max(0).tolist())

    @property
    def pieces(self) -> tuple[str, ...]:
        """See `Geometry`."""
        return self.names if len(self.boundary) else ()

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Geometry`."""
        return np.asarray(self.corners[0]), np.asarray(self.corners[1])

    @property
    def boundary_measure(self) -> float:
        """See `Geometry`; unknown."""
        raise ValueError("a `PointCloud` has no measure of its boundary, and cannot be combined with other regions.")

    def signed_distance(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """See `Geometry`; unknown."""
        raise ValueError("a `PointCloud` has no signed distance.")

    def sample(self, n: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        """`n` of the points, each at most once."""
        return self.points[self._some(n, len(self.points), key)]

    def sample_boundary(self, n: int, *, key: PRNGKeyArray) -> BoundaryPoints:
        """`n` of the boundary's points, each at most once."""
        some = self._some(n, len(self.boundary), key)
        return BoundaryPoints(self.boundary[some], self.normals[some], self.pieces_of[some])

    def _some(self, n: int, there: int, key: PRNGKeyArray) -> Array:
        if n > there:
            raise ValueError(f"`n` is {n}; the cloud has {there} such points.")
        return jax.random.choice(key, there, (n,), replace=False)


def _length(x: Array) -> Array:
    """The norm, with the derivative zero at zero."""
    square = jnp.sum(x**2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _area(corners: np.ndarray) -> float:
    """Of a polygon, positive if its corners run anticlockwise."""
    (x, y), (x1, y1) = corners.T, np.roll(corners, -1, axis=0).T
    return float((x * y1 - x1 * y).sum() / 2)


def _check_simple(corners: np.ndarray) -> None:
    """Raise where edges are of no length, or cross or touch others than their neighbours."""
    k = len(corners)
    ends = np.roll(corners, -1, axis=0)
    if (np.linalg.norm(ends - corners, axis=-1) == 0).any():
        raise ValueError(f"`corners` are {corners.tolist()}; two in succession are equal.")
    side = lambda a, b, c: np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
    for i in range(k):
        for j in range(i + 2, k - (i == 0)):
            a, b, c, d = corners[i], ends[i], corners[j], ends[j]
            if side(a, b, c) * side(a, b, d) <= 0 and side(c, d, a) * side(c, d, b) <= 0:
                raise ValueError(f"`corners` make edges {i} and {j} cross; expected a simple polygon.")
    if _area(corners) == 0:
        raise ValueError(f"`corners` are {corners.tolist()}, all on a line.")
