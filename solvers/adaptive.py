"""An exponential integrator that chooses its step, as a solver for Diffrax."""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float, Inexact, PyTree

from .equations.equation import apply_symbol
from .exponential import phi, phi_matrix
from .vector_field import SpectralVectorField, Time


class ExponentialInterpolation(diffrax.AbstractLocalInterpolation):
    """`y` within a step, of third order: `L` exactly, and `N` by a parabola in time.

    At `t = t0 + theta h`: `e^{theta z} y_0 + sum_j theta^j phi_j(theta z) n_j`, `j = 1..3`, `z = h L`. It meets both
    ends of the step, and stays bounded where `|z|` is large, unlike a polynomial through the derivatives there.
    """

    # Diffrax declares the ends as class variables to type checkers, and as fields at run time.
    t0: Time  # pyright: ignore[reportIncompatibleVariableOverride]
    t1: Time  # pyright: ignore[reportIncompatibleVariableOverride]
    y0: Float[Array, "2 m *k"]
    z: Inexact[Array, "..."]
    n: Complex[Array, "3 m *k"]

    def evaluate(self, t0: Time, t1: Time | None = None, left: bool = True) -> Float[Array, "2 m *k"]:
        """`y(t0)`, or `y(t1) - y(t0)`; it is continuous, so `left` makes no difference."""
        if t1 is not None:
            return self.evaluate(t1) - self.evaluate(t0)
        theta = (jnp.subtract(t0, self.t0) / jnp.subtract(self.t1, self.t0)).astype(self.y0.dtype)
        whole, *phis = _phis(theta * self.z, self.n.ndim - 1)
        w = apply_symbol(whole, lax.complex(self.y0[0], self.y0[1]))
        for j, (p, n) in enumerate(zip(phis, self.n, strict=True), 1):
            w = w + theta**j * apply_symbol(p, n)
        return jnp.stack([w.real, w.imag])


class ETD43(diffrax.AbstractAdaptiveSolver):
    """Exponential Runge-Kutta of order 4 with an embedded one of order 3, for `diffrax.diffeqsolve`.

    For `f = spectral_vector_field(equation, grid)`:

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(f), ETD43(), t0, t1, dt0, f.encode(u),
            saveat=diffrax.SaveAt(ts=times, fn=lambda t, y, args: f.decode(y)),
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-8),
        )

    The stages are Krogstad's, `z = h L`, `N_j = N(t_j, a_j)`:

        a_1 = y,                a_2 = e^{z/2} y + h/2 phi_1(z/2) N_1,
        a_3 = e^{z/2} y + h [(1/2 phi_1 - phi_2)(z/2) N_1 + phi_2(z/2) N_2],
        a_4 = e^z y + h [(phi_1 - 2 phi_2) N_1 + 2 phi_2 N_3],
        y'  = e^z y + h [(phi_1 - 3 phi_2 + 4 phi_3) N_1 + (2 phi_2 - 4 phi_3) (N_2 + N_3) + (4 phi_3 - phi_2) N_4],

    and the third-order solution has `N_5 = N(t + h, y')` in place of `N_4`: the error estimate is `h (4 phi_3 - phi_2)
    (N_4 - N_5)`, and `N_5` is the next step's `N_1`, so a step takes four evaluations of `N`. The tables are computed
    anew for each step, which in two and three dimensions costs about half of what an `ETDRK` step of order 4 does, and
    more in one. `SaveAt(ts=...)` and `dense=True` interpolate by `ExponentialInterpolation`, to third order. A linear
    equation is solved exactly in one step.

    Differentiate by Diffrax's `RecursiveCheckpointAdjoint` (its default), `DirectAdjoint` or `ForwardMode`.

    **Raises:** `ValueError` where the term is not `ODETerm` of a `spectral_vector_field`.

    Krogstad (2005), Generalized integrating factor methods for stiff PDEs, doi:10.1016/j.jcp.2004.08.006; the pair
    after Whalen, Brio and Moloney (2015), Exponential time-differencing with embedded Runge-Kutta adaptive step
    control, doi:10.1016/j.jcp.2014.09.038.
    """

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., ExponentialInterpolation]] = ExponentialInterpolation

    def order(self, terms: PyTree) -> int:
        """4."""
        return 4

    def init(self, terms: PyTree, t0: Time, t1: Time, y0: Float[Array, "2 m *k"], args: PyTree) -> Array:
        """`N` at the start."""
        return _rest(terms, t0, lax.complex(y0[0], y0[1]))

    def step(
        self,
        terms: Any,
        t0: Time,
        t1: Time,
        y0: Float[Array, "2 m *k"],
        args: PyTree,
        solver_state: Complex[Array, "m *k"],
        made_jump: Any,
    ) -> tuple[Float[Array, "2 m *k"], Float[Array, "2 m *k"], dict[str, Any], Complex[Array, "m *k"], diffrax.RESULTS]:
        """One step: `y` after it, its error, what the interpolation needs, `N` after it."""
        f = _field(terms)
        w = lax.complex(y0[0], y0[1])
        space = f.space.cast(y0.dtype)
        h = jnp.asarray(terms.contr(t0, t1), y0.dtype)
        z = h * f.held.value.linear(space)
        # A loop over the two: what a loop returns XLA computes once, anything else again wherever it is used.
        tables = lax.map(lambda c: _phis(c * z, w.ndim), jnp.array([0.5, 1.0], y0.dtype))
        (half, whole), (p1, one), (p2, two), (_, three) = tables

        middle = (t0 + t1) / 2
        n_1 = lax.cond(made_jump, lambda: _rest(terms, t0, w), lambda: solver_state)
        at_half, at_whole = apply_symbol(half, w), apply_symbol(whole, w)
        n_2 = _rest(terms, middle, at_half + h / 2 * apply_symbol(p1, n_1))
        n_3 = _rest(terms, middle, at_half + h * (apply_symbol(p1 / 2 - p2, n_1) + apply_symbol(p2, n_2)))
        n_4 = _rest(terms, t1, at_whole + h * (apply_symbol(one - 2 * two, n_1) + apply_symbol(2 * two, n_3)))
        last = 4 * three - two
        new = at_whole + h * (
            apply_symbol(one - 3 * two + 4 * three, n_1)
            + apply_symbol(2 * two - 4 * three, n_2 + n_3)
            + apply_symbol(last, n_4)
        )
        n_5 = _rest(terms, t1, new)
        error = h * apply_symbol(last, n_4 - n_5)

        double = 2 * (n_2 + n_3)  # four times N at the middle
        parabola = h * jnp.stack([n_1, double - 3 * n_1 - n_4, 4 * (n_1 + n_4) - 2 * double])
        y1, y_error = jnp.stack([new.real, new.imag]), jnp.stack([error.real, error.imag])
        return y1, y_error, {"y0": y0, "z": z, "n": parabola}, n_5, diffrax.RESULTS.successful

    def func(self, terms: PyTree, t0: Time, y0: Float[Array, "2 m *k"], args: PyTree) -> Float[Array, "2 m *k"]:
        """`dy/dt`."""
        return terms.vf(t0, y0, args)


def _phis(z: Array, ndim: int) -> list[Array]:
    """`phi_0 .. phi_3` of a symbol for coefficients of `ndim` axes."""
    return phi_matrix(z, 3) if z.ndim == ndim + 1 else phi(z, 3)


def _field(terms: Any) -> SpectralVectorField:
    """The vector field in the term that Diffrax hands over."""
    f = getattr(getattr(terms, "term", terms), "vector_field", None)
    if not isinstance(f, SpectralVectorField):
        raise ValueError(
            f"`terms` has a vector field of type {type(f).__name__}; ETD43 takes "
            "diffrax.ODETerm(spectral_vector_field(equation, grid))."
        )
    return f


def _rest(terms: Any, t: Time, w: Complex[Array, "m *k"]) -> Complex[Array, "m *k"]:
    """`N`, in the scale of `y`."""
    t = t * getattr(terms, "direction", 1)  # Diffrax solves backwards in time by turning the sign of `t`
    n = _field(terms).explicit(t, jnp.stack([w.real, w.imag]))
    return lax.complex(n[0], n[1])
