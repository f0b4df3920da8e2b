"""Transformations of solutions: each takes trajectories of an equation to trajectories, and the equation along.

    translate      u(t, x - s)
    turn           reflections and exchanges of axes; vectors turn with the field, pseudoscalars change sign in a mirror
    boost          u(t, x - c t) + c: the same flow seen from a moving frame
    change_units   of length, time and value
    lift           u + constant
    turn_phase     e^(i angle) u of a complex amplitude

They are exact on the grid for what it shows: a trajectory of the pseudo-spectral equation on a periodic grid becomes
one of the transformed equation to rounding (equations that are no polynomials: to aliasing). Where the coefficients
stay what they are, the transformation is a symmetry of the equation; `symmetries_of` says which are. All are pure and
differentiable; amounts may be traced.

Olver (1993), Applications of Lie groups to differential equations, ch. 2; Brandstetter, Welling and Worrall (2022), Lie
point symmetry data augmentation for neural PDE solvers, arXiv:2202.07643.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from solvers import Grid, Symmetry
from solvers.equations import Equation, KolmogorovForcing

from .laws import Exponents, Kind, Law, law_of, with_coefficients

Map = Callable[[Array], Array]


class Window(eqx.Module):
    """A piece of a trajectory and what it solves.

    **Arguments:** `states`: `(time, c, *n)` on the periodic `grid`, at the `times`, `(time,)`. `equation`: theirs.

    **Raises:** `ValueError` for states that are not the equation's on the grid, one time a state, a grid that is not
    periodic (placement `left`), or an equation without a `Law`.
    """

    states: Float[Array, "time c *n"]
    times: Float[Array, " time"]
    grid: Grid
    equation: Equation

    def __check_init__(self):
        grid, equation = self.grid, self.equation
        law_of(equation)
        channels = equation.channels(grid.ndim) * (1 if equation.real else 2)
        shape = (*self.times.shape, channels, *grid.shape)
        if self.states.shape != shape or self.times.ndim != 1:
            raise ValueError(
                f"`states` has shape {self.states.shape} at `times` {self.times.shape}; expected (time, {channels}, "
                f"*{grid.shape}) of {type(equation).__name__}, and (time,)."
            )
        if any(placement != "left" for placement in grid.placement):
            raise ValueError(f"`grid` has placement {grid.placement}; these transformations are of periodic boxes.")


def translate(window: Window, axis: int, shift: ArrayLike) -> Window:
    """`u(t, x - shift e_axis)`, of the field's trigonometric polynomial, and so by any distance.

    Coefficients on points move along.

    **Raises:** `ValueError` for an axis that is not there, a forcing that is a function, and across Kolmogorov's sine.
    """
    _check_axis(window, axis)
    return _moved(window, Motion(lambda u: _shifted(u, window.grid, axis, jnp.asarray(shift, u.dtype))))


def turn(window: Window, symmetry: Symmetry) -> Window:
    """The symmetry of the box applied to the states, `(g u)(x) = g u(g^-1 x)`: a reflection, a quarter turn, ...

    **Raises:** `ValueError` where it exchanges axes of the grid that differ, for a forcing that is a function, and for
    Kolmogorov's sine where axes are exchanged or its zeros are not on the mirror.
    """
    grid, forcing = window.grid, getattr(window.equation, "forcing", None)
    if len(symmetry.axes) != grid.ndim:
        raise ValueError(f"`symmetry` has {len(symmetry.axes)} axes; the window has {grid.ndim}.")
    for i, j in enumerate(symmetry.axes):
        if (grid.shape[i], grid.extent[i]) != (grid.shape[j], grid.extent[j]):
            raise ValueError(f"`symmetry` exchanges axes {i} and {j}, which differ in points or extent.")
    if isinstance(forcing, KolmogorovForcing):
        phase = 2 * forcing.mode * grid.lower[1] / grid.extent[1]
        if symmetry.axes != (0, 1) or (symmetry.reflected[1] and abs(phase - round(phase)) > 1e-9):
            raise ValueError(f"`symmetry` is {symmetry}, which turns Kolmogorov's forcing into none of its kind.")
    return turned(window, jnp.asarray(symmetry.axes), jnp.asarray(symmetry.reflected))


def turned(window: Window, axes: Array, reflected: Array) -> Window:
    """`turn` by the arrays `(d,)` of a symmetry that is known to fit."""
    d, shape = window.grid.ndim, window.grid.shape
    inverse = jnp.argsort(axes)
    signs = jnp.where(reflected, -1, 1)
    i, j = np.triu_indices(d, 1)
    parity = jnp.prod(jnp.sign(axes[j] - axes[i])) * jnp.prod(signs)
    here = jnp.indices(shape)
    source = []
    for axis, n in enumerate(shape):
        place = here[inverse[axis]]
        source.append(jnp.where(reflected[axis], (-place) % n, place))

    def components(v: Array) -> Array:
        return (signs.astype(v.dtype).reshape(-1, *(1,) * (v.ndim - 1)) * v)[axes]

    return _moved(window, Motion(lambda u: u[(slice(None), *source)], components, parity))


def boost(window: Window, axis: int, speed: ArrayLike) -> Window:
    """The flow in a frame that moves: `u(t, x - speed t e_axis)`, with what that adds to the velocity.

    Where the velocity is the state, `speed` is added to it (Burgers, Navier-Stokes in 3-D, shallow water; over `a` in
    Korteweg-de Vries and Kuramoto-Sivashinsky); elsewhere to a coefficient (`velocity`, `advection`, `mean_velocity`).

    **Raises:** `ValueError` for an axis that is not there, and where the equation has no boost: for its form, a drag, a
    Coriolis force, or something fixed on the points.
    """
    _check_axis(window, axis)
    law, grid, equation = law_of(window.equation), window.grid, window.equation
    fixed = [name for name, kind in law.kinds.items() if "field" in kind and _on_points(getattr(equation, name))]
    if law.boost is None or fixed:
        why = f"`{fixed[0]}` is fixed on the points" if fixed else "of its form"
        raise ValueError(f"`equation` is a {type(equation).__name__}, which has no boost: {why}.")
    dtype = window.states.dtype
    speed = jnp.asarray(speed, dtype)
    velocity, equation = law.boost(equation, speed * jnp.asarray(np.eye(grid.ndim)[axis], dtype))
    states = jax.vmap(lambda u, t: _shifted(u, grid, axis, speed * t.astype(dtype)))(window.states, window.times)
    if velocity is not None:
        start = _blocks(law, grid.ndim).index("vector")
        added = jnp.zeros(states.shape[1], dtype).at[start : start + grid.ndim].set(velocity)
        states = states + added.reshape(-1, *(1,) * grid.ndim)
    return Window(states, window.times, grid, equation)


def change_units(window: Window, *, length: float = 1.0, time: ArrayLike = 1.0, value: ArrayLike = 1.0) -> Window:
    """The same trajectory in other units: lengths times `length`, times times `time`, states by their units.

    The box, the times and the coefficients change with them, each by the powers in its `Law`. So a scaling symmetry is
    one that leaves the coefficients alone: of Burgers `length=l, time=l**2, value=1/l`, on another box. On the same
    box, it gives the trajectories of other coefficients; and in linear equations `value` is a free amplitude.

    **Arguments:** `length`: a number, as boxes are static. `value`: may be negative.

    **Raises:** `ValueError` for `length` or `time` not positive, for numbers that would multiply what is 1 in the
    equation, and for a forcing that is a function.
    """
    law, grid, equation = law_of(window.equation), window.grid, window.equation
    if not isinstance(time, Tracer) and not (length > 0 and np.asarray(time) > 0):
        raise ValueError(f"`length` is {length}, `time` {time}; expected positive numbers.")
    if not any(isinstance(unit, Tracer) for unit in (time, value)):
        for what, exponents in law.ones.items():
            change = _factor(exponents, length, float(np.asarray(time)), float(np.asarray(value)))
            if abs(change - 1) > 1e-5:
                raise ValueError(
                    f"`length` {length}, `time` {time}, `value` {value} would multiply {what} by {change:.6g}; in "
                    f"{type(equation).__name__} it stays 1. Its factor is (length, time, value) to the powers "
                    f"{exponents}."
                )

    def factor(exponents: Exponents, dtype: Any) -> Array:
        return _factor(exponents, *(jnp.asarray(unit, dtype) for unit in (length, time, value)))

    changes: dict[str, Any] = {}
    for name, exponents in law.units.items():
        old = getattr(equation, name)
        if isinstance(old, KolmogorovForcing):  # of the acceleration
            amplitude = old.amplitude * factor((1, exponents[1], exponents[2]), old.amplitude.dtype)
            changes[name] = KolmogorovForcing(amplitude, old.mode)
        elif old is not None:
            _check_array(name, old)
            changes[name] = old * factor(exponents, old.dtype)
    dtype = window.states.dtype
    scale = [factor(units, dtype) for kind, units in law.state for _ in range(grid.ndim if kind == "vector" else 1)]
    states = window.states * jnp.stack(scale).reshape(-1, *(1,) * grid.ndim)
    lower, upper = ([length * end for end in ends] for ends in (grid.lower, grid.upper))
    times = window.times * jnp.asarray(time, window.times.dtype)
    box = Grid(grid.shape, lower, upper, grid.placement)
    return Window(states, times, box, with_coefficients(equation, changes))


def lift(window: Window, constant: ArrayLike) -> Window:
    """`u + constant`, where only derivatives of `u` enter: linear transport without reaction, waves, fronts.

    **Raises:** `ValueError` for another equation.
    """
    law = law_of(window.equation)
    if not law.lifted:
        raise ValueError(f"`equation` is a {type(window.equation).__name__}, which depends on the values themselves.")
    constant = jnp.asarray(constant, window.states.dtype)
    return eqx.tree_at(lambda w: w.states, window, window.states.at[:, np.asarray(law.lifted)].add(constant))


def turn_phase(window: Window, angle: ArrayLike) -> Window:
    """`e^(i angle) u`.

    **Raises:** `ValueError` for an equation that is not of a complex amplitude.
    """
    if not law_of(window.equation).phase:
        raise ValueError(f"`equation` is a {type(window.equation).__name__}, which has no phase.")
    angle = jnp.asarray(angle, window.states.dtype)
    real, imaginary = window.states[:, :1], window.states[:, 1:]
    c, s = jnp.cos(angle), jnp.sin(angle)
    states = jnp.concatenate([c * real - s * imaginary, s * real + c * imaginary], 1)
    return eqx.tree_at(lambda w: w.states, window, states)


def _factor(exponents: Exponents, length: Any, time: Any, value: Any) -> Any:
    return length ** exponents[0] * time ** exponents[1] * value ** exponents[2]


class Motion(NamedTuple):
    """A motion of space: `points` moves fields `(c, *n)`, `components` the leading axis of vectors, and `parity` is -1
    for mirrors."""

    points: Map
    components: Map | None = None
    parity: Any = 1


def _moved(window: Window, motion: Motion) -> Window:
    law, d = law_of(window.equation), window.grid.ndim

    def state(u: Array) -> Array:
        u = motion.points(u)
        blocks, start = [], 0
        for kind, _ in law.state:
            size = d if kind == "vector" else 1
            blocks.append(_rotated(kind, u[start : start + size], motion, d))
            start += size
        return jnp.concatenate(blocks)

    changes = {}
    for name, kind in law.kinds.items():
        old = getattr(window.equation, name)
        if isinstance(old, KolmogorovForcing):
            changes[name] = KolmogorovForcing(old.amplitude * motion.parity, old.mode)
        elif old is not None:
            _check_array(name, old)
            changes[name] = _coefficient(kind, old, motion, d)
    equation = with_coefficients(window.equation, changes)
    return Window(jax.vmap(state)(window.states), window.times, window.grid, equation)


def _coefficient(kind: Kind, value: Array, motion: Motion, d: int) -> Array:
    if "field" not in kind:
        return _rotated(kind, value, motion, d)
    if value.ndim == 0:
        return value
    if kind == "field":
        return motion.points(value[None])[0]
    return _rotated("vector" if kind == "vector field" else "pseudoscalar", motion.points(value), motion, d)


def _rotated(kind: Kind, value: Array, motion: Motion, d: int) -> Array:
    """A value of that kind at each point, in the moved axes."""
    if kind == "pseudoscalar":
        return value * jnp.asarray(motion.parity, value.dtype)
    if kind == "scalar" or motion.components is None:
        return value
    if kind == "vector":
        if value.ndim:
            return motion.components(value)
        return motion.components(jnp.broadcast_to(value, (d,))) if d > 1 else motion.components(value[None])[0]
    if value.ndim == 0:
        return value
    tensor = jnp.diag(value) if value.ndim == 1 else value
    tensor = motion.components(motion.components(tensor).T).T
    return jnp.diagonal(tensor) if value.ndim == 1 else tensor


def _shifted(u: Float[Array, "c *n"], grid: Grid, axis: int, shift: Float[Array, ""]) -> Float[Array, "c *n"]:
    """`u(x - shift e_axis)`; of the wave that the grid sees only as a cosine, that cosine."""
    n = grid.shape[axis]
    k = jnp.asarray(np.arange(n // 2 + 1), u.dtype)
    angle = 2 * np.pi * k * ((shift / grid.extent[axis]) % 1)
    sine = jnp.sin(angle) if n % 2 else jnp.sin(angle).at[-1].set(0)
    phase = lax.complex(jnp.cos(angle), -sine).reshape([-1 if j == axis else 1 for j in range(grid.ndim)])
    return jnp.fft.irfft(phase * jnp.fft.rfft(u, axis=axis + 1), n, axis=axis + 1)


def _blocks(law: Law, d: int) -> list[str]:
    """The kind of each channel."""
    return [kind for kind, _ in law.state for _ in range(d if kind == "vector" else 1)]


def _check_axis(window: Window, axis: int) -> None:
    if not 0 <= axis < window.grid.ndim:
        raise ValueError(f"`axis` is {axis}; the grid has axes 0 to {window.grid.ndim - 1}, the channels not counted.")
    if isinstance(getattr(window.equation, "forcing", None), KolmogorovForcing) and axis == 1:
        raise ValueError("`axis` is 1, along which Kolmogorov's forcing varies; move along axis 0.")


def _on_points(value: Any) -> bool:
    """Whether a coefficient is a field, or a function that may be one."""
    return value is not None and not isinstance(value, KolmogorovForcing) and getattr(value, "ndim", 1) > 0


def _check_array(name: str, value: Any) -> None:
    if callable(value):
        raise ValueError(f"`{name}` is a function, and how it moves is not known; give its values on the points.")
