"""Gaussian features whose places and widths are trained: a mesh that moves to where it is needed."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from opkit.layers import check_sizes, initial

from .arguments import check_point, per_axis
from .dense import Dense


class GaussianFeatures(eqx.Module):
    """`f_k(x) = sum_i W_ki exp(-sum_j (x_j - m_ij)^2 / (2 s_ij^2))`, with `W`, centres `m` and widths `s` trained.

    A field itself, or features for a small MLP, as the authors have it:
    `Chain(GaussianFeatures(2, 4, gaussians=200, key=k), MLP(4, 1, width=16, depth=1, key=l))`. The logarithms of the
    widths are trained, so that they stay positive. The centres start uniform on `[-1, 1]^d` (see `Rescale`).

    **Arguments:** `gaussians`: their number. `width`: the widths at the start, one for all axes or one each.

    **Call:** `x: (in_size,)`, one point; returns `(out_size,)`. **Raises:** `ValueError` for a size below one, a
    `width` that is not positive, or `x` of another shape.

    Kang, Oh, Hong and Park (2024), PIG: physics-informed Gaussians as adaptive parametric mesh representations,
    arXiv:2412.05994.
    """

    centres: Float[Array, "gaussians d"]
    log_widths: Float[Array, "gaussians d"]
    readout: Dense

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        gaussians: int,
        width: float | Sequence[float] = 0.1,
        key: PRNGKeyArray,
    ):
        check_sizes(in_size=in_size, out_size=out_size, gaussians=gaussians)
        widths = jnp.array(per_axis("width", width, in_size))
        self.centres = initial.uniform(jax.random.fold_in(key, 0), (gaussians, in_size), 1.0)
        self.log_widths = jnp.tile(jnp.log(widths), (gaussians, 1))
        self.readout = Dense(gaussians, out_size, use_bias=False, key=jax.random.fold_in(key, 1))

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        """Evaluate at one point."""
        return self.readout(self.features(x))

    def features(self, x: Float[Array, " d"]) -> Float[Array, " gaussians"]:
        """Every Gaussian at one point."""
        centres, log_widths = self.centres.astype(x.dtype), self.log_widths.astype(x.dtype)
        check_point(x, centres.shape[1])
        z = (x - centres) * jnp.exp(-log_widths)
        return jnp.exp(-jnp.sum(z * z, 1) / 2)
