"""Fields that satisfy boundary and initial conditions exactly, whatever their network gives."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from solvers import Field, Frozen, as_module, frozen_unless_traced

from .approximate_distance import (
    Joining,
    PieceDistances,
    approximate_distance,
    joined,
    piece_distances,
    transfinite_weights,
)
from .conditions import BoundaryConditions, DirichletData, InitialConditions, NeumannData, RobinData
from .derivatives import derivatives, gradient
from .given import Constant, check_point, value_of


class HardConditions(eqx.Module):
    """A field built on another, `N`, that satisfies boundary and initial conditions whatever `N` is.

        u = HardConditions(MLP(2, 1, width=32, depth=3, key=key), conditions, InitialConditions(u0))

    **Boundary.** Of Dirichlet data `g`, and of Neumann and Robin data `alpha u + beta du/dn = value`,

        v = g + phi N,        u = v + p (dv/dn + (alpha v - value) / beta)        `B[N]`, below

    with the approximate distance `phi` to the pieces that have Dirichlet data, the normal `n = -grad phi_n` from that
    to the pieces that have others, and `p` the two joined: zero on both, its slope 1 on the latter. Where data differ
    from piece to piece they are blended by transfinite interpolation; where pieces share one condition object nothing
    is blended, and corners stay smooth. Data must agree where their pieces meet; where they don't, as at the lid of a
    cavity, they hold on each piece but not at its ends.

    **Initial.** With `tau = t - start`, at first and second order in time,

        u = u_0           + B[tau N](t, x)   - B[0](start, x)
        u = u_0 + tau u_1 + B[tau^2 N](t, x) - (1 + tau d/dt) B[0](start, x)

    so `u_0` and `u_1` must satisfy the boundary conditions: see `check_agreement`.

    The conditions are not trained; to differentiate in what they hold, build this inside the loss. `N` is evaluated
    once, with one derivative more where there are Neumann or Robin data. A piece left `None` is free. Conditions for
    different components are set one on the other, `HardConditions(HardConditions(N, velocity), pressure)`.

    **Arguments:** `order`: how distances are joined; see `approximate_distance`. With 0, the default, `phi` is smooth
    also at corners, which an equation of second order needs there.

    **Raises:** `ValueError` for neither condition; for periodic pieces, a `beta` of zero, or a region without an
    approximate distance; when called, for a point, field or data of shapes that do not fit.

    Sukumar and Srivastava (2022), Exact imposition of boundary conditions with distance functions in physics-informed
    deep neural networks, arXiv:2104.08426, section 4, but for the mixed conditions, which go one on the other here.
    """

    field: Field
    conditions: Frozen[tuple[BoundaryConditions | None, InitialConditions | None]]
    order: Joining = eqx.field(static=True)

    def __init__(
        self,
        field: Field,
        boundary: BoundaryConditions | None = None,
        initial: InitialConditions | None = None,
        *,
        order: Joining = 0,
    ):
        if boundary is None and initial is None:
            raise ValueError("`boundary` and `initial` are both None; expected one of them or both.")
        if boundary is not None:
            _check_possible(boundary, order)
        self.field, self.order = as_module(field), order
        self.conditions = frozen_unless_traced((boundary, initial))

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        """Evaluate at one point."""
        check_point("x", x)
        boundary, initial = self.conditions.value
        bounded = lambda field, x: field(x) if boundary is None else _bounded(boundary, self.order, field, x)
        if initial is None:
            return bounded(partial(value_of, self.field), x)
        tau = x[0] - initial.start

        def vanishing(y: Array) -> Array:
            value = value_of(self.field, y)
            factor = y[0] - initial.start if initial.rate is None else (y[0] - initial.start) ** 2
            return jnp.where(_mask(initial.components, value.size), factor, 1) * value

        value = bounded(vanishing, x)
        c, start = value.size, initial.at_start(x)
        lifted = lambda y: bounded(lambda y: jnp.zeros(c, y.dtype), y)
        there = [lifted(start)] if initial.rate is None else derivatives(lifted, start, (), 0)
        count = c if initial.components is None else len(initial.components)
        powers = (jnp.ones_like(tau), tau)
        for power, wanted, held in zip(powers, initial.wanted(x, count), there, strict=False):
            mask = _mask(initial.components, c)
            value = value + power * (_embedded(wanted, initial.components, c) - jnp.where(mask, held, 0))
        return value


def _bounded(boundary: BoundaryConditions, order: Joining, field: Field, x: Array) -> Array:
    """`B[field]` at `x`."""
    region = boundary.region
    check_point("x", x, region.ndim)
    places = [[region.pieces.index(name) for name in boundary.pieces_of(i)] for i in range(len(boundary.data))]
    essential = [i for i, data in enumerate(boundary.data) if isinstance(data, DirichletData)]
    natural = [i for i in range(len(boundary.data)) if i not in essential]
    normalised: Joining = 2 if order == 2 else 1

    def distance(pieces: PieceDistances, conditions: list[int], order: Joining) -> Array:
        return pieces.joined([place for i in conditions for place in places[i]], order)

    def blended(
        pieces: PieceDistances, conditions: list[int], order: Joining, of: Callable[[int, int], Array], c: int
    ) -> Array:
        count = c if boundary.components is None else len(boundary.components)
        values = jnp.stack([of(i, count) for i in conditions])
        weights = jnp.ones(1, values.dtype)
        if len(conditions) > 1:
            distances = jnp.stack([pieces.joined(places[i], order) for i in conditions])
            weights = transfinite_weights(distances, pieces.rounding)
        return _embedded(jnp.sum(weights[:, None] * values, 0), boundary.components, c)

    def lifted(y: Array) -> Array:
        value = field(y)
        if not essential:
            return value
        pieces = piece_distances(region, y)
        data = blended(pieces, essential, order, lambda i, count: boundary.coefficients(i, y, count)[2], value.size)
        mask = _mask(boundary.components, value.size)
        return data + jnp.where(mask, distance(pieces, essential, order), 1) * value

    if not natural:
        return lifted(x)
    inward = gradient(lambda y: distance(piece_distances(region, y), natural, normalised)[None], x)
    value, along = derivatives(lifted, x, (), 0, directions=inward[None])
    part = value if boundary.components is None else value[jnp.asarray(boundary.components)]

    def slope(i: int, count: int) -> Array:
        alpha, beta, wanted = boundary.coefficients(i, x, count)
        return (alpha * part - wanted) / beta

    pieces = piece_distances(region, x)
    outward = blended(pieces, natural, normalised, slope, value.size)
    vanishing = distance(pieces, natural, normalised)
    if essential:
        vanishing = joined(jnp.stack([vanishing, distance(pieces, essential, order)]), 1, pieces.rounding)
    return value + vanishing * (outward - jnp.where(_mask(boundary.components, value.size), along, 0))


def _mask(components: tuple[int, ...] | None, c: int) -> np.ndarray:
    """Which of `c` components are meant."""
    if components is not None and not (set(components) <= set(range(c)) and len(set(components)) == len(components)):
        raise ValueError(f"`components` are {components}; expected different ones of a field of {c}.")
    return np.isin(np.arange(c), range(c) if components is None else components)


def _embedded(values: Array, components: tuple[int, ...] | None, c: int) -> Array:
    """`values` as those components of `c`, the others zero."""
    return values if components is None else jnp.zeros(c, values.dtype).at[jnp.asarray(components)].set(values)


def _check_possible(boundary: BoundaryConditions, order: Joining) -> None:
    for i, data in enumerate(boundary.data):
        if not isinstance(data, DirichletData | NeumannData | RobinData):
            raise ValueError(
                f"`boundary` is periodic on {boundary.pieces_of(i)}; expected Dirichlet, Neumann or Robin data. A "
                "field is made periodic by its first map, `opkit.fields.PeriodicEmbedding`."
            )
        beta = data.beta if isinstance(data, RobinData) else None
        if isinstance(beta, Constant) and not isinstance(beta.array, Tracer) and not np.all(beta.array):
            raise ValueError(f"`beta` is zero on {boundary.pieces_of(i)}; expected DirichletData there.")
        point = jax.ShapeDtypeStruct((boundary.region.ndim,), jnp.result_type(float))
        jax.eval_shape(partial(approximate_distance, boundary.region, pieces=boundary.pieces_of(i), order=order), point)
