"""Implicit Runge-Kutta methods of any number of stages, and the residual of one step of them."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .coefficients import Coefficient, as_coefficient, as_number, coefficient_at
from .residuals import Form, Unknown

Method = Literal["gauss", "radau"]


class Tableau(NamedTuple):
    """The coefficients of a Runge-Kutta method, in float64: `U_i = u + dt sum_j a_ij f(U_j)` at the times `t + c_i dt`,
    and `u + dt sum_j b_j f(U_j)` at `t + dt`."""

    a: Float[np.ndarray, "q q"]
    b: Float[np.ndarray, " q"]
    c: Float[np.ndarray, " q"]


def tableau(stages: int, method: Method = "gauss") -> Tableau:
    """The collocation method at the Gauss points, of order `2 stages`, or the right Radau points (Radau IIA), of order
    `2 stages - 1`, whose last stage is the end of the step.

    Good to 1e-14 for a hundred stages and to 5e-14 for five hundred: `a_ij` is the integral from 0 to `c_i` of the
    Lagrange polynomial `l_j`, by its Legendre series, whose coefficients the quadrature at the points gives exactly.

    **Raises:** `ValueError` for no stage or another method.

    Hairer and Wanner (1996), Solving ordinary differential equations II, IV.5.
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` is {method!r}; expected one of {get_args(Method)}.")
    if stages < 1:
        raise ValueError(f"`stages` is {stages}; expected 1 or more.")
    return _tableau(stages, method)


class DiscreteTime(eqx.Module):
    """One step of an implicit Runge-Kutta method as a form of space alone: the candidate gives all stages at once.

    Of an evolution equation's form, `form = M u_t - N(u)` in the coordinates `(t, x, ...)` (mostly `M = 1`), the
    residual is, with the stages `U_i` at the times `t + c_i dt`,

        M (U_i - u(t)) - dt sum_j a_ij N(U_j),    U_(q+1) with b_j:            `at="start"`
        M (U_i - u(t + dt)) - dt sum_j (a_ij - b_j) N(U_j),  likewise:         `at="end"`

    so that one term, with the data at the start, solves for a step of any length; and the two together, with data at
    both times and coefficients that are trained, find the coefficients:

        form = StrongForm(Burgers(0.01 / jnp.pi))
        residual = lambda field, x, u: Strong(DiscreteTime(form, u, step=0.8, stages=100))(field, x)
        jax.vmap(residual, (None, 0, 0))(field, points, data)

    The candidate is a field of space `(x, ...)`, or values on a grid of it, with `components * rows` components, those
    of the first component of `u` before those of the second: `rows` is `stages + 1` for `"gauss"`, the last being
    `u(t + dt)`, and `stages` for `"radau"`, whose last stage is that. The residual is laid out likewise.

    **Arguments:** `form`: any whose only derivative in time is `u_t` itself, linear in it: a function, a `StrongForm`,
    a `NavierStokes(..., steady=False)` (of an equation without `u_t`, `M = 0`, the stages satisfy it). `value`: the
    data, `(components,)` or one number at a point; or a function of the point, or values on the grid. `step`: `dt`.
    `time`: `t`.

    **Raises:** `ValueError` for a bad tableau, `step` or `at`; when called, for a candidate of other components, and a
    form that asks for other derivatives in time, or for none.

    Raissi, Perdikaris and Karniadakis (2019), Physics-informed neural networks, doi:10.1016/j.jcp.2018.10.045, sections
    3.2 and 4.2.
    """

    form: Form
    value: Coefficient
    step: Float[Array, ""]
    time: Float[Array, ""]
    stages: int = eqx.field(static=True)
    method: Method = eqx.field(static=True)
    at: Literal["start", "end"] = eqx.field(static=True)

    def __init__(
        self,
        form: Form,
        value: Any,
        *,
        step: ArrayLike,
        stages: int,
        time: ArrayLike = 0.0,
        method: Method = "gauss",
        at: Literal["start", "end"] = "start",
    ):
        if at not in ("start", "end"):
            raise ValueError(f"`at` is {at!r}; expected 'start' or 'end': when `value` is known.")
        tableau(stages, method)
        self.form, self.value = form, as_coefficient(value)
        self.step, self.time = as_number("step", step), as_number("time", time)
        self.stages, self.method, self.at = stages, method, at

    def __call__(self, u: Unknown, x: Float[Array, "d ..."]) -> Float[Array, "e ..."]:
        """The equations `(e * rows, ...)`."""
        a, b, c = tableau(self.stages, self.method)
        if self.method == "gauss":
            a, c = np.vstack([a, b]), np.append(c, 1.0)
        table = jnp.asarray(a if self.at == "start" else a - b, x.dtype)
        step, time = self.step.astype(x.dtype), self.time.astype(x.dtype)
        known = coefficient_at("value", self.value, x)[:, None]
        times = (time + step * jnp.asarray(c, x.dtype)).reshape(-1, *(1 for _ in x.shape[1:]))
        shape = (len(c), *x.shape[1:])
        coordinates = jnp.stack([jnp.broadcast_to(axis, shape) for axis in (times, *x)])
        stacked = (len(known) * len(c), *x.shape[1:])
        asked = []

        def equations(scale: Array) -> Array:
            """The form with `scale * (U - known)` for `u_t`: at 0, and differentiated."""

            def unknown(*wanted: Any) -> tuple[Array, ...]:
                parts = u((), *(_in_space(each) for each in wanted if not _is_rate(each)))
                if parts[0].shape != stacked:
                    raise ValueError(
                        f"`candidate` has {len(parts[0])} components; expected {stacked[0]}: `value` has {len(known)}, "
                        f"and {self.stages} stages of {self.method!r} are {len(c)} rows of each."
                    )
                values, *found = (part.reshape(len(known), *shape) for part in parts)
                asked.extend(each for each in wanted if _is_rate(each))
                rest = iter(found)
                return tuple(scale * (values - known) if _is_rate(each) else next(rest) for each in wanted)

            return self.form(unknown, coordinates)

        zero = jnp.zeros((), x.dtype)
        balance, change = jax.jvp(equations, (zero,), (jnp.ones_like(zero),))
        if not asked:
            raise ValueError("`form` asks for no derivative in time; expected u_t - N(u), with u_t = u(0)[0].")
        moved = jnp.tensordot(table, balance[:, : self.stages], (1, 1), precision="highest")
        return (change + step * jnp.moveaxis(moved, 0, 1)).reshape(-1, *x.shape[1:])


def _is_rate(wanted: Any) -> bool:
    return wanted in (0, (0,), [0], [(0,)])


def _in_space(wanted: Any) -> Any:
    """The axes of `(t, x, ...)` as axes of `(x, ...)`."""
    if isinstance(wanted, list):
        return [_in_space(term) for term in wanted]
    axes: Sequence[int] = (wanted,) if isinstance(wanted, int) else wanted
    if 0 in axes:
        raise ValueError(f"`form` asks for the derivative {wanted}; in discrete time there is only u_t, asked as 0.")
    return tuple(axis - 1 for axis in axes)


@lru_cache(maxsize=8)
def _tableau(stages: int, method: Method) -> Tableau:
    legendre = np.polynomial.legendre
    if method == "gauss":
        nodes, weights = legendre.leggauss(stages)
    else:
        nodes = np.append(_radau_interior(stages), 1.0)
        weights = (1 + nodes) / (stages * legendre.legvander(nodes, stages)[:, -2]) ** 2
        weights *= 2 / weights.sum()
    k = np.arange(stages)
    values = legendre.legvander(nodes, stages)
    below = np.concatenate([-np.ones((stages, 1)), values[:, : stages - 1]], 1)
    integrals = (values[:, 1:] - below) / (2 * k + 1)  # of P_k from -1
    series = (k + 0.5) * values[:, :stages] * weights[:, None]
    return Tableau(integrals @ series.T / 2, weights / 2, (1 + nodes) / 2)


def _radau_interior(stages: int) -> np.ndarray:
    """The roots of `P_q - P_(q-1)` but for 1: of the Jacobi polynomial of weight `1 - x`, the eigenvalues of its
    recurrence, and a Newton step for the last digits."""
    if stages == 1:
        return np.zeros(0)
    n = np.arange(stages - 1)
    off = np.sqrt(n * (n + 1)) / (2 * n + 1)
    x = np.linalg.eigvalsh(np.diag(-1 / ((2 * n + 1) * (2 * n + 3))) + np.diag(off[1:], 1) + np.diag(off[1:], -1))
    before, below, last = np.polynomial.legendre.legvander(x, stages)[:, -3:].T
    slope = (stages * (below - x * last) - (stages - 1) * (before - x * below)) / (1 - x**2)
    return x - (last - below) / slope
