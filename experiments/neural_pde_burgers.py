"""Teach a coarse Burgers equation what its grid does not resolve: by the method of lines, with a learned closure.

Claim: on 32 points, `u_t + (u^2 / 2)_x = nu u_xx - q_x` with a flux `q` learned by a small convolutional network,
trained through the solver on the first unit of time, has a smaller error on fresh initial states than the equation
alone and than a network of the same size without the equation, inside that time and up to three times as long; and
penalties of the solver's error estimate make it cheaper to solve.

Truth is an ETDRK4 run on 512 points, projected to the coarse grid; initial states are Gaussian random fields, whose
shocks are thinner than the coarse spacing. A batch is one state with shared adaptive steps. Figures: the mean over
samples and times of `|error| / |truth|` (relative L2), `@inside` the time of training and `@beyond` it; evaluations of
the vector field over the whole time. Beside the arms stand the equation without closure and the initial state kept.

A seed takes five minutes on one core, with `--tune` eight.

Duraisamy, Iaccarino and Xiao (2019), Turbulence modeling in the age of data, doi:10.1146/annurev-fluid-010518-040547;
Sirignano, MacArt and Freund (2020), DPM, doi:10.1016/j.jcp.2020.109811.
"""

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems.regularisation import arms, compare, evaluations, ratios, tuning

from opkit.data import content_hash
from opkit.dynamics import Integrator
from opkit.operators import ResNet
from opkit.training import Run, launch, relative_l2
from solvers import (
    ETDRK,
    Grid,
    PowerSpectrum,
    VectorField,
    VectorFieldSum,
    as_vector_field,
    gaussian_random_field,
    rollout,
    spectral,
    vector_field,
)
from solvers.equations import Burgers


@dataclasses.dataclass(frozen=True)
class Config:
    """Learn a closure. Defaults are those of the claim."""

    points: int = 32
    fine: int = 512
    viscosity: float = 0.02
    """On a box of length 2 pi; velocities are of order one."""
    horizon: float = 1.0
    """The time of training; tests go three times as far."""
    saves: int = 8
    """Times in it that the loss looks at."""
    samples: int = 256
    tests: int = 64
    width: int = 16
    depth: int = 2
    steps: int = 300
    batch_size: int = 32
    learning_rate: float = 3e-3
    """The peak; from there to zero by a cosine."""
    tolerance: float = 1e-4
    global_error: float = 1e-2
    local_uniform: float = 1e-2
    """Weights of the penalties."""
    arms: tuple[str, ...] = ("global error", "local uniform", "network")
    """What to train beside the closure: with penalties, and the network without the equation."""
    tune: bool = False
    """Train at every candidate weight instead, and report."""


SMOKE = {
    "fine": 64,
    "samples": 8,
    "tests": 4,
    "width": 4,
    "depth": 1,
    "steps": 4,
    "batch_size": 4,
    "saves": 2,
    "arms": (),
}
CANDIDATES = (0.01, 0.03, 0.1, 0.3)


class Flux(eqx.Module):
    """The operator `-q(u)_x`: it conserves the mean, whatever the network `q`."""

    q: ResNet

    def __call__(self, u: jax.Array, domain: Any, query: Any = None, *, args: Any = None, key: Any = None) -> jax.Array:
        """Apply to one sample."""
        return -spectral.derivative(self.q(u, domain), domain, 0)


def draw(config: Config, samples: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Initial states and trajectories to three horizons, `(samples, 3 saves, 1, points)`, on the coarse grid."""
    fine, coarse = (Grid(n, 0.0, 2 * np.pi) for n in (config.fine, config.points))
    spectrum = PowerSpectrum(alpha=3.0, tau=2.0, sigma=10.0)
    field = lambda k: gaussian_random_field(fine, spectrum, basis="periodic", modes=12, zero_mean=True, key=k)[None]
    every = max(1, round(config.horizon / config.saves / 2e-3))
    stepper = ETDRK(Burgers(config.viscosity), fine, config.horizon / config.saves / every)
    run = rollout(stepper, 3 * config.saves * every, every=every)
    project = lambda u: spectral.resample(u, fine, coarse)

    def sample(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        u0 = field(key)
        return project(u0), jax.vmap(project)(run(u0).states)

    return jax.jit(lambda keys: jax.lax.map(sample, keys, batch_size=16))(jax.random.split(key, samples))


def main(config: Config, run: Run) -> dict[str, float]:
    """Draw, train every arm, and follow fresh states."""
    grid = Grid(config.points, 0.0, 2 * np.pi)
    *keys, model_key = jax.random.split(run.key, 3)
    train, (u0, truth) = (draw(config, n, k) for n, k in zip((config.samples, config.tests), keys, strict=True))
    run.record_data(content_hash(tuple(map(np.asarray, (*train, u0, truth)))))
    data = (train[0], train[1][:, : config.saves])
    times = np.arange(1, 3 * config.saves + 1) * config.horizon / config.saves
    controller = diffrax.PIDController(rtol=config.tolerance, atol=config.tolerance)
    integrator = Integrator(diffrax.Tsit5(), controller, max_steps=1024)

    def solve(field: VectorField, u0: jax.Array, times: np.ndarray, **options: Any) -> Any:
        batched = lambda t, u, args: jax.vmap(lambda v: field(t, v, args))(u)
        saveat = diffrax.SaveAt(ts=jnp.asarray(times, u0.dtype))
        return integrator(diffrax.ODETerm(batched), 0.0, float(times[-1]), u0, saveat=saveat, **options)

    def loss(
        field: VectorField, batch: Any, regulariser: Any, step: Any, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        out = solve(field, batch[0], times[: config.saves], regulariser=regulariser, step=step, key=key)
        found = jnp.swapaxes(out.ys, 0, 1)
        return jax.vmap(jax.vmap(relative_l2))(found, batch[1]), out.penalty

    def follow(field: VectorField) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Errors over time, evaluations, and the first state at both horizons."""
        out = solve(field, u0, times)
        found = jnp.swapaxes(out.ys, 0, 1)
        error = jax.vmap(jax.vmap(relative_l2))(found, truth).mean(0)
        return error, evaluations(integrator.solver, out.solution), found[0, shown, 0]

    def predict(field: VectorField) -> tuple[jax.Array, jax.Array]:
        error, count, _ = follow(field)
        return error.mean(), count

    shown = np.array([config.saves - 1, -1])
    equation = vector_field(Burgers(config.viscosity), grid, dealiasing="pad")
    net = ResNet(1, 1, ndim=1, width=config.width, depth=config.depth, kernel=5, key=model_key)
    learned = as_vector_field(Flux(net), grid)
    weights = {"global error": config.global_error, "local uniform": config.local_uniform}
    weights = {name: weight for name, weight in weights.items() if name in config.arms}
    candidates = dict.fromkeys(weights, CANDIDATES)
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.steps // 20, config.steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    settings = {"steps": config.steps, "batch_size": config.batch_size, "seed": run.seed, "predict": predict}
    closed = compare(
        arms(loss, candidates if config.tune else weights, steps=config.steps),
        VectorFieldSum(equation, learned), data, optimiser, **settings,
    )  # fmt: skip
    if config.tune:
        return tuning(closed)
    fields = {"closure": closed["vanilla"].model, **{name: closed[name].model for name in weights}}
    if "network" in config.arms:
        fields["network"] = compare(arms(loss, {}), learned, data, optimiser, **settings)["vanilla"].model
    fields["equation"] = equation
    tested = eqx.filter_jit(follow)
    found = {name: jax.device_get(tested(field)) for name, field in fields.items()}
    by_time = {name: error for name, (error, _, _) in found.items()}
    by_time["kept"] = jax.vmap(jax.vmap(relative_l2, (None, 0)))(u0, truth).mean(0)
    metrics = ratios(closed, "global error")
    for name, curve in by_time.items():
        inside, beyond = np.split(np.asarray(curve), [config.saves])
        metrics |= {f"relative_l2/{name}@inside": inside.mean(), f"relative_l2/{name}@beyond": beyond.mean()}
    metrics |= {f"{name}/nfe": float(found[name][1]) for name in fields if name in ("network", "equation")}
    states = {
        "truth": truth[0, shown, 0],
        **{name: state for name, (_, _, state) in found.items() if name not in weights},
    }
    run.save_figure(plot(grid, times, by_time, states, times[shown]))
    return metrics


def plot(grid: Grid, times: np.ndarray, errors: Any, states: Any, shown: np.ndarray) -> Any:
    """The errors over time, and one test state at the end of training's time and at the end."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
    for name, curve in errors.items():
        axes[0].semilogy(times, curve, label=name)
    axes[0].axvline(shown[0], color="grey", linestyle=":")
    axes[0].set(xlabel="time", ylabel="relative L2 error")
    axes[0].legend(fontsize=8)
    (x,) = grid.axes()
    for i, (axis, t) in enumerate(zip(axes[1:], shown, strict=True)):
        for name, fields in states.items():
            axis.plot(
                x, fields[i], **({"color": "k", "linewidth": 3, "alpha": 0.4} if name == "truth" else {}), label=name
            )
        axis.set(xlabel="x", title=f"t = {t:g}")
    axes[1].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
