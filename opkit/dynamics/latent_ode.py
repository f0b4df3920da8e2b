"""Latent ODEs: a series, observed here and there, as the trajectory of an ODE behind it."""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from solvers import VectorField

from .integrator import Integrator
from .neural_ode import Jointly
from .penalties import Regulariser
from .regularise import Regularised
from .series import check_times, in_precision


class DiagonalGaussian(eqx.Module):
    """The normal distribution with independent entries of these means and standard deviations."""

    mean: Float[Array, "*batch latent"]
    deviation: Float[Array, "*batch latent"]

    def sample(self, *, key: PRNGKeyArray) -> Float[Array, "*batch latent"]:
        """`mean + deviation * noise`: differentiable in both."""
        return self.mean + self.deviation * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def divergence(self) -> Float[Array, "*batch"]:
        """Kullback-Leibler's, from the standard normal: `sum (mean^2 + deviation^2 - 1 - log deviation^2) / 2`."""
        return jnp.sum((self.mean**2 + self.deviation**2 - 1) / 2 - jnp.log(self.deviation), -1)


@runtime_checkable
class Encoder(Protocol):
    """What was observed of one series, to the distribution of the latent state at `ts[0]`."""

    def __call__(
        self, ts: Float[Array, " times"], values: Float[Array, "times c"], mask: Bool[Array, "times c"], /
    ) -> DiagonalGaussian:
        """Encode."""
        ...


class GRUEncoder(eqx.Module):
    """A gated recurrent unit that reads the series backwards: at each time the values, which of them were observed, and
    how long after it the next observation is. What it has come to at the first one, and how long after `ts[0]` that is,
    go through a network of one hidden layer to the mean and the logarithm of the variance.

    Times without observation are passed over: neither they nor padding change the result.

    Chen et al. (2018), Neural ordinary differential equations, arXiv:1806.07366, section 5; gaps and masks: Che et al.
    (2018), Recurrent neural networks for multivariate time series with missing values, arXiv:1606.01865.
    """

    cell: eqx.nn.GRUCell
    head: eqx.nn.MLP

    def __init__(self, channels: int, latent: int, hidden: int, *, key: PRNGKeyArray):
        cell_key, head_key = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(2 * channels + 1, hidden, key=cell_key)
        self.head = eqx.nn.MLP(hidden + 1, 2 * latent, hidden, 1, jnp.tanh, key=head_key)

    def __call__(
        self, ts: Float[Array, " times"], values: Float[Array, "times c"], mask: Bool[Array, "times c"]
    ) -> DiagonalGaussian:
        """Encode one series."""
        cell = in_precision(self.cell, values.dtype)
        advance = lambda h, later, t, inputs: cell(jnp.append(inputs, later - t), h)
        h, first = _backwards(advance, cell.hidden_size, ts, values, mask)
        return _posterior(self.head, jnp.append(h, first - ts[0].astype(values.dtype)))


class ODERNNEncoder(eqx.Module):
    """As `GRUEncoder`, but between observations the hidden state follows an ODE, backwards in time, to `ts[0]`.

    **Arguments:** `vector_field`: of the hidden state, `(hidden,)`. `integrator`: of the solves, one a gap, which
    penalties do not see: a few fixed steps will do, `Integrator(diffrax.Euler(), diffrax.ConstantStepSize(), dt0=0.1)`.
    A solve that fails gives NaN.

    Rubanova, Chen and Duvenaud (2019), Latent ODEs for irregularly-sampled time series, arXiv:1907.03907.
    """

    cell: eqx.nn.GRUCell
    vector_field: VectorField
    integrator: Integrator
    head: eqx.nn.MLP

    def __init__(
        self,
        channels: int,
        latent: int,
        hidden: int,
        vector_field: VectorField,
        integrator: Integrator,
        *,
        key: PRNGKeyArray,
    ):
        cell_key, head_key = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(2 * channels, hidden, key=cell_key)
        self.vector_field, self.integrator = vector_field, integrator
        self.head = eqx.nn.MLP(hidden, 2 * latent, hidden, 1, jnp.tanh, key=head_key)

    def __call__(
        self, ts: Float[Array, " times"], values: Float[Array, "times c"], mask: Bool[Array, "times c"]
    ) -> DiagonalGaussian:
        """Encode one series."""
        cell = in_precision(self.cell, values.dtype)
        term = diffrax.ODETerm(in_precision(self.vector_field, values.dtype))

        def back(h: Array, later: Array, t: Array) -> Array:
            out = self.integrator(term, later, t, h)
            return jnp.where(out.solved, out.ys[-1], jnp.nan)

        advance = lambda h, later, t, inputs: cell(inputs, back(h, later, t))
        h, first = _backwards(advance, cell.hidden_size, ts, values, mask)
        return _posterior(self.head, back(h, first, ts[0].astype(values.dtype)))


class LatentODE(eqx.Module):
    """A variational autoencoder of series: `z(t_0) ~ N(mean, deviation^2)` from the encoder, `dz/dt = f(t, z, args)`,
    `x(t) = decoder(z(t))`.

        posterior, out = model(ts, values, mask, query, key=key)
        loss = -jnp.mean(elbo(posterior, out.ys, targets, target_mask, deviation=0.1)) + out.penalty

    **Batches.** Values are `(*batch, times, c)` with times that all series share; those of one call are one state and
    share the solver's steps, which is much the faster on a CPU. `on_common_times` merges the times of series that
    differ. Under `jax.vmap` each series has steps of its own, and times, too (padded by their last, masked).

    **Arguments:** `encoder`: `GRUEncoder`, `ODERNNEncoder` or another `Encoder`. `vector_field`: of one latent state,
    `(latent,)`. `decoder`: `(latent,)` to `(c,)`. `integrator`.

    Rubanova, Chen and Duvenaud (2019), Latent ODEs for irregularly-sampled time series, arXiv:1907.03907.
    """

    encoder: Encoder
    vector_field: VectorField
    decoder: Callable[[Array], Array]
    integrator: Integrator

    def __call__(
        self,
        ts: Float[Array, " times"],
        values: Float[Array, "*batch times c"],
        mask: Bool[Array, "*batch times c"],
        query: Float[Array, " q"] | None = None,
        args: PyTree = None,
        *,
        regulariser: Regulariser | None = None,
        step: Any = 0,
        key: PRNGKeyArray | None = None,
    ) -> tuple[DiagonalGaussian, Regularised]:
        """Encode what was observed, draw a latent state at `ts[0]`, and predict at `query`.

        **Arguments:** `values`: where `mask` is false they are not looked at, and may be NaN. `query`: times in
        increasing order, none before `ts[0]`, by default `ts`; later ones extrapolate. `key`: for the draw, and local
        penalties; without, the latent state is the posterior's mean. `regulariser`, `step`: see `regularised_solve`.

        **Returns:** the posterior, and the solve, whose `ys` are the predictions, `(*batch, q, c)`.

        **Raises:** `ValueError` for shapes that differ, and for concrete times that are not in order.
        """
        posterior = self.encode(ts, values, mask)
        z0 = posterior.mean
        if key is not None:
            draw, key = jax.random.split(key)
            z0 = posterior.sample(key=draw)
        query = ts if query is None else query
        return posterior, self.decode(z0, ts[0], query, args, regulariser=regulariser, step=step, key=key)

    def encode(
        self,
        ts: Float[Array, " times"],
        values: Float[Array, "*batch times c"],
        mask: Bool[Array, "*batch times c"],
    ) -> DiagonalGaussian:
        """The distribution of the latent state at `ts[0]`. **Arguments:** as the call."""
        if mask.shape != values.shape or values.shape[-2:-1] != ts.shape:
            raise ValueError(
                f"`values` has shape {values.shape}, `mask` {mask.shape}, `ts` {ts.shape}; expected (*batch, times, "
                "channels) of both, and (times,). Series with times of their own: `jax.vmap`, or `on_common_times`."
            )
        check_times("ts", ts)
        encode = self.encoder
        for _ in range(values.ndim - 2):
            encode = jax.vmap(encode, (None, 0, 0))
        return encode(ts, values, mask)

    def decode(
        self,
        z0: Float[Array, "*batch latent"],
        t0: Float[Array, ""] | float,
        query: Float[Array, " q"],
        args: PyTree = None,
        *,
        regulariser: Regulariser | None = None,
        step: Any = 0,
        key: PRNGKeyArray | None = None,
    ) -> Regularised:
        """From the latent state at `t0` to the values at `query`: `ys` of what is returned, `(*batch, q, c)`, NaN where
        the solve did not come.

        Latent states drawn from the standard normal give samples of the model. **Arguments:** as the call.
        """
        check_times("query", query, after=t0)
        field, decoder = in_precision((self.vector_field, self.decoder), z0.dtype)
        for _ in range(z0.ndim - 1):
            field, decoder = Jointly(field), jax.vmap(decoder)
        times = query.astype(z0.dtype)
        out = self.integrator(
            diffrax.ODETerm(field), t0, times[-1], z0, args,
            saveat=diffrax.SaveAt(ts=times), regulariser=regulariser, step=step, key=key,
        )  # fmt: skip
        reached = jnp.isfinite(out.ys).all(-1, keepdims=True)
        decoded = jnp.where(reached, jax.vmap(decoder)(out.ys), jnp.nan)
        return eqx.tree_at(lambda o: o.solution.ys, out, jnp.moveaxis(decoded, 0, -2))


def elbo(
    posterior: DiagonalGaussian,
    predicted: Float[Array, "*batch times c"],
    targets: Float[Array, "*batch times c"],
    mask: Bool[Array, "*batch times c"],
    *,
    deviation: float | Float[Array, ""],
    kl_weight: Any = 1.0,
) -> Float[Array, "*batch"]:
    """The evidence lower bound of each series, from one draw of its latent state:

        sum over mask of log N(targets; predicted, deviation^2) - kl_weight KL(posterior, N(0, 1))

    With `kl_weight=1` its mean over draws is at most the log-likelihood. **Arguments:** `deviation`: of the noise.
    `kl_weight`: below one at first, so that the encoder learns before the prior forgets what it says.
    """
    deviation = jnp.asarray(deviation, predicted.dtype)
    miss = jnp.where(mask, targets - predicted, 0) / deviation
    normaliser = jnp.log(deviation) + jnp.asarray(math.log(2 * math.pi) / 2, predicted.dtype)
    log_likelihood = -jnp.sum(miss**2 / 2 + jnp.where(mask, normaliser, 0), (-2, -1))
    return log_likelihood - jnp.asarray(kl_weight, predicted.dtype) * posterior.divergence()


def _backwards(advance: Callable, hidden: int, ts: Array, values: Array, mask: Array) -> tuple[Array, Array]:
    """The recurrent state at the first time observed, coming from the last, and that time; `ts[0]` if there is none."""
    ts, seen = ts.astype(values.dtype), mask.any(-1)
    inputs = jnp.concatenate([jnp.where(mask, values, 0), mask.astype(values.dtype)], -1)

    def visit(carry: tuple[Array, Array], row: tuple) -> tuple[tuple[Array, Array], None]:
        (h, later), (t, inputs, seen) = carry, row
        t = jnp.where(seen, t, later)  # a time passed over is no gap
        return (jnp.where(seen, advance(h, later, t, inputs), h), t), None

    last = jnp.max(jnp.where(seen, ts, ts[0]))
    start = jnp.zeros(hidden, values.dtype), last
    return jax.lax.scan(visit, start, (ts, inputs, seen), reverse=True)[0]


def _posterior(head: eqx.nn.MLP, h: Array) -> DiagonalGaussian:
    mean, log_variance = jnp.split(in_precision(head, h.dtype)(h), 2)
    return DiagonalGaussian(mean, jnp.exp(log_variance / 2))
