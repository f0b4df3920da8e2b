"""Convolutions with a small kernel, and what they see beyond the boundary."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .initial import uniform

Boundary = Literal["periodic", "zero", "reflect", "replicate"]

_NUMPY_MODE = {"periodic": "wrap", "zero": "constant", "reflect": "reflect", "replicate": "edge"}


def pad(
    u: Float[Array, "*n"], halo: Sequence[int], boundary: Sequence[Boundary], *, first_axis: int = 1
) -> Float[Array, "*m"]:
    """Extends a field by `halo[j]` points on both sides of spatial axis `j`, by the axis's own rule.

    `"periodic"` wraps, `"zero"` appends zeros, `"reflect"` mirrors at the end point (which is not repeated: an even
    extension on `nodes`), `"replicate"` repeats the end point. The spatial axes begin at `first_axis`: 1 for a field, 0
    with the channels last.
    """
    for axis, (width, rule) in enumerate(zip(halo, boundary, strict=True), start=first_axis):
        if width:
            widths = [(0, 0)] * u.ndim
            widths[axis] = (width, width)
            u = jnp.pad(u, widths, mode=_NUMPY_MODE[rule])
    return u


class Conv(eqx.Module):
    """A convolution that keeps the grid's shape: `v(x) = sum_j W_j u(x + j dilation h) + b`, boundary rule per axis.

    As in the whole field, this is a cross-correlation. The kernel is counted in points, not in lengths: the
    operator it represents depends on the resolution.

    `W: (out, in, *kernel)` and `b: (out,)` are uniform on `+-1 / sqrt(in * prod(kernel))`, and cast to the input's
    dtype.

    **Arguments:** `kernel`: points per axis, odd. `boundary`: one rule for all axes or one per axis (see `pad`).
    `dilation`: the distance between kernel points, in points.

    **Raises:** `ValueError` for an even kernel, an unknown rule, wrong channels or rank.
    """

    weight: Float[Array, "cout cin *k"]
    bias: Float[Array, " cout"]
    boundary: tuple[Boundary, ...] = eqx.field(static=True)
    dilation: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        *,
        boundary: Boundary | Sequence[Boundary] = "periodic",
        dilation: int = 1,
        key: PRNGKeyArray,
    ):
        shape = (out_channels, in_channels, *kernel)
        if not 1 <= len(kernel) <= 3 or any(k < 1 or k % 2 == 0 for k in kernel):
            raise ValueError(
                f"`kernel` is {tuple(kernel)}; expected one to three odd sizes, one an axis, as in (3, 3)."
            )
        rules = (boundary,) * len(kernel) if isinstance(boundary, str) else tuple(boundary)
        if len(rules) != len(kernel) or any(rule not in get_args(Boundary) for rule in rules):
            raise ValueError(
                f"`boundary` is {boundary!r}; expected one of {get_args(Boundary)}, or one for each of "
                f"{len(kernel)} axes."
            )
        if dilation < 1:
            raise ValueError(f"`dilation` is {dilation}; expected at least 1.")
        self.boundary, self.dilation = rules, dilation
        bound = (in_channels * prod(kernel)) ** -0.5
        self.weight = uniform(jax.random.fold_in(key, 0), shape, bound)
        self.bias = uniform(jax.random.fold_in(key, 1), (out_channels,), bound)

    def __call__(self, u: Float[Array, "cin *n"]) -> Float[Array, "cout *n"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1)), -1, 0)

    def channels_last(self, x: Float[Array, "*n cin"]) -> Float[Array, "*n cout"]:
        """Apply to features with the channels last."""
        ndim = self.weight.ndim - 2
        if x.ndim != 1 + ndim or x.shape[-1] != self.weight.shape[1]:
            raise ValueError(
                f"`u` has {x.shape[-1]} channels on {x.shape[:-1]} points; expected {self.weight.shape[1]} channels, "
                f"first, and {ndim} axes. Batches come from jax.vmap."
            )
        halo = [k // 2 * self.dilation for k in self.weight.shape[2:]]
        padded = pad(x, halo, self.boundary, first_axis=0)
        return correlate(padded, self.weight.astype(x.dtype), self.dilation) + self.bias.astype(x.dtype)


def correlate(
    x: Float[Array, "*m cin"], weight: Float[Array, "cout cin *k"], dilation: int = 1
) -> Float[Array, "*n cout"]:
    """The kernel against padded features, at the points where all of it has values: `n = m - dilation (k - 1)`."""
    # XLA's convolution on CPU falls to a tenth of its speed inside a loop, where training steps run
    methods = {"cpu": _by_products, "default": _by_convolution}
    return lax.platform_dependent(x, weight, **{k: partial(f, dilation=dilation) for k, f in methods.items()})


def _by_products(x: Array, weight: Array, *, dilation: int) -> Array:
    """The convolution of padded features `(*m, in)` as a sum over the kernel's points of matrix products."""
    shape = [m - dilation * (k - 1) for m, k in zip(x.shape[:-1], weight.shape[2:], strict=True)]
    total = jnp.zeros((*shape, weight.shape[0]), x.dtype)
    for point in np.ndindex(*weight.shape[2:]):
        start = [dilation * i for i in point]
        shifted = lax.slice(x, (*start, 0), (*(s + n for s, n in zip(start, shape, strict=True)), x.shape[-1]))
        total += lax.dot_general(shifted, weight[(..., *point)], (((x.ndim - 1,), (1,)), ((), ())))
    return total


def _by_convolution(x: Array, weight: Array, *, dilation: int) -> Array:
    """The same by XLA's convolution."""
    space = "xyz"[: x.ndim - 1]
    return lax.conv_general_dilated(
        x[None],
        weight,
        window_strides=(1,) * len(space),
        padding="VALID",
        rhs_dilation=(dilation,) * len(space),
        dimension_numbers=(f"N{space}C", f"OI{space}", f"N{space}C"),
    )[0]
