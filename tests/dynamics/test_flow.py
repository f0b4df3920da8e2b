"""Continuous normalising flows, against linear flows, quadrature and the Jacobian of the flow's map."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import multivariate_normal

from opkit.dynamics import (
    ContinuousFlow,
    GlobalPenalty,
    Integrator,
    LocalPenalty,
    MLPField,
    PathPenalty,
    StandardNormal,
)

A = np.array([[0.3, -1.2], [0.8, -0.5]])
pull = eqx.filter_jit(lambda flow, x, args=None, **options: flow.log_density(x, args, **options))
push = eqx.filter_jit(lambda flow, z, **options: flow.push(z, **options))


def precise(tolerance=1e-9, **options):
    return Integrator(diffrax.Dopri5(), diffrax.PIDController(rtol=tolerance, atol=tolerance), **options)


def linear(t, y, args):
    return jnp.asarray(A, y.dtype) @ y


@pytest.fixture(scope="module")
def network():
    field = MLPField(2, 16, 1, time=True, key=jax.random.key(0))
    return ContinuousFlow(lambda t, y, args: 3 * field(t, y), precise(), StandardNormal(2))


def test_a_linear_flow_of_a_normal_is_the_normal_of_covariance_exp_a_exp_a_transposed():
    flow = ContinuousFlow(linear, precise(), StandardNormal(2))
    x = jax.random.normal(jax.random.key(0), (5, 2))
    out = pull(flow, x)
    exact = multivariate_normal(np.zeros(2), expm(A) @ expm(A).T)
    np.testing.assert_allclose(out.log_density, exact.logpdf(x), rtol=1e-8)
    np.testing.assert_allclose(out.points, x @ expm(-A).T, rtol=1e-7)
    assert out.solved


def test_pushing_forward_what_was_pulled_back_gives_the_points_and_their_log_density(network):
    x = jax.random.normal(jax.random.key(1), (5, 3, 2))
    pulled = pull(network, x)
    pushed = push(network, pulled.points, density=True)
    np.testing.assert_allclose(pushed.points, x, atol=1e-7)
    np.testing.assert_allclose(pushed.log_density, pulled.log_density, atol=1e-7)
    assert pulled.log_density.shape == (5, 3)


def test_the_density_changes_by_the_determinant_of_the_map_s_jacobian(network):
    h, z = 1e-4, jax.random.normal(jax.random.key(2), (3, 2))
    shifts = h * jnp.array([[0.0, 0.0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    pushed = push(network, shifts[:, None] + z, density=True)
    plus, minus = pushed.points[1::2], pushed.points[2::2]
    jacobian = jnp.moveaxis((plus - minus) / (2 * h), 0, -1)
    expected = jax.vmap(StandardNormal(2).log_density)(z) - jnp.log(jnp.linalg.det(jacobian))
    np.testing.assert_allclose(pushed.log_density[0], expected, atol=1e-6)


def test_the_density_integrates_to_one(network):
    flow = eqx.tree_at(lambda f: f.integrator, network, precise(1e-6))
    axis = jnp.linspace(-10, 10, 161)
    density = jnp.exp(pull(flow, jnp.stack(jnp.meshgrid(axis, axis), -1)).log_density)
    np.testing.assert_allclose(density.sum() * (axis[1] - axis[0]) ** 2, 1, atol=2e-5)


@pytest.mark.parametrize("trace", ["rademacher", "gaussian"])
def test_hutchinson_s_log_density_is_unbiased(network, trace):
    x = jnp.array([0.5, -0.3])
    many = jnp.broadcast_to(x, (2000, 2))  # one noise for each
    flow = ContinuousFlow(network.vector_field, precise(1e-6), network.base, trace=trace)
    estimates = pull(flow, many, key=jax.random.key(3)).log_density
    exact = pull(network, jnp.broadcast_to(x, (5, 3, 2))).log_density[0, 0]
    error = estimates.std() / len(many) ** 0.5
    assert 0 < error < 0.05
    assert abs(estimates.mean() - exact) < 3 * error


@pytest.mark.slow
def test_a_batch_as_one_state_agrees_with_vmap_and_with_conditions_of_its_own():
    flow = ContinuousFlow(lambda t, y, args: args["rate"] * y, precise(1e-7), StandardNormal(3))
    x, rates = jax.random.normal(jax.random.key(4), (6, 3)), jnp.linspace(-1.0, 1.0, 6)
    together = pull(flow, x, {"rate": rates}, args_axes=0).log_density
    singly = jax.jit(jax.vmap(lambda x, rate: flow.log_density(x, {"rate": rate}).log_density))(x, rates)
    exact = jax.vmap(StandardNormal(3).log_density)(x * jnp.exp(-rates[:, None])) - 3 * rates
    np.testing.assert_allclose(together, exact, atol=1e-5)
    np.testing.assert_allclose(singly, exact, atol=1e-5)


def test_samples_have_the_flow_s_covariance():
    flow = ContinuousFlow(linear, precise(1e-5), StandardNormal(2))
    drawn = eqx.filter_jit(flow.sample)((100, 50), key=jax.random.key(5))
    assert drawn.points.shape == (100, 50, 2)
    covariance = jnp.cov(drawn.points.reshape(-1, 2).T)
    np.testing.assert_allclose(covariance, expm(A) @ expm(A).T, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [GlobalPenalty("error", 0.3), LocalPenalty("error", 1.0)])
def test_descending_a_penalty_lowers_the_number_of_steps(network, penalty):
    x = jax.random.normal(jax.random.key(7), (16, 2))
    start = MLPField(2, 16, 1, time=True, key=jax.random.key(0))

    @eqx.filter_jit
    def descend(field, key):
        def loss(field):
            flow = ContinuousFlow(lambda t, y, args: 6 * field(t, y), precise(1e-6), network.base)
            out = flow.log_density(x, regulariser=penalty, key=key)
            return out.penalty, out.solve.solution.stats["num_steps"]

        gradient, steps = eqx.filter_grad(loss, has_aux=True)(field)
        return eqx.apply_updates(field, jax.tree.map(lambda g: -0.02 * g, gradient)), steps

    field, counts = start, []
    for i in range(40):
        field, steps = descend(field, jax.random.key(i))
        counts.append(int(steps))
    assert counts[-1] <= 0.8 * counts[0]


def test_the_kinetic_energy_of_a_flow_is_that_of_its_points_alone_and_does_not_move_the_steps():
    flow = ContinuousFlow(lambda t, y, args: 2 * jnp.stack([-y[1], y[0]]) + 0 * t, precise(1e-6), StandardNormal(2))
    x = jax.random.normal(jax.random.key(10), (4, 2))
    out, plain = pull(flow, x, regulariser=PathPenalty("kinetic", 0.5)), pull(flow, x)
    np.testing.assert_allclose(out.penalty, 0.5 * 4 * jnp.mean(x**2), rtol=1e-5)
    np.testing.assert_array_equal(out.log_density, plain.log_density)
    assert out.solve.solution.stats["num_steps"] == plain.solve.solution.stats["num_steps"]


@pytest.mark.slow
@pytest.mark.parametrize("trace", ["exact", "rademacher"])
def test_the_likelihood_s_gradient_is_that_of_central_differences(network, trace):
    x = jax.random.normal(jax.random.key(8), (3, 2))

    def mean(shift):
        field = lambda t, y, args: network.vector_field(t, y, args) + shift * jnp.sin(y[::-1] * y)
        flow = ContinuousFlow(field, precise(), network.base, trace=trace)
        return flow.log_density(x, key=jax.random.key(9)).log_density.mean()

    h = 1e-3
    above, below = jax.jit(lambda: jax.lax.map(mean, jnp.array([0.3 + h, 0.3 - h])))()
    np.testing.assert_allclose(jax.jit(jax.grad(mean))(0.3), (above - below) / (2 * h), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.dtype
def test_precision_follows_the_points():
    flow = ContinuousFlow(linear, precise(1e-4), StandardNormal(2), trace="gaussian")
    key, penalty = jax.random.key(0), GlobalPenalty("error", 1.0)
    for dtype in (jnp.float32, jnp.float64) if jax.config.read("jax_enable_x64") else (jnp.float32,):
        out = pull(flow, jnp.ones((3, 2), dtype), key=key, regulariser=penalty)
        assert {a.dtype for a in (out.points, out.log_density, out.penalty)} == {jnp.dtype(dtype)}
    assert eqx.filter_jit(flow.sample)((3,), key=key, dtype=jnp.float32).points.dtype == jnp.float32


@pytest.mark.plain
def test_what_does_not_fit_is_named():
    base = StandardNormal(2)
    with pytest.raises(ValueError, match="`trace` is 'hutchinson'; expected one of"):
        ContinuousFlow(linear, Integrator(), base, trace="hutchinson")
    with pytest.raises(ValueError, match="`key` is missing; the trace is estimated"):
        ContinuousFlow(linear, Integrator(), base, trace="gaussian").log_density(jnp.ones(2))
    with pytest.raises(ValueError, match=r"`vector_field` gives \(3, 1\) for points \(3, 2\)"):
        ContinuousFlow(lambda t, y, args: y[:1], Integrator(), base).log_density(jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="`key` is missing; a local penalty"):
        ContinuousFlow(linear, Integrator(), base).log_density(jnp.ones(2), regulariser=LocalPenalty("error", 1.0))
    flow = ContinuousFlow(linear, precise(1e-2), base)
    with pytest.raises(ValueError, match="`log_density` was not solved for; ask for it by `density=True`"):
        _ = push(flow, jnp.ones(2)).log_density
