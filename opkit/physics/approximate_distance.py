"""Smooth functions that vanish on the boundary of a region, or on pieces of it, and nowhere else in it.

Every piece has a function of its own: for a side of a box, an edge of a convex polygon or a sphere, one that is smooth
everywhere, and for a piece whose line or sphere goes on inside the region, that function trimmed to the piece. They are
joined by R-equivalence. Values and derivatives of any order stay finite on the boundary and at corners: values within
rounding of zero are zero, with the derivatives that the function has coming from inside.

Sukumar and Srivastava (2022), Exact imposition of boundary conditions with distance functions in physics-informed deep
neural networks, arXiv:2104.08426, section 3.
"""

from collections.abc import Sequence
from functools import lru_cache, partial, reduce, singledispatch
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from .combined import Combined
from .geometry import Geometry
from .given import check_point
from .shapes import Ball, Box, Polygon
from .space_time import SpaceTime

Joining = Literal[0, 1, 2]


def approximate_distance(
    region: Geometry, x: Float[Array, " d"], pieces: Sequence[str] | None = None, *, order: Joining = 1
) -> Float[Array, ""]:
    """A function that is zero on pieces of the boundary, by default all, and positive elsewhere in the region.

    `order` says how the functions `phi_i` of the pieces are joined:

    - 1, 2: R-equivalence, `1 / phi^m = sum_i 1 / phi_i^m` with `m = order`. `phi` has the slope 1 on the pieces, along
      the inward normal; with 2 its second derivative along the normal is that of the `phi_i` there: zero on straight
      pieces. At corners its derivatives are bounded up to the first, and grow like `1 / r` from the second.
    - 0: the product of the `phi_i`, each over its value well inside the region: about 1 there, without unit. It is as
      smooth as the `phi_i`: a polynomial for boxes, balls and convex polygons.

    **Returns:** a length, or with `order=0` a pure number. Outside the region it means nothing.

    **Raises:** `ValueError` for a point of another shape, names that are no pieces or are none, a region without such a
    function (a `PointCloud`), or a union whose parts share a wall.
    """
    check_point("x", x, region.ndim)
    names = region.pieces if pieces is None else tuple(pieces)
    if not names or not set(names) <= set(region.pieces):
        raise ValueError(f"`pieces` are {names}; expected some of {region.pieces}.")
    return piece_distances(region, x).joined([region.pieces.index(name) for name in names], order)


class PieceDistances(NamedTuple):
    """What the functions of the pieces are at a point: `values` `(k,)`, zero on the piece and positive elsewhere;
    `depths` `(k,)`, about their values well inside; `rounding`, a value that is zero but for rounding."""

    values: Float[Array, " k"]
    depths: np.ndarray
    rounding: float

    def joined(self, pieces: Sequence[int], order: Joining) -> Float[Array, ""]:
        """The distance to some of the pieces; see `approximate_distance`."""
        if order not in (0, 1, 2):
            raise ValueError(f"`order` is {order!r}; expected 0 for a product, or 1 or 2.")
        if order == 0:
            return reduce(jnp.multiply, (self.values[i] / float(self.depths[i]) for i in pieces))
        return joined(jnp.stack([self.values[i] for i in pieces]), order, self.rounding)


def piece_distances(region: Geometry, x: Float[Array, " d"]) -> PieceDistances:
    """The functions of all pieces of a region's boundary at a point."""
    lower, upper = region.bounds
    size = float((upper - lower).max())
    rounding = 16 * float(jnp.finfo(x.dtype).eps) * max(size, float(np.abs([lower, upper]).max()))
    values, depths = _pieces(region, x, _Frame(size, rounding))
    _refuse_shared_walls(region)
    return PieceDistances(values, depths, rounding)


def joined(values: Float[Array, " k"], order: Literal[1, 2], rounding: float) -> Float[Array, ""]:
    """R-equivalence: `(sum_i phi_i^-m)^(-1/m)`, zero where a value is."""
    if values.size == 1:
        return values[0]
    least, ratios, corner = _ratios(values, rounding)
    total = jnp.sum(ratios) if order == 1 else jnp.sqrt(jnp.sum(ratios**2))
    return jnp.where(corner, 0, least / total)


def transfinite_weights(values: Float[Array, " k"], rounding: float) -> Float[Array, " k"]:
    """`w_i = phi_i^-1 / sum_k phi_k^-1`: 1 where `phi_i` is zero, and 0 where another is.

    Where several are zero, at corners, these have equal shares.

    Rvachev, Sheiko, Shapiro and Tsukanov (2001), Transfinite interpolation over implicitly defined sets,
    doi:10.1016/S0167-8396(01)00015-2.
    """
    _, ratios, corner = _ratios(values, rounding)
    met = (values <= rounding).astype(values.dtype)
    return jnp.where(corner, met / jnp.where(corner, jnp.sum(met), 1), ratios / jnp.sum(ratios))


def _ratios(values: Array, rounding: float) -> tuple[Array, Array, Array]:
    """The least value, its ratios to all, and whether another is zero as well: then the ratios mean nothing.

    Sums of inverses in terms of these neither overflow nor cancel near the boundary.
    """
    own = jnp.arange(values.size) == jnp.argmin(values)
    away = values > rounding
    least = jnp.sum(jnp.where(own, values, 0))
    ratios = jnp.where(own, 1, least / jnp.where(away, values, 1))
    return least, ratios, jnp.sum(~away) > 1


class _Frame(NamedTuple):
    """The largest extent of a region, and the size of a distance that is zero but for rounding."""

    size: float
    rounding: float


@singledispatch
def _pieces(
    region: Geometry, x: Array, frame: _Frame, *, whole: bool = False, side: int = 1
) -> tuple[Array, np.ndarray]:
    """The functions of the pieces, in their order, at `x`, and about their values well inside.

    Each is zero on its piece and positive elsewhere in the closed region, with `whole` elsewhere in all of space.
    `side` is that from which the boundary is seen: 1 from inside, -1 from outside.
    """
    raise ValueError(
        f"`region` is a {type(region).__name__}, for which there is no approximate distance; conditions on it can be "
        "soft: `BoundaryConditions`."
    )


@_pieces.register
def _(region: Box, x: Array, frame: _Frame, *, whole: bool = False, side: int = 1) -> tuple[Array, np.ndarray]:
    lower, upper = region.bounds
    sides = jnp.stack([x - jnp.asarray(lower, x.dtype), jnp.asarray(upper, x.dtype) - x], 1).ravel()
    values = _one_sided(side * sides, frame)
    if not whole:
        return values, np.repeat(upper - lower, 2) / 2
    if region.ndim > 1:
        others = [[j for j in range(region.ndim) if j != axis] for axis in range(region.ndim)]
        within = jnp.stack([_within(region, x, axes, frame) for axes in others])
        values = _trimmed(values, jnp.repeat(within, 2), frame)
    return values, np.full(2 * region.ndim, frame.size / 2)


@_pieces.register
def _(region: Ball, x: Array, frame: _Frame, *, whole: bool = False, side: int = 1) -> tuple[Array, np.ndarray]:
    level = _inside(region, x, frame) if whole else _beneath(region, x) / (2 * region.radius)
    return _one_sided(side * level, frame)[None], np.array([frame.size / 2 if whole else region.radius / 2])


@_pieces.register
def _(region: Polygon, x: Array, frame: _Frame, *, whole: bool = False, side: int = 1) -> tuple[Array, np.ndarray]:
    corners = np.asarray(region.corners)
    ends = np.roll(corners, -1, axis=0)
    along, lengths = ends - corners, np.linalg.norm(ends - corners, axis=-1)
    turn = np.sign((corners[:, 0] * ends[:, 1] - ends[:, 0] * corners[:, 1]).sum())
    inward = turn * np.stack([-along[:, 1], along[:, 0]], -1) / lengths[:, None]
    heights = np.einsum("ij,ikj->ik", inward, corners[None] - corners[:, None])
    elsewhere = ~np.eye(len(corners), dtype=bool) & ~np.roll(np.eye(len(corners), dtype=bool), 1, axis=1)
    # a line that meets the polygon in its edge alone is not trimmed
    plain = np.where(elsewhere, heights, np.inf).min(1) > 1e-9 * frame.size
    plain = plain & (not whole)
    depths = np.where(plain, heights.max(1), frame.size) / 2
    level = jnp.sum(jnp.asarray(inward, x.dtype) * (x - jnp.asarray(corners, x.dtype)), -1)
    values = _one_sided(side * level, frame)
    if plain.all():
        return values, depths
    square = jnp.sum((x - jnp.asarray(corners + along / 2, x.dtype)) ** 2, -1)
    within = (jnp.asarray(lengths**2 / 4, x.dtype) - square) / jnp.asarray(lengths, x.dtype)
    return jnp.where(plain, values, _trimmed(values, within, frame)), depths


@_pieces.register
def _(region: Combined, x: Array, frame: _Frame, *, whole: bool = False, side: int = 1) -> tuple[Array, np.ndarray]:
    first_whole, second_whole = whole or region.kind == "union", whole or region.kind != "intersection"
    second_side = -side if region.kind == "difference" else side
    first, first_depths = _pieces(region.first, x, frame, whole=first_whole, side=side)
    second, second_depths = _pieces(region.second, x, frame, whole=second_whole, side=second_side)
    if whole or region.kind == "union":  # of each boundary, the part inside or outside the other region
        in_first, in_second = (_inside(part, x, frame) for part in (region.first, region.second))
        first = _trimmed(first, in_second if region.kind == "intersection" else -in_second, frame)
        second = _trimmed(second, -in_first if region.kind == "union" else in_first, frame)
    return jnp.concatenate([first, second]), np.concatenate([first_depths, second_depths])


@_pieces.register
def _(region: SpaceTime, x: Array, frame: _Frame, *, whole: bool = False, side: int = 1) -> tuple[Array, np.ndarray]:
    inner = piece_distances(region.space, x[1:])
    start = _one_sided(x[:1] - region.start, frame)
    return jnp.concatenate([start, inner.values]), np.concatenate([[region.end - region.start], inner.depths])


@singledispatch
def _inside(region: Geometry, x: Array, frame: _Frame) -> Array:
    """A function positive inside and negative outside, with the slope 1 on the boundary."""
    raise ValueError(f"a {type(region).__name__} in a union, or cut out of a region, has no approximate distance.")


@_inside.register
def _(region: Box, x: Array, frame: _Frame) -> Array:
    return _within(region, x, range(region.ndim), frame)


@_inside.register
def _(region: Ball, x: Array, frame: _Frame) -> Array:
    # grows with the distance, not with its square, and is smooth at the centre
    return _beneath(region, x) / (region.radius + jnp.sqrt(region.radius**2 - _beneath(region, x) / 2))


@_inside.register
def _(region: Polygon, x: Array, frame: _Frame) -> Array:
    distance = joined(_pieces(region, x, frame, whole=True)[0], 2, frame.rounding)
    return jnp.where(region.signed_distance(lax.stop_gradient(x)) < 0, distance, -distance)


@_inside.register
def _(region: Combined, x: Array, frame: _Frame) -> Array:
    first, second = _inside(region.first, x, frame), _inside(region.second, x, frame)
    match region.kind:
        case "union":
            return -_both(-first, -second, frame)
        case "intersection":
            return _both(first, second, frame)
        case "difference":
            return _both(first, -second, frame)


def _both(a: Array, b: Array, frame: _Frame) -> Array:
    """R-conjunction: positive where both are."""
    return a + b - _root(a**2 + b**2, frame.rounding)


def _within(box: Box, x: Array, axes: Sequence[int], frame: _Frame) -> Array:
    """Positive between the sides of a box across some axes."""
    between = [(x[i] - box.lower[i]) * (box.upper[i] - x[i]) / (box.upper[i] - box.lower[i]) for i in axes]
    return reduce(partial(_both, frame=frame), between)


def _beneath(ball: Ball, x: Array) -> Array:
    """`R^2 - |x - c|^2`."""
    return ball.radius**2 - jnp.sum((x - jnp.asarray(ball.centre, x.dtype)) ** 2)


def _one_sided(level: Array, frame: _Frame) -> Array:
    """`|level|`; within rounding of zero it is zero, and its derivatives those of the positive side."""
    near = (level <= frame.rounding) & (level >= -frame.rounding)
    return jnp.where(near, level - lax.stop_gradient(level), jnp.where(level < 0, -level, level))


def _trimmed(f: Array, within: Array, frame: _Frame) -> Array:
    """`sqrt(f^2 + ((v - t) / 2)^2)`, `v = sqrt(t^2 + f^4 / l^2)`, `t = within`: the part of `f = 0` where `t >= 0`.

    Where `t` is positive the root is `f sqrt(1 + ...)`, which is smooth across `f = 0`. Equations 10 and 11; the length
    `l` keeps the units.
    """
    v = _root(within**2 + f**4 / frame.size**2, frame.rounding)
    positive = within > frame.rounding
    small = f**3 / (2 * frame.size**2 * jnp.where(positive, v + within, 1))
    return jnp.where(positive, f * jnp.sqrt(1 + small**2), _root(f**2 + ((v - within) / 2) ** 2, frame.rounding))


def _root(square: Array, rounding: float) -> Array:
    """The square root, within rounding of zero zero with all its derivatives."""
    away = square > rounding**2
    return jnp.where(away, jnp.sqrt(jnp.where(away, square, 1)), 0)


def _refuse_shared_walls(region: Geometry) -> None:
    """Raise for a union whose parts' boundaries coincide somewhere: the wall would be a zero inside it."""
    match region:
        case SpaceTime():
            _refuse_shared_walls(region.space)
        case Combined():
            _refuse_shared_walls(region.first)
            _refuse_shared_walls(region.second)
            if region.kind == "union" and _share_a_wall(region):
                raise ValueError(
                    "`region` is a union whose parts share a wall: it has no approximate distance. Let them overlap, "
                    "or give the whole as one shape, a Polygon."
                )


@lru_cache
def _share_a_wall(region: Combined) -> bool:
    lower, upper = region.bounds
    with jax.ensure_compile_time_eval():
        points = region.first.sample_boundary(256, key=jax.random.key(0)).points
        apart = jnp.abs(jax.vmap(region.second.signed_distance)(points))
        return bool((apart < 1e-6 * float((upper - lower).max())).any())
