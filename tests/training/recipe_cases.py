"""What the tests of recipes share: a small nonlinear step, windows, and a total with its gradient."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from opkit.training import total

RNG = np.random.default_rng(0)
WINDOWS = 0.5 * RNG.normal(size=(3, 6, 1, 8))


class Step(eqx.Module):
    """`A tanh(u) + B u(. - h) + args`, on any number of axes."""

    a: jax.Array
    b: jax.Array

    def __init__(self, cin=1, cout=1, dtype=None, seed=1):
        rng = np.random.default_rng(seed)
        self.a, self.b = (jnp.asarray(0.7 * rng.normal(size=(cout, cin)), dtype) for _ in range(2))

    def __call__(self, u, domain=None, query=None, *, args=None, key=None):
        v = jnp.tensordot(self.a, jnp.tanh(u), 1) + jnp.tensordot(self.b, jnp.roll(u, 1, -1), 1)
        return v if args is None else v + args[0]


def square(prediction, target, domain):
    return jnp.mean((prediction - target) ** 2)


def value_and_gradient(objective, model, batch, key, carry=None):
    """The total of an objective, its gradient in the model, and the next carry."""
    return _value_and_gradient(objective, model, jax.tree.map(jnp.asarray, batch), key, carry)


@eqx.filter_jit
def _value_and_gradient(objective, model, batch, key, carry):
    arrays, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(arrays):
        terms, _, after = objective(eqx.combine(arrays, static), batch, key=key, carry=carry)
        return total(terms), after

    (value, after), gradient = jax.value_and_grad(loss, has_aux=True)(arrays)
    return value, gradient, after


@eqx.filter_jit
def plain(loss, model):
    """The value and the gradient of a function of the model."""
    return eqx.filter_value_and_grad(loss)(model)


def assert_equal(found, expected, rtol=1e-10):
    """Value and gradient agree."""
    for a, b in zip(jax.tree.leaves(found[:2]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14)
