"""Boundary and initial conditions: what holds on which piece of a boundary, and the residual of a field there.

Those of `solvers` hold values along the sides of a grid; these hold functions of a point on any boundary.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from solvers import Field

from .derivatives import derivatives
from .geometry import Geometry
from .given import Given, check_point, given, spread, value_of
from .shapes import Box
from .space_time import SpaceTime

Value = ArrayLike | Callable[[Array], ArrayLike]
"""A number, one number a component `(c,)`, or a function of the point that gives either."""


class DirichletData(eqx.Module):
    """`u = value`. `value`: a number, `(c,)`, or a function of the point."""

    value: Given

    def __init__(self, value: Value = 0.0):
        self.value = given(value)


class NeumannData(eqx.Module):
    """`du/dn = value`, `n` the outward normal. `value`: a number, `(c,)`, or a function of the point."""

    value: Given

    def __init__(self, value: Value = 0.0):
        self.value = given(value)


class RobinData(eqx.Module):
    """`alpha u + beta du/dn = value`, `n` the outward normal. Each a number, `(c,)`, or a function of the point."""

    alpha: Given
    beta: Given
    value: Given

    def __init__(self, alpha: Value, beta: Value, value: Value = 0.0):
        self.alpha, self.beta, self.value = given(alpha), given(beta), given(value)


class PeriodicWith(eqx.Module):
    """`u` and `du/dn` are those at the points moved by `shift`, which lie on the piece `other`.

    On this piece the residual is the difference of values, on the other that of normal derivatives: the other takes no
    condition of its own. Of opposite sides of a `Box` the shift is known.

    A field that is periodic by construction needs none of this: see `opkit.fields.PeriodicEmbedding`.
    """

    other: str = eqx.field(static=True)
    shift: tuple[float, ...] | None = eqx.field(static=True)

    def __init__(self, other: str, shift: Sequence[float] | None = None):
        self.other, self.shift = other, None if shift is None else tuple(map(float, shift))


class _Match(eqx.Module):
    """One half of a periodic pair: `u`, or `du/dn`, is that at the point moved by `shift`."""

    shift: tuple[float, ...] = eqx.field(static=True)
    slope: bool = eqx.field(static=True)


BoundaryData = DirichletData | NeumannData | RobinData | PeriodicWith


class BoundaryConditions(eqx.Module):
    """What holds on each piece of a region's boundary, and its residual at a point there.

        region = SpaceTime(Box(-1, 1), 0.0, 1.0)
        wave = DirichletData(lambda x: -jnp.sin(jnp.pi * x[1]))
        conditions = BoundaryConditions(region, {"start": wave, "x0-": DirichletData(0), "x0+": NeumannData(0)})
        points = region.sample_boundary(100, key=key)
        residuals = jax.vmap(conditions, (None, 0, 0, 0))(field, *points)

    The same conditions become exact by `HardConditions(field, conditions)`.

    **Arguments:** `region`. `data`: a condition for every piece by its name, `None` where there is to be none, and the
    residual zero; or one condition for all. `components`: of the field, those that the conditions are for; by default
    all.

    **Raises:** `ValueError` for a piece without a condition or a name that is no piece; for periodic pieces without a
    shift, or given twice.
    """

    region: Geometry
    data: tuple[DirichletData | NeumannData | RobinData | _Match, ...]
    which: tuple[int | None, ...] = eqx.field(static=True)
    components: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        region: Geometry,
        data: BoundaryData | Mapping[str, BoundaryData | None],
        *,
        components: Sequence[int] | None = None,
    ):
        named = dict(data) if isinstance(data, Mapping) else dict.fromkeys(region.pieces, data)
        per_piece = _per_piece(region, named)
        distinct = {id(each): each for each in per_piece.values() if each is not None}
        places = {number: place for place, number in enumerate(distinct)}
        self.region, self.data = region, tuple(distinct.values())
        self.which = tuple(places.get(id(per_piece[name])) for name in region.pieces)
        self.components = None if components is None else tuple(components)

    def __call__(
        self, field: Field, x: Float[Array, " d"], normal: Float[Array, " d"], piece: Int[Array, ""] | int
    ) -> Float[Array, " e"]:
        """The residual of a field at one boundary point, with its outward normal and the index of its piece.

        **Returns:** `alpha u + beta du/dn - value`, or the difference that a periodic pair has: `(c,)`, or as many as
        `components`.

        **Raises:** `ValueError` for a point or normal of another shape than `(d,)`, a field that does not give one
        array `(c,)`, or data that do not fit it.
        """
        check_point("x", x, self.region.ndim)
        check_point("normal", normal, self.region.ndim)
        needs_slope = any(not isinstance(each, DirichletData) for each in self.data)
        value, slope = self._trace(field, x, normal, needs_slope)
        c, none = value.size, jnp.zeros_like(value)
        rows = [*(self.coefficients(i, x, c) for i in range(len(self.data))), (none, none, none)]
        row = jnp.asarray([len(self.data) if i is None else i for i in self.which])[piece]
        alpha, beta, wanted = (jnp.stack(column)[row] for column in zip(*rows, strict=True))
        residual = alpha * value + beta * slope - wanted
        shifts = [each.shift if isinstance(each, _Match) else None for each in self.data] + [None]
        if any(shifts):
            still = (0.0,) * self.region.ndim
            moved = x + jnp.asarray([shift or still for shift in shifts], x.dtype)[row]
            mate, mate_slope = self._trace(field, moved, normal, needs_slope)
            matched = jnp.asarray([shift is not None for shift in shifts])[row]
            residual = residual - jnp.where(matched, alpha * mate + beta * mate_slope, 0)
        return residual

    def coefficients(self, i: int, x: Float[Array, " d"], c: int) -> tuple[Array, Array, Array]:
        """Of `data[i]`: `alpha`, `beta` and `value` at a point, `(c,)` each."""
        condition, one = self.data[i], jnp.ones(c, x.dtype)
        at = lambda name, data: spread(f"`{name}` of the condition on {self.pieces_of(i)}", data(x), c, x)
        match condition:
            case DirichletData():
                return one, 0 * one, at("value", condition.value)
            case NeumannData():
                return 0 * one, one, at("value", condition.value)
            case RobinData():
                return at("alpha", condition.alpha), at("beta", condition.beta), at("value", condition.value)
            case _Match():
                return (0 * one, one, 0 * one) if condition.slope else (one, 0 * one, 0 * one)

    def pieces_of(self, i: int) -> tuple[str, ...]:
        """The names of the pieces on which `data[i]` holds."""
        return tuple(name for name, place in zip(self.region.pieces, self.which, strict=True) if place == i)

    def _trace(self, field: Field, x: Array, normal: Array, needs_slope: bool) -> tuple[Array, Array]:
        """The value and the normal derivative of the components that the conditions are for."""
        if needs_slope:
            value, slope = derivatives(field, x, (), 0, directions=normal[None])
        else:
            value = value_of(field, x)
            slope = jnp.zeros_like(value)
        if self.components is not None:
            value, slope = (chosen(array, self.components) for array in (value, slope))
        return value, slope


class InitialConditions(eqx.Module):
    """`u = value` at the time `start`, and for equations of second order in time `du/dt = rate`.

        start = InitialConditions(lambda x: jnp.sin(jnp.pi * x[1]), 0.0)
        residuals = jax.vmap(start, (None, 0))(field, points)

    **Arguments:** `value`, `rate`: numbers, `(c,)`, or functions of the point `(t, x, ...)`, which have `t = start`.
    `components`: of the field, those that the conditions are for; by default all.
    """

    value: Given
    rate: Given | None
    start: float = eqx.field(static=True)
    components: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        value: Value,
        rate: Value | None = None,
        *,
        start: float = 0.0,
        components: Sequence[int] | None = None,
    ):
        self.value, self.rate = given(value), None if rate is None else given(rate)
        self.start, self.components = float(start), None if components is None else tuple(components)

    def __call__(self, field: Field, x: Float[Array, " d"]) -> Float[Array, " e"]:
        """The residual of a field at `(start, x[1:])`: `u - value`, `(c,)`, with a rate followed by `du/dt - rate`.

        **Raises:** `ValueError` for a field that does not give one array `(c,)`, or data that do not fit it.
        """
        check_point("x", x)
        at = self.at_start(x)
        found = [value_of(field, at)] if self.rate is None else derivatives(field, at, (), 0)
        if self.components is not None:
            found = [chosen(each, self.components) for each in found]
        return jnp.concatenate([u - wanted for u, wanted in zip(found, self.wanted(x, found[0].size), strict=True)])

    def wanted(self, x: Float[Array, " d"], c: int) -> tuple[Array, ...]:
        """The value, and the rate if there is one, `(c,)` each, at `(start, x[1:])`."""
        at = self.at_start(x)
        value = spread("`value` of the initial conditions", self.value(at), c, x)
        return (value,) if self.rate is None else (value, spread("`rate`", self.rate(at), c, x))

    def at_start(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """`(start, x[1:])`."""
        return jnp.concatenate([jnp.full(1, self.start, x.dtype), x[1:]])


def chosen(values: Float[Array, " c"], components: tuple[int, ...]) -> Float[Array, " e"]:
    """Some components. **Raises:** `ValueError` for one that there is not."""
    if not all(0 <= i < values.size for i in components) or len(set(components)) < len(components):
        raise ValueError(f"`components` are {components}; expected different ones of a field of {values.size}.")
    return jnp.stack([values[i] for i in components])


def _per_piece(region: Geometry, named: dict[str, Any]) -> dict[str, Any]:
    """The condition of every piece, periodic ones as two halves."""
    found: dict[str, Any] = {}
    for name, condition in named.items():
        if name not in region.pieces:
            raise ValueError(f"`data` names {name!r}, which is no piece of the boundary; they are {region.pieces}.")
        if condition is not None and not isinstance(condition, BoundaryData):
            raise ValueError(
                f"`data` of {name!r} is {condition!r}; expected DirichletData, NeumannData, RobinData, PeriodicWith, "
                "or None for no condition."
            )
        if not isinstance(condition, PeriodicWith):
            found[name] = condition
            continue
        if condition.other not in region.pieces or condition.other in named:
            raise ValueError(
                f"`data` of {name!r} is periodic with {condition.other!r}; expected another piece of {region.pieces}, "
                "without a condition of its own."
            )
        shift = _shift(region, name, condition)
        found[name] = _Match(shift, slope=False)
        found[condition.other] = _Match(tuple(-part for part in shift), slope=True)
    missing = [name for name in region.pieces if name not in found]
    if missing:
        raise ValueError(
            f"`data` has no condition for the pieces {missing}; give each one, or None where there is to be none."
        )
    return found


def _shift(region: Geometry, name: str, condition: PeriodicWith) -> tuple[float, ...]:
    """From a piece to the one that it is periodic with."""
    if condition.shift is not None:
        if len(condition.shift) != region.ndim:
            raise ValueError(f"`shift` is {condition.shift}; expected {region.ndim} numbers, one an axis.")
        return condition.shift
    match region:
        case SpaceTime() if name != "start":
            return (0.0, *_shift(region.space, name, condition))
        case Box() if name[:-1] == condition.other[:-1]:
            axis = int(name[1:-1])
            width = region.upper[axis] - region.lower[axis]
            return tuple(float(i == axis) * (width if name.endswith("-") else -width) for i in range(region.ndim))
    raise ValueError(
        f"`data` of {name!r} is periodic with {condition.other!r}; only of opposite sides of a Box is the shift known: "
        "give `shift`, the vector from one to the other."
    )
