"""Recover the diffusivity of Darcy flow from noisy pressures at points, by differentiating through the solver.

Claim: from 100 pressures with 1 % noise the field `log a` of `-div(a grad u) = 1`, `u = 0` on the boundary of the unit
square, is recovered to within 1.25 times the error that the posterior predicts, and fits the data to their noise.

The prior is a Gaussian random field, `log a = sum_k sqrt(S(lambda_k)) xi_k phi_k`, and the estimate the mode of the
posterior (MAP): the least of `|d - G(xi)|^2 / sigma^2 + |xi|^2`, found twice through the same solver: by
Levenberg-Marquardt (Optimistix: the residuals, Jacobian in forward mode) and by L-BFGS (Optax: the scalar, gradient in
reverse mode). The truth is drawn from that prior, but with twice the modes and solved on a grid four times as fine; the
seed draws the noise. Beside the estimates stand the prior mean, the best constant, and the error that the posterior's
variance (Laplace's approximation) leads one to expect. A misfit is the root mean square of `(d - G) / sigma`: 1 for
the truth, `sqrt(1 - dof / sensors)` for an estimate of `dof` effective parameters. A seed takes two minutes on 2 cores.

Stuart (2010), Inverse problems: a Bayesian perspective, doi:10.1017/S0962492910000061.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from problems.inverse import lbfgs, posterior_variance

from opkit.data import content_hash
from opkit.training import Run, launch
from solvers import (
    Dirichlet,
    EllipticProblem,
    EllipticSolution,
    Grid,
    PowerSpectrum,
    gaussian_random_field,
    karhunen_loeve,
    solve_elliptic,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Recover a diffusivity. Defaults are those of the claim."""

    sensors: int = 100
    """At places drawn uniformly."""
    noise: float = 0.01
    """Its standard deviation over the root mean square of the pressures."""
    resolution: int = 32
    """Points an axis of the inversion; the data are made on four times as many."""
    modes: int = 16
    """Cosines an axis of the inversion; the truth has twice as many."""
    alpha: float = 2.0
    tau: float = 3.0
    sigma: float = 6.0
    """The prior's spectrum `sigma^2 (lambda + tau^2)^-alpha`: here `log a` has a standard deviation of 0.9."""
    truth: int = 0
    """The seed of the truth and of the sensors' places."""
    newton_steps: int = 60
    lbfgs_steps: int = 400
    """At most so many of the one, and exactly so many of the other."""


SMOKE = {"sensors": 12, "noise": 0.1, "resolution": 8, "modes": 4, "lbfgs_steps": 20}


def main(config: Config, run: Run) -> dict[str, float]:
    """Draw truth and data, find the mode twice, and measure it against truth, baselines and its own variance."""
    grid, fine = (Grid((n, n), placement="cells") for n in (config.resolution, 4 * config.resolution))
    prior = PowerSpectrum(config.alpha, config.tau, config.sigma)
    truth_key, sensor_key = jax.random.split(jax.random.key(config.truth))
    places = jax.random.uniform(sensor_key, (config.sensors, 2), minval=0.03, maxval=0.97)

    def pressures(log_a: jax.Array, grid: Grid) -> tuple[jax.Array, EllipticSolution]:
        """At the sensors, linear between points of the grid."""
        a = jnp.exp(jnp.clip(log_a, -8, 8))  # nine deviations: a line search may try what overflows
        solution = solve_elliptic(EllipticProblem(grid, a, 1.0, Dirichlet(0.0)))
        indices = places.T * np.reshape(grid.shape, (2, 1)) - 0.5
        return jax.scipy.ndimage.map_coordinates(solution.value, list(indices), order=1), solution

    def draw(grid: Grid) -> jax.Array:
        return gaussian_random_field(grid, prior, basis="neumann", modes=2 * config.modes, key=truth_key)

    exact, solution = jax.jit(pressures, static_argnums=1)(draw(fine), fine)
    run.check(solution.result, "the solver that makes the data")
    deviation = config.noise * jnp.sqrt(jnp.mean(exact**2))
    data = exact + deviation * jax.random.normal(run.key, exact.shape)
    run.record_data(content_hash((np.asarray(places), np.asarray(data))))

    log_a = lambda xi: karhunen_loeve(xi.reshape((config.modes,) * 2), grid, prior, basis="neumann")
    misfits = lambda xi: (pressures(log_a(xi), grid)[0] - data) / deviation
    residuals = lambda xi, _=None: jnp.concatenate([misfits(xi), xi])
    start = jnp.zeros(config.modes**2)
    solver = optimistix.LevenbergMarquardt(rtol=1e-3, atol=1e-3)
    newton = optimistix.least_squares(residuals, solver, start, max_steps=config.newton_steps, throw=False)
    run.check(newton.result, "Levenberg-Marquardt")
    estimates = {
        "levenberg_marquardt": newton.value,
        "lbfgs": lbfgs(lambda xi: jnp.sum(residuals(xi) ** 2) / 2, start, config.lbfgs_steps, run),
    }

    truth, jacobian = draw(grid), jax.jit(jax.jacrev(misfits))(newton.value)
    variance = posterior_variance(log_a, jacobian)
    parameters = float(config.modes**2 - jnp.sum(posterior_variance(lambda xi: xi, jacobian)))
    size = jnp.sqrt(jnp.mean(truth**2))
    relative = lambda field: float(jnp.sqrt(jnp.mean((field - truth) ** 2)) / size)
    rms_misfit = jax.jit(lambda xi: jnp.sqrt(jnp.mean(misfits(xi) ** 2)))
    metrics = {f"relative_error/{name}": relative(log_a(xi)) for name, xi in estimates.items()}
    metrics |= {
        "relative_error/expected": float(jnp.sqrt(jnp.mean(variance)) / size),
        "relative_error/prior_mean": relative(log_a(start)),
        "relative_error/constant": relative(jnp.mean(truth)),
        **{f"misfit/{name}": float(rms_misfit(xi)) for name, xi in estimates.items()},
        "misfit/expected": float(np.sqrt(1 - parameters / config.sensors)),
        "misfit/prior_mean": float(rms_misfit(start)),
        "misfit/truth": float(jnp.sqrt(jnp.mean((data - exact) ** 2)) / deviation),
        "effective_parameters": parameters,
        "newton_steps": float(newton.stats["num_steps"]),
    }
    run.save_figure(plot(truth, log_a(newton.value), jnp.sqrt(variance), places, metrics))
    return metrics


def plot(truth: jax.Array, found: jax.Array, deviation: jax.Array, places: jax.Array, metrics: dict[str, float]) -> Any:
    """Truth with the sensors and estimate, on one scale; their difference and what the posterior expects of it."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    off, error = float(np.abs(found - truth).max()), metrics["relative_error/levenberg_marquardt"]
    panels = [
        (r"true $\log a$, sensors", truth, "cividis", (truth.min(), truth.max())),
        (r"recovered $\log a$", found, "cividis", (truth.min(), truth.max())),
        (f"difference, {100 * error:.0f} %", found - truth, "RdBu_r", (-off, off)),
        ("posterior deviation", deviation, "viridis", (0, off)),
    ]
    for axis, (title, field, colours, (low, high)) in zip(axes, panels, strict=True):
        image = axis.imshow(field.T, origin="lower", extent=(0, 1, 0, 1), cmap=colours, vmin=low, vmax=high)
        axis.set(title=title, xticks=[0, 1], yticks=[0, 1])
        figure.colorbar(image, ax=axis, shrink=0.85)
    axes[0].plot(*places.T, "w.", markersize=3)
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
