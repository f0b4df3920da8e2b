"""Measuring a model on data."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.data import ArraySource
from opkit.training import evaluate, max_error, relative_l2
from solvers import Grid

RNG = np.random.default_rng(0)
DOMAINS = {"8": Grid(8), "16": Grid(16)}
METRICS = {"relative_l2": relative_l2, "max_error": max_error}


class Shift(eqx.Module):
    """An operator that shifts by half the domain."""

    scale: jnp.ndarray

    def __call__(self, u, domain, query=None, *, args=None, key=None):
        return self.scale * jnp.roll(u, domain.shape[0] // 2, axis=-1)


def pair(samples, n):
    return RNG.normal(size=(samples, 1, n)), RNG.normal(size=(samples, 1, n))


def test_every_sample_is_measured_at_every_resolution_whatever_the_batch():
    data = {"8": pair(7, 8), "16": ArraySource(pair(3, 16))}
    model = Shift(jnp.asarray(2.0))
    scores = evaluate(model, data, METRICS, DOMAINS, batch_size=3)
    assert set(scores) == {"relative_l2@8", "max_error@8", "relative_l2@16", "max_error@16"}
    x, y = data["8"]
    error = 2 * np.roll(x, 4, axis=-1) - y
    expected = np.linalg.norm(error[:, 0], axis=1) / np.linalg.norm(y[:, 0], axis=1)
    np.testing.assert_allclose(scores["relative_l2@8"], expected, rtol=1e-12)
    np.testing.assert_allclose(scores["max_error@8"], np.abs(error).max((1, 2)), rtol=1e-12)
    assert scores["max_error@16"].shape == (3,)
    assert isinstance(scores["max_error@16"], np.ndarray)
    whole = evaluate(model, data, METRICS, DOMAINS)
    np.testing.assert_allclose(whole["relative_l2@8"], scores["relative_l2@8"], rtol=1e-13)


def test_a_model_is_traced_once_a_batch_shape_however_often_it_is_measured():
    traces = []

    def model(u):
        traces.append(u.shape)
        return u

    data = {"a": pair(7, 8)}
    for _ in range(2):
        evaluate(model, data, METRICS, {"a": None}, batch_size=3)
    assert traces == [(1, 8)]


@pytest.mark.plain
def test_data_without_a_domain_is_an_error():
    with pytest.raises(ValueError, match=r"`domains` has none for '32'; it has \['16', '8'\]"):
        evaluate(Shift(jnp.asarray(1.0)), {"32": pair(2, 32)}, METRICS, DOMAINS)
