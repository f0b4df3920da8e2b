"""Optimal control for `Strong`: the Hamilton-Jacobi-Bellman equation."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .coefficients import Coefficient, as_coefficient, as_number, coefficient_at
from .residuals import Unknown


class HamiltonJacobiBellman(eqx.Module):
    """`u_t + nu Lap u + b . grad u - mu |grad u|^2 + q = 0`, backwards from `u(T, x) = g(x)`; time is axis 0.

    `u` is the least expected cost from `(t, x)`, of `dX = (b + 2 sqrt(mu) m) dt + sqrt(2 nu) dW` steered by `m`, where
    the cost is `E[int_t^T (|m|^2 + q) ds + g(X_T)]`; the best control is `m = -sqrt(mu) grad u`.

    Exact solutions, with the dimension `d`:

    - `b = 0`, `q = 0`: `u = -(nu/mu) log E exp(-(mu/nu) g(x + sqrt(2 nu (T - t)) Z))`, `Z` standard normal (Cole-Hopf).
      For `g = |x|^2` it is `u = |x|^2 / s + d (nu / 2 mu) log s`, `s = 1 + 4 mu (T - t)`;
    - `b = A x`, `q = x . Q x`: `u = x . P x + 2 nu tr(P) (T - t)`, with `A'P + P A - 4 mu P P + Q = 0` (Riccati).

    **Arguments:** `diffusivity`: `nu`. `gain`: `mu`. `drift`, `cost`: `b` and `q`, as numbers or functions of the point
    `(t, x, ...)`, which give `(d,)` and a number.

    **Raises:** `ValueError` for a negative `diffusivity` or `gain`; when called, for a field of several components.

    The first, with `nu = 1`, is the benchmark of Han, Jentzen and E (2018), Solving high-dimensional partial
    differential equations using deep learning, doi:10.1073/pnas.1718942115, and of Hu, Shukla, Karniadakis and
    Kawaguchi (2024), Tackling the curse of dimensionality with physics-informed neural networks, arXiv:2307.12306.
    """

    diffusivity: Float[Array, ""]
    gain: Float[Array, ""]
    drift: Coefficient
    cost: Coefficient

    def __init__(self, diffusivity: ArrayLike = 1.0, gain: ArrayLike = 1.0, drift: Any = 0.0, cost: Any = 0.0):
        self.diffusivity = as_number("diffusivity", diffusivity, least=0.0)
        self.gain = as_number("gain", gain, least=0.0)
        self.drift, self.cost = as_coefficient(drift), as_coefficient(cost)

    def __call__(self, u: Unknown, x: Float[Array, "d ..."]) -> Float[Array, "1 ..."]:
        """The equation `(1, ...)`."""
        space = range(1, len(x))
        rate, diffused, *slopes = u(0, [(i, i) for i in space], *space)
        if len(rate) != 1:
            raise ValueError(f"`candidate` has {len(rate)} components; the value function is one.")
        slope = jnp.concatenate(slopes)
        nu, mu = (number.astype(x.dtype) for number in (self.diffusivity, self.gain))
        drift = coefficient_at("drift", self.drift, x, components=len(slope))
        cost = coefficient_at("cost", self.cost, x, components=1)
        return rate + nu * diffused + jnp.sum(drift * slope - mu * slope**2, 0) + cost
