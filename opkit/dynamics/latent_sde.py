"""Latent stochastic differential equations: inference of a path by the divergence between two drifts."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers import VectorField

from .integrator import Integrator
from .neural_sde import NeuralSDE, Time
from .penalties import Regulariser
from .regularise import Regularised

Encoder = Callable[..., tuple[Float[Array, " d"], Float[Array, " d"], PyTree]]


class LatentPath(eqx.Module):
    """A path drawn from the posterior, what it decodes to, and what it costs.

    `zs`: the path at the observed times. `xs`: decoded. `initial_kl`: `KL(q(z_0) || p(z_0))`. `path_kl`: one sample of
    `KL` of the paths from there. `solve`: as `regularised_solve`; its `penalty` is to be added to the loss.
    """

    zs: Float[Array, "t d"]
    xs: PyTree
    initial_kl: Float[Array, ""]
    path_kl: Float[Array, ""]
    solve: Regularised


class LatentSDE(eqx.Module):
    """Series as functions of a path that follows a stochastic differential equation.

        prior      dz = h(t, z) dt + g(t, z) dW,      z_0 ~ N(m, s^2)
        posterior  dz = f(t, z, c) dt + g(t, z) dW,   z_0 ~ N(m_q, s_q^2),   (m_q, log s_q, c) = encoder(ts, xs)

    Both have the same diffusion, diagonal, so that the paths' laws have a density (Girsanov), and

        KL(posterior || prior) = KL(N(m_q, s_q^2) || N(m, s^2)) + E int |u|^2 / 2 dt,    u = (f - h) / g.

    The integral is solved for beside the path, as an entry of the state without noise (and so is part of the error that
    steers the steps). The evidence is bounded by `log p(x) >= E [log p(x | z)] - KL`: a loss is the negative
    log-likelihood of `xs` under the decoded path, plus `initial_kl` and `path_kl`, plus `solve.penalty`.

    **Arguments:** `encoder(ts, xs)`: the posterior's start and any PyTree of context. `posterior(t, z, context)`,
    `prior(t, z, None)`: drifts. `diffusion(t, z, None)`: `(d,)`, nowhere zero. `decoder(z)`: of one time.
    `integrator`: see `NeuralSDE`; the drifts are those of the sense in which it solves, and the divergence is the same
    in both. `initial_mean`, `initial_log_deviation`: `m`, `log s`, trained.

    Li, Wong, Chen and Duvenaud (2020), Scalable gradients for stochastic differential equations, arXiv:2001.01328,
    section 5.
    """

    encoder: Encoder
    posterior: VectorField
    prior: VectorField
    diffusion: VectorField
    decoder: Callable[[Array], PyTree]
    integrator: Integrator
    initial_mean: Float[Array, " d"]
    initial_log_deviation: Float[Array, " d"]

    def __call__(
        self,
        ts: Float[Array, " t"],
        xs: PyTree,
        *,
        key: PRNGKeyArray,
        regulariser: Regulariser | None = None,
        step: Any = 0,
    ) -> LatentPath:
        """One path of the posterior given `xs`, observed at `ts` (increasing)."""
        mean, log_deviation, context = self.encoder(ts, xs)
        prior_mean, prior_log = (p.astype(mean.dtype) for p in (self.initial_mean, self.initial_log_deviation))
        z0 = mean + jnp.exp(log_deviation) * jax.random.normal(jax.random.fold_in(key, 0), mean.shape, mean.dtype)
        kl = normal_kl(mean, log_deviation, prior_mean, prior_log)
        path, path_kl = self.infer(
            z0, ts[0], ts[-1], context, ts=ts, regulariser=regulariser, step=step,
            key=jax.random.fold_in(key, 1),
        )  # fmt: skip
        return LatentPath(path.ys, jax.vmap(self.decoder)(path.ys), kl, path_kl[-1], path)

    def infer(
        self,
        z0: Float[Array, "*d"],
        t0: Time,
        t1: Time,
        context: PyTree = None,
        *,
        key: PRNGKeyArray,
        ts: Float[Array, " n"] | Float[np.ndarray, " n"] | None = None,
        regulariser: Regulariser | None = None,
        step: Any = 0,
    ) -> tuple[Regularised, Float[Array, " n"]]:
        """A path of the posterior from `z0`, and `int |u|^2 / 2` up to each time of it (see `NeuralSDE`)."""

        def drift(t: Any, state: PyTree, context: PyTree) -> PyTree:
            z, _ = state
            f = self.posterior(t, z, context)
            u = (f - self.prior(t, z, None)) / self.diffusion(t, z, None)
            return f, jnp.sum(u**2) / 2

        def diffusion(t: Any, state: PyTree, context: PyTree) -> PyTree:
            z, kl = state
            return self.diffusion(t, z, None), jnp.zeros(kl.shape, kl.dtype)

        sde = NeuralSDE(drift, diffusion, self.integrator)
        start = (z0, jnp.zeros((), z0.dtype))
        out = sde(start, t0, t1, context, key=key, ts=ts, regulariser=regulariser, step=step)
        zs, path_kl = out.ys
        return eqx.tree_at(lambda o: o.solution.ys, out, zs), path_kl

    def sample(self, ts: Float[Array, " t"], *, key: PRNGKeyArray) -> tuple[Float[Array, "t d"], PyTree]:
        """A path of the prior at `ts` (increasing), and what it decodes to."""
        mean, log_deviation = (p.astype(ts.dtype) for p in (self.initial_mean, self.initial_log_deviation))
        z0 = mean + jnp.exp(log_deviation) * jax.random.normal(jax.random.fold_in(key, 0), mean.shape, mean.dtype)
        sde = NeuralSDE(self.prior, self.diffusion, self.integrator)
        zs = sde(z0, ts[0], ts[-1], key=jax.random.fold_in(key, 1), ts=ts).ys
        return zs, jax.vmap(self.decoder)(zs)


def normal_kl(
    mean: Float[Array, "*d"],
    log_deviation: Float[Array, "*d"],
    prior_mean: Float[Array, "*d"],
    prior_log_deviation: Float[Array, "*d"],
) -> Float[Array, ""]:
    """`KL(N(m_q, s_q^2) || N(m, s^2))` of diagonal normals, in nats, summed over entries."""
    ratio = log_deviation - prior_log_deviation
    off = (mean - prior_mean) * jnp.exp(-prior_log_deviation)
    return jnp.sum((jnp.exp(2 * ratio) + off**2 - 1) / 2 - ratio)
