"""Forces on a flow: a field, a function of time and place, or Kolmogorov's sine."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial, all_leaves
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float

from ..fourier import Fourier
from .coefficients import as_array, check, check_field


class KolmogorovForcing(eqx.Module):
    """A force `A sin(kappa y)` along x, `kappa = 2 pi mode / L_y`: in vorticity `-A kappa cos(kappa y)`.

    On a box of `2 pi` with `lower = 0` that is `A sin(mode y)`. It costs no transform.

    **Arguments:** `amplitude`: `A`, of the acceleration. `mode`: periods along y.

    **Raises:** `ValueError` for a mode below 1, or when traced one that the space does not keep.
    """

    amplitude: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    mode: int = eqx.field(static=True, default=4)

    def __check_init__(self):
        check(self, "amplitude")
        if self.mode < 1:
            raise ValueError(f"`mode` is {self.mode}; expected at least 1.")

    def vorticity(self, space: Fourier) -> Complex[Array, "1 *k"]:
        """The coefficients of the curl in two dimensions."""
        if self.mode > space.kept[1]:
            raise ValueError(
                f"`mode` of the forcing is {self.mode}; the grid {space.grid.whole.shape} keeps wavenumbers up to "
                f"{space.kept[1]} along y: use more points."
            )
        grid = space.grid.whole
        kappa = 2 * np.pi * self.mode / grid.extent[1]
        value = complex(-kappa / 2 * np.prod(grid.shape) * np.exp(1j * kappa * grid.lower[1]))
        unit = jnp.asarray(space.is_wavenumber(0, self.mode)[None], np.result_type(space.dtype, np.complex64))
        return self.amplitude.astype(unit.dtype) * (value * unit)


Forcing = KolmogorovForcing | Float[Array, "c *n"] | Callable[[Float[Array, ""], Float[Array, "d *n"]], Array]


def as_forcing(value: KolmogorovForcing | ArrayLike | Callable | None) -> Forcing | None:
    """A forcing as a PyTree of floating-point arrays: a plain function is wrapped, lest it be a leaf."""
    if value is None or isinstance(value, KolmogorovForcing):
        return value
    if not callable(value):
        return as_array(value)
    return Partial(value) if all_leaves([value]) else value


def force(
    forcing: Float[Array, "c *n"] | Callable, space: Fourier, t: Float[Array, ""], channels: int
) -> Complex[Array, "c *k"]:
    """The coefficients of a force given as a field `(channels, *n)`, or as a function `forcing(t, x)` to such fields
    from the time and the coordinates `(d, *n)`."""
    values = forcing(t, space.grid.coordinates(space.dtype)) if callable(forcing) else forcing
    check_field("forcing", values, (channels, *space.grid.shape))
    return space.forward(values.astype(space.dtype))
