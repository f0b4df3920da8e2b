"""Training while the data are made: how many samples arrive, what is learned, and where it resumes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from opkit.data import ArraySource, Reservoir, SimulatedSource
from opkit.training import Checkpoints, NonFiniteLoss, Online, Term, fit, init_state, make_train_step, mse, supervised

MATRIX = np.random.default_rng(0).normal(size=(3, 3))
KEY = jax.random.key(0)


def solve(key):
    x = jax.random.normal(key, (3,))
    return x, MATRIX @ x


def simulate(key):
    return jax.vmap(solve)(jax.random.split(key, 4))


def model():
    return eqx.nn.Linear(3, 3, key=jax.random.key(1))


def online(**options):
    return Online(supervised(mse, None), simulate, **{"batch_size": 8, "every": 3, **options})


def reservoir(capacity=12):
    return Reservoir(jax.eval_shape(simulate, KEY), capacity)


def test_blocks_arrive_at_their_steps_and_a_map_is_learned_from_samples_that_pass():
    objective, optimiser = online(), optax.adam(0.05)
    state = init_state(model(), optimiser, carry=objective.start(reservoir(), blocks=2, key=KEY))
    step = make_train_step(objective, optimiser)

    @jax.jit
    def run(arrays):
        def body(arrays, _):
            state = eqx.combine(arrays, static)
            state, metrics = step(state, None, key=jax.random.fold_in(KEY, state.step))
            return eqx.filter(state, eqx.is_array), (metrics["arrived"], metrics["refused"])

        return jax.lax.scan(body, arrays, length=301)

    arrays, static = eqx.partition(state, eqx.is_array)
    arrays, (arrived, refused) = run(arrays)
    np.testing.assert_array_equal(arrived, 8 + 4 * (1 + np.arange(301) // 3))
    assert not refused.any()
    trained = eqx.combine(arrays, static)
    np.testing.assert_allclose(trained.model.weight, MATRIX, atol=1e-3)
    held = trained.carry.reservoir
    np.testing.assert_allclose(held.buffer[0] @ MATRIX.T, held.buffer[1], rtol=1e-12)
    assert int(held.held) == 12


@pytest.mark.slow
def test_an_objective_with_memory_sees_the_batch_it_prepared_for():
    class Remembering:
        def prepare(self, model, batch, *, key, carry):
            return carry + 1, batch[0]

        def __call__(self, model, batch, *, key, carry):
            count, prepared = carry
            return {"data": Term(jnp.sum((batch[0] - prepared) ** 2)[None], "losses")}, {}, count

    objective = Online(Remembering(), simulate, batch_size=8)

    def step(carry, key):
        carry = objective.prepare(None, None, key=key, carry=carry)
        return objective(None, None, key=key, carry=carry)

    terms, metrics, carry = eqx.filter_jit(step)(objective.start(reservoir(), 6), KEY)
    assert float(terms["data"].value) == 0
    assert (int(carry.inner), int(carry.step), int(metrics["arrived"])) == (7, 1, 4)
    assert int(carry.reservoir.draws.sum()) == 8


@pytest.mark.slow
def test_samples_of_other_devices_train_as_samples_of_arrays_do():
    objective = Online(supervised(mse, None), batch_size=8)
    carry = objective.start(reservoir())
    simulated = SimulatedSource(solve, 24, key=KEY, devices=jax.devices()[1:3], block=4)
    arrays = ArraySource(simulated.take(np.arange(24)))
    options = {"carry": carry, "steps": 6, "batch_size": 4, "seed": 0, "chunk": 3}
    one, other = (fit(objective, model(), data, optax.sgd(0.1), **options) for data in (simulated, arrays))
    assert eqx.tree_equal(one, other)
    assert int(one.carry.reservoir.arrived) == 24
    assert one.model.weight.devices() == {jax.devices()[0]}


@pytest.mark.slow
def test_a_run_resumed_from_its_checkpoint_is_the_run_unbroken(tmp_path):
    objective = online(every=2)
    carry = objective.start(reservoir(), blocks=1, key=KEY)

    def run(steps, folder):
        store = Checkpoints(tmp_path / folder)
        return fit(
            objective, model(), None, optax.adam(0.1), carry=carry, steps=steps, seed=0, chunk=3, checkpoints=store
        )

    whole = run(12, "whole")
    run(6, "broken")
    resumed = run(12, "broken")
    assert eqx.tree_equal(whole, resumed)
    assert int(resumed.carry.reservoir.arrived) == 4 + 4 * 6


@pytest.mark.slow
def test_simulations_that_fail_are_refused_and_counted_and_if_all_do_the_run_ends():
    def some(key):
        x, y = simulate(key)
        return x, jnp.where(jnp.arange(4)[:, None] < 1, jnp.inf, y)

    objective = Online(supervised(mse, None), some, batch_size=4)
    rows = []
    options = {"carry": objective.start(reservoir()), "steps": 4, "chunk": 1, "seed": 0}
    fit(objective, model(), None, optax.sgd(0.1), log=lambda step, row: rows.append(row), **options)
    assert [(row["arrived"], row["refused"]) for row in rows] == [(3 * i, i) for i in (1, 2, 3, 4)]
    objective = Online(supervised(mse, None), lambda key: jax.tree.map(lambda a: a / 0, simulate(key)), batch_size=4)
    with pytest.raises(NonFiniteLoss):
        fit(objective, model(), None, optax.sgd(0.1), **options)


@pytest.mark.plain
def test_what_does_not_fit_together_is_an_error():
    objective, plain = online(), Online(supervised(mse, None), batch_size=4)
    with pytest.raises(ValueError, match=r"`batch_size` is 0, `every` 3; expected 1 or more"):
        online(batch_size=0)
    with pytest.raises(ValueError, match=r"`every` is 2 without `simulate`; every batch that arrives is taken in"):
        Online(supervised(mse, None), batch_size=4, every=2)
    with pytest.raises(ValueError, match=r"`blocks` is 2; simulating them takes `simulate` and a `key`"):
        plain.start(reservoir(), blocks=2, key=KEY)
    carry = objective.start(reservoir())
    with pytest.raises(ValueError, match=r"`data` is given, and so is `simulate`; expected one of the two"):
        objective.prepare(None, np.zeros((4, 3)), key=KEY, carry=carry)
    with pytest.raises(ValueError, match=r"`data` is None, and so is `simulate`; expected one of the two"):
        plain.prepare(None, None, key=KEY, carry=carry)
