"""CORAL: operators between codes of neural fields, for functions known anywhere."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.layers import check_sizes
from solvers import Domain, as_module, as_points

from .point_inputs import point_coordinates, point_values


class CodedField(eqx.Module):
    """`x -> field(x, code)`: the field of one code."""

    field: Any
    code: Float[Array, " z"]

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        """Evaluate at one point."""
        return self.field(x, self.code)


class CORAL(eqx.Module):
    """The input as a code of a neural field, a map of codes, the output as another field: `q -> g(q, F(z(u)))`.

    The code is found by auto-decoding: from `z = 0`, `steps` gradient steps `z <- z - rate dL/dz` on

        L(z) = sum_i w_i |f(x_i, z) - u_i|^2 / (channels sum_i w_i)

    with the quadrature weights of the points. Gradients of the whole go through these steps, which need second
    derivatives of `f`; the logarithm of `rate` is trained with the rest. Points may lie anywhere, in any number, other
    ones for every sample, and the answer is asked for anywhere. As the points are refined, the code converges at the
    order of the quadrature: on grids that of `Grid.weights`, on random points `n^(-1/2)`.

    **Arguments:**

    - `input_field`, `output_field`: `f` and `g`, modules called as `field(x, code)` at one point and differentiable in
      `code`: `opkit.fields.ModulatedSIREN`. Their codes may have different lengths.
    - `latent_map`: `F`, any callable from code to code, `F(z)`, or `F(z, args)` where the operator gets `args`: an MLP,
      a neural ODE.
    - `in_channels`, `ndim`, `code_size`: of `u`, of the coordinates, and of the input's code.
    - `steps`, `rate`: 3 steps at 0.01 are the authors' choice.

    **Call:** `u: (in_channels, *domain.shape)`, `query` any `Grid` or `Points`, `None` for `domain`. `key` is not used.
    `code` gives `z` alone, so that fields can be trained before the map between their codes.

    **Raises:** `ValueError` for no step, a `rate` that is not positive, or a `u` that is not on the domain.

    Serrano et al. (2023), Operator learning with neural fields: tackling PDEs on general geometries, arXiv:2306.07266.
    """

    input_field: Any
    latent_map: Callable[..., Any]
    output_field: Any
    log_rate: Float[Array, ""]
    in_channels: int = eqx.field(static=True)
    ndim: int = eqx.field(static=True)
    code_size: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    def __init__(
        self,
        input_field: Callable[..., Any],
        latent_map: Callable[..., Any],
        output_field: Callable[..., Any],
        *,
        in_channels: int,
        ndim: int,
        code_size: int,
        steps: int = 3,
        rate: float = 0.01,
    ):
        check_sizes(in_channels=in_channels, ndim=ndim, code_size=code_size, steps=steps)
        if not rate > 0:
            raise ValueError(f"`rate` is {rate}; expected a positive step size.")
        self.input_field, self.output_field = as_module(input_field), as_module(output_field)
        self.latent_map, self.log_rate = as_module(latent_map), jnp.log(jnp.asarray(rate, float))
        self.in_channels, self.ndim, self.code_size, self.steps = in_channels, ndim, code_size, steps

    def __call__(
        self,
        u: Float[Array, "cin *n"],
        domain: Domain,
        query: Domain | None = None,
        *,
        args: PyTree = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "cout *m"]:
        """Apply to one sample."""
        field = self.encode(u, domain, args=args)
        query = domain if query is None else query
        if query.ndim != self.ndim:
            raise ValueError(f"`query` has {query.ndim} dimensions; this operator was built for {self.ndim}.")
        return jax.vmap(field)(point_coordinates(query, u.dtype)).T.reshape(-1, *query.shape)

    def encode(self, u: Float[Array, "cin *n"], domain: Domain, *, args: PyTree = None) -> CodedField:
        """The output as a field of one point."""
        z = self.code(u, domain)
        z = self.latent_map(z) if args is None else self.latent_map(z, args)
        return CodedField(self.output_field, z)

    def code(self, u: Float[Array, "cin *n"], domain: Domain) -> Float[Array, " z"]:
        """The code of the input."""
        values = point_values(u, domain, in_channels=self.in_channels, ndim=self.ndim)
        x, cloud = point_coordinates(domain, values.dtype), as_points(domain)
        weights = jnp.ones(len(x), x.dtype) if cloud.weights is None else cloud.weights.astype(x.dtype)
        weights = weights if cloud.mask is None else jnp.where(cloud.mask, weights, 0)
        weights = weights / jnp.sum(weights)
        rate = jnp.exp(self.log_rate).astype(values.dtype)

        def loss(z: Float[Array, " z"]) -> Float[Array, ""]:
            error = jax.vmap(self.input_field, (0, None))(x, z) - values
            return jnp.sum(weights * jnp.mean(error**2, -1))

        step = lambda z, _: (z - rate * jax.grad(loss)(z), None)
        return lax.scan(step, jnp.zeros(self.code_size, values.dtype), length=self.steps)[0]
