"""Quadrature and interpolation on scattered points, held to their orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers import (
    Grid,
    Points,
    as_points,
    interpolate_scattered,
    monte_carlo_weights,
    trapezoidal_weights,
    voronoi_weights,
)

RNG = np.random.default_rng(0)


def test_a_grid_as_points_keeps_its_quadrature_and_its_order():
    grid = Grid((4, 5), (0.0, -1.0), (2.0, 3.0), ("nodes", "chebyshev"))
    cloud = as_points(grid)
    np.testing.assert_array_equal(cloud.coordinates.T.reshape(2, 4, 5), grid.coordinates())
    np.testing.assert_array_equal(cloud.weights, grid.weights().reshape(-1))
    inside = jax.jit(lambda u: u * as_points(grid, "float32").weights[0])(jnp.ones((), "float32"))
    assert inside.dtype == "float32"


def test_trapezoidal_weights_are_numpys_and_on_the_circle_sum_to_the_period():
    x = np.sort(RNG.uniform(size=30))
    assert float(trapezoidal_weights(jnp.asarray(x)) @ np.exp(x)) == pytest.approx(
        np.trapezoid(np.exp(x), x), rel=1e-14
    )
    around = np.asarray(trapezoidal_weights(jnp.asarray(x), period=1.5))
    closed, values = np.append(x, x[0] + 1.5), np.sin(4 * np.pi * np.append(x, x[0]) / 3)
    assert float(around @ values[:-1]) == pytest.approx(np.trapezoid(values, closed), abs=1e-14)


def test_under_jit_points_that_do_not_increase_give_nan():
    weights = jax.jit(trapezoidal_weights)
    assert np.all(np.isnan(weights(jnp.array([0.0, 2.0, 1.0]))))
    assert np.all(np.isfinite(weights(jnp.array([0.0, 1.0, 2.0]))))


def test_voronoi_weights_on_a_line_are_the_lengths_of_the_cells_and_masked_points_have_none():
    x = np.append(np.sort(RNG.uniform(size=12)), [0.3, 0.6])
    cloud = Points(jnp.asarray(x)[:, None], mask=jnp.arange(14) < 12)
    between = np.concatenate([[0.0], (x[1:12] + x[:11]) / 2, [1.0]])
    both = jax.jit(lambda: (voronoi_weights(cloud, Grid(4000, placement="cells")), monte_carlo_weights(cloud, 3.0)))()
    np.testing.assert_allclose(both[0], [*np.diff(between), 0, 0], atol=1 / 4000)
    np.testing.assert_allclose(both[1], [0.25] * 12 + [0.0] * 2)


@pytest.mark.slow
def test_on_random_points_voronoi_weights_beat_equal_ones_and_converge_at_order_one_half_and_one_over_d():
    f = lambda x: jnp.exp(x[..., 0] + jnp.sin(3 * x[..., 1]))
    grid = Grid((48, 48), placement="cells")
    exact = float(jnp.sum(grid.weights() * f(jnp.moveaxis(grid.coordinates(), 0, -1))))

    @jax.jit
    def errors(x):
        clouds = jax.vmap(lambda x: voronoi_weights(Points(x), grid))(x)
        return [jnp.sum(w * f(x), -1) - exact for w in (clouds, jnp.full(x.shape[:2], 1 / x.shape[1]))]

    spread = [
        [float(jnp.sqrt(jnp.mean(e**2))) for e in errors(jnp.asarray(RNG.uniform(size=(16, n, 2))))] for n in (16, 64)
    ]
    voronoi, equal = (np.log2(coarse / fine) / 2 for coarse, fine in zip(*spread, strict=True))
    assert voronoi > 0.7
    assert equal == pytest.approx(0.5, abs=0.25)
    assert spread[1][0] < 0.3 * spread[1][1]


def test_interpolation_is_exact_on_planes_and_goes_through_the_values():
    x, query = RNG.uniform(size=(30, 2)), RNG.uniform(size=(10, 2))
    plane, noise = 1 + x @ [2.0, -3.0], RNG.normal(size=30)
    both = np.concatenate([query, x[:5]])
    values = jnp.asarray(np.stack([plane, noise], -1))
    found = jax.jit(lambda: interpolate_scattered(values, Points(jnp.asarray(x)), Points(jnp.asarray(both))))()
    found = np.asarray(found)
    np.testing.assert_allclose(found[:, 0], 1 + both @ [2.0, -3.0], atol=1e-6)
    np.testing.assert_allclose(found[10:, 1], noise[:5], atol=1e-6)


@pytest.mark.slow
def test_interpolation_is_of_second_order():
    query = RNG.uniform(0.2, 0.8, size=(20, 2))
    f = lambda x: np.sin(3 * x[:, 0]) * np.cos(2 * x[:, 1])
    interpolate = jax.jit(lambda v, x, y: interpolate_scattered(v, Points(x), Points(y)))
    errors = []
    for n in (10, 40):
        x = (np.stack(np.meshgrid(*[np.arange(n)] * 2), -1).reshape(-1, 2) + RNG.uniform(0.2, 0.8, (n * n, 2))) / n
        found = interpolate(jnp.asarray(f(x)[:, None]), jnp.asarray(x), jnp.asarray(query))
        errors.append(np.sqrt(np.mean((found[:, 0] - f(query)) ** 2)))
    assert np.log2(errors[0] / errors[1]) / 2 > 1.8


@pytest.mark.plain
def test_errors_name_the_argument():
    cloud = Points(jnp.ones((3, 1)))
    calls = {
        r"`x` has 0\.5 at 2 after 1\.0; expected strictly increasing": lambda: trapezoidal_weights(
            jnp.array([0.0, 1.0, 0.5])
        ),
        r"`x` has 1\.0 at 2 after 1\.0": lambda: trapezoidal_weights(jnp.array([0.0, 1.0, 1.0])),
        r"`x` runs from 0\.0 to 2\.0; expected less than the period 1\.5": lambda: trapezoidal_weights(
            jnp.array([0.0, 2.0]), period=1.5
        ),
        r"`x` has shape \(1,\)": lambda: trapezoidal_weights(jnp.ones(1)),
        "`reference` has no weights": lambda: voronoi_weights(cloud, cloud),
        r"`values` has shape \(2, 1\); expected one row for each of 3": lambda: interpolate_scattered(
            jnp.ones((2, 1)), cloud, cloud
        ),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
