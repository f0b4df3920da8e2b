"""The competitors' integrals against closed forms."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import expm

from opkit.dynamics import Integrator, MLPField, NeuralODE, PathPenalty, total_derivative

A = np.array([[-0.3, 1.0, 0.0], [-1.0, -0.1, 0.4], [0.2, 0.0, -0.5]])
Y0 = np.array([1.0, -2.0, 0.5])
PRECISE = Integrator(controller=diffrax.PIDController(rtol=1e-9, atol=1e-9))
LINEAR = lambda t, y, args: y @ jnp.asarray(A, y.dtype).T


@pytest.mark.parametrize(
    ("penalty", "power"), [(PathPenalty("kinetic", 0.5), 1), (PathPenalty("taylor", 0.5, order=3), 3)]
)
def test_of_a_linear_field_kinetic_and_taylor_are_the_integrals_of_a_power_of_the_matrix(penalty, power):
    out = eqx.filter_jit(NeuralODE(LINEAR, PRECISE))(jnp.asarray(Y0), 0.0, 2.0, regulariser=penalty)
    rate = lambda t: np.mean((np.linalg.matrix_power(A, power) @ expm(A * t) @ Y0) ** 2)
    np.testing.assert_allclose(out.value, quad(rate, 0, 2)[0], rtol=1e-7)
    np.testing.assert_allclose(out.penalty, 0.5 * out.value)


def test_the_mean_over_draws_of_the_jacobian_is_its_frobenius_norm():
    """Constant along a linear field: over all eight sign vectors the mean is exact."""
    penalty, keys = PathPenalty("jacobian", 1.0), jax.random.split(jax.random.key(0), 400)
    rate = jax.vmap(lambda key: penalty.rate(LINEAR, jnp.asarray(Y0), key=key)(0.0, jnp.asarray(Y0), None))(keys)
    exact, error = np.sum(A**2) / 3, np.std(rate) / np.sqrt(len(rate))
    assert abs(np.mean(rate) - exact) < 3 * error
    out = eqx.filter_jit(NeuralODE(LINEAR, PRECISE))(jnp.asarray(Y0), 0.0, 2.0, regulariser=penalty, key=keys[0])
    np.testing.assert_allclose(out.value, 2 * rate[0], rtol=1e-12)


def test_taylor_mode_is_nested_forward_mode(key):
    """A network with time among its inputs, and a batch as one state."""
    field, y = MLPField(2, 5, 1, time=True, key=key), jnp.array([[0.3, -0.8], [1.0, 0.1]])
    t, args = jnp.asarray(0.4), None

    def along(g):
        return lambda t, y: jax.jvp(g, (t, y), (jnp.ones_like(t), field(t, y, args)))[1]

    nested = lambda t, y: field(t, y, args)
    for order in (1, 2, 3):
        by_jet = jax.jit(lambda y, order=order: total_derivative(field, t, y, args, order))(y)
        np.testing.assert_allclose(by_jet, jax.jit(nested)(t, y), rtol=1e-10)
        nested = along(nested)


def test_the_path_is_that_of_the_plain_solve(key):
    field, y0 = MLPField(2, 4, 1, key=key), jnp.array([0.5, -1.0])
    loose = Integrator(diffrax.Heun(), diffrax.PIDController(rtol=1e-3, atol=1e-3))
    saveat = diffrax.SaveAt(t0=True, ts=jnp.array([0.3, 0.9]))

    @eqx.filter_jit
    def solve(penalty):
        terms = diffrax.ODETerm(field)
        return loose(terms, 0.0, 1.0, y0, saveat=saveat, regulariser=penalty, key=key)

    with_penalty, plain = solve(PathPenalty("kinetic", 1.0)), solve(None)
    np.testing.assert_allclose(with_penalty.ys, plain.ys, rtol=1e-12)
    np.testing.assert_array_equal(with_penalty.solution.ts, plain.solution.ts)
    assert with_penalty.solution.stats["num_steps"] == plain.solution.stats["num_steps"]


@pytest.mark.slow
@pytest.mark.parametrize("quantity", ["jacobian", "taylor"])
def test_the_penaltys_gradient_is_that_of_differences(quantity, key):
    fixed = Integrator(diffrax.Euler(), diffrax.ConstantStepSize(), dt0=0.5, max_steps=2)
    model, y0, along = NeuralODE(MLPField(2, 4, 1, key=key), fixed), jnp.array([0.5, -1.0]), jnp.array([0.6, 0.8])
    value = lambda y: model(y, 0.0, 1.0, regulariser=PathPenalty(quantity, 1.0), key=key).value
    value, slope = eqx.filter_jit(value), eqx.filter_jit(jax.grad(value))
    difference = (value(y0 + 1e-5 * along) - value(y0 - 1e-5 * along)) / 2e-5
    np.testing.assert_allclose(slope(y0) @ along, difference, rtol=1e-6)


@pytest.mark.dtype
def test_single_precision_stays_single(key):
    model = NeuralODE(MLPField(2, 4, 1, key=key), Integrator(diffrax.Heun()))
    out = eqx.filter_jit(model)(jnp.ones(2, jnp.float32), 0.0, 1.0, regulariser=PathPenalty("taylor", 1.0))
    assert out.ys.dtype == out.penalty.dtype == jnp.float32


@pytest.mark.plain
def test_errors_name_the_argument_and_the_fix():
    y = jnp.ones(3)
    with pytest.raises(ValueError, match=r"`quantity` is 'speed'; expected one of \('kinetic', 'jacobian', 'taylor'\)"):
        PathPenalty("speed", 1.0)  # pyright: ignore[reportArgumentType]  # the point of the test
    with pytest.raises(ValueError, match="`order` is 1; expected at least 2"):
        PathPenalty("taylor", 1.0, order=1)
    with pytest.raises(ValueError, match="`key` is missing; the Jacobian's norm"):
        NeuralODE(LINEAR)(y, 0.0, 1.0, regulariser=PathPenalty("jacobian", 1.0))
    backsolve = Integrator(adjoint=diffrax.BacksolveAdjoint())
    with pytest.raises(ValueError, match=r"neither beside dense output nor under BacksolveAdjoint.*LocalPenalty"):
        NeuralODE(LINEAR, backsolve)(y, 0.0, 1.0, regulariser=PathPenalty("kinetic", 1.0))
    terms = diffrax.MultiTerm(diffrax.ODETerm(LINEAR), diffrax.ODETerm(LINEAR))
    with pytest.raises(ValueError, match="`terms` is MultiTerm; the penalty of a path is of one"):
        Integrator()(terms, 0.0, 1.0, y, regulariser=PathPenalty("kinetic", 1.0))
