"""The running average of the parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from opkit.training import Term, averaged, ema_parameters, init_state, make_train_step
from solvers import Frozen


def objective(model, batch, *, key, carry):
    return {"a": Term(model["w"] * batch - 1, "residual")}, {}, carry


def model(dtype=None):
    return {"w": jnp.array([2.0, -1.0], dtype), "table": Frozen(jnp.array([7.0], dtype)), "name": "a"}


def train(optimiser, steps, dtype=None):
    step = eqx.filter_jit(make_train_step(objective, optimiser))
    state, path = init_state(model(dtype), optimiser), []
    for i in range(steps):
        state, _ = step(state, jnp.asarray([1.0 + i, 0.5], dtype), key=jax.random.key(0))
        path.append(np.asarray(state.model["w"], np.float64))
    return state, path


def test_the_average_is_that_of_a_plain_loop_and_leaves_training_alone():
    decay = 0.8
    state, path = train(optax.chain(optax.adam(0.1), ema_parameters(decay)), 6)
    weights = decay ** np.arange(6)[::-1]
    expected = sum(w * p for w, p in zip(weights, path, strict=True)) / weights.sum()
    np.testing.assert_allclose(averaged(state)["w"], expected, rtol=1e-12)
    np.testing.assert_array_equal(averaged(state)["table"].tree, [7.0])
    assert averaged(state)["name"] == "a"
    np.testing.assert_allclose(path[-1], train(optax.adam(0.1), 6)[1][-1], rtol=1e-12)


def test_before_the_first_step_the_average_is_the_model_itself():
    state = init_state(model(), ema_parameters(0.9))
    np.testing.assert_array_equal(averaged(state)["w"], [2.0, -1.0])


@pytest.mark.dtype
def test_a_bfloat16_model_is_averaged_in_float32_and_comes_back_as_it_is():
    optimiser = optax.chain(optax.sgd(0.0), ema_parameters(0.999))
    state, _ = train(optimiser, 2, jnp.bfloat16)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.opt_state)} <= {"float32", "float64"}
    assert averaged(state)["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(averaged(state)["w"], float), [2.0, -1.0])


@pytest.mark.plain
def test_what_cannot_be_averaged_is_an_error():
    with pytest.raises(ValueError, match=r"`decay` is 1.0; expected 0 <= decay < 1"):
        ema_parameters(1.0)
    with pytest.raises(ValueError, match="`state` has 0 averages of its parameters; expected one"):
        averaged(init_state(model(), optax.sgd(0.1)))
    with pytest.raises(ValueError, match="`params` is None; the average needs them"):
        ema_parameters(0.9).update({}, ema_parameters(0.9).init({}))
