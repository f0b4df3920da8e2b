"""Maps of a point into features: to the reference cube, and into waves."""

from collections.abc import Sequence
from math import pi

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from opkit.layers import check_sizes, initial
from solvers import Frozen

from .arguments import check_point, per_axis


class Rescale(eqx.Module):
    """`(2 x - lower - upper) / (upper - lower)`: the affine map of a box to `[-1, 1]^d`.

    **Arguments:** `lower`, `upper`: one bound an axis. **Raises:** `ValueError` for bounds out of order, or `x` of
    another shape.
    """

    centre: Frozen[Float[Array, " d"]]
    half_width: Frozen[Float[Array, " d"]]

    def __init__(self, lower: Sequence[float], upper: Sequence[float]):
        if len(lower) != len(upper) or not all(low < high for low, high in zip(lower, upper, strict=True)):
            raise ValueError(
                f"`lower` is {tuple(lower)}, `upper` {tuple(upper)}; expected one of each an axis, lower below upper."
            )
        bounds = tuple(zip(lower, upper, strict=True))
        self.centre = Frozen(jnp.array([(low + high) / 2 for low, high in bounds]))
        self.half_width = Frozen(jnp.array([(high - low) / 2 for low, high in bounds]))

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """Map one point."""
        centre, half_width = (table.value.astype(x.dtype) for table in (self.centre, self.half_width))
        check_point(x, centre.size)
        return (x - centre) / half_width


class FourierFeatures(eqx.Module):
    """`(cos(B x), sin(B x))` with angular frequencies `B: (waves, in_size)`, drawn once and not trained.

    `B` is normal with the deviation `scale`, in radians per unit of `x` (there is no further `2 pi`). `size` is
    `2 waves`.

    **Arguments:** `waves`: rows of `B`. `scale`: one for all axes or one each; about the largest frequency the
    solution has.

    **Raises:** `ValueError` for a size below one, a `scale` that is not positive, or `x` of another shape.

    Tancik et al. (2020), Fourier features let networks learn high frequency functions in low dimensional domains,
    arXiv:2006.10739.
    """

    frequencies: Frozen[Float[Array, "waves d"]]
    size: int = eqx.field(static=True)

    def __init__(self, in_size: int, waves: int, *, scale: float | Sequence[float] = 1.0, key: PRNGKeyArray):
        check_sizes(in_size=in_size, waves=waves)
        scales = jnp.array(per_axis("scale", scale, in_size))
        self.frequencies = Frozen(scales * initial.normal(key, (waves, in_size), 1.0))
        self.size = 2 * waves

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " size"]:
        """Embed one point."""
        frequencies = self.frequencies.value.astype(x.dtype)
        check_point(x, frequencies.shape[1])
        angles = frequencies @ x
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


class PeriodicEmbedding(eqx.Module):
    """`cos(2 pi k x_i / P_i)` and `sin(2 pi k x_i / P_i)`, `k = 1..harmonics`; `x_i` itself on axes without a period.

    Whatever follows is periodic in those axes with all its derivatives, exactly. The features are first the plain axes,
    then all cosines, then all sines, axis by axis; `size` is their number.

    **Arguments:** `periods`: one an axis, `None` for none: `(None, 2.0)` for `(t, x)` with `x` on `[-1, 1]`.

    **Raises:** `ValueError` for a period that is not positive, no harmonics, or `x` of another shape.

    Dong and Ni (2021), A method for representing periodic functions and enforcing exactly periodic boundary conditions
    with deep neural networks, arXiv:2007.07442.
    """

    frequencies: Frozen[Float[Array, "waves d"]]
    plain: tuple[int, ...] = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __init__(self, periods: Sequence[float | None], *, harmonics: int = 1):
        check_sizes(harmonics=harmonics)
        for axis, period in enumerate(periods):
            if period is not None and not period > 0:
                raise ValueError(
                    f"`periods` has {period} on axis {axis}; expected a positive length, or None for an axis that is "
                    "not periodic."
                )
        d = len(periods)
        rows = [
            [2 * pi * k / period if i == axis else 0.0 for i in range(d)]
            for axis, period in enumerate(periods)
            if period is not None
            for k in range(1, harmonics + 1)
        ]
        self.frequencies = Frozen(jnp.array(rows).reshape(len(rows), d))
        self.plain = tuple(axis for axis, period in enumerate(periods) if period is None)
        self.size = len(self.plain) + 2 * len(rows)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " size"]:
        """Embed one point."""
        frequencies = self.frequencies.value.astype(x.dtype)
        check_point(x, frequencies.shape[1])
        angles = frequencies @ x
        return jnp.concatenate([*(x[i : i + 1] for i in self.plain), jnp.cos(angles), jnp.sin(angles)])
