"""phi functions and exponential Runge-Kutta steps; their orders on PDEs are in `test_equations`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

from opkit.training import partition
from solvers import Grid
from solvers.equations import Equation
from solvers.exponential import ETDRK, phi, phi_matrix


class Reaction(Equation):
    """`u_t = nu u_xx + shift u - rate u^2 + push t`."""

    nu: float | jax.Array
    rate: float | jax.Array
    push: float | jax.Array = 0.0
    degree = 2

    def channels(self, ndim):
        return 1

    def linear(self, space):
        return self.nu * space.laplacian

    def nonlinear(self, space, u_hat, t):
        n = space.grid.shape[0]
        return space.from_points(-self.rate * space.to_points(u_hat) ** 2).at[:, 0].add(self.push * t * n)


class Source(Equation):
    """`u_t = nu u_xx + rate`: no product, and yet not linear."""

    nu: float
    rate: float
    degree = 1

    def channels(self, ndim):
        return 1

    def linear(self, space):
        return self.nu * space.laplacian

    def nonlinear(self, space, u_hat, t):
        return jnp.zeros_like(u_hat).at[:, 0].set(self.rate * space.grid.shape[0])


class Rotation(Equation):
    """Two components that turn into each other, damped at the wavenumber's rate."""

    speed: float
    degree = 1

    def channels(self, ndim):
        return 2

    def linear(self, space):
        zero, one = jnp.zeros_like(space.laplacian), jnp.ones_like(space.laplacian)
        return jnp.stack([jnp.stack([space.laplacian, self.speed * one]), jnp.stack([-self.speed * one, zero])])

    def nonlinear(self, space, u_hat, t):
        return None


@pytest.mark.dtype
def test_phi_against_the_matrix_exponential():
    """`expm` of a Jordan-like block gives every phi at once, without cancellation."""
    points = [0, 1e-9, 0.3, -1.99, 2.01, -40, 3j, -0.5 + 1.9j, 100j, -3 - 2j]
    for dtype, tolerance in ((jnp.complex64, 2e-6), (jnp.complex128, 4e-15)):
        if dtype == jnp.complex128 and not jax.config.read("jax_enable_x64"):
            continue
        got = phi(jnp.asarray(points, dtype), 3)
        for index, z in enumerate(points):
            block = np.diag([0j] * 4) + np.diag([1.0] * 3, 1)
            block[0, 0] = z
            row = scipy.linalg.expm(block)[0]
            exact = [np.exp(z), *row[1:]]
            for value, expected in zip(got, exact, strict=True):
                assert value.dtype == dtype
                assert abs(value[index] - expected) <= tolerance * max(1, abs(expected), abs(np.exp(z)))


def test_phi_of_matrices_is_phi_of_their_eigenvalues():
    rng = np.random.default_rng(0)
    basis, values = rng.normal(size=(3, 3)), np.array([-3.0, 0.0, 0.4])
    matrix = jnp.asarray(basis @ np.diag(values) @ np.linalg.inv(basis))
    got = phi_matrix(jnp.stack([matrix, 0.1 * matrix], -1), 3)
    for j in range(4):
        for column, factor in ((0, 1.0), (1, 0.1)):
            diagonal = np.diag(np.asarray(phi(jnp.asarray(factor * values), 3)[j]))
            np.testing.assert_allclose(got[j][..., column], basis @ diagonal @ np.linalg.inv(basis), atol=1e-12)


def test_gradient_of_phi_is_finite_and_right_everywhere():
    for z in (0.0, 1.9999, 2.0, 2.0001, -50.0):
        slope = jax.grad(lambda z: phi(z, 3)[3])(z)
        difference = (phi(jnp.asarray(z + 1e-5), 3)[3] - phi(jnp.asarray(z - 1e-5), 3)[3]) / 2e-5
        assert slope == pytest.approx(float(difference), rel=1e-6)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_order_with_a_time_dependent_term(order):
    """`u' = -u^2 + t` for the mean alone, against a fine solution by SciPy."""
    grid, equation = Grid(4), Reaction(nu=0.1, rate=1.0, push=1.0)
    reference = scipy.integrate.solve_ivp(lambda t, u: -(u**2) + t, (0, 1), [2.0], rtol=1e-12, atol=1e-13).y[0, -1]
    errors = []
    for steps in (20, 40):
        stepper, v = ETDRK(equation, grid, 1 / steps, order=order), None
        v = stepper.encode(jnp.full((1, 4), 2.0))
        for n in range(steps):
            v = stepper.advance(v, n / steps)
        errors.append(abs(float(stepper.decode(v)[0, 0]) - reference))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_linear_steps_are_exact_for_coupled_components():
    grid, dt = Grid(8, 0.0, 2 * np.pi), 0.7
    k = 2
    x = grid.axes()[0]
    u = jnp.stack([jnp.cos(k * x), 0.5 * jnp.sin(k * x)])
    exact = scipy.linalg.expm(dt * np.array([[-float(k**2), 3.0], [-3.0, 0.0]])) @ np.asarray(u)
    np.testing.assert_allclose(ETDRK(Rotation(3.0), grid, dt)(u), exact, atol=1e-13)


def test_gradients_reach_coefficients_of_a_stepper_built_inside_only():
    grid = Grid(16)
    u = 1 + 0.3 * jnp.sin(2 * jnp.pi * grid.coordinates())

    def loss(nu, rate, dt):
        return jnp.sum(ETDRK(Reaction(nu, rate), grid, dt)(u) ** 2)

    at = (0.02, 1.3, 0.1)
    for argument in range(3):
        slope = jax.grad(loss, argument)(*at)
        shifted = [[a + (sign * 1e-5 if i == argument else 0) for i, a in enumerate(at)] for sign in (1, -1)]
        assert slope == pytest.approx(float(loss(*shifted[0]) - loss(*shifted[1])) / 2e-5, rel=1e-7)
    built = ETDRK(Reaction(jnp.asarray(0.02), jnp.asarray(1.3)), grid, 0.1)
    gradient = eqx.filter_grad(lambda stepper: jnp.sum(stepper(u) ** 2))(built)
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(gradient))
    with pytest.raises(ValueError, match="nothing would be trained"):
        partition(built)


@pytest.mark.dtype
def test_precision_follows_the_state():
    stepper = ETDRK(Reaction(0.1, 1.0), Grid(8), 0.1)
    for dtype in (jnp.float32, jnp.float64) if jax.config.read("jax_enable_x64") else (jnp.float32,):
        assert stepper(jnp.ones((1, 8), dtype)).dtype == dtype


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: ETDRK(Reaction(0.1, 1.0), Grid(8), 0.0), "`dt` is 0.0"),
        (lambda: ETDRK(Reaction(0.1, 1.0), Grid(8), 0.1, order=3), "`order` is 3"),  # pyright: ignore[reportArgumentType]  # on purpose
        (lambda: ETDRK(Reaction(-10.0, 1.0), Grid(64), 1.0), "`equation` grows beyond all bounds"),
        (lambda: ETDRK(Reaction(0.1, 1.0), Grid(8, placement="cells"), 0.1), "`grid` has 1 axes of placement"),
        (lambda: ETDRK(Reaction(0.1, 1.0), Grid(8), 0.1)(jnp.ones((2, 8))), r"`u` has shape \(2, 8\); Reaction"),
        (lambda: ETDRK(Reaction(0.1, 1.0), Grid(8), 0.1)(jnp.ones((1, 9))), r"`u` has shape \(1, 9\)"),
    ],
)
def test_errors(build, match):
    with pytest.raises(ValueError, match=match):
        build()


@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_source_is_integrated_exactly(order):
    u = jnp.sin(2 * jnp.pi * Grid(8).coordinates())
    decay = np.exp(-0.1 * (2 * np.pi) ** 2 * 0.5)
    np.testing.assert_allclose(ETDRK(Source(0.1, 3.0), Grid(8), 0.5, order=order)(u), decay * u + 1.5, atol=1e-14)
