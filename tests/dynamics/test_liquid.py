import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from opkit.dynamics import Integrator, LiquidNetwork, LTCCell, SynapticCell, semi_implicit_linear_step

CELLS = (LTCCell, SynapticCell)
TS = jnp.array([0.0, 0.3, 0.35, 1.1, 1.5, 2.6])
US = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))


def network(cell, key, unfolds=6):
    return LiquidNetwork(cell(2, 3, tau=0.7, key=key), 1, unfolds=unfolds, key=key)


def by_hand(cell, t, x, u):
    """The equations of the paper, neuron by neuron."""
    softplus, sigmoid = lambda v: np.log1p(np.exp(v)), lambda v: 1 / (1 + np.exp(-v))
    z = np.concatenate([u, x])
    rate = np.zeros(3)
    for i in range(3):
        rate[i] = -softplus(float(cell.leak[i])) * x[i]
        if isinstance(cell, LTCCell):
            f = softplus(float(cell.gain[i])) * sigmoid(float(cell.bias[i]) + np.dot(cell.weight[i], z))
            rate[i] += f * (float(cell.target[i]) - x[i])
        else:
            for j in range(5):
                f = softplus(float(cell.gain[i, j])) * sigmoid(float(cell.slope[i, j]) * (z[j] - cell.centre[i, j]))
                rate[i] += f * (float(cell.target[i, j]) - x[i])
    return rate


@pytest.fixture(scope="module")
def solved():
    """By cell: the states by Diffrax, and those by semi-implicit steps, 8 and 16 between samples."""
    key = jax.random.key(1)
    adaptive = diffrax.PIDController(rtol=1e-9, atol=1e-9)
    integrator = Integrator(diffrax.Tsit5(), diffrax.ClipStepSizeController(adaptive, jump_ts=TS))
    run = eqx.filter_jit(lambda a, b: (a.solve(TS, US, integrator), a(TS, US), b(TS, US)))
    return {cell: run(network(cell, key, 8), network(cell, key, 16)) for cell in CELLS}


@pytest.mark.parametrize("cell", CELLS)
def test_any_solver_of_diffrax_follows_the_published_equations(cell, solved):
    parameters = jax.tree.map(np.asarray, network(cell, jax.random.key(1)).cell)
    x, expected = np.zeros(3), []
    for i, u in enumerate(np.asarray(US)):
        rate = lambda t, x, u=u: by_hand(parameters, t, x, u)
        x = solve_ivp(rate, (TS[i], TS[i + 1]), x, rtol=1e-9, atol=1e-9).y[:, -1]
        expected.append(x)
    found = solved[cell][0]
    assert found.solved
    np.testing.assert_allclose(found.ys, expected, atol=1e-7)


@pytest.mark.parametrize("cell", CELLS)
def test_semi_implicit_steps_converge_to_the_solution_at_first_order(cell, solved):
    out, coarse, fine = solved[cell]
    exact = network(cell, jax.random.key(1)).read(out.ys)
    ratio = jnp.linalg.norm(coarse - exact) / jnp.linalg.norm(fine - exact)
    assert 1.8 < ratio < 2.2, ratio


def test_a_semi_implicit_step_of_any_length_ends_between_the_state_and_the_equilibrium():
    x, rate, source = jnp.array([1.0, -2.0]), jnp.array([3.0, 0.5]), jnp.array([6.0, 1.0])
    np.testing.assert_allclose(semi_implicit_linear_step(x, rate, source, 1e9), source / rate, rtol=1e-8)
    np.testing.assert_allclose(semi_implicit_linear_step(x, rate, source, 0.25), [2.5 / 1.75, -1.75 / 1.125])


@pytest.mark.parametrize("cell", CELLS)
def test_states_stay_between_their_targets_whatever_the_weights_inputs_and_steps(cell):
    net = network(cell, jax.random.key(0), unfolds=2)
    rng = np.random.default_rng(1)

    @eqx.filter_jit
    def excess(net, scale, ts, us, part):
        cell = jax.tree.map(lambda w: w * scale, net.cell)
        net = eqx.tree_at(lambda n: n.cell, net, cell)
        low, high = cell.bounds
        states = eqx.tree_at(lambda n: (n.readout.weight, n.readout.bias), net, (jnp.eye(3), jnp.zeros(3)))
        xs = states(ts, us, low + part * (high - low))
        return jnp.max(jnp.maximum(xs - high, low - xs) / (high - low))

    for _ in range(100):
        scale, length, size = 10 ** rng.uniform(-1, 2, 3)
        ts = np.sort(rng.uniform(0, length, 21))
        drawn = excess(net, scale, ts, size * rng.normal(size=(20, 2)), rng.uniform(size=3))
        assert drawn <= 1e-12


@pytest.mark.parametrize("cell", CELLS)
def test_repeated_times_change_nothing_and_gradients_are_those_of_differences(cell):
    net = network(cell, jax.random.key(2))
    trained, rest = eqx.partition(net, eqx.is_inexact_array)
    direction = jax.tree.map(lambda w: jnp.sin(jnp.arange(w.size, dtype=w.dtype)).reshape(w.shape), trained)
    ts, us = jnp.concatenate([TS, TS[-1:]]), jnp.concatenate([US, US[:1]])

    @jax.jit
    def run(h):
        moved = jax.tree.map(lambda w, d: w + h * d, trained, direction)
        out = eqx.combine(moved, rest)(ts, us)
        return jnp.sum(out**2), out

    h = 1e-5
    slope = jax.jit(jax.grad(lambda h: run(h)[0]))(0.0)
    np.testing.assert_allclose(slope, (run(h)[0] - run(-h)[0]) / (2 * h), rtol=1e-7)
    np.testing.assert_array_equal(run(0.0)[1][-1], run(0.0)[1][-2])


@pytest.mark.dtype
@pytest.mark.parametrize("cell", CELLS)
def test_precision_follows_the_samples(cell, key):
    net = network(cell, key)
    out = jax.eval_shape(net, jnp.asarray(TS, "float32"), jnp.asarray(US, "float32"))
    assert (out.shape, out.dtype) == ((5, 1), np.float32)


@pytest.mark.plain
def test_errors_name_the_argument(key):
    net = network(LTCCell, key)
    for message, call in {
        r"`ts` has shape \(5,\), `us` \(5, 2\)": lambda: net(TS[1:], US),
        "`ts` has": lambda: net(TS[::-1], US),
        "`unfolds` is 0": lambda: network(LTCCell, key, 0),
        "`tau` is -1": lambda: SynapticCell(1, 1, tau=-1.0, key=key),
        "`in_size` is 0, `size` 2": lambda: LTCCell(0, 2, key=key),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
