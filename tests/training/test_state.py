"""What is trained, what is not, and what tells groups of parameters apart."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from opkit.training import by_path, init_state, make_train_step, partition, supervised
from solvers import Frozen


class Scaled(eqx.Module):
    """`w * table * u + bias`, the table frozen."""

    w: jax.Array
    bias: jax.Array
    table: Frozen

    def __init__(self):
        self.w = jnp.array([1.0, 2.0])
        self.bias = jnp.array([0.5, 0.5])
        self.table = Frozen({"values": jnp.array([3.0, 4.0])})

    def __call__(self, u):
        return self.w * self.table.value["values"] * u + self.bias


def squares(prediction, target, domain):
    return jnp.sum((prediction - target) ** 2)


X, Y = np.array([[1.0, 2.0], [0.5, -1.0]]), np.zeros((2, 2))


def one_step(optimiser, trainable=None):
    step = make_train_step(supervised(squares, None), optimiser, trainable=trainable)
    state = init_state(Scaled(), optimiser, trainable=trainable)
    return eqx.filter_jit(step)(state, (jnp.asarray(X), jnp.asarray(Y)), key=jax.random.key(0))[0].model


def gradient():
    """By hand: the mean over samples of the gradient of `sum((w t u + b)^2)`."""
    w, b, t = np.array([1.0, 2.0]), np.array([0.5, 0.5]), np.array([3.0, 4.0])
    residual = w * t * X + b
    return (2 * residual * t * X).mean(0), (2 * residual).mean(0)


def test_partition_takes_frozen_as_one_untrained_leaf_and_combines_back():
    model = Scaled()
    trained, rest = partition(model)
    assert [leaf.tolist() for leaf in jax.tree.leaves(trained)] == [[1.0, 2.0], [0.5, 0.5]]
    assert rest.table.tree["values"] is model.table.tree["values"]
    assert eqx.tree_equal(eqx.combine(trained, rest), model)


def test_weight_decay_leaves_frozen_arrays_alone():
    model = one_step(optax.adamw(0.1, weight_decay=0.5))
    np.testing.assert_array_equal(model.table.tree["values"], [3.0, 4.0])
    # AdamW's first step is -lr (sign(g) + decay p)
    np.testing.assert_allclose(model.w, np.array([1.0, 2.0]) * (1 - 0.05) - 0.1 * np.sign(gradient()[0]), rtol=1e-6)


def test_only_the_accepted_paths_are_trained():
    model = one_step(optax.adamw(0.1, weight_decay=0.5), trainable=lambda path: path == "bias")
    np.testing.assert_array_equal(model.w, [1.0, 2.0])
    assert not np.any(np.asarray(model.bias) == 0.5)
    mlp = eqx.nn.MLP(2, 2, 3, 2, key=jax.random.key(0))
    trained, _ = partition(mlp, lambda path: path.startswith("layers/2/"))
    assert [leaf.shape for leaf in jax.tree.leaves(trained)] == [(2, 3), (2,)]


def test_groups_of_parameters_have_their_own_learning_rates():
    rates = {"slow": optax.sgd(0.01), "fast": optax.sgd(0.1)}
    model = one_step(optax.partition(rates, by_path(lambda path: "slow" if path == "w" else "fast")))
    by_w, by_bias = gradient()
    np.testing.assert_allclose(model.w, np.array([1.0, 2.0]) - 0.01 * by_w, rtol=1e-12)
    np.testing.assert_allclose(model.bias, np.array([0.5, 0.5]) - 0.1 * by_bias, rtol=1e-12)


def test_weight_decay_can_spare_the_biases_by_path():
    decay = optax.add_decayed_weights(0.5, mask=by_path(lambda path: not path.endswith("bias")))
    model = one_step(optax.chain(optax.scale(0.0), decay, optax.scale(-1.0)))
    np.testing.assert_allclose(model.w, [0.5, 1.0])
    np.testing.assert_allclose(model.bias, [0.5, 0.5])


def test_numbers_in_the_carry_become_arrays():
    state = init_state(Scaled(), optax.sgd(0.1), carry={"weight": 1.0, "points": np.zeros(3), "name": "a"})
    assert isinstance(state.carry["weight"], jax.Array)
    assert isinstance(state.carry["points"], jax.Array)
    assert state.carry["name"] == "a"
    assert state.step.dtype == jnp.int32


@pytest.mark.plain
def test_training_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"`trainable` accepts none .*\['w', 'bias'\]"):
        partition(Scaled(), lambda path: path == "weight")
    with pytest.raises(ValueError, match="`model` holds no inexact array outside `Frozen`"):
        partition(Frozen(jnp.ones(3)))
