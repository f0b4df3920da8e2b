"""Velocities without divergence, from a stream function or a vector potential."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from solvers import Field, as_module

from .derivatives import derivatives


class DivergenceFree(eqx.Module):
    """A field whose first components, a velocity, have no divergence: exactly, whatever the potential is.

    Along two axes the potential's first component is a stream function `psi`, along three its first three are a vector
    potential `A`:

        (d_1 psi, -d_0 psi)        curl A

    Further components, such as the pressure, are passed through. With time before space, name the axes of space:

        flow = DivergenceFree(MLP(3, 2, width=32, depth=3, key=key), axes=(1, 2))    # (t, x, y) -> (u, v, p)

    **Arguments:** `potential`: a field, of one component or three at least. `axes`: two or three; by default all.

    **Raises:** `ValueError`, when called, for another number of axes or fewer components than the potential has.
    """

    potential: Field
    axes: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(self, potential: Field, axes: Sequence[int] | None = None):
        self.potential, self.axes = as_module(potential), None if axes is None else tuple(axes)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        """The velocity, and the further components, at one point."""
        axes = tuple(range(x.size)) if self.axes is None else self.axes
        if len(axes) not in (2, 3):
            raise ValueError(f"`axes` are {axes}; expected the two or three of space.")
        value, *slopes = derivatives(self.potential, x, (), *axes)
        if len(axes) == 2:
            along, across = slopes
            return jnp.concatenate([across[:1], -along[:1], value[1:]])
        if value.size < 3:
            raise ValueError(f"`potential` has {value.size} components; expected a vector potential, 3 or more.")
        d0, d1, d2 = slopes
        curl = jnp.stack([d1[2] - d2[1], d2[0] - d0[2], d0[1] - d1[0]])
        return jnp.concatenate([curl, value[3:]])
