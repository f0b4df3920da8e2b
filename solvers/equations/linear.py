"""Linear equations with constant coefficients, which an exponential integrator solves to round-off."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Complex, Float, Inexact

from ..fourier import Fourier
from .coefficients import as_array, check
from .equation import Equation


class Advection(Equation):
    """`u_t + c . grad u = 0`.

    **Arguments:** `velocity`: `c`, a number for all axes or `(d,)`.
    """

    velocity: Float[Array, ""] | Float[Array, " d"] = eqx.field(converter=as_array)
    degree: ClassVar[int | None] = 1

    def __check_init__(self):
        _check_shape("velocity", self.velocity, 1)
        check(self)

    def channels(self, ndim: int) -> int:
        """1."""
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-i c . k`."""
        return _odd("velocity", -self.velocity, space, 1)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> None:
        """Nothing."""


class Diffusion(Equation):
    """`u_t = div(A grad u)`.

    **Arguments:** `diffusivity`: `A`, a number, one per axis `(d,)`, or a tensor `(d, d)`, of which the symmetric part
    acts; not negative (a tensor: positive semi-definite).
    """

    diffusivity: Float[Array, "..."] = eqx.field(converter=as_array)
    degree: ClassVar[int | None] = 1

    def __check_init__(self):
        _check_diffusivity(self)

    def channels(self, ndim: int) -> int:
        """1."""
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-k . A k`."""
        return _diffusion(self.diffusivity, space)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> None:
        """Nothing."""


class AdvectionDiffusion(Equation):
    """`u_t + c . grad u = div(A grad u)`.

    **Arguments:** `velocity`: as for `Advection`. `diffusivity`: as for `Diffusion`.
    """

    velocity: Float[Array, ""] | Float[Array, " d"] = eqx.field(converter=as_array)
    diffusivity: Float[Array, "..."] = eqx.field(converter=as_array)
    degree: ClassVar[int | None] = 1

    def __check_init__(self):
        _check_shape("velocity", self.velocity, 1)
        _check_diffusivity(self)

    def channels(self, ndim: int) -> int:
        """1."""
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-i c . k - k . A k`."""
        return _diffusion(self.diffusivity, space) + _odd("velocity", -self.velocity, space, 1)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> None:
        """Nothing."""


class Dispersion(Equation):
    """`u_t = sum_j b_j d^3 u / dx_j^3`: waves of wavenumber `k` along an axis have the speed `b k^2`.

    **Arguments:** `dispersivity`: `b`, a number for all axes or `(d,)`.
    """

    dispersivity: Float[Array, ""] | Float[Array, " d"] = eqx.field(converter=as_array)
    degree: ClassVar[int | None] = 1

    def __check_init__(self):
        _check_shape("dispersivity", self.dispersivity, 1)
        check(self)

    def channels(self, ndim: int) -> int:
        """1."""
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-i sum_j b_j k_j^3`."""
        return _odd("dispersivity", self.dispersivity, space, 3)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> None:
        """Nothing."""


class HyperDiffusion(Equation):
    """`u_t = -mu (-Lap)^p u`.

    **Arguments:** `hyperdiffusivity`: `mu`, not negative. `power`: `p`, at least 1; 2 is the biharmonic operator.
    """

    hyperdiffusivity: Float[Array, ""] = eqx.field(converter=as_array)
    power: int = eqx.field(static=True, default=2)
    degree: ClassVar[int | None] = 1

    def __check_init__(self):
        check(self, "hyperdiffusivity", nonnegative=("hyperdiffusivity",))
        if self.power < 1:
            raise ValueError(f"`power` is {self.power}; expected at least 1.")

    def channels(self, ndim: int) -> int:
        """1."""
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-mu |k|^(2 p)`."""
        return -self.hyperdiffusivity.astype(space.dtype) * (-space.laplacian) ** self.power

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> None:
        """Nothing."""


def _odd(name: str, values: Float[Array, "..."], space: Fourier, order: int) -> Inexact[Array, "..."]:
    d = space.grid.ndim
    if values.ndim == 1 and len(values) != d:
        raise ValueError(f"`{name}` has {len(values)} entries for {d} axes; give one number, or one an axis.")
    values = jnp.broadcast_to(values.astype(space.dtype), (d,))
    return sum((values[j] * space.derivative(j, order) for j in range(d)), jnp.zeros((), space.dtype))


def _diffusion(A: Float[Array, "..."], space: Fourier) -> Inexact[Array, "..."]:
    d = space.grid.ndim
    if A.ndim and len(A) != d:
        raise ValueError(f"`diffusivity` has shape {A.shape} for {d} axes; expected (), ({d},) or ({d}, {d}).")
    A = A.astype(space.dtype)
    if A.ndim == 0:
        return A * space.laplacian
    diagonal = A if A.ndim == 1 else jnp.diagonal(A)
    symbol = sum((diagonal[j] * space.derivative(j, 2) for j in range(d)), jnp.zeros((), space.dtype))
    if A.ndim == 2:
        for i in range(d):
            for j in range(i):
                symbol = symbol + (A[i, j] + A[j, i]) * (space.derivative(i) * space.derivative(j)).real
    return symbol


def _check_shape(name: str, value: Float[Array, "..."], most: int) -> None:
    if value.ndim > most or (value.ndim == 2 and value.shape[0] != value.shape[1]):
        expected = "one number, one per axis (d,)" + (" or a tensor (d, d)" if most == 2 else "")
        raise ValueError(f"`{name}` has shape {value.shape}; expected {expected}. On a grid: VariableTransport.")


def _check_diffusivity(equation: Diffusion | AdvectionDiffusion) -> None:
    A = equation.diffusivity
    _check_shape("diffusivity", A, 2)
    check(equation, nonnegative=("diffusivity",) if A.ndim < 2 else ())
    if A.ndim == 2 and not isinstance(A, Tracer):
        lowest = np.linalg.eigvalsh((np.asarray(A) + np.asarray(A).T) / 2)[0]
        if lowest < -1e-6 * np.max(np.abs(A)):
            raise ValueError(
                f"`diffusivity` has the eigenvalue {lowest}; expected none below zero: the equation is ill-posed."
            )
