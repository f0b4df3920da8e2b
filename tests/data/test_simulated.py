"""Samples that are simulated when asked for are functions of their numbers alone."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.data import SimulatedSource

KEY = jax.random.key(5)


def solve(key):
    u = jax.random.normal(key, (3,))
    return {"u": u, "v": jnp.cumsum(u)}


def test_samples_are_those_of_their_keys_on_another_device_and_in_a_thread():
    wanted = np.array([7, 0, 7, 100, 3])
    source = SimulatedSource(solve, 200, key=KEY, devices=jax.devices()[1:2], block=2)
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(source.take, wanted).result()
    expected = jax.jit(jax.vmap(lambda i: solve(jax.random.fold_in(KEY, i))))(wanted)
    np.testing.assert_allclose(found["u"], expected["u"], rtol=1e-12)
    np.testing.assert_allclose(found["v"], expected["v"], rtol=1e-12)
    assert found["u"].dtype == np.float64
    assert len(source) == 200


def test_a_thread_simulates_in_the_precision_the_source_was_made_in():
    with jax.enable_x64(False):
        source = SimulatedSource(solve, 5, key=KEY, block=2)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(source.take, np.arange(2)).result()["v"].dtype == np.float32


@pytest.mark.plain
def test_wrong_numbers_are_errors():
    with pytest.raises(ValueError, match=r"`samples` is 0, `block` 16; expected 1 or more"):
        SimulatedSource(solve, 0, key=KEY)
    with pytest.raises(ValueError, match=r"`devices` is empty; expected one or more, such as"):
        SimulatedSource(solve, 5, key=KEY, devices=[])
