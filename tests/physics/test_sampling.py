"""Samples against what defines them, and weights against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from opkit.physics import Box, CollocationPoints, ascending, causal_weights, latin_hypercube, residual_adaptive, sobol

BOX = Box([0.0, -1.0, 2.0], [1.0, 1.0, 5.0])


def unit(points):
    lower, upper = BOX.bounds
    return (np.asarray(points) - lower) / (upper - lower)


def test_a_latin_hypercube_has_one_point_in_each_interval_of_each_axis(key):
    points = unit(jax.jit(lambda key: latin_hypercube(BOX, 50, key=key))(key))
    for axis in range(3):
        np.testing.assert_array_equal(np.sort(np.floor(50 * points[:, axis])), np.arange(50))


def test_a_shifted_sobol_sequence_keeps_its_strata_and_each_point_is_uniform(key):
    points = unit(sobol(BOX, 64, key=key))
    for axis in range(3):
        np.testing.assert_array_equal(np.sort(np.floor(64 * points[:, axis])), np.arange(64))
    boxes = np.floor(8 * points[:, :2]) @ [8, 1]
    np.testing.assert_array_equal(np.sort(boxes), np.arange(64))
    thirds = jax.vmap(lambda key: sobol(BOX, 3, key=key)[2])(jax.random.split(key, 500))
    assert all(scipy.stats.kstest(unit(thirds)[:, axis], "uniform").pvalue > 1e-3 for axis in range(3))
    f = lambda x: np.prod(1 + (x - 0.5), -1)
    errors = [abs(f(unit(sobol(BOX, 1024, key=k))).mean() - 1) for k in jax.random.split(key, 8)]
    assert np.mean(errors) < 1e-3  # random points: 1e-2


@pytest.mark.dtype
def test_no_point_is_rounded_to_the_end(key):
    points = sobol(Box(0.0, 1.0), 4096, key=key)
    assert points.dtype == jnp.result_type(float)
    assert float(points.max()) < 1
    assert len(np.unique(points)) == 4096


def test_adaptive_points_follow_the_residual(key):
    place, key = jax.random.split(key)
    candidates = jax.random.uniform(place, (20000, 1))
    draw = lambda **options: residual_adaptive(candidates, candidates[:, 0] ** 2, 500, key=key, **options)
    assert len(np.unique(draw())) == 500
    # densities 3 x^2 and, with the floor, (3 x^2 + 1) / 2; of 500 among 20,000 as good as independent
    assert scipy.stats.kstest(draw(floor=0.0)[:, 0], lambda x: x**3).pvalue > 1e-3
    assert scipy.stats.kstest(draw()[:, 0], lambda x: (x**3 + x) / 2).pvalue > 1e-3
    broken = residual_adaptive(candidates, jnp.where(candidates[:, 0] < 0.5, jnp.nan, 1.0), 500, floor=0.0, key=key)
    assert float(broken.min()) >= 0.5


@pytest.mark.slow
def test_points_by_residual_from_a_sobol_sequence_are_low_in_discrepancy():
    def spread(low):
        def mean(key):
            first, second = jax.random.split(key)
            drawn = sobol(Box((0.0,) * 3, (1.0,) * 3), 4096, key=first)
            candidates = drawn[:, :2] if low else jax.random.uniform(first, (4096, 2))
            chosen = {"chances": drawn[:, 2]} if low else {"key": second}
            points = residual_adaptive(candidates, jnp.exp(3 * candidates[:, 0]), 500, **chosen)
            return jnp.mean(jnp.sin(5 * points[:, 0]) * points[:, 1])

        means = jax.vmap(mean)(jax.random.split(jax.random.key(0), 40))
        return np.mean(means), np.std(means)

    (low, low_spread), (random, random_spread) = spread(True), spread(False)
    assert low_spread < 0.3 * random_spread
    assert abs(low - random) < 3 * random_spread / 40**0.5


def test_added_points_lie_where_the_residual_is_and_the_first_stay(key):
    size = lambda x: jnp.exp(-1000 * (x[:, 0] - 0.3) ** 2)
    start = jax.random.uniform(key, (20, 1))

    def grown(state, key):
        draw, pick = jax.random.split(key)
        candidates = jax.random.uniform(draw, (500, 1))
        state = state.add(candidates, size(candidates), 4, key=pick)
        return state, (state.points, state.mask)

    state = CollocationPoints(start, room=10)
    assert int(state.mask.sum()) == 20
    run = jax.jit(lambda state: jax.lax.scan(grown, state, jax.random.split(key, 12)))
    points, mask = map(np.asarray, run(state)[1])
    np.testing.assert_array_equal(mask.sum(1)[[0, 1, 2, 11]], [24, 28, 30, 30])
    np.testing.assert_array_equal(points[:, :20], np.broadcast_to(start, (12, 20, 1)))
    for now, counts in zip(points, mask, strict=True):
        assert np.abs(now[20:][counts[20:]] - 0.3).max() < 0.1
    # the eleventh and the twelfth take the places of the first two
    np.testing.assert_array_equal(points[2, 22:28], points[1, 22:28])
    assert not np.isin(points[1, 20:22], points[2]).any()
    assert len(np.unique(points[-1, 20:])) == 10


def test_causal_weights_are_their_formula_and_carry_no_gradient():
    losses = jnp.array([1.0, 0.5, 2.0])
    np.testing.assert_allclose(causal_weights(losses, 0.3), np.exp([0.0, -0.3, -0.45]), rtol=1e-12)
    np.testing.assert_array_equal(jax.grad(lambda x: causal_weights(x, 0.3).sum())(losses), 0)


def test_ascending_is_the_identity_with_its_gradient_reversed():
    value, slope = jax.value_and_grad(lambda x: jnp.sum(ascending(x) ** 2))(jnp.array([1.0, -2.0]))
    assert value == 5.0
    np.testing.assert_allclose(slope, [-2.0, 4.0])


@pytest.mark.plain
def test_what_cannot_be_sampled_is_an_error():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="`n` is 0"):
        sobol(BOX, 0, key=key)
    with pytest.raises(ValueError, match="`n` is 5; expected 1 to the number of candidates, 4"):
        residual_adaptive(jnp.zeros((4, 1)), jnp.zeros(4), 5, key=key)
    with pytest.raises(ValueError, match="`key` and `chances`: expected one of them"):
        residual_adaptive(jnp.zeros((4, 1)), jnp.zeros(4), 2)
    with pytest.raises(ValueError, match=r"`residual` has shape \(3,\)"):
        residual_adaptive(jnp.zeros((4, 1)), jnp.zeros(3), 2, key=key)
    with pytest.raises(ValueError, match="one for each slice of time"):
        causal_weights(jnp.zeros((2, 2)), 1.0)
    with pytest.raises(ValueError, match="`room` is 0"):
        CollocationPoints(jnp.zeros((4, 1)), 0)
    with pytest.raises(ValueError, match="`n` is 3; expected at most the room of 2"):
        CollocationPoints(jnp.zeros((4, 1)), 2).add(jnp.zeros((9, 1)), jnp.zeros(9), 3, key=key)
