"""Separable fields: a network an axis, cheap on tensor-product grids."""

from collections.abc import Sequence
from math import prod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from opkit.layers import check_sizes
from solvers import Field, as_module

from .arguments import check_point


class Separable(eqx.Module):
    """`f_k(x) = sum_r prod_i g_i(x_i)_{rk}`, of a field `g_i: (1,) -> (rank * out_size,)` for every axis.

        axes = [MLP(1, 32, width=64, depth=3, key=k) for k in jax.random.split(key, 3)]
        field = Separable(axes)                      # rank 32
        values = field.on_grid(grid.axes())          # (1, 100, 100, 100) from 300 evaluations of networks

    Derivatives on a grid are cheap in the same way: `jax.jvp(lambda t: field.on_grid((t, x)), (t,), (ones_like(t),))`
    gives the values and `df/dt` on all of it.

    **Arguments:** `axes`: a field of one coordinate for every axis, all of the same output size.

    **Call:** `x: (d,)`, one point; returns `(out_size,)`. **Raises:** `ValueError` for outputs that differ or that
    `out_size` does not divide, or `x` of another shape.

    Cho et al. (2023), Separable physics-informed neural networks, arXiv:2306.15969, equation 5.
    """

    axes: tuple[Field, ...]
    rank: int = eqx.field(static=True)
    out_size: int = eqx.field(static=True)

    def __init__(self, axes: Sequence[Field], out_size: int = 1):
        check_sizes(out_size=out_size)
        shapes = {eqx.filter_eval_shape(axis, jnp.zeros(1)).shape for axis in axes}
        sizes = [shape[0] for shape in shapes if len(shape) == 1]
        if len(shapes) != 1 or len(sizes) != 1 or sizes[0] % out_size:
            raise ValueError(
                f"`axes` give shapes {sorted(shapes)}; expected one shape (rank * out_size,) of all, with `out_size` "
                f"{out_size}."
            )
        self.axes = tuple(as_module(axis) for axis in axes)
        self.rank, self.out_size = sizes[0] // out_size, out_size

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        """Evaluate at one point."""
        check_point(x, len(self.axes))
        product = prod(axis(x[i : i + 1]) for i, axis in enumerate(self.axes))
        return jnp.sum(jnp.reshape(product, (self.rank, self.out_size)), 0)

    def on_grid(self, coordinates: Sequence[Float[Array, " _"]]) -> Float[Array, "c *n"]:
        """The values `(out_size, *n)` on the grid spanned by one array `(n_i,)` of coordinates an axis.

        `n_1 + ... + n_d` evaluations of networks, and `rank` multiplications a value.
        """
        if len(coordinates) != len(self.axes):
            raise ValueError(f"`coordinates` has {len(coordinates)} arrays; expected {len(self.axes)}, one an axis.")
        d = len(self.axes)
        operands: list = []
        for i, (axis, points) in enumerate(zip(self.axes, coordinates, strict=True)):
            factor = jax.vmap(axis)(points[:, None]).reshape(-1, self.rank, self.out_size)
            operands += [factor, (i, d, d + 1)]
        return jnp.einsum(*operands, (d + 1, *range(d)))
