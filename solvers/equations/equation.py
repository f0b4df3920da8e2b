"""What an evolution equation is: a linear part by its symbol, and the rest."""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float, Inexact

from ..decomposed import Piece
from ..fourier import Dealiasing, Fourier
from ..grid import Grid


class Equation(eqx.Module):
    """`du/dt = L u + N(t, u)` on a periodic box; its fields are its coefficients, arrays or numbers, differentiable.

    A new one names its fields and defines the four things below. `L` is what an exponential integrator takes exactly,
    so the stiff terms belong there; `N` is evaluated on points.

    - `degree`: how many fields a product in `N` has: the degree of the polynomial, which decides the dealiasing;
      1 for linear equations, `None` for what is no polynomial.
    - `real`: whether the field is. Complex ones are handed to users as two real channels.
    """

    degree: ClassVar[int | None]
    real: ClassVar[bool] = True

    @abc.abstractmethod
    def channels(self, ndim: int) -> int:
        """The number of components of the state in `ndim` dimensions; `ValueError` for dimensions it does not have."""

    @abc.abstractmethod
    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """The symbol of `L`: it broadcasts against coefficients `(channels, *k)`; coupled components have a matrix
        `(channels, channels, *k)`. Its real part is bounded above, or the equation is ill-posed."""

    @abc.abstractmethod
    def nonlinear(
        self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]
    ) -> Complex[Array, "c *k"] | None:
        """The coefficients of `N(t, u)`, or `None` for a linear equation. The coefficients that `space` does not keep
        vanish in `u_hat`, and are ignored in the result."""


def apply_symbol(symbol: Inexact[Array, "..."], u_hat: Complex[Array, "m *k"]) -> Complex[Array, "m *k"]:
    """A symbol times coefficients: elementwise, or as matrices `(m, m, *k)`."""
    return jnp.sum(symbol * u_hat, 1) if symbol.ndim == u_hat.ndim + 1 else symbol * u_hat


def check_state(equation: Equation, space: Fourier, u: Float[Array, "..."]) -> None:
    """Refuses a state `u` without the equation's channels or the grid's axes."""
    expected = (equation.channels(space.grid.ndim) * (1 if equation.real else 2), *space.grid.shape)
    if u.shape != expected:
        raise ValueError(
            f"`u` has shape {u.shape}; {type(equation).__name__} has states {expected} here, the channels first. "
            "Batches come from jax.vmap."
        )


def fourier_space(equation: Equation, grid: Grid | Piece, dealiasing: Dealiasing, dtype: DTypeLike | None) -> Fourier:
    """The space in which an equation is solved; `ValueError` for a grid it cannot have."""
    equation.channels(grid.ndim)  # refuses dimensions that the equation does not have
    return Fourier(grid, degree=equation.degree, dealiasing=dealiasing, real=equation.real, dtype=dtype)
