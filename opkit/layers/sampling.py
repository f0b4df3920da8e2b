"""Between a grid and one with half as many points per axis: fixed and learned, for any number of points.

Functions and layers take the boundary rule per axis (see `pad`). Two geometries are in use:

- **pairs** (`average_pool`, `interpolate`): a coarse point is the centre of two fine ones, as with `cells`.
- **every second** (`StridedConv`, `TransposedConv`): a coarse point is a fine one, as with `nodes` and `left`. It is
  the first, third, ... of an axis; of an axis with rule `"zero"`, where the field vanishes one spacing beyond its ends,
  the second, fourth, .... So the textbook geometry is met with an odd number of nodes, ends included (`"reflect"`) or
  left out (`"zero"`), and with an even number of periodic points. Other numbers are accepted, the spacing of the coarse
  grid being uneven at the upper end.
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .local import Boundary, Conv, correlate, pad


def average_pool(x: Float[Array, "*n c"], boundary: Sequence[Boundary]) -> Float[Array, "*m c"]:
    """The mean over pairs along every axis, `(*n, c)` to `(*ceil(n / 2), c)`.

    An odd axis is first extended by one point by its rule; an axis of one point stays. On `cells` it is the cells'
    mean, and second order as a value at their centre.
    """
    for axis, rule in enumerate(boundary):
        n = x.shape[axis]
        if n == 1:
            continue
        if n % 2:
            x = lax.slice_in_dim(_extended(x, axis, rule), 1, n + 2, axis=axis)
        halves = x.reshape(*x.shape[:axis], (n + 1) // 2, 2, *x.shape[axis + 1 :])
        x = halves.mean(axis=axis + 1)
    return x


def interpolate(x: Float[Array, "*m c"], shape: Sequence[int], boundary: Sequence[Boundary]) -> Float[Array, "*n c"]:
    """The linear interpolant of `average_pool`'s points at those of a grid of `shape`: second order.

    Beyond the ends it continues by the axis's rule; `"reflect"`, an even extension about a fine point, is
    `"replicate"` to the coarse one beside it.

    **Raises:** `ValueError` where `x` does not have `ceil(shape / 2)` points.
    """
    if x.shape[:-1] != halved(shape):
        raise ValueError(f"`x` is on {x.shape[:-1]} points; expected {halved(shape)}, half of `shape` {tuple(shape)}.")
    for axis, (n, rule) in enumerate(zip(shape, _even_about_pairs(boundary), strict=True)):
        if n == 1:
            continue
        m = x.shape[axis]
        extended = _extended(x, axis, rule)
        before, here, after = (lax.slice_in_dim(extended, i, i + m, axis=axis) for i in range(3))
        pairs = jnp.stack([0.25 * before + 0.75 * here, 0.75 * here + 0.25 * after], axis + 1)
        x = lax.slice_in_dim(pairs.reshape(*x.shape[:axis], 2 * m, *x.shape[axis + 1 :]), 0, n, axis=axis)
    return x


def halved(shape: Sequence[int]) -> tuple[int, ...]:
    """The numbers of points after `average_pool`."""
    return tuple((n + 1) // 2 for n in shape)


class StridedConv(eqx.Module):
    """A linear convolution, kept at every point or every second one: `v_j = sum_k W_k u_{s j + o + k - r}`.

    `k` counts a kernel of `2 r + 1` points an axis, `o` is 1 on a `"zero"` axis of stride 2 and 0 else (see the
    module). No bias. With stride 2, `n` points become `ceil(n / 2)`, and `floor(n / 2)` on a `"zero"` axis.

    `W: (out, in, *kernel)` is uniform on `+-1 / sqrt(in * prod(kernel))`, and cast to the input's dtype.

    **Arguments:** `kernel`: points per axis, odd. `stride`: 1 or 2, on every axis. `boundary`: for all axes or one per
    axis. **Raises:** `ValueError` for what contradicts this, too few points, wrong channels or rank.
    """

    weight: Float[Array, "cout cin *k"]
    boundary: tuple[Boundary, ...] = eqx.field(static=True)
    stride: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        *,
        stride: int = 2,
        boundary: Boundary | Sequence[Boundary] = "periodic",
        key: PRNGKeyArray,
    ):
        if stride not in (1, 2):
            raise ValueError(f"`stride` is {stride}; expected 1 or 2.")
        conv = Conv(in_channels, out_channels, kernel, boundary=boundary, key=key)
        self.weight, self.boundary, self.stride = conv.weight, conv.boundary, stride

    def __call__(self, u: Float[Array, "cin *n"]) -> Float[Array, "cout *m"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1)), -1, 0)

    def channels_last(self, x: Float[Array, "*n cin"]) -> Float[Array, "*m cout"]:
        """Apply to features with the channels last."""
        _check(x, self.weight.shape[1], self.weight.ndim - 2)
        kernel, weight = self.weight.shape[2:], self.weight.astype(x.dtype)
        padded = pad(x, [k // 2 for k in kernel], self.boundary, first_axis=0)
        if self.stride == 1:
            return correlate(padded, weight)
        shape = every_second(x.shape[:-1], self.boundary)
        total = jnp.zeros((*shape, len(weight)), x.dtype)
        for point in np.ndindex(*kernel):
            start = [_offset(rule) + k for rule, k in zip(self.boundary, point, strict=True)]
            end = [s + 2 * m - 1 for s, m in zip(start, shape, strict=True)]
            taken = lax.slice(padded, (*start, 0), (*end, x.shape[-1]), (*(2,) * len(shape), 1))
            total += lax.dot_general(taken, weight[(..., *point)], (((x.ndim - 1,), (1,)), ((), ())))
        return total


class TransposedConv(eqx.Module):
    """From every second point to all: `u_i = sum_{j, k: 2 j + o + k - r = i} W_k v_j`, back to `shape`.

    The geometry is that of `StridedConv` with stride 2, whose transpose it is (weights transposed) in the interior; `v`
    is continued by one point beyond its ends by the axis's rule. No bias. The kernel of three points `(1/2, 1, 1/2)` an
    axis interpolates linearly.

    `W: (out, in, *kernel)` is uniform on `+-1 / sqrt(in * prod(kernel) / 2^d)`, as so many terms meet in a point.

    **Arguments:** `kernel`: points per axis, 1 or 3. `boundary`: as for `StridedConv`. **Call:** `layer(v, shape)`.
    **Raises:** as `StridedConv`.
    """

    weight: Float[Array, "cout cin *k"]
    boundary: tuple[Boundary, ...] = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        *,
        boundary: Boundary | Sequence[Boundary] = "periodic",
        key: PRNGKeyArray,
    ):
        if max(kernel, default=0) > 3:
            raise ValueError(f"`kernel` is {tuple(kernel)}; expected 1 or 3 points an axis.")
        conv = Conv(in_channels, out_channels, kernel, boundary=boundary, key=key)
        self.weight, self.boundary = 2 ** (len(kernel) / 2) * conv.weight, conv.boundary

    def __call__(self, v: Float[Array, "cin *m"], shape: Sequence[int]) -> Float[Array, "cout *n"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(v, 0, -1), shape), -1, 0)

    def channels_last(self, x: Float[Array, "*m cin"], shape: Sequence[int]) -> Float[Array, "*n cout"]:
        """Apply to features with the channels last."""
        _check(x, self.weight.shape[1], self.weight.ndim - 2)
        coarse = every_second(shape, self.boundary)
        if x.shape[:-1] != coarse:
            raise ValueError(f"`v` is on {x.shape[:-1]} points; expected {coarse}, every second of {tuple(shape)}.")
        kernel = self.weight.shape[2:]
        extended = pad(x, (1,) * len(shape), _even_about_pairs(self.boundary), first_axis=0)
        weight = self.weight.astype(x.dtype)
        zero = jnp.zeros((), x.dtype)
        total = jnp.zeros((), x.dtype)
        for point in np.ndindex(*kernel):
            product = lax.dot_general(extended, weight[(..., *point)], (((x.ndim - 1,), (1,)), ((), ())))
            places = [(p, k - 1 - p, 1) for p, k in zip(point, kernel, strict=True)]
            total = total + lax.pad(product, zero, [*places, (0, 0, 0)])
        # the point before the first stands at -2 + o, and at k // 2 of what has been summed
        start = [2 - _offset(rule) + k // 2 for rule, k in zip(self.boundary, kernel, strict=True)]
        end = [s + n for s, n in zip(start, shape, strict=True)]
        return lax.slice(total, (*start, 0), (*end, total.shape[-1]))


def every_second(shape: Sequence[int], boundary: Sequence[Boundary]) -> tuple[int, ...]:
    """The numbers of points after a `StridedConv` of stride 2.

    **Raises:** `ValueError` for an axis with fewer than two points.
    """
    if min(shape) < 2:
        raise ValueError(f"`shape` is {tuple(shape)}; expected at least 2 points an axis to take every second.")
    return tuple((n + 1 - _offset(rule)) // 2 for n, rule in zip(shape, boundary, strict=True))


def _offset(rule: Boundary) -> int:
    return int(rule == "zero")


def _even_about_pairs(boundary: Sequence[Boundary]) -> tuple[Boundary, ...]:
    """The rules of a coarse axis, where `"reflect"` mirrors at a fine point half-way between coarse ones."""
    return tuple("replicate" if rule == "reflect" else rule for rule in boundary)


def _extended(x: Array, axis: int, rule: Boundary) -> Array:
    """One more point at both ends of `axis`."""
    return pad(x, (1,), (rule,), first_axis=axis)


def _check(x: Array, channels: int, ndim: int) -> None:
    if x.ndim != 1 + ndim or x.shape[-1] != channels:
        raise ValueError(
            f"`u` has {x.shape[-1]} channels on {x.shape[:-1]} points; expected {channels} channels, first, and {ndim} "
            "axes. Batches come from jax.vmap."
        )
