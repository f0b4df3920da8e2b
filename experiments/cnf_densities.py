"""Learn densities by continuous normalising flows, to within 0.05 nats of the truth, and then make them cheap.

Claim: on eight Gaussians, a ring and a funnel, whose log-likelihoods are known, a plain flow's test log-likelihood is
within 0.05 nats of the known one; and a regularised flow takes at most 0.65 of its evaluations, at a negative
log-likelihood of at most 1.05 times its own, which is about a tenth of a nat.

Every arm starts from one flow, made in seconds by flow matching (straight lines from the base to the data, regression
on their velocity: no solves), and goes on by maximum likelihood through the solver, with its penalty: the four
regularisers, kinetic energy and Jacobian (RNODE) and the second derivative (TayNODE). Arm by arm, `error` is the
negative log-likelihood of the test points in nats, `gap` how much it is above that of the true density on the same
points, `nfe` the evaluations of one solve of all test points, data to base. The trace is exact. Penalties fade to a
tenth; their weights, each density's own, were chosen on seeds 0 to 2 by `--tune`, which trains every variant with each
of four and tests on other points: the cheapest within the ratio. A seed takes eight minutes on one core, and tuning on
one twelve.

Grathwohl et al. (2019), FFJORD, arXiv:1810.01367; Lipman et al. (2023), Flow matching for generative modeling,
arXiv:2210.02747; Finlay et al. (2020), How to train your neural ODE, arXiv:2002.02798.
"""

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems.densities import DENSITIES, Density
from problems.regularisation import Outcome, Penalty, arms, compare, evaluations, pareto, ratios, tuning

from opkit.data import content_hash
from opkit.dynamics import ContinuousFlow, Integrator, MLPField, StandardNormal
from opkit.training import Run, Term, launch

BEST = "global error"
CANDIDATES = {
    "global error": (0.5, 1.0, 2.0, 4.0),
    "global stiffness": (0.03, 0.1, 0.3, 1.0),
    "local uniform": (2.0, 5.0, 10.0, 30.0),
    "local accepted": (0.5, 1.0, 2.0, 5.0),
    "kinetic": (0.3, 1.0, 3.0, 10.0),
    "jacobian": (0.1, 0.3, 1.0, 3.0),
    "taylor": (0.01, 0.1, 1.0, 10.0),
}
_WEIGHTS = {
    "global error": (2.0, 2.0, 0.5),
    "global stiffness": (0.1, 0.3, 1.0),
    "local uniform": (5.0, 5.0, 5.0),
    "local accepted": (2.0, 0.5, 2.0),
    "kinetic": (3.0, 3.0, 0.3),
    "jacobian": (1.0, 1.0, 0.3),
    "taylor": (1.0, 1.0, 1.0),
}
WEIGHTS = {
    name: {variant: weights[i] for variant, weights in _WEIGHTS.items()}
    for i, name in enumerate(("eight_gaussians", "ring", "funnel"))
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Learn three densities with every regulariser. Defaults are those of the claim."""

    densities: tuple[str, ...] = tuple(DENSITIES)
    width: int = 48
    depth: int = 3
    """Of the vector field: hidden layers and their width."""
    tolerance: float = 1e-5
    """Of Dopri5, relative and absolute."""
    samples: int = 50_000
    tests: int = 2000
    matching_steps: int = 3000
    steps: int = 100
    """Of maximum likelihood."""
    batch_size: int = 256
    matching_rate: float = 5e-3
    learning_rate: float = 1e-3
    """The peaks of flow matching and of maximum likelihood; both to zero by a cosine."""
    decay: float = 0.1
    """What remains of a penalty's weight at the end."""
    weights: dict[str, float] | None = None
    """Of the penalties; by default `WEIGHTS`, each density's own."""
    tune: bool = False
    """Train with every candidate weight, and test on points drawn for that alone."""


SMOKE = {"width": 8, "depth": 1, "samples": 500, "tests": 100, "matching_steps": 50, "steps": 4, "batch_size": 32}
SMOKE |= {"tolerance": 1e-2, "densities": ("ring",), "weights": {"global error": 0.3}}


def matching(model: ContinuousFlow, batch: jax.Array, *, key: Any, carry: Any) -> tuple[dict[str, Term], dict, Any]:
    """The objective of flow matching: the velocity at `(1 - s) z + s x`, `s` uniform, is `x - z` in the mean."""
    base, when = jax.random.split(key)
    z, s = jax.random.normal(base, batch.shape), jax.random.uniform(when, (len(batch), 1))
    velocity = jax.vmap(lambda s, y: model.vector_field(s, y, None))(s[:, 0], (1 - s) * z + s * batch)
    return {"matching": Term(velocity - (batch - z), "residual")}, {}, carry


def draw(name: str, config: Config, run: Run) -> tuple[np.ndarray, jax.Array]:
    """The points to train and to test with."""
    keys = jax.random.split(jax.random.fold_in(run.key, list(DENSITIES).index(name)), 3)
    sample = DENSITIES[name].sample
    return np.asarray(sample(keys[0], config.samples)), sample(keys[2 if config.tune else 1], config.tests)


def learn(name: str, train: np.ndarray, test: jax.Array, config: Config, run: Run) -> dict[str, Outcome]:
    """All arms on one density."""
    field = MLPField(2, config.width, config.depth, time=True, key=jax.random.fold_in(run.key, 3))
    controller = diffrax.PIDController(rtol=config.tolerance, atol=config.tolerance)
    integrator = Integrator(diffrax.Dopri5(), controller, dt0=0.3, max_steps=256)
    rates = [
        optax.cosine_decay_schedule(rate, steps)
        for rate, steps in ((config.matching_rate, config.matching_steps), (config.learning_rate, config.steps))
    ]
    matched = run.fit(
        matching, ContinuousFlow(field, integrator, StandardNormal(2)), train, optax.adam(rates[0]),
        steps=config.matching_steps, batch_size=config.batch_size, stage=name,
    ).model  # fmt: skip

    def loss(flow: ContinuousFlow, batch: jax.Array, regulariser: Penalty | None, step: Any, key: Any) -> tuple:
        out = flow.log_density(batch, regulariser=regulariser, step=step, key=key)
        return -out.log_density, out.penalty

    def predict(flow: ContinuousFlow) -> tuple[Any, Any]:
        out = flow.log_density(test)
        return -out.log_density.mean(), evaluations(integrator.solver, out.solve.solution)

    weights = CANDIDATES if config.tune else WEIGHTS[name] if config.weights is None else config.weights
    return compare(
        arms(loss, weights, decay=config.decay, steps=config.steps), matched, train,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rates[1])),
        steps=config.steps, batch_size=config.batch_size, seed=run.seed, predict=predict,
        repeats=1 if config.tune else 15,
    )  # fmt: skip


def main(config: Config, run: Run) -> dict[str, float]:
    """Learn each density by all arms, and measure them."""
    data = {name: draw(name, config, run) for name in config.densities}
    run.record_data(content_hash({name: (train, np.asarray(test)) for name, (train, test) in data.items()}))
    metrics, learnt, of_each = {}, {}, []
    for name, (train, test) in data.items():
        learnt[name] = outcomes = learn(name, train, test, config, run)
        known = float(jax.vmap(DENSITIES[name].log_density)(test).mean())
        figures = tuning(outcomes) if config.tune else ratios(outcomes, BEST)
        of_each.append({figure: value for figure, value in figures.items() if figure.endswith("_ratio")})
        figures |= {f"{arm}/gap": outcome.error + known for arm, outcome in outcomes.items()}
        metrics |= {f"{name}/{figure}": value for figure, value in figures.items()}
    if config.tune:
        return metrics
    # over the densities: the largest, as the claim is of each
    metrics |= {figure: max(figures[figure] for figures in of_each) for figure in of_each[0]}
    run.save_figure(plot(learnt))
    return metrics


def plot(learnt: dict[str, dict[str, Outcome]]) -> Any:
    """For each density: the truth, the learnt density and samples of it, and error against evaluations."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(learnt), 4, figsize=(15, 3.6 * len(learnt)), layout="constrained", squeeze=False)
    for row, (name, outcomes) in zip(axes, learnt.items(), strict=True):
        density: Density = DENSITIES[name]
        flow = outcomes[BEST].model
        axis = jnp.linspace(-density.window, density.window, 100)
        points = jnp.stack(jnp.meshgrid(axis, axis), -1)
        truth = jnp.exp(jax.vmap(jax.vmap(density.log_density))(points))
        learned = jnp.exp(eqx.filter_jit(flow.log_density)(points).log_density)
        drawn = eqx.filter_jit(flow.sample)((3000,), key=jax.random.key(0)).points
        extent = (-density.window, density.window) * 2
        for panel, image, title in zip(row, (truth, learned), (name, f"{BEST}: density"), strict=False):
            panel.imshow(image, origin="lower", extent=extent, cmap="magma", vmax=float(truth.max()))
            panel.set_title(title)
        row[2].plot(*drawn.T, ".", markersize=1)
        row[2].set(xlim=extent[:2], ylim=extent[:2], aspect="equal", title="samples")
        pareto(outcomes, row[3], "negative log-likelihood")
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
