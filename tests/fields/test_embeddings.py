"""Embeddings: periodic with all derivatives, random with the asked spread, affine onto the reference cube."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.jet import jet

from opkit.fields import MLP, Chain, FourierFeatures, PeriodicEmbedding, Rescale

from .field_cases import SMALL


def test_periodic_features_have_the_derivatives_of_sines_and_cosines():
    embedding = PeriodicEmbedding((None, 2.0, 0.5), harmonics=3)
    x, zero = jnp.array([0.3, 0.7, -0.2]), jnp.zeros(3)
    value, series = jax.jit(lambda x: jet(embedding, (x,), ((jnp.array([0.0, 1.0, 0.0]), zero, zero, zero),)))(x)
    k = np.arange(1, 4)
    for order, derivative in enumerate([value, *series]):
        angle = np.pi * k * 0.7 + order * np.pi / 2
        still = order == 0
        np.testing.assert_allclose(derivative[0], 0.3 * still, atol=1e-14)
        np.testing.assert_allclose(derivative[1:4], (np.pi * k) ** order * np.cos(angle), rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(derivative[4:7], np.cos(4 * np.pi * k * -0.2) * still, atol=1e-14)
        np.testing.assert_allclose(derivative[7:10], (np.pi * k) ** order * np.sin(angle), rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(derivative[10:], np.sin(4 * np.pi * k * -0.2) * still, atol=1e-14)


def test_a_field_of_periodic_features_repeats_with_its_derivatives(key):
    embedding = PeriodicEmbedding((None, 2.0, 0.5), harmonics=2)
    field = Chain(embedding, MLP(embedding.size, 1, **SMALL))
    v, zero = jnp.array([0.3, 1.0, -0.5]), jnp.zeros(3)
    derivatives = jax.jit(lambda x: jet(field, (x,), ((v, zero, zero),)))
    x = jax.random.normal(key, (3,))
    value, series = derivatives(x)
    for periods in ([0.0, 2.0, 0.0], [0.0, -4.0, 0.5], [0.0, 0.0, -1.5]):
        value_there, series_there = derivatives(x + jnp.array(periods))
        np.testing.assert_allclose(value_there, value, atol=1e-13)
        for there, here in zip(series_there, series, strict=True):
            np.testing.assert_allclose(there, here, rtol=1e-11, atol=1e-11)
    assert abs(derivatives(x + jnp.array([2.0, 0.0, 0.0]))[0] - value) > 1e-3


def test_random_features_are_waves_of_the_asked_spread_an_axis(key):
    embedding = FourierFeatures(2, 2000, scale=(1.0, 5.0), key=key)
    assert embedding.size == 4000
    frequencies = np.asarray(embedding.frequencies.value)
    np.testing.assert_allclose(frequencies.std(0), [1.0, 5.0], rtol=0.05)
    x = np.array([0.3, -0.4])
    expected = np.exp(1j * frequencies @ x)
    np.testing.assert_allclose(embedding(jnp.array(x)), [*expected.real, *expected.imag], atol=1e-13)


def test_random_features_have_the_kernel_of_their_spectrum(key):
    embedding = FourierFeatures(1, 20000, scale=2.0, key=key)
    here, there = (embedding(jnp.array([x])) for x in (0.1, 0.6))
    np.testing.assert_allclose(here @ there / 20000, np.exp(-((2.0 * 0.5) ** 2) / 2), atol=0.01)


def test_a_box_is_mapped_onto_the_reference_cube():
    rescale = Rescale((0.0, -2.0), (1.0, 6.0))
    corners = {(0.0, -2.0): (-1, -1), (1.0, 6.0): (1, 1), (0.5, 2.0): (0, 0), (0.75, 0.0): (0.5, -0.5)}
    for x, expected in corners.items():
        np.testing.assert_array_equal(rescale(jnp.array(x)), expected)
