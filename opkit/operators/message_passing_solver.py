"""The message-passing solver: several time steps at once from the last ones, on any points."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.layers import MessagePassing, Neighbourhood, Pointwise, PointwiseMLP, check_sizes
from solvers import Domain

from .inputs import check_conditioning, checked_args
from .point_inputs import on_points, point_features, point_values


class BundleDecoder(eqx.Module):
    """Features `(n, width)` to `bundle` frames `(n, bundle, channels)`: two convolutions along the features.

    The features are read as a signal of length `width`. The first convolution, to 8 channels and with a stride, brings
    it to `3 bundle / 2` (rounded down) points, the second to `bundle`: neighbouring frames share weights.
    """

    first: Pointwise
    second: Pointwise
    windows: tuple[int, int, int, int] = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self, width: int, bundle: int, channels: int, *, activation: Callable[[Array], Array], key: PRNGKeyArray
    ):
        middle = 3 * bundle // 2
        if width < middle:
            raise ValueError(f"`width` is {width}; a bundle of {bundle} frames needs at least {middle}.")
        stride = width // middle
        kernel = width - stride * (middle - 1)
        self.windows = (middle, stride, bundle, middle - bundle + 1)
        self.first = Pointwise(kernel, 8, key=jax.random.fold_in(key, 0))
        self.second = Pointwise(8 * self.windows[3], channels, key=jax.random.fold_in(key, 1))
        self.activation = activation

    def channels_last(self, f: Float[Array, "n c"]) -> Float[Array, "n bundle cout"]:
        """Apply to the features of one sample."""
        middle, stride, bundle, length = self.windows
        kernel = self.first.weight.shape[1]
        h = f[:, stride * np.arange(middle)[:, None] + np.arange(kernel)]
        h = self.activation(self.first.channels_last(h))
        h = h[:, np.arange(bundle)[:, None] + np.arange(length)]
        return self.second.channels_last(h.reshape(*h.shape[:2], -1))


class MessagePassingSolver(eqx.Module):
    """From the last `frames` states to the next `bundle`: `u_{t+k} = u_t + k dt d_k`, `k = 1 ... bundle`.

    An encoder of each point's frames, `depth` rounds of messages between neighbours (see `MessagePassing`), and a
    decoder of the increments `d_k`. Coordinates enter by differences alone: translations of the points do not change
    the answer, renumberings renumber it. On `Points` and on a `Grid`. With `Nearest` neighbours it is a stencil at one
    resolution and claims no consistency. With a `Ball` its means are integrals: on grids the answers converge at first
    order, with the smooth window at second.

    **Arguments:**

    - `channels`: of a state. `frames`: states in; `bundle`: states out; both follow one another along the channels,
      the earliest first. `dt`: the time between states.
    - `ndim`, `neighbourhood` (with its `period`). `width`, `depth`: of the features and rounds.
    - `conditioning`: the length of `args`, the parameters of the equation (and the time, where it matters), which the
      encoder and every message get.

    **Call:** `u: (frames channels, *domain.shape)`; returns `(bundle channels, *query.shape)`. `query`: any `Grid` or
    `Points`, interpolated to at second order. `key` is not used.

    **Raises:** `ValueError` when built or traced with what contradicts the above; a `width` too small for the bundle.

    Brandstetter, Worrall and Welling (2022), Message passing neural PDE solvers, arXiv:2202.03376, section 3.2. Its
    instance normalisation and the absolute position are left out.
    """

    encoder: PointwiseMLP
    rounds: tuple[MessagePassing, ...]
    decoder: BundleDecoder
    neighbourhood: Neighbourhood
    channels: int = eqx.field(static=True)
    frames: int = eqx.field(static=True)
    ndim: int = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    conditioning: int = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        frames: int,
        bundle: int,
        dt: float,
        ndim: int,
        neighbourhood: Neighbourhood,
        width: int = 128,
        depth: int = 6,
        conditioning: int = 0,
        activation: Callable[[Array], Array] = jax.nn.silu,
        key: PRNGKeyArray,
    ):
        check_sizes(channels=channels, frames=frames, bundle=bundle, ndim=ndim, width=width, depth=depth)
        check_conditioning(conditioning)
        if not dt > 0:
            raise ValueError(f"`dt` is {dt}; expected the positive time between two states.")
        keys = [jax.random.fold_in(key, i) for i in range(depth + 2)]
        inputs = frames * channels
        self.encoder = PointwiseMLP((inputs + conditioning, width, width), activation=activation, key=keys[0])
        self.rounds = tuple(
            MessagePassing(
                width, ndim=ndim, values=inputs, parameters=conditioning, activation=activation, key=keys[2 + i]
            )
            for i in range(depth)
        )
        self.decoder = BundleDecoder(width, bundle, channels, activation=activation, key=keys[1])
        self.neighbourhood, self.channels, self.frames, self.ndim = neighbourhood, channels, frames, ndim
        self.dt, self.conditioning = float(dt), conditioning

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
        values = point_values(u, domain, in_channels=self.frames * self.channels, ndim=self.ndim)
        args = checked_args(args, self.conditioning)
        f = point_features(values, args=args)
        edges = self.neighbourhood(domain, dtype=values.dtype)
        f = self.encoder.channels_last(f)
        for messages in self.rounds:
            f = messages.channels_last(f, values, edges, args)
        increments = self.decoder.channels_last(f)
        steps = self.dt * jnp.arange(1, increments.shape[1] + 1, dtype=f.dtype)
        future = values[:, None, -self.channels :] + steps[:, None] * increments
        return on_points(future.reshape(len(f), -1), domain, query, self.neighbourhood.period)
