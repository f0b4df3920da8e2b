"""The neural ODE against exact solutions, finite differences and conservation laws."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import expm

from opkit.dynamics import (
    GlobalPenalty,
    Hamiltonian,
    Integrator,
    Jointly,
    LocalPenalty,
    MLPField,
    NeuralODE,
    SecondOrder,
)
from solvers import VectorFieldSum

A = np.array([[-0.3, 1.0, 0.0], [-1.0, -0.1, 0.4], [0.2, 0.0, -0.5]])
PRECISE = diffrax.PIDController(rtol=1e-8, atol=1e-8)


class Linear(eqx.Module):
    matrix: jax.Array

    def __call__(self, t, y, args=None):
        return y @ self.matrix.astype(y.dtype).T


def test_a_linear_field_gives_the_matrix_exponential_at_the_times_asked_for_and_backwards():
    model = NeuralODE(Linear(jnp.asarray(A)), Integrator(controller=PRECISE))
    y0, ts = np.array([1.0, -2.0, 0.5]), np.array([0.25, 1.0, 2.0])
    out = eqx.filter_jit(model)(jnp.asarray(y0), 0.0, 2.0, ts=ts)
    assert bool(out.solved)
    np.testing.assert_allclose(out.ys, [expm(A * t) @ y0 for t in ts], rtol=0, atol=1e-7)
    back = eqx.filter_jit(model)(out.ys[-1], 2.0, 0.0)
    np.testing.assert_allclose(back.ys[0], y0, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_gradients_of_both_adjoints_are_central_differences(key):
    """With steps so small that the discrete and the continuous gradient agree."""
    discrete = diffrax.RecursiveCheckpointAdjoint()
    field = MLPField(2, 8, 1, time=True, args_size=1, key=key)
    y0 = jnp.array([0.7, -0.4])

    def loss(field, adjoint):
        integrator = Integrator(diffrax.Bosh3(), diffrax.ConstantStepSize(), dt0=0.02, max_steps=64, adjoint=adjoint)
        return jnp.sum(NeuralODE(field, integrator)(y0, 0.0, 1.0, jnp.array([0.3])).ys ** 2)

    direction = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), eqx.filter(field, eqx.is_array)
    )
    forward = eqx.filter_jit(
        lambda e: loss(eqx.apply_updates(field, jax.tree.map(lambda d: e * d, direction)), discrete)
    )
    difference = (forward(1e-4) - forward(-1e-4)) / 2e-4
    for adjoint in (discrete, diffrax.BacksolveAdjoint()):
        gradient = eqx.filter_jit(eqx.filter_grad(loss))(field, adjoint)
        np.testing.assert_allclose(optax.tree.vdot(gradient, direction), difference, rtol=2e-6)


def test_augmentation_parts_discs_from_the_rings_around_them():
    """A planar flow keeps a disc inside its ring, and no line parts them. One dimension more takes `|y|^2`, and then
    moves the plane by it; Euler's steps do so exactly."""

    def field(t, y, args):
        gather, move = 2.0 * jnp.sum(y[:, :2] ** 2, -1), 20.0 * y[:, 2]
        zero = jnp.zeros_like(move)
        return jnp.where(t < 0.5, jnp.stack([zero, zero, gather], -1), jnp.stack([move, zero, zero], -1))

    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    disc, ring = np.concatenate([0.3 * circle, 0.6 * circle]), 1.2 * circle
    integrator = Integrator(diffrax.Euler(), diffrax.ConstantStepSize(), dt0=0.25)
    out = NeuralODE(field, integrator, augment=1)(jnp.asarray(np.concatenate([disc, ring])), 0.0, 1.0)
    assert out.ys.shape == (1, 72, 2)
    assert out.ys[0, :48, 0].max() < 5 < 13 < out.ys[0, 48:, 0].min()


def test_a_second_order_field_gives_the_oscillator():
    model = NeuralODE(SecondOrder(lambda t, state, args: -(args**2) * state[0]), Integrator(controller=PRECISE))
    y, v = eqx.filter_jit(model)((jnp.array([1.0]), jnp.array([0.0])), 0.0, 1.0, jnp.asarray(3.0)).ys
    np.testing.assert_allclose([y[0, 0], v[0, 0]], [np.cos(3), -3 * np.sin(3)], atol=1e-6)


@pytest.mark.slow
def test_a_hamiltonian_network_keeps_its_energy_for_each_sample_of_a_joint_state(key):
    energy = MLPField(4, 16, 1, out_size=1, key=key)
    model = NeuralODE(Hamiltonian(energy), Integrator(controller=PRECISE))
    q, p = jax.random.normal(jax.random.key(1), (2, 3, 2))
    out = eqx.filter_jit(model)((q, p), 0.0, 5.0)
    before, after = energy(0.0, (q, p)), energy(0.0, jax.tree.map(lambda leaf: leaf[0], out.ys))
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert float(jnp.abs(out.ys[0][0] - q).max()) > 0.1  # and it moves
    alone = eqx.filter_jit(model)((q[1], p[1]), 0.0, 5.0)
    np.testing.assert_allclose(out.ys[0][0, 1], alone.ys[0][0], atol=1e-6)


def test_a_universal_equation_is_the_known_part_plus_the_network(key):
    network = MLPField(3, 4, 1, key=key)
    both, y = VectorFieldSum(Linear(jnp.asarray(A)), network), jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(both(0.0, y, None), A @ y + network(0.0, y), rtol=1e-14)
    assert NeuralODE(both).vector_field.summands[1] is network


def test_a_joint_field_is_the_field_of_each_sample():
    single = lambda t, y, args: jnp.array([y[1], -t * y[0]])
    y = jax.random.normal(jax.random.key(0), (4, 2))
    np.testing.assert_array_equal(Jointly(single)(2.0, y), jnp.stack([single(2.0, row, None) for row in y]))


def test_every_regulariser_and_a_schedule_pass_through(key):
    model = NeuralODE(MLPField(3, 4, 1, key=key), Integrator(diffrax.Heun()), augment=1)
    for regulariser in (GlobalPenalty("error", lambda step: 2.0 * step), LocalPenalty("error", 3.0)):
        out = eqx.filter_jit(model)(jnp.ones(2), 0.0, 1.0, regulariser=regulariser, step=jnp.asarray(4), key=key)
        weight = 8.0 if isinstance(regulariser, GlobalPenalty) else 3.0
        assert float(out.value) > 0
        np.testing.assert_allclose(out.penalty, weight * out.value)


@pytest.mark.dtype
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_precision_is_the_states_and_so_are_times(dtype, key):
    if dtype == jnp.float64 and not jax.config.jax_enable_x64:
        pytest.skip("needs x64")
    model = NeuralODE(MLPField(2, 4, 1, time=True, key=key))
    out = eqx.filter_jit(model)(
        jnp.ones(2, dtype), 0.0, 1.0, ts=np.linspace(0, 1, 3), regulariser=GlobalPenalty("error", 1.0)
    )
    assert out.ys.dtype == out.penalty.dtype == out.solution.ts.dtype == dtype


@pytest.mark.plain
def test_errors_name_what_came_and_what_was_expected(key):
    model, y = NeuralODE(MLPField(2, 4, 1, args_size=1, key=key)), jnp.ones(2)
    with pytest.raises(ValueError, match=r"`args` has 0 entries on its last axis; expected 1"):
        model(y, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"`y` has 3 entries on its last axis; expected 2"):
        model(jnp.ones(3), 0.0, 1.0, jnp.ones(1))
    with pytest.raises(ValueError, match=r"`ts` runs \[0.5 0.2\]; expected increasing times between"):
        model(y, 0.0, 1.0, jnp.ones(1), ts=np.array([0.5, 0.2]))
    with pytest.raises(ValueError, match=r"`ts` runs .*; expected increasing times between `t0` and `t1`, 0.0 to 1.0"):
        model(y, 0.0, 1.0, jnp.ones(1), ts=np.array([0.5, 1.2]))
    with pytest.raises(ValueError, match=r"`augment` is -1"):
        NeuralODE(lambda t, y, args: y, augment=-1)
