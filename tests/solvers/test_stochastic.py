from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.equations import AdvectionDiffusion, Burgers, Equation, SineGordon
from solvers.exponential import ETDRK
from solvers.grid import Grid
from solvers.random_fields import PowerSpectrum, WhiteSpectrum
from solvers.stochastic import Stochastic

CIRCLE = Grid(15, 0.0, 2 * np.pi)
SPECTRUM = PowerSpectrum(1.0, 1.0)


class Damped(Equation):
    """`u_t = -u / 2 + i u_xx / 5`, a complex field."""

    degree: ClassVar[int | None] = 1
    real: ClassVar[bool] = False

    def channels(self, ndim):
        return 1

    def linear(self, space):
        return -0.5 + 0.2j * space.laplacian

    def nonlinear(self, space, u_hat, t):
        return None


def trajectory(stepper, u, steps, key):
    """The coefficients after every step, over the number of points."""

    def step(v, i):
        v = stepper.advance(v, key=jax.random.fold_in(key, i))
        return v, v / np.prod(stepper.stepper.space.grid.shape)

    return jax.lax.scan(step, stepper.encode(u), jnp.arange(steps))[1]


def test_a_linear_equation_has_its_stationary_variance_at_every_wavenumber_for_large_steps(key):
    nu, drag = 0.1, 0.5

    class Dissipation(Equation):
        degree: ClassVar[int | None] = 1

        def channels(self, ndim):
            return 2

        def linear(self, space):
            return nu * space.laplacian - drag + space.derivative(0)

        def nonlinear(self, space, u_hat, t):
            return None

    stepper = Stochastic(ETDRK(Dissipation(), CIRCLE, 1.5), SPECTRUM)
    steps = 20000
    v = jax.jit(lambda key: trajectory(stepper, jnp.zeros((2, 15)), steps, key))(key)
    k = np.arange(8)
    exact = 1 / (1 + k**2) / (2 * (nu * k**2 + drag))
    # Successive states are correlated by e^{-1.5 * 0.5} or less: 20000 are worth over 7000, two channels of which give
    # 1.2 % of standard deviation, 1.7 % for k = 0, which is real. Five of those.
    np.testing.assert_allclose(np.mean(np.abs(v) ** 2, (0, 1)), exact, rtol=0.085)
    assert np.abs(np.mean(v, (0, 1))).max() < 5 * np.sqrt(exact[0] / 14000 * 2)


def test_the_noise_of_one_step_has_the_variance_of_the_process_and_is_independent(key):
    dt, stepper = 0.7, Stochastic(ETDRK(AdvectionDiffusion(1.0, 0.3), CIRCLE, 0.7), SPECTRUM)
    zero = stepper.encode(jnp.zeros((1, 15)))
    keys = jax.random.split(key, 20000)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: stepper.noise(zero, key=key)[0] / 15))(keys))
    rate = 0.6 * np.arange(8) ** 2
    exact = np.where(rate > 0, -np.expm1(-rate * dt) / np.where(rate > 0, rate, 1), dt) / (1 + np.arange(8) ** 2)
    np.testing.assert_allclose(np.mean(np.abs(draws) ** 2, 0), exact, rtol=0.05)
    normal = draws / np.sqrt(exact)
    # No two of: wavenumbers, steps, real and imaginary parts, are correlated.
    assert np.abs(normal[1:].conj().T @ normal[:-1] / 20000).max() < 0.035
    assert np.abs(normal.conj().T @ normal / 20000 - np.eye(8)).max() < 0.05
    assert np.abs(np.mean(normal[:, 1:] ** 2, 0)).max() < 0.035


@pytest.mark.slow
def test_a_complex_field_has_its_variance(key):
    stepper = Stochastic(ETDRK(Damped(), CIRCLE, 1.0), WhiteSpectrum(0.3))
    zero = stepper.encode(jnp.zeros((2, 15)))
    v = jax.jit(jax.vmap(lambda key: stepper.noise(zero, key=key)[0] / 15))(jax.random.split(key, 10000))
    np.testing.assert_allclose(np.mean(np.abs(v) ** 2, 0), 0.09 * -np.expm1(-1), rtol=0.05)
    assert np.abs(np.mean(v**2, 0)).max() < 0.05 * 0.09


def test_a_key_gives_the_same_noise_on_every_grid(key):
    def noise(shape):
        stepper = Stochastic(ETDRK(Burgers(0.1), Grid(shape), 0.1), SPECTRUM, modes=7)
        return stepper.noise(jnp.zeros((2, shape[0], shape[1] // 2 + 1), complex), key=key)

    coarse, fine = jax.jit(lambda: (noise((12, 15)), noise((48, 30))))()
    # What the coarse grid keeps by the 2/3 rule: wavenumbers up to 3 on the first axis, up to 4 on the second.
    u = np.fft.irfftn(coarse, (12, 15), axes=(1, 2))
    same = np.fft.irfftn(fine, (48, 30), axes=(1, 2))
    np.testing.assert_allclose(u, same[:, ::4, ::2], atol=1e-13)
    np.testing.assert_allclose(np.fft.rfftn(u, axes=(1, 2)), coarse, atol=1e-12)  # a real field


def test_the_mean_of_burgers_is_that_of_its_noise(key):
    # Burgers' equation conserves the mean, so the mean is a Brownian motion whose variance after 1 is S(0) = 1/4.
    stepper = Stochastic(ETDRK(Burgers(0.05), Grid(16), 0.05), lambda k2: jnp.where(k2 < 50, 0.25, 0.0))
    u = jnp.ones((1, 16))
    run = lambda key: jnp.mean(stepper.decode(trajectory(stepper, u, 20, key)[-1] * 16))
    means = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(key, 2000)))
    assert abs(means.mean() - 1) < 4 * 0.5 / np.sqrt(2000)
    assert abs(means.var() - 0.25) < 4 * 0.25 * np.sqrt(2 / 2000)


def test_the_gradient_in_the_amplitude_is_a_central_difference_and_finite_where_nothing_is_forced(key):
    grid = Grid(16, 0.0, 2 * np.pi)

    @jax.jit
    def value(sigma):
        ring = lambda k2: jnp.where((k2 > 1) & (k2 < 10), sigma**2, 0)
        stepper = Stochastic(ETDRK(Burgers(0.1), grid, 0.1), ring)
        return jnp.sum(stepper.decode(trajectory(stepper, jnp.zeros((1, 16)), 5, key)[-1]) ** 2)

    slope = (value(0.5 + 1e-5) - value(0.5 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(value))(0.5), slope, rtol=1e-7)


@pytest.mark.dtype
def test_the_state_keeps_its_precision(key):
    step = lambda u: Stochastic(ETDRK(Burgers(0.1), CIRCLE, 0.1), SPECTRUM)(u, key=key)
    for dtype in (jnp.float32, jnp.result_type(float)):
        assert jax.eval_shape(step, jnp.zeros((1, 15), dtype)).dtype == dtype


@pytest.mark.plain
def test_bad_noise_is_refused():
    step = ETDRK(Burgers(0.1), CIRCLE, 0.1)
    with pytest.raises(ValueError, match="`modes` is 6 for 1 axes; give positive odd numbers"):
        Stochastic(step, SPECTRUM, modes=6)
    with pytest.raises(ValueError, match="`spectrum` is negative or NaN"):
        Stochastic(step, lambda k2: 1 - k2)
    with pytest.raises(ValueError, match="`stepper` is of SineGordon, whose L couples its components"):
        Stochastic(ETDRK(SineGordon(), CIRCLE, 0.1), SPECTRUM)
