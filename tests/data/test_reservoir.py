"""A reservoir holds what its rule says, of samples that come in blocks."""

from itertools import combinations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from opkit.data import Reservoir

insert = eqx.filter_jit(lambda reservoir, samples, key: reservoir.insert(samples, key=key))
sample = eqx.filter_jit(lambda reservoir, size, key: reservoir.sample(size, key=key))


def subsets(blocks, capacity, trials):
    """How often each set of `capacity` arrivals is what a reservoir holds after blocks of those sizes."""
    arrivals = sum(blocks)

    def one(key):
        reservoir, first = Reservoir(jax.ShapeDtypeStruct((1,), jnp.int32), capacity), 0
        for size, own in zip(blocks, jax.random.split(key, len(blocks)), strict=True):
            reservoir = reservoir.insert(jnp.arange(first, first + size, dtype=jnp.int32), key=own)
            first += size
        return jnp.sum(2**reservoir.buffer)

    held = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), trials)))
    codes = [sum(2**i for i in chosen) for chosen in combinations(range(arrivals), capacity)]
    counts = np.array([(held == code).sum() for code in codes])
    assert counts.sum() == trials  # no arrival twice, none lost
    return counts


@pytest.mark.parametrize("blocks", [(2, 3, 2), pytest.param((1,) * 7, marks=pytest.mark.slow)])
def test_every_subset_of_the_arrivals_is_held_equally_often_within_blocks_too(blocks):
    counts = subsets(blocks, 3, 20_000)
    assert len(counts) == 35
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.slow
def test_every_arrival_is_held_equally_often():
    trials, capacity, blocks = 4000, 8, (8, 5, 8, 7, 8, 8)
    n = sum(blocks)

    def one(key):
        reservoir, first = Reservoir(jax.ShapeDtypeStruct((1,), jnp.int32), capacity), 0
        for size, own in zip(blocks, jax.random.split(key, len(blocks)), strict=True):
            reservoir = reservoir.insert(jnp.arange(first, first + size, dtype=jnp.int32), key=own)
            first += size
        return reservoir.buffer

    held = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), trials)))
    counts, p = np.bincount(held.ravel(), minlength=n), capacity / n
    # of a sample without replacement the counts vary by 1 - p less, and sum to a constant
    statistic = np.sum((counts - trials * p) ** 2) / (trials * p * (1 - p)) * (n - 1) / n
    assert stats.chi2.sf(statistic, n - 1) > 1e-3


def test_the_oldest_makes_room_and_what_is_not_finite_does_not_enter():
    reservoir = Reservoir({"x": jnp.zeros((1, 2), jnp.float32), "n": jnp.zeros(1, jnp.int32)}, 5, replace="oldest")
    for first in range(0, 12, 4):
        n = jnp.arange(first, first + 4, dtype=jnp.int32)
        x = jnp.stack([n, jnp.where(n == 6, jnp.nan, n)], 1).astype(jnp.float32)
        reservoir = insert(reservoir, {"x": x, "n": n}, jax.random.key(0))
    assert (int(reservoir.arrived), int(reservoir.refused), int(reservoir.held)) == (11, 1, 5)
    assert sorted(reservoir.buffer["n"].tolist()) == [7, 8, 9, 10, 11]
    np.testing.assert_array_equal(reservoir.buffer["x"][:, 0], reservoir.buffer["n"])
    assert reservoir.buffer["x"].dtype == jnp.float32


def test_what_was_drawn_makes_room_first():
    evicted_undrawn = 0
    for seed in range(6):
        reservoir, keys = Reservoir(jnp.zeros(1), 4, replace="drawn"), jax.random.split(jax.random.key(seed), 4)
        for first in (0.0, 2.0):
            reservoir = insert(reservoir, np.array([first, first + 1]), keys[0])
        assert sorted(reservoir.buffer.tolist()) == [0, 1, 2, 3]
        batch, reservoir = sample(reservoir, 2, keys[1])
        drawn = set(batch.tolist())
        assert {float(v) for v, n in zip(reservoir.buffer, reservoir.draws, strict=True) if n} == drawn
        reservoir = insert(reservoir, np.array([4.0, 5.0]), keys[2])
        held = set(reservoir.buffer.tolist())
        assert held >= {4, 5}
        assert not held & drawn
        assert not reservoir.draws.any()
        evicted_undrawn += 2 - len(drawn)
    assert evicted_undrawn  # where one sample was drawn twice, an undrawn one went too


def test_batches_are_uniform_over_what_is_held_and_nan_in_compiled_code_where_nothing_is():
    nothing = Reservoir(jnp.zeros(1), 8)
    held = eqx.tree_at(lambda r: (r.buffer, r.arrived), nothing, (jnp.arange(8.0), jnp.asarray(5, jnp.int32)))
    batch, after = sample(held, 5000, jax.random.key(1))
    counts = np.bincount(np.asarray(batch, int), minlength=8)
    assert not counts[5:].any()
    assert stats.chisquare(counts[:5]).pvalue > 1e-3
    np.testing.assert_array_equal(after.draws, counts)
    assert np.isnan(sample(nothing, 5000, jax.random.key(1))[0]).all()


@pytest.mark.plain
def test_wrong_reservoirs_are_errors(key):
    with pytest.raises(ValueError, match=r"`capacity` is 0; expected 1 or more samples"):
        Reservoir(jnp.zeros(1), 0)
    with pytest.raises(ValueError, match=r"`replace` is 'fifo'; expected one of \('uniform', 'oldest', 'drawn'\)"):
        Reservoir(jnp.zeros(1), 3, replace="fifo")
    reservoir = Reservoir(jnp.zeros((1, 2)), 3)
    with pytest.raises(
        ValueError, match=r"reservoir is empty \(0 samples were refused as not finite\); `insert` first"
    ):
        reservoir.sample(1, key=key)
    with pytest.raises(ValueError, match=r"`samples` are 2 of float32\[3\]; expected at most 3 of float32\[2\]"):
        reservoir.insert(jnp.zeros((2, 3)), key=key)
    with pytest.raises(ValueError, match=r"`samples` are 4 of float32\[2\]; expected at most 3 of"):
        reservoir.insert(jnp.zeros((4, 2)), key=key)
