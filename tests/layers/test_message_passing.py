"""Message passing, held to its formulas, edge by edge."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.layers import Ball, FluxPassing, MessagePassing, Nearest
from solvers import Grid, Points

RNG = np.random.default_rng(0)
X, W = RNG.uniform(size=(7, 2)), RNG.uniform(0.5, 1.5, size=7)
MASK = np.arange(7) != 2
CLOUD = Points(jnp.asarray(X), jnp.asarray(W), jnp.asarray(MASK))
F, U, THETA = (RNG.normal(size=shape) for shape in ((7, 3), (7, 2), (2,)))
TORUS = (1.0, None)
SILU = lambda x: x / (1 + np.exp(-x))


def neighbours(k):
    """For each real point the numbers of its `k` nearest real others, and the offsets from them."""
    offset = X[:, None] - X
    offset[..., 0] -= np.round(offset[..., 0])
    distance = np.linalg.norm(offset, axis=-1) + 9.0 * ~MASK + 9.0 * np.eye(7)
    return [(i, np.argsort(distance[i])[:k], offset[i]) for i in np.flatnonzero(MASK)]


@eqx.filter_jit
def apply(layer, near):
    edges = near(CLOUD, dtype=F.dtype)
    f, u, theta = map(jnp.asarray, (F, U, THETA))
    given = (f, edges) if isinstance(layer, FluxPassing) else (f, u, edges, theta)
    return layer.channels_last(*given)


def first_layer(layer, i, j, features):
    weights = [np.asarray(part.weight) for part in (layer.receivers, layer.senders, layer.between)]
    parts = zip(weights, (F[i], F[j], features), strict=True)
    return SILU(sum(weight @ x for weight, x in parts) + np.asarray(layer.between.bias))


def second_layer(layer, hidden):
    return np.asarray(layer.message.weight) @ hidden + np.asarray(layer.message.bias)


def test_messages_are_those_of_the_formula(key):
    layer = MessagePassing(3, ndim=2, values=2, parameters=2, hidden=4, key=key)
    expected = []
    for i, near, offset in neighbours(3):
        hidden = [first_layer(layer, i, j, np.concatenate([U[i] - U[j], offset[j], THETA])) for j in near]
        mean = np.average([SILU(second_layer(layer, h)) for h in hidden], axis=0, weights=W[near])
        expected.append(np.concatenate([F[i], mean, THETA]))
    expected = F[MASK] + layer.update.channels_last(jnp.asarray(np.stack(expected)))
    np.testing.assert_allclose(apply(layer, Nearest(3, period=TORUS))[MASK], expected, atol=1e-13)


@pytest.mark.slow
def test_half_of_a_flux_is_averaged_at_the_receiver_and_half_at_the_sender(key):
    layer = FluxPassing(3, ndim=2, hidden=4, key=key)
    received, sent = [[] for _ in X], [[] for _ in X]
    for i, near, offset in neighbours(2):
        for j in near:
            hidden = first_layer(layer, i, j, np.append(offset[j], np.linalg.norm(offset[j])))
            both = second_layer(layer, hidden)
            sent[j].append((W[i], both[:4]))
            received[i].append((W[j], both[4:]))
    mean = lambda m: np.average([x for _, x in m], axis=0, weights=[w for w, _ in m]) if m else np.zeros(4)
    inputs = [np.concatenate([F[i], mean(received[i]), mean(sent[i])]) for i in np.flatnonzero(MASK)]
    expected = F[MASK] + layer.update.channels_last(jnp.asarray(np.stack(inputs)))
    np.testing.assert_allclose(apply(layer, Nearest(2, period=TORUS))[MASK], expected, atol=1e-13)


def test_given_neighbours_are_taken_without_a_search():
    index = jnp.asarray([[1, -1], [0, 2], [-1, -1]])
    cloud = Points(jnp.asarray([[0.0], [1.0], [3.0]]), neighbours=index)
    for near in (Ball(0.1), Nearest(1)):
        edges, means = jax.jit(lambda near=near: (near(cloud), near(cloud).mean_weights()))()
        np.testing.assert_array_equal(edges.window, [[1, 0], [1, 1], [0, 0]])
        np.testing.assert_array_equal(np.asarray(edges.offset)[1, :, 0], [1, -2])
        np.testing.assert_array_equal(np.sum(means, 1), [1, 1, 0])


def test_the_smooth_window_falls_to_zero_with_its_slope():
    edges = jax.jit(lambda: Ball(0.5, window="smooth")(Grid(17, placement="nodes")))()
    distance = np.abs(np.asarray(edges.offset)[8, :, 0])
    np.testing.assert_allclose(np.asarray(edges.window)[8], np.maximum(1 - 4 * distance**2, 0) ** 2, atol=1e-15)


@pytest.mark.plain
def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="`k` is 0; expected at least 1 neighbour"):
        Nearest(0)
    with pytest.raises(ValueError, match="`k` is 7; expected 1 to 6"):
        Nearest(7)(Points(jnp.ones((7, 1))))
    with pytest.raises(ValueError, match="`u` has 4 channels; expected 3"):
        eqx.filter_eval_shape(
            lambda key: MessagePassing(3, ndim=1, values=1, key=key).channels_last(
                jnp.ones((3, 4)), jnp.ones((3, 1)), Nearest(1)(Grid(3))
            ),
            jax.random.key(0),
        )
