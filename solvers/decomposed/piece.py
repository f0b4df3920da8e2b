"""The piece of a grid that one of several devices has."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from ..grid import Grid, Placement

AxisNames = Sequence[str | None]
"""For each axis of a grid the axis of the mesh that cuts it, or `None` where every device has the whole axis."""


class Piece(eqx.Module):
    """The block of a grid that this device has, inside `jax.shard_map`: a domain, for fields too large for one device.

    The points of an axis with a name are cut in equal blocks over the mesh axis of that name. What takes a `Piece` in
    place of a `Grid` computes on blocks of fields, and exchanges what it needs of the others; the numbers are those of
    the whole grid on one device, to rounding. These are `Fourier`, `ETDRK`, `vector_field` and `finite_difference`,
    and the operators that say so.

        mesh = jax.sharding.Mesh(jax.devices(), ("x",))
        grid = Grid((1024, 1024), 0.0, 2 * pi)

        def run(w):
            step = ETDRK(NavierStokes2D(1e-3), Piece(grid, ("x", None)), 1e-3)
            return repeat(step, 100)(w)

        cut = jax.P(None, "x", None)  # the channels whole
        w = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=cut, out_specs=cut))(w)

    Build what depends on the piece inside, as here: its tables are then in pieces too. What is summed over the points
    of a piece is this device's share, to be summed by `lax.psum`; a `Rollout.blow_up` too is each device's own. The
    gradient in what every device has (weights, coefficients) is the sum over devices where `jax.grad` is outside the
    `shard_map`, and inside it under JAX's `check_vma`; without, sum it.

    **Arguments:** `whole`: the grid. `axis_names`: for each of its axes the mesh axis that cuts it, or `None`. For
    transforms the last axis is whole: one name makes slabs, two in 3-D pencils.

    **Raises:** `ValueError` for another number of names than axes, a name twice or of no mesh axis here, points that
    the devices do not divide.
    """

    whole: Grid = eqx.field(static=True)
    axis_names: tuple[str | None, ...] = eqx.field(static=True)

    def __init__(self, whole: Grid, axis_names: AxisNames):
        self.whole, self.axis_names = whole, checked_names(axis_names, whole.ndim)
        for axis, (n, name) in enumerate(zip(whole.shape, self.axis_names, strict=True)):
            if n % axis_size(name):
                raise ValueError(
                    f"`whole` has {n} points on axis {axis}, which {axis_size(name)} devices of the mesh axis {name!r} "
                    "do not divide: take a multiple, or cut another axis."
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """The points per axis that this device has."""
        return tuple(n // axis_size(name) for n, name in zip(self.whole.shape, self.axis_names, strict=True))

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.whole.ndim

    @property
    def placement(self) -> tuple[Placement, ...]:
        """Of the points in the whole grid."""
        return self.whole.placement

    @property
    def spacing(self) -> tuple[float, ...]:
        """As `Grid.spacing`."""
        return self.whole.spacing

    def axes(self, dtype: DTypeLike | None = None) -> tuple[Float[Array, " _"], ...]:
        """As `Grid.axes`, of this device's points."""
        return tuple(own_block(x, 0, name) for x, name in zip(self.whole.axes(dtype), self.axis_names, strict=True))

    def coordinates(self, dtype: DTypeLike | None = None) -> Float[Array, "d *n"]:
        """As `Grid.coordinates`, of this device's points."""
        return jnp.stack(jnp.meshgrid(*self.axes(dtype), indexing="ij"))


def whole_shape(shape: Sequence[int], axis_names: AxisNames) -> tuple[int, ...]:
    """The points of the whole grid, from those of a piece."""
    return tuple(n * axis_size(name) for n, name in zip(shape, checked_names(axis_names, len(shape)), strict=True))


def own_block(values: Shaped[Array, "..."], axis: int, name: str | None) -> Shaped[Array, "..."]:
    """This device's block of an array cut along `axis` over a mesh axis, with zeros at the end where it does not
    divide evenly; all of it for the name `None`."""
    if name is None:
        return values
    values = padded_to_multiple(values, axis, axis_size(name))
    size = values.shape[axis] // axis_size(name)
    return lax.dynamic_slice_in_dim(values, lax.axis_index(name) * size, size, axis)


def padded_to_multiple(values: Array, axis: int, size: int) -> Array:
    """The array with zeros after its end along `axis`, to a multiple of `size`."""
    missing = -values.shape[axis] % size
    return jnp.pad(values, [(0, missing if k == axis else 0) for k in range(values.ndim)]) if missing else values


def checked_names(axis_names: AxisNames, ndim: int) -> tuple[str | None, ...]:
    """The names, one for each of `ndim` axes, each at most once."""
    names = tuple(axis_names)
    given = [name for name in names if name is not None]
    if isinstance(axis_names, str) or len(names) != ndim or len(set(given)) < len(given):
        raise ValueError(
            f"`axis_names` is {axis_names!r} for {ndim} axes; expected for each the name of a mesh axis, none of them "
            "twice, or None for an axis that is whole, as in ('x', None)."
        )
    return names


def axis_size(name: str | None) -> int:
    """How many devices cut an axis."""
    try:
        return 1 if name is None else lax.axis_size(name)
    except NameError as error:
        raise ValueError(
            f"`axis_names` has {name!r}, which is no axis of a mesh here; expected one of the mesh of the "
            "jax.shard_map that this is called in."
        ) from error
