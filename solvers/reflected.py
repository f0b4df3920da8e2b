"""Equations between walls: a periodic stepper on the box continued by its mirror images."""

from collections.abc import Sequence
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Complex, Float

from .bounded import basis_per_axis, mirrored, sign_of
from .exponential import ETDRK
from .grid import Grid
from .random_fields import Basis


class Reflection(eqx.Module):
    """Fields between walls as halves of periodic ones: odd about a Dirichlet wall, even about a Neumann wall.

    **Arguments:** `grid`: placement `nodes` or `cells` along axes with walls, `left` along periodic ones. `basis`: by
    what a field is continued: `"dirichlet"` odd, `"neumann"` even, or `"periodic"`. One for all axes, one per axis, or
    for each channel a tuple of one per axis: a free-slip wall across x has a velocity `(("dirichlet",
    ...), ("neumann", ...))`.

    **Raises:** `ValueError` for an unknown basis, a placement that does not go with it, or an axis that is periodic for
    some channels only.
    """

    grid: Grid = eqx.field(static=True)
    basis: tuple[tuple[Basis, ...], ...] = eqx.field(static=True)

    def __init__(self, grid: Grid, basis: Basis | Sequence[Basis] | Sequence[Sequence[Basis]]):
        per_channel = not isinstance(basis, str) and len(basis) > 0 and not isinstance(basis[0], str)
        rows = cast(Sequence[Basis | Sequence[Basis]], basis if per_channel else [basis])
        self.grid, self.basis = grid, tuple(basis_per_axis(grid, row) for row in rows)

    @property
    def periodic(self) -> Grid:
        """The grid of the continued fields: along axes with walls twice as long."""
        shape, lower, upper = [], [], []
        for n, low, length, h, name in zip(
            self.grid.shape, self.grid.lower, self.grid.extent, self.grid.spacing, self.grid.placement, strict=True
        ):
            shape.append({"left": n, "nodes": 2 * (n - 1), "cells": 2 * n}[name])
            lower.append(low + h / 2 if name == "cells" else low)
            upper.append(lower[-1] + (length if name == "left" else 2 * length))
        return Grid(shape, lower, upper)

    def extend(self, u: Float[Array, "c *n"]) -> Float[Array, "c *m"]:
        """The continued field, on `self.periodic`. On `nodes`, values on a Dirichlet wall are taken as zero."""
        if u.shape[1:] != self.grid.shape or len(self.basis) not in (1, len(u)):
            raise ValueError(
                f"`u` has shape {u.shape}; expected ({len(self.basis) if len(self.basis) > 1 else 'channels'}, "
                f"*{self.grid.shape}). Batches come from jax.vmap."
            )
        for axis, placement in enumerate(self.grid.placement):
            if placement != "left":
                u = mirrored(u, axis, self._signs(axis, u), placement)
        return u

    def restrict(self, u: Float[Array, "c *m"]) -> Float[Array, "c *n"]:
        """The part of a continued field that lies between the walls: the inverse of `extend`."""
        return u[(slice(None), *(slice(n) for n in self.grid.shape))]

    def symmetrise(self, u_hat: Complex[Array, "m *k"], *, real: bool = True) -> Complex[Array, "m *k"]:
        """The part of a field of `self.periodic` that has the symmetries, of and in Fourier coefficients.

        The coefficients are those of `Fourier`, of real fields or complex ones."""
        last = self.grid.ndim - 1
        for axis, placement in enumerate(self.grid.placement):
            if placement == "left":
                continue
            if real and axis == last:  # u_hat(.., -k) = conj(u_hat(-.., k)), and only k >= 0 is stored
                image = jnp.conj(_negated(u_hat, tuple(range(1, self.grid.ndim))))
            else:
                image = _negated(u_hat, (axis + 1,))
            if placement == "cells":
                period, count = 2 * self.grid.shape[axis], u_hat.shape[axis + 1]
                turn = np.exp(2j * np.pi * np.arange(count) / period)
                image = image * jnp.asarray(turn, u_hat.dtype).reshape(
                    [-1 if k == axis else 1 for k in range(last + 1)]
                )
            u_hat = (u_hat + self._signs(axis, u_hat) * image) / 2
        return u_hat

    def _signs(self, axis: int, u: Array) -> Array:
        # A complex component comes as two channels that continue alike, all real parts first.
        rows = self.basis[: max(1, min(len(u), len(self.basis)))]
        signs = np.array([sign_of(row[axis]) for row in rows])
        return jnp.asarray(signs, u.real.dtype).reshape(-1, *([1] * self.grid.ndim))


class Reflected(eqx.Module):
    """A stepper for a periodic box, run between walls: `restrict(step(extend(u)))`, without leaving the larger box.

    Any equation will do that keeps the symmetries: `u u_x` is odd for odd `u`, `u^3` odd for odd and even for even `u`,
    `u_xxx` neither. Rounding that breaks them is taken out at every step, or a chaotic equation would make it grow.

        walls = Reflection(Grid(257, -1.0, 1.0, "nodes"), "dirichlet")
        step = Reflected(ETDRK(Burgers(0.01), walls.periodic, 1e-3), walls)

    **Arguments:** `stepper`: on `reflection.periodic`. `reflection`: the walls.

    **Raises:** `ValueError` where the stepper is for another grid, or (on concrete values) where a step from a smooth
    state at time 0 breaks the symmetries.
    """

    stepper: ETDRK
    reflection: Reflection

    def __init__(self, stepper: ETDRK, reflection: Reflection):
        if stepper.space.grid != reflection.periodic:
            raise ValueError(
                f"`stepper` is for {stepper.space.grid}; expected the doubled box `reflection.periodic`, "
                f"{reflection.periodic}."
            )
        self.stepper, self.reflection = stepper, reflection
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(stepper)):
            return
        with jax.ensure_compile_time_eval():
            v = self.encode(self._smooth())
            change = stepper.advance(v) - v
            broken = jnp.linalg.norm(change - reflection.symmetrise(change, real=stepper.space.real))
            rounding = 100 * jnp.finfo(stepper.space.dtype).eps * jnp.linalg.norm(v)
            if broken > 1e-3 * jnp.linalg.norm(change) + rounding:
                raise ValueError(
                    f"`reflection` continues fields by {reflection.basis}, but a step of `stepper` breaks that: "
                    f"{float(broken / jnp.linalg.norm(change)):.1e} of the change is not so continued. Walls need "
                    "an equation that keeps the symmetry: try the other basis."
                )

    @property
    def dt(self) -> Float[Array, ""]:
        """The stepper's."""
        return self.stepper.dt

    def encode(self, u: Float[Array, "c *n"]) -> Complex[Array, "m *k"]:
        """The state in the stepper's coefficients, continued beyond the walls."""
        return self.stepper.encode(self.reflection.extend(u))

    def advance(self, v: Complex[Array, "m *k"], t: float | Float[Array, ""] = 0.0) -> Complex[Array, "m *k"]:
        """One step from the time `t`."""
        return self.reflection.symmetrise(self.stepper.advance(v, t), real=self.stepper.space.real)

    def decode(self, v: Complex[Array, "m *k"]) -> Float[Array, "c *n"]:
        """The state between the walls."""
        return self.reflection.restrict(self.stepper.decode(v))

    def __call__(self, u: Float[Array, "c *n"]) -> Float[Array, "c *n"]:
        """One step."""
        return self.decode(self.advance(self.encode(u)))

    def _smooth(self) -> Float[Array, "c *n"]:
        """Some state with the symmetries and, in their limits, nothing else particular about it."""
        space, grid = self.stepper.space, self.reflection.grid
        components = self.stepper.equation.channels(grid.ndim)
        channels = components if space.real else 2 * components
        rows = self.reflection.basis * (channels if len(self.reflection.basis) == 1 else 1)
        fields = []
        for channel, row in enumerate(rows):
            field = np.full((), 0.2 + 0.1 * channel)
            for x, low, length, basis in zip(grid._host_axes(), grid.lower, grid.extent, row, strict=True):
                angle = np.pi * (x - low) / length
                factor = {
                    "dirichlet": np.sin(angle) + 0.4 * np.sin(2 * angle),
                    "neumann": 1 + 0.5 * np.cos(angle) + 0.3 * np.cos(2 * angle),
                    "periodic": 1 + 0.5 * np.sin(2 * angle) + 0.3 * np.cos(4 * angle),
                }[basis]
                field = np.multiply.outer(field, factor)
            fields.append(field)
        return jnp.asarray(np.stack(fields), space.dtype)


def _negated(u_hat: Array, axes: tuple[int, ...]) -> Array:
    """The coefficients at `-k` along whole axes."""
    return jnp.roll(jnp.flip(u_hat, axes), (1,) * len(axes), axes)
