"""Recover viscosity, forcing amplitude and initial vorticity of a flow from sparse, noisy observations.

Claim: two-dimensional Navier-Stokes with Kolmogorov forcing on `(2 pi)^2`, 64 x 64 points, vorticity seen at 5 % of the
points, 3 times, with 2 % noise: viscosity and amplitude come out within 2 %, the initial vorticity with a relative
error of at most 0.1 where it is observable, from guesses off by a factor of 2.5 and by half, and no vorticity at all.

*Observable*, said beforehand, are the wavenumbers `|k| <= sqrt(sensors) / 2`: what a lattice of as many sensors could
show at one time. The error of the whole field is printed beside it, and what the posterior's variance (Laplace's
approximation) leads one to expect of each figure.

The stepper is built inside the loss, so that gradients reach the coefficients. The prior of the vorticity is a Gaussian
random field of spectrum `S(lambda) = sigma^2 (lambda + tau^2)^-alpha`, standard normal in its coefficients `xi`; so are
the logarithms of viscosity and amplitude, about the guesses. The estimate is the mode of the posterior, found twice:
by Levenberg-Marquardt with truncated conjugate gradients (Optimistix: the residuals) and by L-BFGS (Optax: their sum of
squares). The truth is drawn from the same prior, but with twice the modes, and the data are made on 128 x 128 points
with half the time step; the seed draws the noise. Baselines: no vorticity, the mean of the prior; and the first
observation, interpolated by kriging with the same prior, taken for the initial state. One seed takes two minutes on
2 cores.

Evensen, Vossepoel and van Leeuwen (2022), Data assimilation fundamentals, doi:10.1007/978-3-030-96709-3.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix
from problems.inverse import jacobian_by_rows, lbfgs, posterior_variance
from problems.vorticity import plot_vorticity

from opkit.data import content_hash
from opkit.training import Run, RunError, launch
from solvers import ETDRK, Grid, PowerSpectrum, gaussian_random_field, karhunen_loeve, rollout
from solvers.equations import KolmogorovForcing, NavierStokes2D


@dataclasses.dataclass(frozen=True)
class Config:
    """Recover a flow. Defaults are those of the claim."""

    resolution: int = 64
    """Points an axis of the inversion; the data are made on twice as many."""
    observed: float = 0.05
    """The part of the points with a sensor, the same at all times."""
    noise: float = 0.02
    """Its standard deviation over the root mean square of what the sensors see."""
    time: float = 2.0
    """Observed are a tenth of it, a half and its end: the first shows the vorticity, the others what became of it."""
    steps: int = 60
    """Of the inversion; the data are made with twice as many."""
    viscosity: float = 0.04
    amplitude: float = 1.0
    """Of the force `A sin(4 y)` along x."""
    viscosity_guess: float = 0.1
    amplitude_guess: float = 0.5
    modes: int = 31
    """Functions an axis of the inversion, up to the wavenumber 15; the truth has twice as many."""
    alpha: float = 3.0
    tau: float = 3.0
    sigma: float = 21.5
    """The prior's spectrum: here the vorticity has a standard deviation of 3, the velocity of about 1."""
    truth: int = 0
    """The seed of the truth and of the sensors' places."""
    newton_steps: int = 20
    cg_steps: int = 30
    """At most so many Levenberg-Marquardt steps, each of exactly so many of conjugate gradients."""
    lbfgs_steps: int = 200


SMOKE = {
    "resolution": 16,
    "observed": 0.2,
    "steps": 40,
    "modes": 5,
    "newton_steps": 3,
    "cg_steps": 5,
    "lbfgs_steps": 10,
}
OBSERVED = (0, 4, 9)
"""Of the tenths of the time."""


def main(config: Config, run: Run) -> dict[str, float]:
    """Draw truth and data, find the mode twice, and measure it against truth, baselines and its own variance."""
    grid, fine = (Grid((n, n), upper=2 * np.pi) for n in (config.resolution, 2 * config.resolution))
    prior = PowerSpectrum(config.alpha, config.tau, config.sigma)
    truth_key, sensor_key = jax.random.split(jax.random.key(config.truth))
    points = config.resolution**2
    sensors = jax.random.choice(sensor_key, points, (round(config.observed * points),), replace=False)

    def flow(viscosity: Any, amplitude: Any, vorticity: jax.Array, grid: Grid, steps: int) -> jax.Array:
        """The vorticity `(3, *n)` at the times of observation."""
        equation = NavierStokes2D(viscosity, forcing=KolmogorovForcing(amplitude, mode=4))
        stepper = ETDRK(equation, grid, config.time / steps)
        return rollout(stepper, steps, every=steps // 10)(vorticity[None]).states[jnp.array(OBSERVED), 0]

    def draw(grid: Grid) -> jax.Array:
        modes = 2 * config.modes - 1
        return gaussian_random_field(grid, prior, basis="periodic", modes=modes, key=truth_key, zero_mean=True)

    later = jax.jit(flow, static_argnums=(3, 4))(
        config.viscosity, config.amplitude, draw(fine), fine, 2 * config.steps
    )[:, ::2, ::2]
    exact = later.reshape(len(OBSERVED), -1)[:, sensors]
    if not jnp.isfinite(later).all():
        raise RunError(f"The flow that makes the data blew up: `steps` {config.steps} are too few for its velocity.")
    deviation = config.noise * jnp.sqrt(jnp.mean(exact**2))
    data = exact + deviation * jax.random.normal(run.key, exact.shape)
    run.record_data(content_hash((np.asarray(sensors), np.asarray(data))))

    white = lambda xi: karhunen_loeve(xi, grid, prior, basis="periodic", zero_mean=True)
    initial = lambda xi: white(xi[2:].reshape((config.modes,) * 2))
    coefficients = lambda xi: (config.viscosity_guess * jnp.exp(xi[0]), config.amplitude_guess * jnp.exp(xi[1]))
    predicted = lambda xi: flow(*coefficients(xi), initial(xi), grid, config.steps)
    misfits = jax.jit(lambda xi: ((predicted(xi).reshape(len(OBSERVED), -1)[:, sensors] - data) / deviation).ravel())
    # What a mode adds to the sensors' signal, over the noise: in coordinates divided by it (Marquardt's scaling, by
    # expectation) the problem's condition is a hundredth, and both methods take as many fewer steps.
    variances = jax.jacfwd(white)(jnp.zeros((config.modes,) * 2)).var((0, 1)).ravel()
    scale = jnp.concatenate([jnp.full(2, 100.0), jnp.sqrt(1 + variances * data.size / deviation**2)])
    residuals = lambda eta, _=None: jnp.concatenate([misfits(eta / scale), eta / scale])
    start = jnp.zeros(2 + config.modes**2)
    # No tolerances, so that a solve ends after its steps and counts as a success: an inexact Newton step is enough. The
    # outer iteration may end by its number of steps too; how near the mode it is, the second method shows.
    cg = lx.Normal(lx.CG(rtol=0.0, atol=0.0, max_steps=config.cg_steps, stabilise_every=None))
    solver = optimistix.LevenbergMarquardt(rtol=1e-3, atol=0.3, linear_solver=cg)
    newton = optimistix.least_squares(residuals, solver, start, max_steps=config.newton_steps, throw=False)
    found = lbfgs(lambda eta: jnp.sum(residuals(eta) ** 2) / 2, start, config.lbfgs_steps, run)
    estimates = {"levenberg_marquardt": newton.value / scale, "lbfgs": found / scale}

    truth = draw(grid)
    k = np.abs(np.fft.fftfreq(config.resolution, 1 / config.resolution))
    wavenumber, limit = np.hypot(k[:, None], k), float(np.sqrt(len(sensors)) / 2)
    seen = lambda u: jnp.fft.ifft2(jnp.fft.fft2(u) * (wavenumber <= limit)).real
    rms = lambda u: float(jnp.sqrt(jnp.mean(u**2)))
    relative = lambda u, part: rms(part(u - truth)) / rms(part(truth))
    parts = {"initial": seen, "initial_whole": lambda u: u}
    metrics = {}
    for name, xi in estimates.items():
        viscosity, amplitude = coefficients(xi)
        metrics |= {
            f"viscosity_error/{name}": abs(float(viscosity) / config.viscosity - 1),
            f"amplitude_error/{name}": abs(float(amplitude) / config.amplitude - 1),
            **{f"{part}_error/{name}": relative(initial(xi), of) for part, of in parts.items()},
            f"misfit/{name}": rms(misfits(xi)),
        }
    jacobian = jax.jit(jacobian_by_rows, static_argnums=0)(misfits, estimates["levenberg_marquardt"])
    sensed = jax.vmap(lambda xi: initial(xi).ravel()[sensors])(jnp.eye(len(start))).T / deviation
    weights = jnp.linalg.solve(sensed @ sensed.T + jnp.eye(len(sensors)), data[0] / deviation)
    interpolated = initial(sensed.T @ weights)
    scalars = jnp.sqrt(posterior_variance(lambda xi: xi[:2], jacobian))
    metrics |= {"viscosity_error/expected": float(scalars[0]), "amplitude_error/expected": float(scalars[1])}
    for part, of in parts.items():
        variance = posterior_variance(lambda xi, of=of: of(initial(xi)), jacobian)
        metrics |= {
            f"{part}_error/expected": float(jnp.sqrt(jnp.mean(variance))) / rms(of(truth)),
            f"{part}_error/prior_mean": 1.0,
            f"{part}_error/first_observation": relative(interpolated, of),
        }
    metrics |= {
        "misfit/guess": rms(misfits(start)),
        "misfit/truth": rms((data - exact) / deviation),
        "newton_steps": float(newton.stats["num_steps"]),
    }
    xi = estimates["levenberg_marquardt"]
    fields = {"initial": (truth, initial(xi)), "last": (later[-1], predicted(xi)[-1])}
    run.save_figure(plot_vorticity(fields, sensors, wavenumber, limit))
    return metrics


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
