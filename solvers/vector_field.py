"""An equation as a vector field for Diffrax: on the grid's values, or on coefficients, split into `L` and `N`."""

from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Complex, Float, Int, PyTree

from .decomposed import Piece
from .equations import Equation
from .equations.equation import apply_symbol, check_state, fourier_space
from .fourier import Dealiasing, Fourier
from .frozen import Frozen, frozen_unless_traced
from .grid import Grid

Time = Float[ArrayLike, ""] | Int[ArrayLike, ""]


class GridVectorField(eqx.Module):
    """`f(t, u, args) = L u + N(t, u)` on states `(channels, *n)`: see `vector_field`."""

    held: Frozen[Equation]
    space: Fourier = eqx.field(static=True)

    def __call__(self, t: Time, u: Float[Array, "c *n"], args: PyTree = None) -> Float[Array, "c *n"]:
        """`du/dt` at time `t`; `args` is not read."""
        space = self.space.cast(u.dtype)
        check_state(self.held.tree, space, u)
        return space.decode(_rate(self.held.value, space, space.encode(u), t))


def vector_field(equation: Equation, grid: Grid | Piece, *, dealiasing: Dealiasing = "truncate") -> GridVectorField:
    """An equation's right-hand side on the values of the state: `diffrax.ODETerm(vector_field(equation, grid))`.

    So every equation runs under `diffrax.diffeqsolve` with each of its solvers, adaptive steps, `SaveAt` and adjoints.
    The step of an explicit solver is bounded by the stiff part of the equation: see `spectral_vector_field`.
    Wavenumbers that `dealiasing` does not keep have derivative zero: they stay as they are and act on nothing.

    **Arguments:** `equation`, and a periodic `grid`, or a `Piece` of one. `dealiasing`: see `Fourier`. Gradients in
    the coefficients of the equation need the vector field built where they are differentiated, as with `ETDRK`.

    **Returns:** `f(t, u, args)`, on `u: (channels, *grid.shape)` of either precision (complex fields as two real
    channels, see `Fourier.encode`). `args` is not read. Give Diffrax times of the state's precision.

    **Raises:** `ValueError` for a grid the equation cannot have and, when called, for wrong channels or shape.
    """
    return GridVectorField(frozen_unless_traced(equation), fourier_space(equation, grid, dealiasing, None))


class SpectralVectorField(eqx.Module):
    """`f(t, y, args) = L y + N(t, y)` on coefficients, its two parts apart: see `spectral_vector_field`."""

    held: Frozen[Equation]
    space: Fourier = eqx.field(static=True)

    def __call__(self, t: Time, y: Float[Array, "2 m *k"], args: PyTree = None) -> Float[Array, "2 m *k"]:
        """`dy/dt` at time `t`; `args` is not read."""
        space = self.space.cast(y.dtype)
        return self.from_coefficients(_rate(self.held.value, space, self.to_coefficients(y), t))

    def explicit(self, t: Time, y: Float[Array, "2 m *k"], args: PyTree = None) -> Float[Array, "2 m *k"]:
        """The part `N`."""
        space = self.space.cast(y.dtype)
        n = self.held.value.nonlinear(space, self.to_coefficients(y), jnp.asarray(t, space.dtype))
        return jnp.zeros_like(y) if n is None else self.from_coefficients(space.project(n))

    def implicit(self, t: Time, y: Float[Array, "2 m *k"], args: PyTree = None) -> Float[Array, "2 m *k"]:
        """The part `L`, which acts on every wavenumber by itself."""
        space = self.space.cast(y.dtype)
        v = apply_symbol(self.held.value.linear(space), lax.complex(y[0], y[1]))
        return jnp.stack([v.real, v.imag])

    @property
    def terms(self) -> diffrax.MultiTerm:
        """`N` and `L` as the terms of Diffrax's implicit-explicit solvers."""
        return diffrax.MultiTerm(diffrax.ODETerm(self.explicit), diffrax.ODETerm(self.implicit))

    @property
    def linear_solver(self) -> "ModewiseSolver":
        """What an implicit step with `L` is solved by."""
        symbol = eqx.filter_eval_shape(self.held.tree.linear, self.space)
        return ModewiseSolver(coupled=symbol.ndim == self.space.grid.ndim + 2)

    def encode(self, u: Float[Array, "c *n"]) -> Float[Array, "2 m *k"]:
        """The `y` of a state."""
        space = self.space.cast(u.dtype)
        check_state(self.held.tree, space, u)
        return self.from_coefficients(space.encode(u))

    def decode(self, y: Float[Array, "2 m *k"]) -> Float[Array, "c *n"]:
        """The state of `y`."""
        return self.space.cast(y.dtype).decode(self.to_coefficients(y))

    def to_coefficients(self, y: Float[Array, "2 m *k"]) -> Complex[Array, "m *k"]:
        """The coefficients of `Fourier` that `y` stands for."""
        y = y / jnp.asarray(self._scale(), y.dtype)
        return lax.complex(y[0], y[1])

    def from_coefficients(self, u_hat: Complex[Array, "m *k"]) -> Float[Array, "2 m *k"]:
        """The inverse of `to_coefficients`."""
        y = jnp.stack([u_hat.real, u_hat.imag])
        return y * jnp.asarray(self._scale(), y.dtype)

    def _scale(self) -> np.ndarray:
        """What makes `y` have the root mean square of the field (Parseval)."""
        n, k = self.space.grid.shape, self.space.shape
        parts = np.ones(k[-1])
        if self.space.real:
            parts[:] = 2
            parts[1 : (n[-1] + 1) // 2] = 4  # their complex conjugates are not in the layout
        return np.sqrt(np.prod(k) * parts) / np.prod(n)


def spectral_vector_field(
    equation: Equation, grid: Grid, *, dealiasing: Dealiasing = "truncate", dtype: DTypeLike | None = None
) -> SpectralVectorField:
    """An equation's right-hand side on coefficients, for solvers that treat `L`, diagonal there, apart.

    By Diffrax's implicit-explicit Runge-Kutta methods:

        f = spectral_vector_field(equation, grid)
        chord = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)(linear_solver=f.linear_solver)
        solution = diffrax.diffeqsolve(
            f.terms, diffrax.KenCarp4(root_finder=chord), t0, t1, dt0, f.encode(u),
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-8),
        )
        u1 = f.decode(solution.ys[-1])

    by the adaptive exponential integrator `ETD43`, with `diffrax.ODETerm(f)` and `ETD43()` in their places; by any
    explicit solver too. `linear_solver` makes an implicit stage cost a division per coefficient. (Derivatives of an
    implicit solve do not use it: Optimistix forms a dense Jacobian for them, so beyond some hundred unknowns take
    `ETD43`.)

    `y: (2, m, *k)` holds the real and imaginary parts of the coefficients, scaled so that the root mean square of `y`
    is that of the state: tolerances mean on `y` what they mean on the state.

    **Arguments:** as for `vector_field`. `dtype`: the precision in which `linear_solver` looks at the symbol; states of
    either keep theirs.

    **Returns:** `f(t, y, args)` with `encode`, `decode`, `terms`, `linear_solver`.

    **Raises:** as `vector_field`.
    """
    return SpectralVectorField(frozen_unless_traced(equation), fourier_space(equation, grid, dealiasing, dtype))


class ModewiseSolver(lx.AbstractLinearSolver):
    """Solves `A x = b` where `A` acts on every wavenumber of `x: (2, m, *k)` by itself, as a complex number or matrix.

    Finds `A` by applying it to ones, component by component if the components are `coupled`. An operator of another
    kind is not detected: the answer is wrong.
    """

    coupled: bool = eqx.field(static=True, default=False)

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Complex[Array, "..."]:
        """The inverse of the operator's symbol."""
        like = operator.in_structure()

        def response(probe: Float[Array, " m"]) -> Complex[Array, "m *k"]:
            real = jnp.broadcast_to(probe.reshape(-1, *[1] * (len(like.shape) - 2)), like.shape[1:])
            out = operator.mv(jnp.stack([real, jnp.zeros_like(real)]))
            return lax.complex(out[0], out[1])

        m = like.shape[1]
        if not self.coupled:
            return 1 / response(jnp.ones(m, like.dtype))
        columns = jnp.stack([response(e) for e in jnp.eye(m, dtype=like.dtype)], -1)
        return jnp.moveaxis(jnp.linalg.inv(jnp.moveaxis(columns, 0, -2)), (-2, -1), (0, 1))

    def compute(
        self, state: Complex[Array, "..."], vector: Float[Array, "2 m *k"], options: dict[str, Any]
    ) -> tuple[Float[Array, "2 m *k"], lx.RESULTS, dict[str, Any]]:
        """`x`."""
        x = apply_symbol(state, lax.complex(vector[0], vector[1]))
        return jnp.stack([x.real, x.imag]), lx.RESULTS.successful, {}

    def transpose(
        self, state: Complex[Array, "..."], options: dict[str, Any]
    ) -> tuple[Complex[Array, "..."], dict[str, Any]]:
        """The state of the transposed operator: of real and imaginary parts, that is the adjoint."""
        return (jnp.swapaxes(state, 0, 1) if self.coupled else state).conj(), options

    def conj(
        self, state: Complex[Array, "..."], options: dict[str, Any]
    ) -> tuple[Complex[Array, "..."], dict[str, Any]]:
        """The same: the operator is real."""
        return state, options

    def assume_full_rank(self) -> bool:
        """`True`."""
        return True


def _rate(equation: Equation, space: Fourier, v: Array, t: Time) -> Array:
    n = equation.nonlinear(space, v, jnp.asarray(t, space.dtype))
    linear = apply_symbol(equation.linear(space), v)
    return linear if n is None else linear + space.project(n)
