"""Equations against their exact solutions, balances and published exponents, and the orders of the schemes on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers import Grid
from solvers.equations import (
    Advection,
    AdvectionDiffusion,
    AllenCahn,
    Burgers,
    Diffusion,
    Dispersion,
    HyperDiffusion,
    KleinGordon,
    KolmogorovForcing,
    KortewegDeVries,
    KuramotoSivashinsky,
    NavierStokes2D,
    NavierStokes3D,
    NonlinearSchroedinger,
    ShallowWater,
    VariableTransport,
    Wave,
)
from solvers.exponential import ETDRK


def solve(stepper, u, steps, dt=0.0):
    """The state after `steps` steps, the equation's time counted in steps of `dt` from 0."""

    def advance(v, n):
        return stepper.advance(v, n * dt), None

    v, _ = jax.lax.scan(advance, stepper.encode(u), jnp.arange(steps))
    return stepper.decode(v)


def plane_wave(grid, k, omega, t, decay=0.0):
    x = np.asarray(grid.coordinates())
    wavenumbers = 2 * np.pi * np.asarray(k) / np.asarray(grid.extent)
    phase = np.tensordot(wavenumbers, x - np.reshape(grid.lower, (-1,) + (1,) * len(x)), 1)
    return np.exp(-decay * t) * np.cos(phase - omega * t)[None]


PLANE = Grid((12, 15), (-1.0, 0.5), (3.0, 5.0))
K = 2 * np.pi * np.array([2, -3]) / np.array(PLANE.extent)
TENSOR = np.array([[0.3, 0.1], [0.1, 0.2]])


@pytest.mark.parametrize(
    ("equation", "omega", "decay"),
    [
        (Advection([0.7, -0.4]), K @ [0.7, -0.4], 0.0),
        (Diffusion(TENSOR), 0.0, K @ TENSOR @ K),
        (AdvectionDiffusion([0.7, -0.4], [0.02, 0.01]), K @ [0.7, -0.4], K**2 @ [0.02, 0.01]),
        (Dispersion([0.3, -0.2]), K**3 @ [0.3, -0.2], 0.0),
        (HyperDiffusion(1e-3, power=3), 0.0, 1e-3 * (K @ K) ** 3),
    ],
)
def test_linear_equations_are_exact_in_one_step(equation, omega, decay):
    t = 0.8
    u = jax.jit(lambda u: ETDRK(equation, PLANE, t)(u))(jnp.asarray(plane_wave(PLANE, (2, -3), 0.0, 0.0)))
    np.testing.assert_allclose(u, plane_wave(PLANE, (2, -3), omega, t, decay), atol=2e-13)


@pytest.mark.parametrize(
    ("equation", "omega"), [(Wave(1.3), 1.3 * (K @ K) ** 0.5), (KleinGordon(1.5, 0.8), (2.25 * K @ K + 0.64) ** 0.5)]
)
def test_linear_waves_are_exact_in_one_step_and_keep_their_energy(equation, omega):
    def wave(t):
        u, quarter = (plane_wave(PLANE, (2, -3), omega, s) for s in (t, t + np.pi / 2 / omega))
        return np.concatenate([u, omega * quarter])

    state = jax.jit(lambda u: ETDRK(equation, PLANE, 0.8)(u))(jnp.asarray(wave(0.0)))
    np.testing.assert_allclose(state, wave(0.8), atol=1e-12)
    np.testing.assert_allclose(
        equation.energy(PLANE, state), equation.energy(PLANE, jnp.asarray(wave(0.0))), rtol=1e-12
    )
    np.testing.assert_allclose(equation.energy(PLANE, state), omega**2 / 2 * 4.0 * 4.5, rtol=1e-12)


@pytest.mark.slow
def test_inertia_gravity_waves_have_the_frequency_of_poincare():
    k, f, g, H, small = 2 * np.pi * 2 / 4.0, 0.5, 2.0, 1.5, 1e-7
    omega = (f**2 + g * H * k**2) ** 0.5
    x = PLANE.coordinates()[0] + 1.0

    def wave(t):
        u, v = omega * jnp.cos(k * x - omega * t), f * jnp.sin(k * x - omega * t)
        return small * jnp.stack([u, v, H * k * jnp.cos(k * x - omega * t)])

    u = jax.jit(lambda u: solve(ETDRK(ShallowWater(H, g, f), PLANE, 0.4), u, 5))(wave(0.0))
    np.testing.assert_allclose(u, wave(2.0), atol=1e-5 * small * omega)


def cole_hopf(x, t, nu):
    """`-2 nu (log theta)_x` for `theta = 1 + e^{-nu t} cos(x) / 2`."""
    decay = 0.5 * jnp.exp(-nu * t)
    return (2 * nu * decay * jnp.sin(x) / (1 + decay * jnp.cos(x)))[None]


def two_solitons(x, t):
    """Of `u_t + 6 u u_x + u_xxx = 0`: speeds 2.25 and 1 (Hirota)."""
    k1, k2 = 1.5, 1.0

    def log_tau(x):
        e1, e2 = jnp.exp(k1 * (x + 9.0) - k1**3 * t), jnp.exp(k2 * (x + 4.0) - k2**3 * t)
        return jnp.log(1 + e1 + e2 + ((k1 - k2) / (k1 + k2)) ** 2 * e1 * e2)

    return 2 * jax.vmap(jax.grad(jax.grad(log_tau)))(x)[None]


def schroedinger_soliton(x, t):
    c = 2 * np.pi / 48 * 4
    psi = 1 / jnp.cosh(x - c * t) * jnp.exp(1j * (c * x + (1 - c**2) * t / 2))
    return jnp.stack([psi.real, psi.imag])


EXACT = {
    "burgers": (Burgers(0.1), Grid(64, 0.0, 2 * np.pi), lambda x, t: cole_hopf(x, t, 0.1), 2.0),
    "korteweg-de-vries": (KortewegDeVries(), Grid(256, -32.0, 32.0), two_solitons, 8.0),
    "schroedinger": (NonlinearSchroedinger(), Grid(256, -24.0, 24.0), schroedinger_soliton, 2.0),
}


@pytest.mark.parametrize(
    ("name", "steps", "accuracy"),
    [
        ("burgers", 80, 1e-10),
        pytest.param("korteweg-de-vries", 5000, 1e-8, marks=pytest.mark.slow),
        ("schroedinger", 200, 1e-8),
    ],
)
def test_the_exact_solution_is_reproduced(name, steps, accuracy):
    equation, grid, exact, end = EXACT[name]
    (x,) = grid.axes()
    u = jax.jit(lambda u: solve(ETDRK(equation, grid, end / steps, dealiasing="pad"), u, steps))(exact(x, 0.0))
    assert jnp.max(jnp.abs(u - exact(x, end))) < accuracy * jnp.max(jnp.abs(u))


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize(
    ("name", "end", "steps"), [("burgers", 2.0, 10), ("korteweg-de-vries", 1.0, 160), ("schroedinger", 2.0, 20)]
)
def test_the_order_is_that_of_the_scheme(name, end, steps, order):
    equation, grid, exact, _ = EXACT[name]
    (x,) = grid.axes()

    @jax.jit
    def error(steps):
        stepper = ETDRK(equation, grid, end / steps, order=order, dealiasing="pad")
        v = jax.lax.fori_loop(0, steps, lambda n, v: stepper.advance(v), stepper.encode(exact(x, 0.0)))
        return jnp.sqrt(jnp.mean((stepper.decode(v) - exact(x, end)) ** 2))

    errors = [float(error(steps * 2**i)) for i in range(3)]
    measured = np.log2(errors[1] / errors[2])
    assert abs(measured - order) < (0.1 if order == 2 else 0.2), errors


@pytest.mark.parametrize("shape", [(32, 32), (20, 20, 20)])
def test_irrotational_burgers_is_cole_hopf_in_more_dimensions(shape):
    """`u = -2 nu grad log theta`, `theta = 1 + e^{-d nu t} prod_j cos(x_j) / 4`, by `(u . grad) u`."""
    grid, nu, dt, steps = Grid(shape, 0.0, 2 * np.pi), 0.2, 0.1, 5
    d, x = grid.ndim, grid.coordinates()

    def exact(t):
        decay, cosines = 0.25 * jnp.exp(-d * nu * t), jnp.cos(x)
        slopes = [-jnp.sin(x[j]) * jnp.prod(jnp.delete(cosines, j, 0), 0) for j in range(d)]
        return -2 * nu * decay * jnp.stack(slopes) / (1 + decay * jnp.prod(cosines, 0))

    u = jax.jit(lambda u: solve(ETDRK(Burgers(nu), grid, dt), u, steps))(exact(0.0))
    assert jnp.max(jnp.abs(u - exact(dt * steps))) < 1e-6 * jnp.max(jnp.abs(u))


def test_taylor_green_vortices_decay_exactly_while_a_mean_flow_carries_them():
    grid, nu, U, t = Grid((16, 16), 0.0, 2 * np.pi), 0.1, np.array([0.7, -0.3]), 0.6
    x, y = grid.coordinates()

    def exact(t):
        return (2 * jnp.exp(-2 * nu * t) * jnp.cos(x - U[0] * t) * jnp.cos(y - U[1] * t))[None]

    u = jax.jit(lambda u: ETDRK(NavierStokes2D(nu, mean_velocity=U), grid, t)(u))(exact(0.0))
    np.testing.assert_allclose(u, exact(t), atol=1e-13)


def test_the_laminar_kolmogorov_flow_is_steady():
    grid, nu, mu, A, n = Grid((16, 16), 0.5, 0.5 + 2 * np.pi), 0.05, 0.1, 1.3, 2
    y = grid.coordinates()[1]
    laminar = (-A * n / (nu * n**2 + mu) * jnp.cos(n * y))[None]
    step = jax.jit(lambda u: ETDRK(NavierStokes2D(nu, mu, KolmogorovForcing(A, n)), grid, 0.5)(u))
    np.testing.assert_allclose(step(laminar), laminar, atol=1e-12)


def test_a_forcing_in_time_keeps_the_fourth_order():
    """`w = sin(2 t) cos(x) cos(y)` does not convect itself: the forcing is `w_t - nu Lap w`."""
    grid, nu, end = Grid((8, 8), 0.0, 2 * np.pi), 0.1, 1.0

    def forcing(t, x):
        return ((2 * jnp.cos(2 * t) + 2 * nu * jnp.sin(2 * t)) * jnp.cos(x[0]) * jnp.cos(x[1]))[None]

    @jax.jit
    def error(steps):
        stepper = ETDRK(NavierStokes2D(nu, forcing=forcing), grid, end / steps)
        v = stepper.encode(jnp.zeros((1, 8, 8)))
        v = jax.lax.fori_loop(0, steps, lambda n, v: stepper.advance(v, n * end / steps), v)
        x = grid.coordinates()
        return jnp.max(jnp.abs(stepper.decode(v)[0] - jnp.sin(2 * end) * jnp.cos(x[0]) * jnp.cos(x[1])))

    errors = [float(error(n)) for n in (8, 16)]
    assert abs(np.log2(errors[0] / errors[1]) - 4) < 0.2, errors


def test_the_energy_of_taylor_green_vortices_in_three_dimensions_falls_by_twice_viscosity_times_enstrophy():
    grid, nu, dt, steps = Grid((16, 16, 16), 0.0, 2 * np.pi), 0.01, 0.05, 40
    x, y, z = grid.coordinates()
    u = jnp.stack([jnp.sin(x) * jnp.cos(y) * jnp.cos(z), -jnp.cos(x) * jnp.sin(y) * jnp.cos(z), jnp.zeros_like(x)])
    stepper = ETDRK(NavierStokes3D(nu), grid, dt)
    k = np.stack(np.meshgrid(*[np.fft.fftfreq(16, 1 / 16)] * 3, indexing="ij"))

    def advance(v, _):
        v = stepper.advance(v)
        return v, stepper.decode(v)

    _, us = jax.jit(lambda v: jax.lax.scan(advance, v, None, length=steps))(stepper.encode(u))
    u_hat = np.fft.fftn(np.concatenate([u[None], us]), axes=(2, 3, 4)) / 16**3
    energy = np.sum(abs(u_hat) ** 2, axis=(1, 2, 3, 4)) / 2
    enstrophy = np.sum(np.sum(k**2, 0) * abs(u_hat) ** 2, axis=(1, 2, 3, 4)) / 2
    lost = 2 * nu * dt / 3 * np.sum(enstrophy[0:-2:2] + 4 * enstrophy[1:-1:2] + enstrophy[2::2])  # Simpson's rule
    np.testing.assert_allclose(energy[0] - energy[-1], lost, rtol=1e-6)
    assert np.max(np.abs(np.sum(k * u_hat[-1], 0))) < 1e-14
    assert enstrophy.max() > 1.1 * enstrophy[0]  # vortices stretch: the balance is of more than decay


def test_transport_conserves_the_mean_and_reaches_a_steady_state_of_constant_flux():
    """`(a u_x)_x + f = 0` with `a = 1 / (2 + cos x)`, `f = -(a cos x)_x`: steady at `sin x` plus a constant."""
    grid = Grid(64, 0.0, 2 * np.pi)
    (x,) = grid.axes()
    a = 1 / (2 + jnp.cos(x))
    source = jnp.sin(x) * a - jnp.cos(x) * a**2 * jnp.sin(x)
    equation = VariableTransport(a, source=source)
    u = jax.jit(lambda u: solve(ETDRK(equation, grid, 0.1), u, 1000))(jnp.full((1, 64), 0.3))
    np.testing.assert_allclose(jnp.mean(u), 0.3, rtol=1e-12)
    np.testing.assert_allclose(u[0] - 0.3, jnp.sin(x), atol=1e-8)


def test_phases_of_allen_cahn_meet_in_a_tanh():
    D, grid = 0.005, Grid(192, -2.0, 2.0)
    (x,) = grid.axes()
    wall = lambda x: jnp.tanh(x / (2 * D) ** 0.5)
    steady = (wall(x + 1) * wall(1 - x))[None]  # two walls, 20 widths apart
    u = jax.jit(lambda u: solve(ETDRK(AllenCahn(D), grid, 0.05, dealiasing="pad"), u, 20))(steady)
    np.testing.assert_allclose(u, steady, atol=1e-6)


@pytest.mark.slow
def test_the_largest_lyapunov_exponent_of_kuramoto_sivashinsky_on_22_is_0_048():
    """Cvitanovic, Davidchack and Siminos (2010): 0.048. By the growth of a tangent, renormalised every time unit."""
    stepper = ETDRK(KuramotoSivashinsky(), Grid(48, 0.0, 22.0), 0.1)
    (x,) = stepper.space.grid.axes()

    def unit_time(carry, _):
        v, w = jax.lax.fori_loop(0, 10, lambda _, vw: jax.jvp(stepper.advance, vw[:1], vw[1:]), carry)
        norm = jnp.linalg.norm(stepper.decode(w))
        return (v, w / norm), jnp.log(norm)

    @jax.vmap
    def exponent(phase):
        u = 0.1 * jnp.cos(2 * np.pi * x / 22 + phase)[None] * (1 + jnp.sin(4 * np.pi * x / 22))
        start = stepper.encode(u), stepper.encode(jnp.cos(6 * np.pi * x / 22 + 1)[None])
        _, growth = jax.lax.scan(unit_time, start, None, length=20_500)
        return jnp.mean(growth[500:])

    exponents = jax.jit(exponent)(jnp.linspace(0.0, 3.0, 8))
    assert abs(jnp.mean(exponents) - 0.048) < 0.003
