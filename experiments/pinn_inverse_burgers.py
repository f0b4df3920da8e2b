"""Find both coefficients of Burgers' equation from scattered, noisy values of a solution.

Claim: in `u_t + a u u_x = nu u_xx` from 2,000 points, `a = 1` and `nu = 0.01 / pi` are found to 0.1 % from clean data
and to 1 % with noise of 1 % (of the solution's standard deviation).

The unknown are the weights of a network for `u` on [0, 1] x [-1, 1] and the two coefficients, from `a = 0` and `nu =
e^-6`; neither initial nor boundary values are told. Levenberg-Marquardt on both residuals at once: that of the equation
weighs so much that what is left to the data is the solutions of Burgers' equation. A seed takes six minutes on one
core.

Raissi, Perdikaris and Karniadakis (2019), doi:10.1016/j.jcp.2018.10.045.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from pinn_burgers import REGION, VISCOSITY, exact
from problems.pinn import adaptive

from opkit.data import content_hash
from opkit.fields import MLP, Chain, Rescale
from opkit.physics import Strong
from opkit.training import Collocation, Run, gauss_newton, launch


@dataclasses.dataclass(frozen=True)
class Config:
    """Find the coefficients at each noise. Defaults are those of the claim."""

    noises: tuple[float, ...] = (0.0, 0.01)
    """Standard deviations, over that of the solution."""
    data_points: int = 2000
    width: int = 20
    depth: int = 4
    points: int = 4000
    candidates: int = 2**15
    """Of which the points are drawn, with probability by residual."""
    rounds: int = 16
    iterations: int = 10
    """Of the optimiser on the points of one round."""
    weight: float = 1.0
    """Of the data's misfit, beside the equation."""


SMOKE = {
    "width": 6,
    "depth": 1,
    "points": 64,
    "candidates": 128,
    "data_points": 50,
    "rounds": 2,
    "iterations": 2,
    "noises": (0.01,),
}


class Unknown(eqx.Module):
    """The solution and the coefficients of its equation."""

    field: Chain
    speed: jax.Array
    log_viscosity: jax.Array


def physics(model: Unknown, x: jax.Array) -> jax.Array:
    """`u_t + a u u_x - nu u_xx` at one point."""

    def form(u: Any, x: jax.Array) -> jax.Array:
        v, v_t, v_x, v_xx = u((), 0, 1, (1, 1))
        return v_t + model.speed * v * v_x - jnp.exp(model.log_viscosity) * v_xx

    return Strong(form)(model.field, x)


def misfit(model: Unknown, sample: tuple[jax.Array, jax.Array]) -> jax.Array:
    """At one measurement."""
    x, value = sample
    return model.field(x) - value


def measure(config: Config, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points `(n, 2)` on the grid of 100 x 256, and what is measured there, `(n, 1)`."""
    rng = np.random.default_rng(seed)
    t, x = np.linspace(0, 0.99, 100), np.linspace(-1, 1, 256)
    u = exact(t, x)
    where = np.stack(np.meshgrid(t, x, indexing="ij"), -1).reshape(-1, 2)
    chosen = rng.choice(len(where), config.data_points, replace=False)
    values = u.reshape(-1)[chosen] + noise * u.std() * rng.standard_normal(config.data_points)
    return where[chosen], values[:, None]


def main(config: Config, run: Run) -> dict[str, float]:
    """Find them at each noise."""
    metrics, errors = {}, {}
    data = {noise: measure(config, noise, run.seed) for noise in config.noises}
    run.record_data(content_hash(data))
    for noise, pairs in data.items():
        network = MLP(2, 1, width=config.width, depth=config.depth, key=run.key)
        model = Unknown(Chain(Rescale(REGION.lower, REGION.upper), network), jnp.zeros(()), jnp.full((), -6.0))
        terms = {
            "data": (misfit, lambda *_, key, pairs=pairs: jax.tree.map(jnp.asarray, pairs)),
            "physics": (physics, adaptive(REGION, config.points, config.candidates)),
        }
        objective = Collocation(terms, weights={"data": config.weight})
        state = run.fit(
            objective, model, None, gauss_newton(iterations=config.iterations), steps=config.rounds,
            carry=objective.start(model, key=run.key), chunk=1, stage=f"noise{noise:g}",
        )  # fmt: skip
        found = {"speed": float(state.model.speed), "viscosity": float(jnp.exp(state.model.log_viscosity))}
        true = {"speed": 1.0, "viscosity": VISCOSITY}
        errors[noise] = {name: abs(value / true[name] - 1) for name, value in found.items()}
        metrics |= {f"{name}_error/noise{noise:g}": error for name, error in errors[noise].items()}
        run.print(f"noise {noise:g}", errors[noise])
    run.save_figure(plot(errors))
    return metrics


def plot(errors: dict[float, dict[str, float]]) -> Any:
    """The coefficients' errors by noise."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 4), layout="constrained")
    for i, name in enumerate(("speed", "viscosity")):
        axis.bar(np.arange(len(errors)) + 0.4 * i, [error[name] for error in errors.values()], 0.4, label=name)
    axis.set(yscale="log", ylabel="relative error", xlabel="noise", xticks=np.arange(len(errors)) + 0.2)
    axis.set_xticklabels([f"{noise:g}" for noise in errors])
    axis.legend()
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE, double=True)
