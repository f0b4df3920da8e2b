"""The symmetries of a box: reflections and exchanges of its axes, as they act on fields on a grid."""

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .grid import Grid

Edge = Literal["periodic", "zero", "nearest"]


class Symmetry(eqx.Module):
    """A symmetry `g` of a box, acting on scalar fields by `(g u)(x) = u(g^-1 x)`: reflect axes, then exchange them.

    Axis `j` of the result is axis `axes[j]` of the field, reflected about the middle of the box where
    `reflected[axes[j]]`. On `nodes`, `cells` and `chebyshev` axes reflection only reorders the values. On a `left` axis
    it maps point `i` to `n - i`, and the image of point 0, the right end, is not on the grid: `edge` says what is known
    there. The channels of a vector field would have to be exchanged and signed too: that is left to the caller.

    **Arguments:** `axes`: a permutation of the axes. `reflected`: for each axis of the field.

    **Call:** `u: (c, *grid.shape)`; `grid`; `edge`: the value at the right end of a `left` axis: `"periodic"` (that of
    the left end), `"zero"` (homogeneous Dirichlet data), or `"nearest"` (that of the last point: first order); one for
    all channels or one for each.

    **Raises:** `ValueError` for no permutation, another rank, a grid whose exchanged axes differ, an unknown edge, or
    edges for another number of channels.
    """

    axes: tuple[int, ...] = eqx.field(static=True)
    reflected: tuple[bool, ...] = eqx.field(static=True)

    def __init__(self, axes: Sequence[int], reflected: Sequence[bool]):
        self.axes, self.reflected = tuple(axes), tuple(reflected)
        if sorted(self.axes) != list(range(len(self.axes))) or len(self.reflected) != len(self.axes):
            raise ValueError(
                f"`axes`, `reflected` are {axes}, {reflected}; expected a permutation and as many booleans."
            )

    @property
    def inverse(self) -> "Symmetry":
        """The symmetry that undoes this one."""
        axes = tuple(self.axes.index(j) for j in range(len(self.axes)))
        return Symmetry(axes, tuple(self.reflected[j] for j in self.axes))

    def __call__(self, u: Float[Array, "c *n"], grid: Grid, *, edge: Edge | Sequence[Edge]) -> Float[Array, "c *m"]:
        """Apply to one sample."""
        if u.shape[1:] != grid.shape or grid.ndim != len(self.axes):
            raise ValueError(
                f"`u` has shape {u.shape} on a grid of {grid.shape}; expected (channels, *grid.shape) and "
                f"{len(self.axes)} axes."
            )
        if not isinstance(edge, str):
            if len(edge) != len(u):
                raise ValueError(f"`edge` has {len(edge)} of them; expected one, or one for each of {len(u)} channels.")
            return jnp.concatenate([self(u[i : i + 1], grid, edge=one) for i, one in enumerate(edge)])
        if edge not in get_args(Edge):
            raise ValueError(f"`edge` is {edge!r}; expected one of {get_args(Edge)}.")
        if any(_axis(grid, i) != _axis(grid, j) for i, j in enumerate(self.axes)):
            raise ValueError(f"`axes` {self.axes} exchange axes of `grid` that differ in points, extent or placement.")
        for axis, reflect in enumerate(self.reflected):
            if reflect:
                u = _reflect(u, axis + 1, edge if grid.placement[axis] == "left" else None)
        return jnp.transpose(u, (0, *(1 + axis for axis in self.axes)))


def symmetries(grid: Grid) -> tuple[Symmetry, ...]:
    """All symmetries of the grid's box that map its axes onto axes like them, the identity first.

    Two in 1-D, eight on a square (four on a rectangle), 48 on a cube.
    """
    orders = [
        axes
        for axes in itertools.permutations(range(grid.ndim))
        if all(_axis(grid, i) == _axis(grid, j) for i, j in enumerate(axes))
    ]
    signs = itertools.product((False, True), repeat=grid.ndim)
    return tuple(Symmetry(axes, reflected) for reflected in signs for axes in orders)


def _axis(grid: Grid, axis: int) -> tuple[int, float, str]:
    return grid.shape[axis], grid.extent[axis], grid.placement[axis]


def _reflect(u: Array, axis: int, edge: Edge | None) -> Array:
    if edge is None:
        return jnp.flip(u, axis)
    first, rest = jnp.split(u, [1], axis)
    rest = jnp.flip(rest, axis)
    right_end = {"periodic": first, "zero": jnp.zeros_like(first), "nearest": jnp.split(rest, [1], axis)[0]}[edge]
    return jnp.concatenate([right_end, rest], axis)
