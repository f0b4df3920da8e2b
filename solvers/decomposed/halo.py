"""What a local stencil sees of the neighbouring pieces, and beyond the boundary."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .piece import AxisNames, axis_size, checked_names

HaloRule = Literal["periodic", "zero", "reflect", "replicate"]

Side = HaloRule | float
"""A rule, or the constant that is beyond the end."""


def halo_exchange(
    u: Float[Array, "..."],
    axis_names: AxisNames,
    width: int | Sequence[int | tuple[int, int]],
    boundary: Side | Sequence[Side | tuple[Side, Side]] = "periodic",
    *,
    first_axis: int = 1,
) -> Float[Array, "..."]:
    """This device's piece of a field, extended along each axis by points of its neighbours', inside `jax.shard_map`.

    The result is the block, so much wider, that the whole field padded by `boundary` has there: corners too, as one
    axis goes after the other. An axis that is not cut is padded on the spot. One exchange (`lax.ppermute`) a side.

    **Arguments:**

    - `u`: the piece; its spatial axes begin at `first_axis`: 1 for `(channels, *n)`, 0 with the channels last.
    - `axis_names`: for each spatial axis the mesh axis that cuts it, or `None`.
    - `width`: points on either side of an axis, or `(below, above)`; one number for all axes, or an entry for each.
    - `boundary`: what is beyond the ends of the whole field: `"periodic"`: the other end; `"zero"`; `"reflect"`: the
      mirror image at the end point (which is not repeated); `"replicate"`: the end point; a number: that constant.
      `(below, above)` for two rules, neither of them periodic; one for all axes, or an entry for each.

    **Raises:** `ValueError` for unknown rules, names of no mesh axis here, a width beyond the nearest neighbour: more
    than the points of a piece, or for `"reflect"` as many.
    """
    ndim = len(axis_names)
    names = checked_names(axis_names, ndim)
    widths = (width,) * ndim if isinstance(width, int) else tuple(width)
    rules = (boundary,) * ndim if isinstance(boundary, str | int | float) else tuple(boundary)
    if len(widths) != ndim or len(rules) != ndim:
        raise ValueError(
            f"`width` is {width} and `boundary` {boundary!r} for {ndim} axes; expected one for all, or one for each."
        )
    for axis, (name, w, rule) in enumerate(zip(names, widths, rules, strict=True)):
        low, high = (w, w) if isinstance(w, int) else w
        u = _extended(u, first_axis + axis, name, (low, high), _sides(rule))
    return u


def _sides(rule: Side | tuple[Side, Side]) -> tuple[Side, Side]:
    sides = rule if isinstance(rule, tuple) else (rule, rule)
    unknown = [side for side in sides if isinstance(side, str) and side not in get_args(HaloRule)]
    if len(sides) != 2 or unknown or (sides[0] == "periodic") != (sides[1] == "periodic"):
        raise ValueError(
            f"`boundary` of an axis is {rule!r}; expected one of {get_args(HaloRule)} or a number, or a pair of them "
            "for its two ends, both 'periodic' or neither."
        )
    return cast(tuple[Side, Side], sides)


def _extended(u: Array, axis: int, name: str | None, width: tuple[int, int], rule: tuple[Side, Side]) -> Array:
    n, devices = u.shape[axis], axis_size(name)
    for w, side in zip(width, rule, strict=True):
        if not 0 <= w <= n - (side == "reflect"):
            raise ValueError(
                f"`width` is {w} on an axis of which each device has {n} points; expected 0 to {n}, and less for "
                "'reflect': take fewer devices, or cut another axis."
            )
    ends = (lax.slice_in_dim(u, n - width[0], n, axis=axis), lax.slice_in_dim(u, 0, width[1], axis=axis))
    halos = []
    for sent, w, side, is_low in zip(ends, width, rule, (True, False), strict=True):
        if name is None:
            halo = sent if side == "periodic" else _beyond(u, axis, w, side, is_low)
        else:
            step, closed = (1 if is_low else -1), side == "periodic"
            pairs = [(i, (i + step) % devices) for i in range(devices) if closed or 0 <= i + step < devices]
            halo = lax.ppermute(sent, name, pairs)
            if not closed and side != "zero":  # where nothing is sent, zeros are received
                at_end = lax.axis_index(name) == (0 if is_low else devices - 1)
                halo = jnp.where(at_end, _beyond(u, axis, w, side, is_low), halo)
        halos.append(halo)
    return jnp.concatenate([halos[0], u, halos[1]], axis) if any(width) else u


def _beyond(u: Array, axis: int, width: int, rule: Side, is_low: bool) -> Array:
    """What is `width` points below or above the ends of a whole field."""
    n, shape = u.shape[axis], tuple(width if k == axis else m for k, m in enumerate(u.shape))
    if rule == "replicate":
        return jnp.broadcast_to(lax.slice_in_dim(u, *((0, 1) if is_low else (n - 1, n)), axis=axis), shape)
    if rule == "reflect":
        inner = (1, 1 + width) if is_low else (n - 1 - width, n - 1)
        return jnp.flip(lax.slice_in_dim(u, *inner, axis=axis), axis)
    return jnp.full(shape, 0 if isinstance(rule, str) else rule, u.dtype)
