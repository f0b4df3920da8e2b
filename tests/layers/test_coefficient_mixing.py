"""CoefficientMixing against its formula, and the variance it keeps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.layers import CoefficientMixing


def test_it_is_its_formula(key):
    layer = CoefficientMixing(3, (4, 5), activation=jnp.tanh, key=key)
    layer = eqx.tree_at(lambda m: m.bias, layer, jax.random.normal(key, (4, 5, 3)))
    a = np.random.default_rng(0).normal(size=(4, 5, 3))
    h = np.tanh(np.einsum("xyoi,xyi->xyo", layer.channels, a) + layer.bias)
    expected = a + np.einsum("px,qy,xyc->pqc", *layer.modes, h)
    np.testing.assert_allclose(eqx.filter_jit(layer)(jnp.asarray(a)), expected, atol=1e-13)


def test_each_map_keeps_the_variance_of_what_it_acts_on(key):
    """The expected gain of white noise: the sum over the entries of a row."""
    layer = CoefficientMixing(8, (16,), key=key)
    assert abs(np.mean(np.sum(np.square(layer.channels), -1)) - 1) < 0.13
    assert abs(np.mean(np.sum(np.square(layer.modes[0]), -1)) - 1) < 0.26


@pytest.mark.plain
def test_errors_name_the_argument():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"`shape` \(0,\)"):
        CoefficientMixing(1, (0,), key=key)
    with pytest.raises(ValueError, match=r"`a` has shape \(4, 1\); expected coefficients and channels \(3, 1\)"):
        CoefficientMixing(1, (3,), key=key)(jnp.ones((4, 1)))
