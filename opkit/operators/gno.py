"""Graph neural operators: networks of integral operators on any points."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.layers import ChannelMLP, Pointwise, check_sizes
from solvers import Domain, Period

from .inputs import check_conditioning, checked_args
from .point_inputs import on_points, point_coordinates, point_features, point_values


class GNO(eqx.Module):
    """The graph neural operator: `v_0 = P (a, x)`, `v <- act(W v + K v + b)` so many times, and `Q v`.

    `K` is an integral operator with a learned kernel and the input function `a` among its arguments, the same in every
    step, as is `W`. What makes it decides the family:

        GNO(1, 1, ndim=2, width=32, integral=partial(KernelIntegral, neighbourhood=Ball(0.1, 64)), key=key)
        GNO(..., integral=partial(LowRankIntegral, rank=16), key=key)
        GNO(..., integral=partial(MultilevelIntegral, neighbourhoods=(Ball(0.1, 64), Ball(0.3, 64))), key=key)

    On `Points` and on a `Grid`, whose points it takes. As the points are refined its answers converge at the order of
    the integral's quadrature; on new clouds they change by no more than its error. A cloud whose points are not evenly
    distributed needs `weights` (see `solvers.voronoi_weights`).

    **Arguments:**

    - `ndim`: of the coordinates. `width`: channels of `v`. `depth`: how often the layer is applied.
    - `integral`: makes `K`, called as `integral(width, ndim=..., attributes=..., key=...)`: `KernelIntegral`,
      `LowRankIntegral`, `MultilevelIntegral` or one's own with their `on`.
    - `conditioning`: the length of `args`, which the lift and the kernel get beside `a`.
    - `period`: per axis its length or `None`, for interpolation to a `query`; the integral has its own.

    **Call:** `u: (in_channels, *domain.shape)`. `query`: any `Grid` or `Points`; what is not `domain` is interpolated
    to, at second order. `key` is handed on to the integral. Returns `(out_channels, *query.shape)`. Values at masked
    points are to be ignored.

    **Raises:** `ValueError` when built or traced with what contradicts the above.

    Li et al. (2020), Neural operator: graph kernel network for partial differential equations, arXiv:2003.03485;
    Multipole graph neural operator for parametric partial differential equations, arXiv:2006.09535.
    """

    lift: Pointwise
    integral: Any
    skip: Pointwise
    project: ChannelMLP
    in_channels: int = eqx.field(static=True)
    ndim: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    conditioning: int = eqx.field(static=True)
    period: tuple[float | None, ...] | None = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        ndim: int,
        width: int,
        integral: Callable[..., Any],
        depth: int = 4,
        conditioning: int = 0,
        period: Period | None = None,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        check_sizes(in_channels=in_channels, out_channels=out_channels, ndim=ndim, width=width, depth=depth)
        check_conditioning(conditioning)
        keys = [jax.random.fold_in(key, i) for i in range(4)]
        attributes = in_channels + conditioning
        self.lift = Pointwise(attributes + ndim, width, key=keys[0])
        self.integral = integral(width, ndim=ndim, attributes=attributes, key=keys[1])
        self.skip = Pointwise(width, width, key=keys[2])
        self.project = ChannelMLP(width, 2 * width, out_channels, activation=activation, key=keys[3])
        self.in_channels, self.ndim, self.depth, self.conditioning = in_channels, ndim, depth, conditioning
        self.period, self.activation = None if period is None else tuple(period), activation

    def __call__(
        self,
        u: Float[Array, "cin *n"],
        domain: Domain,
        query: Domain | None = None,
        *,
        args: PyTree = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "cout *m"]:
        """Apply to one sample."""
        values = point_values(u, domain, in_channels=self.in_channels, ndim=self.ndim)
        a = point_features(values, args=checked_args(args, self.conditioning))
        integrate = self.integral.on(domain, a, key=key)
        v = self.lift.channels_last(jnp.concatenate([a, point_coordinates(domain, a.dtype)], -1))
        for step in range(self.depth):
            v = self.skip.channels_last(v) + integrate(v)
            v = self.activation(v) if step + 1 < self.depth else v
        return on_points(self.project.channels_last(v), domain, query, self.period)
