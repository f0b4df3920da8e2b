"""Learn a spiral's vector field, and make it no harder to solve than it must be.

Claim: of the fully observed spiral `y' = A y^3`, 30 noisy points in `[0, 1.5]`, `GlobalPenalty("error")` takes the
evaluations to at most 0.92 of the plain model's at an error to the clean trajectory of at most 1.05 times. There is
little to gain where the whole trajectory is prescribed: the true vector field takes `true/nfe` itself.

The model is a network on `y^3` under Tsit5 at 1e-6; every variant is trained on the same points. Weights fall by a
decade in training. They are chosen on seeds 0 to 2, for which `--tune` trains every variant with four candidates; the
claim is for other seeds. A seed draws noise and network. One takes about four minutes on 2 cores.

Chen, Rubanova, Bettencourt and Duvenaud (2018), Neural ordinary differential equations, arXiv:1806.07366; Pal, Ma, Shah
and Rackauckas (2021), Opening the blackbox, arXiv:2105.03918.
"""

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems.regularisation import (
    Outcome,
    Penalty,
    arms,
    compare,
    evaluations,
    pareto,
    plot_steps,
    ratios,
    tuning,
)

from opkit.data import content_hash
from opkit.dynamics import Integrator, MLPField, NeuralODE
from opkit.training import Run, launch

BEST = "global error"
CANDIDATES = {
    "global error": (1e-3, 3e-3, 1e-2, 3e-2),
    "global stiffness": (1e-6, 1e-5, 1e-4, 1e-3),
    "local uniform": (3e-4, 1e-3, 3e-3, 1e-2),
    "local accepted": (3e-4, 1e-3, 3e-3, 1e-2),
    "kinetic": (1e-5, 1e-4, 1e-3, 1e-2),
    "jacobian": (1e-6, 1e-5, 1e-4, 1e-3),
    "taylor": (1e-7, 1e-6, 1e-5, 1e-4),
}
WEIGHTS = {
    "global error": 3e-3,
    "global stiffness": 1e-6,
    "local uniform": 3e-4,
    "local accepted": 1e-3,
    "kinetic": 1e-5,
    "jacobian": 1e-6,
    "taylor": 1e-6,
}
MATRIX = np.array([[-0.1, 2.0], [-2.0, -0.1]])
START, END = np.array([2.0, 0.0]), 1.5


@dataclasses.dataclass(frozen=True)
class Config:
    """Train on the spiral with every regulariser. Defaults are those of the claim."""

    points: int = 30
    noise: float = 0.05
    width: int = 50
    tolerance: float = 1e-6
    """Of Tsit5, relative and absolute."""
    steps: int = 3000
    learning_rate: float = 1e-2
    """At first; to zero by a cosine."""
    weights: dict[str, float] = dataclasses.field(default_factory=lambda: dict(WEIGHTS))
    tune: bool = False
    """Train with every candidate weight."""


SMOKE = {"points": 5, "width": 8, "steps": 50, "tolerance": 1e-3, "weights": {"global error": 1e-3, "kinetic": 1e-4}}


class Cubed(eqx.Module):
    """The network on the state's cubes."""

    network: MLPField

    def __call__(self, t: Any, y: jax.Array, args: Any = None) -> jax.Array:
        """`dy/dt`."""
        return self.network(t, y**3, args)


def spiral(t: Any, y: jax.Array, args: Any = None) -> jax.Array:
    """The true vector field."""
    return jnp.asarray(MATRIX, y.dtype) @ y**3


def main(config: Config, run: Run) -> dict[str, float]:
    """Train all variants in turns and measure them."""
    ts, start = jnp.linspace(0.0, END, config.points), jnp.asarray(START, jnp.result_type(float))
    controller = diffrax.PIDController(rtol=config.tolerance, atol=config.tolerance)
    integrator = Integrator(controller=controller, max_steps=1024)
    true = eqx.filter_jit(NeuralODE(spiral, integrator))(start, 0.0, END, ts=ts)
    data_key, model_key = jax.random.split(run.key)
    data = true.ys + config.noise * jax.random.normal(data_key, true.ys.shape)
    run.record_data(content_hash((np.asarray(data),)))
    model = NeuralODE(Cubed(MLPField(2, config.width, 1, key=model_key)), integrator)

    def loss(model: NeuralODE, batch: Any, regulariser: Penalty | None, step: Any, key: Any) -> tuple[Any, Any]:
        out = model(start, 0.0, END, ts=ts, regulariser=regulariser, step=step, key=key)
        return jnp.where(out.solved, (out.ys - batch[0]) ** 2, jnp.inf), out.penalty

    def predict(model: NeuralODE) -> tuple[Any, Any]:
        out = model(start, 0.0, END, ts=ts)
        error = jnp.where(out.solved, jnp.mean((out.ys - true.ys) ** 2), jnp.inf)
        return error, evaluations(integrator.solver, out.solution)

    weights = CANDIDATES if config.tune else config.weights
    outcomes = compare(
        arms(loss, weights, decay=0.1, steps=config.steps), model, data[None],
        optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps)),
        steps=config.steps, batch_size=1, seed=run.seed, predict=predict,
    )  # fmt: skip
    if config.tune:
        return tuning(outcomes)
    run.save_figure(plot(outcomes, data, true.ys, start))
    return ratios(outcomes, BEST) | {"true/nfe": float(evaluations(integrator.solver, true.solution))}


def plot(outcomes: dict[str, Outcome], data: jax.Array, true: jax.Array, start: jax.Array) -> Any:
    """Error against evaluations, the steps before and after, and the trajectory."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    pareto(outcomes, axes[0], "mean squared error")
    path = eqx.filter_jit(
        lambda ode: (
            ode.integrator(
                diffrax.ODETerm(ode.vector_field), 0.0, END, start, saveat=diffrax.SaveAt(steps=True)
            ).solution
        )
    )
    solves = {name: path(outcomes[name].model) for name in ("vanilla", BEST)}
    plot_steps({name: np.asarray(solution.ts) for name, solution in solves.items()}, axes[1])
    axes[2].plot(*data.T, "k.", label="data")
    axes[2].plot(*true.T, "k-", linewidth=0.5, label="true")
    for name, solution in solves.items():
        axes[2].plot(*np.asarray(solution.ys)[np.isfinite(solution.ts)].T, "o", markersize=3, label=f"steps, {name}")
    axes[2].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
