"""Branch and trunk: a function as the coefficients of learned basis functions."""

from collections.abc import Callable
from math import prod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.layers import BranchTrunkField, check_sizes
from solvers import Domain, Field, Grid, Points, as_module, as_points

from .inputs import check_conditioning, check_values, checked_args


class DeepONet(eqx.Module):
    """`G(u)(x) = sum_k b_k(u) t_k(x) + bias`, the `b_k` from a branch network and the `t_k` from a trunk, any modules.

    With `taps` layers of both shown, `G(u)(x) = 1/taps sum_l w_l sum_k b_lk(u) t_lk(x) + bias` (MultiONet), `w_l` from
    one.

    **Branch.** With `sensors`, it maps the values there, `(in_channels * points,)` channel by channel, then `args`, to
    features; the input must come on these sensors. With `sensors=None` it is an operator, and the features are the
    means over the domain of its output channels, by quadrature: it takes the domains that this operator takes, and the
    claim about them is its own too. **Trunk.** A field: `x: (d,)`, in the domain's coordinates (see
    `opkit.fields.Rescale`). Both return `(features,)`, or `(taps, features)`.

    **Several output channels** share features or have their own, channel by channel, as the numbers tell: as many from
    both (each split), `out_channels` times as many from the branch (one basis for all), or from the trunk (one set of
    coefficients, as of `pod`).

    The output is a function: any `query` is answered, and answers at the same point agree.

    **Arguments:** `in_channels`, `out_channels`. `sensors`: the `Grid` of the input, the number of points of a cloud
    that is always the same, or `None`. `taps`. `mean`: a fixed field to add, as of `pod`. `conditioning`: the length of
    `args`.

    **Call:** as for any operator, `query` a `Grid` or `Points`; `encode(u, domain, args=...)` is the field itself.
    `key` is not used. **Raises:** `ValueError` for other sensors, or numbers of features that do not fit.

    Lu et al. (2021), Learning nonlinear operators via DeepONet, arXiv:1910.03193; vector outputs and POD: Lu et al.
    (2022), A comprehensive and fair comparison of two neural operators, arXiv:2111.05512; taps: MultiONet in Zang and
    Koutsourelakis (2025), DGenNO, arXiv:2502.06250.
    """

    branch: Callable[..., Array]
    trunk: Callable[[Array], Array]
    mean: Field | None
    tap_weights: Float[Array, " taps"]
    bias: Float[Array, " c"]
    in_channels: int = eqx.field(static=True)
    sensors: Grid | int | None = eqx.field(static=True)
    conditioning: int = eqx.field(static=True)

    def __init__(
        self,
        branch: Callable[..., Array],
        trunk: Callable[[Array], Array],
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        sensors: Grid | int | None,
        taps: int = 1,
        mean: Field | None = None,
        conditioning: int = 0,
    ):
        check_sizes(in_channels=in_channels, out_channels=out_channels, taps=taps)
        check_conditioning(conditioning)
        self.branch, self.trunk, self.mean = as_module(branch), as_module(trunk), mean
        self.tap_weights, self.bias = jnp.ones(taps), jnp.zeros(out_channels)
        self.in_channels, self.sensors, self.conditioning = in_channels, sensors, conditioning

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
        return self.evaluate(self.coefficients(u, domain, args=args), domain if query is None else query)

    def encode(self, u: Float[Array, "cin *n"], domain: Domain, *, args: PyTree = None) -> BranchTrunkField:
        """The output as a field."""
        return self.decode(self.coefficients(u, domain, args=args))

    def coefficients(
        self, u: Float[Array, "cin *n"], domain: Domain, *, args: PyTree = None
    ) -> Float[Array, "taps features"]:
        """The branch's features. The output is affine in them."""
        args = checked_args(args, self.conditioning)
        check_values(u, domain, self.in_channels)
        if self.sensors is None:
            v = self.branch(u, domain, args=args)
            features = v.reshape(len(v), -1) @ mean_weights(domain, v)
        else:
            check_sensors(self.sensors, domain)
            values = u.reshape(-1)
            features = self.branch(values if args is None else jnp.concatenate([values, args.astype(u.dtype)]))
        if features.size % self.tap_weights.size:
            raise ValueError(
                f"`branch` gives {features.shape}; expected (taps, features), {self.tap_weights.size} taps."
            )
        return features.astype(u.dtype).reshape(self.tap_weights.size, -1)

    def decode(self, coefficients: Float[Array, "taps features"]) -> BranchTrunkField:
        """The field with these coefficients."""
        scale = self.tap_weights.astype(coefficients.dtype) / self.tap_weights.size
        return BranchTrunkField(self.trunk, scale[:, None] * coefficients, self.bias, self.mean)

    def evaluate(self, coefficients: Float[Array, "taps features"], query: Domain) -> Float[Array, "cout *m"]:
        """That field on the points of `query`."""
        points = as_points(query).coordinates.astype(coefficients.dtype)
        return jax.vmap(self.decode(coefficients), out_axes=1)(points).reshape(-1, *query.shape)


def mean_weights(domain: Domain, like: Array) -> Float[Array, " n"]:
    """Weights of the mean over a domain, in the dtype of `like`: quadrature, or equal ones for points without any."""
    points = as_points(domain)
    weights = jnp.ones(points.shape) if points.weights is None else points.weights
    if points.mask is not None:
        weights = jnp.where(points.mask, weights, 0)
    return (weights / jnp.sum(weights)).astype(like.dtype)


def check_sensors(sensors: Grid | int, domain: Domain) -> None:
    """Whether the input lives where the branch was built to see it; on a cloud, as many points."""
    same = domain == sensors if isinstance(sensors, Grid) else isinstance(domain, Points) and domain.shape == (sensors,)
    if not same:
        count = sensors if isinstance(sensors, int) else prod(sensors.shape)
        place = "a cloud" if isinstance(sensors, int) else sensors
        raise ValueError(
            f"`domain` has {prod(domain.shape)} points ({domain}); the branch was built for {count} sensors ({place}). "
            "Interpolate `u` to them, or give an operator as branch with `sensors=None`."
        )
