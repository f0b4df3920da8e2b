"""Predict irregularly sampled oscillations with liquid time-constant networks, a CT-RNN and a GRU of equal size.

Claim: none; a comparison. Hasani et al. report liquid networks ahead of LSTMs and CT-RNNs on real series at equal
width; here all have the same number of parameters, within 5 %, the same steps of the same optimiser, and each the best
of the same learning rates by its error on a validation set.

Series of van der Pol oscillators, `x'' = mu (1 - x^2) x' - x`, each with its own `mu` and start, of which `x` alone is
seen, with noise, at random times. The task: at every sample, the value at the time of the next, from those so far. The
liquid networks and the CT-RNN evolve over the gap; the GRU is told its length. Errors are root mean squares over the
standard deviation of the values, without noise, on fresh series; the last value kept, and zero, stand beside.

Hasani, Lechner, Amini, Rus and Grosu (2021), Liquid time-constant networks, arXiv:2006.04439.
"""

import dataclasses
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from opkit.data import content_hash
from opkit.dynamics import Integrator, LiquidNetwork, LTCCell, SynapticCell
from opkit.training import Run, Term, launch, partition


@dataclasses.dataclass(frozen=True)
class Config:
    """Learn to predict oscillators. Defaults are those of the table of claims."""

    samples: int = 512
    tests: int = 256
    """As many series validate."""
    length: int = 32
    """Samples a series."""
    gap: float = 0.5
    """The mean time between them; gaps are uniform up to twice that."""
    noise: float = 0.05
    ltc: int = 42
    synaptic: int = 22
    ct_rnn: int = 43
    gru: int = 24
    """States: some 2000 parameters each."""
    unfolds: int = 4
    """Semi-implicit steps a gap."""
    steps: int = 500
    batch_size: int = 64
    learning_rates: tuple[float, ...] = (3e-3, 1e-2)
    """The peaks tried; from there to zero by a cosine."""


SMOKE = {"samples": 8, "tests": 4, "length": 4, "steps": 2, "batch_size": 4, "unfolds": 1, "learning_rates": (1e-2,)}
ARMS = ("ltc", "synaptic", "ct_rnn", "gru")


class CTRNNCell(eqx.Module):
    """`x' = -x / tau + tanh(W [u, x] + c)`."""

    weight: jax.Array
    bias: jax.Array
    leak: jax.Array
    size: int = eqx.field(static=True)

    def __init__(self, in_size: int, size: int, *, key: jax.Array):
        self.weight = jax.random.normal(key, (size, in_size + size)) / (in_size + size) ** 0.5
        self.bias, self.leak, self.size = jnp.zeros(size), jnp.zeros(size), size

    def coefficients(self, x: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`1 / tau` and the source."""
        return jnp.exp(self.leak), jnp.tanh(self.weight @ jnp.concatenate([u, x]) + self.bias)


class GRU(eqx.Module):
    """Sees each sample and the gap that follows."""

    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear

    def __init__(self, size: int, *, key: jax.Array):
        cell_key, key = jax.random.split(key)
        self.cell, self.readout = eqx.nn.GRUCell(2, size, key=cell_key), eqx.nn.Linear(size, 1, key=key)

    def __call__(self, ts: jax.Array, us: jax.Array) -> jax.Array:
        """As `LiquidNetwork`."""

        def take(x: jax.Array, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = self.cell(seen, x)
            return x, x

        start = jnp.zeros(self.cell.hidden_size, us.dtype)
        return jax.vmap(self.readout)(jax.lax.scan(take, start, jnp.append(us, jnp.diff(ts)[:, None], 1))[1])


def build(arm: str, config: Config, key: jax.Array) -> LiquidNetwork | GRU:
    """The untrained network of an arm."""
    if arm == "gru":
        return GRU(config.gru, key=key)
    cells = {"ltc": LTCCell, "synaptic": SynapticCell, "ct_rnn": CTRNNCell}
    return LiquidNetwork(cells[arm](1, getattr(config, arm), key=key), 1, unfolds=config.unfolds, key=key)


def draw(config: Config, key: jax.Array, samples: int) -> tuple[jax.Array, ...]:
    """Times `(samples, length + 1)`, what is seen at all but the last, and the true values at all but the first."""

    def series(key: jax.Array) -> tuple[jax.Array, ...]:
        gap_key, mu_key, start_key, noise_key = jax.random.split(key, 4)
        gaps = 2 * config.gap * jax.random.uniform(gap_key, (config.length,))
        ts = jnp.concatenate([jnp.zeros(1), jnp.cumsum(gaps)])
        mu = jax.random.uniform(mu_key, minval=0.5, maxval=3.0)
        rate = lambda t, y, args: jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])
        start = 1.5 * jax.random.normal(start_key, (2,))
        x = Integrator()(diffrax.ODETerm(rate), 0.0, ts[-1], start, saveat=diffrax.SaveAt(ts=ts)).ys[:, :1]
        seen = x[:-1] + config.noise * jax.random.normal(noise_key, x[:-1].shape)
        return ts, seen, x[1:]

    return jax.jit(jax.vmap(series))(jax.random.split(key, samples))


def objective(model: Any, batch: Any, *, key: jax.Array, carry: Any) -> tuple[dict[str, Term], dict[str, Any], Any]:
    """The mean square."""
    ts, us, ys = batch
    return {"data": Term(jax.vmap(model)(ts, us) - ys, "residual")}, {}, carry


def main(config: Config, run: Run) -> dict[str, float]:
    """Train every arm at every rate, take the best on the validation set, and test it."""
    keys = jax.random.split(run.key, 4)
    sizes = (config.samples, config.tests, config.tests)
    train, validation, test = (draw(config, key, n) for key, n in zip(keys, sizes, strict=False))
    run.record_data(content_hash(tuple(map(np.asarray, (*train, *validation, *test)))))
    deviation = float(jnp.std(test[2]))
    rms = lambda found, data: float(jnp.sqrt(jnp.mean((found - data[2]) ** 2))) / deviation
    metrics = {"error/kept": rms(test[1], test), "error/zero": rms(0.0, test)}
    tested = eqx.filter_jit(lambda model, data: jax.vmap(model)(*data[:2]))
    for number, arm in enumerate(ARMS):
        start = eqx.filter_jit(build)(arm, config, jax.random.fold_in(keys[3], number))
        metrics[f"parameters/{arm}"] = sum(leaf.size for leaf in jax.tree.leaves(partition(start)[0]))
        tried = []
        for rate in config.learning_rates:
            schedule = optax.warmup_cosine_decay_schedule(0.0, rate, config.steps // 20, config.steps)
            optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
            fit = partial(run.fit, steps=config.steps, batch_size=config.batch_size, stage=f"{arm}@{rate:g}")
            model = fit(objective, start, train, optimiser).model
            tried.append((rms(tested(model, validation), validation), rate, rms(tested(model, test), test)))
        _, metrics[f"learning_rate/{arm}"], metrics[f"error/{arm}"] = min(tried)
    run.save_figure(plot(metrics))
    return metrics


def plot(metrics: dict[str, float]) -> Any:
    """The errors."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
    names = (*ARMS, "kept")
    axis.bar(names, [metrics[f"error/{name}"] for name in names])
    axis.set(ylabel="relative error of the next value")
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
