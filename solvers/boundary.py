"""Conditions on the sides of a box, for problems on a `Grid`."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .grid import Grid

Face = Float[Array, "*face"]


class Dirichlet(eqx.Module):
    """`u = value` on the side; `value` is a number or an array over the side's points, `(*n,)` without the
    normal axis."""

    value: Face

    def __init__(self, value: ArrayLike = 0.0):
        self.value = jnp.asarray(value)


class Neumann(eqx.Module):
    """`a du/dn = flux` on the side, `n` the outward normal: what flows in where positive. A number or
    `(*face)`."""

    flux: Face

    def __init__(self, flux: ArrayLike = 0.0):
        self.flux = jnp.asarray(flux)


class Robin(eqx.Module):
    """`alpha u + a du/dn = value` on the side, `n` the outward normal, `alpha >= 0`. Numbers or `(*face)`."""

    alpha: Face
    value: Face

    def __init__(self, alpha: ArrayLike, value: ArrayLike = 0.0):
        self.alpha = jnp.asarray(alpha)
        self.value = jnp.asarray(value)


class Periodic(eqx.Module):
    """The axis wraps around; stands for both of its sides."""


Condition = Dirichlet | Neumann | Robin | Periodic
Sides = tuple[Condition, Condition]


def per_side(boundary: Condition | Sequence[Condition | Sequence[Condition]], grid: Grid) -> tuple[Sides, ...]:
    """The condition on the (lower, upper) side of each axis.

    **Arguments:** `boundary`: one condition for every side, or one entry an axis: a condition for both of its
    sides or a pair (lower, upper).

    **Raises:** `ValueError` for a missing side, a periodic side opposite one that is not, or data that do not
    fit a side."""
    entries = tuple(boundary) if isinstance(boundary, Sequence) else (boundary,) * grid.ndim
    if len(entries) != grid.ndim:
        raise ValueError(
            f"`boundary` has {len(entries)} entries for {grid.ndim} axes; give one condition, or one an axis."
        )
    sides = []
    for axis, entry in enumerate(entries):
        pair = tuple(entry) if isinstance(entry, Sequence) else (entry, entry)
        if len(pair) != 2 or not all(isinstance(side, Condition) for side in pair):
            raise ValueError(
                f"`boundary` of axis {axis} is {entry!r}; a side is missing: give one condition for both sides, "
                "or a pair (lower, upper) of Dirichlet, Neumann, Robin or Periodic."
            )
        if isinstance(pair[0], Periodic) != isinstance(pair[1], Periodic):
            raise ValueError(f"`boundary` of axis {axis} is periodic on one side only; use Periodic() for the axis.")
        face = grid.shape[:axis] + grid.shape[axis + 1 :]
        for name, side in zip(("lower", "upper"), pair, strict=True):
            for key, data in vars(side).items():
                if data.ndim and data.shape != face:
                    raise ValueError(
                        f"`boundary` of axis {axis}, {name} side: `{key}` has shape {data.shape}; expected a number or "
                        f"{face}, the grid without that axis."
                    )
        sides.append(pair)
    return tuple(sides)
