"""Convolutions with a small kernel, and what they see beyond the boundary."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, PRNGKeyArray

from solvers import AxisNames, decomposed

from .initial import uniform
from .wide import shifted

Boundary = Literal["periodic", "zero", "reflect", "replicate"]

_NUMPY_MODE = {"periodic": "wrap", "zero": "constant", "reflect": "reflect", "replicate": "edge"}


def pad(
    u: Float[Array, "*n"],
    halo: Sequence[int],
    boundary: Sequence[Boundary],
    *,
    first_axis: int = 1,
    axis_names: AxisNames | None = None,
) -> Float[Array, "*m"]:
    """Extends a field by `halo[j]` points on both sides of spatial axis `j`, by the axis's own rule.

    `"periodic"` wraps, `"zero"` appends zeros, `"reflect"` mirrors at the end point (which is not repeated: an even
    extension on `nodes`), `"replicate"` repeats the end point. The spatial axes begin at `first_axis`: 1 for a field, 0
    with the channels last. With `axis_names` the field is a piece, and its neighbours' points are before those beyond
    the boundary (see `halo_exchange`).
    """
    if axis_names is not None and any(axis_names):
        return decomposed.halo_exchange(u, axis_names, tuple(halo), tuple(boundary), first_axis=first_axis)
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

    **Call:** `u: (in, *n)` to `(out, *n)`. `axis_names`, of a `Piece`: the field is in pieces.

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

    def __call__(self, u: Float[Array, "cin *n"], axis_names: AxisNames | None = None) -> Float[Array, "cout *n"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1), axis_names), -1, 0)

    def channels_last(self, x: Float[Array, "*n cin"], axis_names: AxisNames | None = None) -> Float[Array, "*n cout"]:
        """Apply to features with the channels last."""
        ndim = self.weight.ndim - 2
        if x.ndim != 1 + ndim or x.shape[-1] != self.weight.shape[1]:
            raise ValueError(
                f"`u` has {x.shape[-1]} channels on {x.shape[:-1]} points; expected {self.weight.shape[1]} channels, "
                f"first, and {ndim} axes. Batches come from jax.vmap."
            )
        halo = [k // 2 * self.dilation for k in self.weight.shape[2:]]
        padded = pad(x, halo, self.boundary, first_axis=0, axis_names=axis_names)
        return shifted(correlate(padded, self.weight.astype(x.dtype), self.dilation), self.bias)


def correlate(
    x: Float[Array, "*m cin"], weight: Float[Array, "cout cin *k"], dilation: int = 1
) -> Float[Array, "*n cout"]:
    """The kernel against padded features, at the points where all of it has values: `n = m - dilation (k - 1)`."""
    # on CPU a convolution in another layout than below falls to a twentieth of its speed inside a loop, where training
    # steps run; there is no fast one in float64, and none in three dimensions
    narrow = jnp.finfo(x.dtype).bits <= 32 and x.ndim <= 3
    methods = {"cpu": _in_fast_layout if narrow else _by_products, "default": _by_convolution}
    return lax.platform_dependent(x, weight, **{k: lambda x, w, f=f: f(x, w, dilation) for k, f in methods.items()})


def _by_products(x: Array, weight: Array, dilation: int) -> Array:
    """The convolution of padded features `(*m, in)` as a sum over the kernel's points of matrix products."""
    shape = [m - dilation * (k - 1) for m, k in zip(x.shape[:-1], weight.shape[2:], strict=True)]
    total = jnp.zeros((*shape, weight.shape[0]), x.dtype)
    for point in np.ndindex(*weight.shape[2:]):
        start = [dilation * i for i in point]
        shifted = lax.slice(x, (*start, 0), (*(s + n for s, n in zip(start, shape, strict=True)), x.shape[-1]))
        total += lax.dot_general(shifted, weight[(..., *point)], (((x.ndim - 1,), (1,)), ((), ())))
    return total


def _by_convolution(x: Array, weight: Array, dilation: int) -> Array:
    """The same by XLA's convolution."""
    space = "xyz"[: x.ndim - 1]
    return _convolve(x[None], weight, (f"N{space}C", f"OI{space}", f"N{space}C"), dilation)[0]


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _in_fast_layout(x: Array, weight: Array, dilation: int) -> Array:
    """The same, by convolutions of the layout `NxyC, xyIO, NxyC`: those of the gradients, too, in reverse mode.

    Not in forward mode: derivatives along the weights, as of Hessian products, are slow inside loops.
    """
    space = "xy"[: x.ndim - 1]
    kernel = jnp.moveaxis(weight, (1, 0), (-2, -1))
    return _convolve(x[None], kernel, (f"N{space}C", f"{space}IO", f"N{space}C"), dilation)[0]


def _tangent(dilation: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Linear in each tangent, in the layouts whose transposes have the fast one."""
    (x, weight), (dx, dw) = primals, tangents
    space = "xy"[: x.ndim - 1]
    value = _in_fast_layout(x, weight, dilation)
    tangent = jnp.zeros_like(value)
    if not isinstance(dx, SymbolicZero):
        kernel = jnp.moveaxis(weight, (0, 1), (-2, -1))
        tangent += _convolve(dx[None], kernel, (f"N{space}C", f"{space}OI", f"N{space}C"), dilation)[0]
    if not isinstance(dw, SymbolicZero):
        features, kernel = jnp.moveaxis(x, -1, 0)[..., None], jnp.moveaxis(dw, 0, -1)
        tangent += _convolve(features, kernel, (f"C{space}N", f"I{space}O", f"{space}NC"), dilation)[..., 0, :]
    return value, tangent


_in_fast_layout.defjvp(_tangent, symbolic_zeros=True)


def _convolve(x: Array, weight: Array, layout: tuple[str, str, str], dilation: int) -> Array:
    ones = (1,) * (x.ndim - 2)
    return lax.conv_general_dilated(
        x, weight, ones, "VALID", rhs_dilation=(dilation,) * len(ones), dimension_numbers=layout
    )
