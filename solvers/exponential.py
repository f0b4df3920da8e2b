"""Exponential time differencing: the linear part of an equation exactly, the rest by Runge-Kutta stages."""

from math import factorial, prod
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.linalg import expm
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float, Inexact

from .decomposed import Piece
from .equations import Equation
from .equations.equation import apply_symbol, check_state, fourier_space
from .fourier import Dealiasing, Fourier
from .frozen import Frozen, frozen_unless_traced
from .grid import Grid

Order = Literal[1, 2, 4]


class ETDRK(eqx.Module):
    """Steps `dt` of `du/dt = L u + N(t, u)` on a periodic grid, by exponential Runge-Kutta of order 1, 2 or 4.

    Order 4 is Cox and Matthews' scheme, with `a`, `b`, `c` the stages and `N_u = N(t, u)` and so on:

        a  = e^{z/2} u + dt/2 phi_1(z/2) N_u,     b = e^{z/2} u + dt/2 phi_1(z/2) N_a,     z = dt L,
        c  = e^{z/2} a + dt/2 phi_1(z/2) (2 N_b - N_u),
        u' = e^z u + dt [(phi_1 - 3 phi_2 + 4 phi_3) N_u + (2 phi_2 - 4 phi_3) (N_a + N_b) + (4 phi_3 - phi_2) N_c].

    Order 2 is `a = e^z u + dt phi_1 N_u`, `u' = a + dt phi_2 (N_a - N_u)`; order 1 is `a`. Where `N` has much of the
    stiffness (a diffusivity that varies in space), order 4 may fall towards 2.

    A stepper is a function, `step(u)`. It is also `decode(advance(encode(u)))`, and a run of many steps stays in
    coefficients (`rollout` does). The coefficients that the dealiasing does not keep are dropped on the way in.

    **Gradients.** In the state, always. In the coefficients of the equation and in `dt`, if the stepper is built where
    they are differentiated: `jax.grad(lambda nu: loss(ETDRK(Burgers(nu), grid, dt)))(0.01)`. A stepper built outside
    is a constant, and a model that holds one does not train it.

    **Arguments:** `equation`. `grid`: periodic (placement `left`), or a `Piece` of one. `dt`: the step, positive.
    `order`. `dealiasing`: see `Fourier`. `dtype`: the precision of the tables; states of either precision keep theirs.

    **Call:** `u: (channels, *grid.shape)` to the same; complex fields as two real channels (see `Fourier.encode`).

    **Raises:** `ValueError` for a grid or dimension the equation cannot have, `dt` not positive, growth that overflows
    within a step, wrong channels or shape. Instability for a too large `dt` shows as overflow: `rollout` reports it.

    Cox and Matthews (2002), Exponential time differencing for stiff systems, doi:10.1006/jcph.2002.6995; Kassam and
    Trefethen (2005), Fourth-order time-stepping for stiff PDEs, doi:10.1137/S1064827502410633.
    """

    held: Frozen
    space: Fourier = eqx.field(static=True)
    order: int = eqx.field(static=True)

    def __init__(
        self,
        equation: Equation,
        grid: Grid | Piece,
        dt: float | Float[Array, ""],
        *,
        order: Order = 4,
        dealiasing: Dealiasing = "truncate",
        dtype: DTypeLike | None = None,
    ):
        if order not in get_args(Order):
            raise ValueError(f"`order` is {order}; expected one of {get_args(Order)}.")
        if not isinstance(dt, Tracer) and not (np.isfinite(dt) and dt > 0):
            raise ValueError(f"`dt` is {dt}; expected a positive, finite step.")
        space = fourier_space(equation, grid, dealiasing, dtype)
        self.space, self.order = space, order
        step = jnp.asarray(dt, space.dtype)
        v = jax.ShapeDtypeStruct(
            (equation.channels(grid.ndim), *space.shape), np.result_type(space.dtype, np.complex64)
        )
        is_linear = jax.eval_shape(lambda v: equation.nonlinear(space, v, step), v) is None
        tables = _tables(equation.linear(space), step, space, 0 if is_linear else order)
        traced = any(isinstance(table, Tracer) for table in tables)
        if not traced and not all(jnp.isfinite(table).all() for table in tables):
            raise ValueError(
                f"`equation` grows beyond all bounds within `dt` = {dt}: the real part of its symbol is too large. "
                "Check the signs of its coefficients (a diffusivity below zero is ill-posed), or take a smaller step."
            )
        self.held = frozen_unless_traced((equation, tables, step))

    def __call__(self, u: Float[Array, "c *n"]) -> Float[Array, "c *n"]:
        """The state one step later; time-dependent equations at time 0."""
        return self.decode(self.advance(self.encode(u)))

    @property
    def equation(self) -> Equation:
        """The equation stepped."""
        return self.held.value[0]

    @property
    def dt(self) -> Float[Array, ""]:
        """The step."""
        return self.held.value[2]

    def encode(self, u: Float[Array, "c *n"]) -> Complex[Array, "m *k"]:
        """The coefficients of a state."""
        check_state(self.equation, self.space, u)
        return self.space.cast(u.dtype).encode(u)

    def decode(self, u_hat: Complex[Array, "m *k"]) -> Float[Array, "c *n"]:
        """The state of the coefficients."""
        return self.space.cast(u_hat.dtype).decode(u_hat)

    def advance(self, u_hat: Complex[Array, "m *k"], t: float | Float[Array, ""] = 0.0) -> Complex[Array, "m *k"]:
        """The coefficients at `t + dt`, from those at `t`."""
        equation, tables, dt = self.held.value
        space = self.space.cast(u_hat.dtype)
        tables = [_as_precise(table, u_hat.dtype) for table in tables]
        t, dt = jnp.asarray(t, space.dtype), dt.astype(space.dtype)

        def rest(v: Array, t: Array) -> Array:
            n = equation.nonlinear(space, v, t)
            assert n is not None  # it was not, at `t`
            return n

        n_u = equation.nonlinear(space, u_hat, t)
        if n_u is None:
            return apply_symbol(tables[0], u_hat)
        if self.order == 1:
            whole, first = tables
            return apply_symbol(whole, u_hat) + apply_symbol(first, n_u)
        if self.order == 2:
            whole, first, second = tables
            a = apply_symbol(whole, u_hat) + apply_symbol(first, n_u)
            return a + apply_symbol(second, rest(a, t + dt) - n_u)
        whole, half, stage, first, middle, last = tables
        start = apply_symbol(half, u_hat)
        a = start + apply_symbol(stage, n_u)
        n_a = rest(a, t + dt / 2)
        b = start + apply_symbol(stage, n_a)
        n_b = rest(b, t + dt / 2)
        c = apply_symbol(half, a) + apply_symbol(stage, 2 * n_b - n_u)
        n_c = rest(c, t + dt)
        return (
            apply_symbol(whole, u_hat)
            + apply_symbol(first, n_u)
            + apply_symbol(middle, n_a + n_b)
            + apply_symbol(last, n_c)
        )


def phi(z: Inexact[Array, "..."], last: int) -> list[Inexact[Array, "..."]]:
    """`phi_0 .. phi_last`: `phi_0(z) = exp(z)`, `phi_{j+1}(z) = (phi_j(z) - 1 / j!) / z`, elementwise.

    Where `|z| < 2` by the Taylor series of `phi_last` and the recurrence downwards, elsewhere by the recurrence
    upwards: accurate to some ten units of rounding for every real or complex `z`, in either precision, and
    differentiable. (The usual mean over a contour loses digits where the contour passes the origin, in float32 most
    of them.)
    """
    small = jnp.abs(z) < 2
    near, far = jnp.where(small, z, 0), jnp.where(small, 2, z)
    terms = 28 if jnp.finfo(z.dtype).eps < 1e-10 else 16
    series = jnp.full_like(z, 1 / factorial(terms + last))
    for j in range(terms - 1, -1, -1):
        series = series * near + 1 / factorial(j + last)
    below = [series]
    for j in range(last - 1, -1, -1):
        below.insert(0, below[0] * near + 1 / factorial(j))
    above = [jnp.exp(far)]
    for j in range(last):
        above.append((above[-1] - 1 / factorial(j)) / far)
    return [jnp.where(small, a, b) for a, b in zip(below, above, strict=True)]


def phi_matrix(z: Inexact[Array, "c c *k"], last: int) -> list[Inexact[Array, "c c *k"]]:
    """`phi_0 .. phi_last` of the matrices on the first two axes: the first block row of one larger exponential.

    Al-Mohy and Higham (2011), Computing the action of the matrix exponential, doi:10.1137/100788860, Theorem 2.1.
    """
    c, rest = z.shape[0], z.shape[2:]
    blocks = jnp.zeros((prod(rest), (last + 1) * c, (last + 1) * c), z.dtype)
    blocks = blocks.at[:, :c, :c].set(jnp.moveaxis(z.reshape(c, c, -1), -1, 0))
    blocks = blocks + jnp.eye((last + 1) * c, k=c, dtype=z.dtype)
    top = jnp.moveaxis(jax.vmap(expm)(blocks)[:, :c], 0, -1)
    return [top[:, j * c : (j + 1) * c].reshape(c, c, *rest) for j in range(last + 1)]


def _tables(symbol: Array, dt: Array, space: Fourier, order: int) -> list[Array]:
    """What `advance` multiplies by; those for `N` vanish where the space keeps nothing, and so drop its aliases."""
    evaluate = phi_matrix if symbol.ndim == space.grid.ndim + 2 else phi
    z = symbol * dt
    if order == 0:  # of a linear equation
        return evaluate(z, 0)
    mask = jnp.asarray(space.mask, space.dtype)
    whole, *rest = evaluate(z, 3 if order == 4 else order)
    phis = [dt * mask * table for table in rest]
    if order < 4:
        return [whole, *phis]
    half, stage = evaluate(z / 2, 1)
    one, two, three = phis
    return [whole, half, dt / 2 * mask * stage, one - 3 * two + 4 * three, 2 * two - 4 * three, 4 * three - two]


def _as_precise(table: Array, like: np.dtype) -> Array:
    """A table in the precision of coefficients of dtype `like`, real where it is."""
    return table.astype(like if jnp.iscomplexobj(table) else np.finfo(like).dtype)
