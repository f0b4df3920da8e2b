"""Errors of fields, against closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit import training
from opkit.training import max_error, mse, relative_h1
from solvers import Grid, Points

TAU = 2 * np.pi
relative_l2 = jax.jit(training.relative_l2)
spectral_h1 = jax.jit(partial(relative_h1, derivative="spectral"))
difference_h1 = jax.jit(partial(relative_h1, derivative="differences"))


def mode(grid, *k):
    """The product of `sin(2 pi k x)` (and of ones where `k` is 0) over the axes, one channel."""
    coordinates = np.meshgrid(*map(np.asarray, grid.axes()), indexing="ij")
    waves = [np.sin(TAU * kj * x) if kj else np.ones_like(x) for kj, x in zip(k, coordinates, strict=True)]
    return np.prod(waves, axis=0)[None]


@pytest.mark.parametrize("n", [16, 17])
def test_relative_l2_of_single_modes_is_the_ratio_of_their_amplitudes(n):
    grid = Grid((n, 2 * n), 0.0, (1.0, 3.0))
    target = mode(grid, 2, 0)
    prediction = target + 0.25 * mode(grid, 3, 0)
    np.testing.assert_allclose(relative_l2(prediction, target, grid), 0.25, rtol=1e-12)
    np.testing.assert_allclose(relative_l2(prediction, target), 0.25, rtol=1e-12)


@pytest.mark.parametrize("n", [16, 17])
def test_relative_h1_of_single_modes_is_exact_under_spectral_derivatives(n):
    # ||sin(2 pi k x)||_1^2 = (1 + (2 pi k)^2) / 2 on the unit interval, and one root, not two
    grid = Grid((n, n))
    target = mode(grid, 2, 0)
    prediction = target + 0.25 * mode(grid, 0, 5)
    expected = 0.25 * np.sqrt((1 + (TAU * 5) ** 2) / (1 + (TAU * 2) ** 2))
    np.testing.assert_allclose(spectral_h1(prediction, target, grid), expected, rtol=1e-12)


def test_relative_h1_knows_the_extent_of_the_box():
    grid = Grid(32, 0.0, 4.0)
    x = np.asarray(grid.coordinates())
    target = np.sin(TAU / 4 * x)
    np.testing.assert_allclose(
        spectral_h1(target + np.cos(TAU / 4 * 3 * x), target, grid),
        np.sqrt((1 + (TAU * 3 / 4) ** 2) / (1 + (TAU / 4) ** 2)),
        rtol=1e-12,
    )


def test_the_nyquist_mode_has_no_spectral_derivative():
    grid = Grid(8)
    nyquist = np.resize([1.0, -1.0], (1, 8))
    np.testing.assert_allclose(spectral_h1(2 * nyquist, nyquist, grid), 1.0)
    np.testing.assert_allclose(
        spectral_h1(mode(grid, 1) + nyquist, mode(grid, 1), grid), np.sqrt(1 / ((1 + TAU**2) / 2)), rtol=1e-12
    )


@pytest.mark.parametrize("placement", ["left", "nodes", "cells"])
def test_differences_are_exact_for_quadratics_up_to_the_ends(placement):
    grid = Grid(9, 1.0, 3.0, placement)
    x = np.asarray(grid.coordinates()[0])
    weights = np.asarray(grid.weights())

    def norm(u, slope):
        return np.sqrt(np.sum(weights * (u**2 + slope**2)))

    expected = norm(x**2 - x, 2 * x - 1) / norm(x, np.ones_like(x))
    computed = difference_h1((x**2)[None], x[None], grid)
    np.testing.assert_allclose(computed, expected, rtol=1e-12)


def test_differences_converge_at_second_order_to_the_integral():
    exact = 0.5 * np.sqrt((1 + (TAU * 3) ** 2) / (1 + TAU**2))
    errors = []
    for n in (65, 129, 257):
        grid = Grid(n, placement="nodes")
        errors.append(abs(difference_h1(mode(grid, 1) + 0.5 * mode(grid, 3), mode(grid, 1), grid) - exact))
    assert np.all(np.log2(np.divide(errors[:-1], errors[1:])) > 1.9)


def test_channels_add_up_under_the_norm_and_three_axes_work():
    grid = Grid((4, 6, 8))
    target = np.concatenate([mode(grid, 1, 0, 0), mode(grid, 0, 0, 2)])
    np.testing.assert_allclose(relative_l2(1.5 * target, target, grid), 0.5, rtol=1e-12)
    expected = np.sqrt((1 + TAU**2) / (2 + TAU**2 * (1 + 4)))
    np.testing.assert_allclose(spectral_h1(target * [[[[2.0]]], [[[1.0]]]], target, grid), expected, rtol=1e-12)


def test_quadrature_weighs_the_points_of_a_chebyshev_grid():
    grid = Grid(24, -1.0, 1.0, "chebyshev")
    x = np.asarray(grid.coordinates())
    np.testing.assert_allclose(relative_l2(x + x**3, x, grid), np.sqrt((2 / 7) / (2 / 3)), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(mse)(x + x**3, x, grid), 1 / 7, rtol=1e-12)


def test_masked_points_do_not_count():
    coordinates = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 2)))
    cloud = Points(coordinates, weights=jnp.array([1.0, 2.0, 1.0, 5.0]), mask=jnp.array([True, True, True, False]))
    target = jnp.array([[1.0, 2.0, 3.0, jnp.nan]])
    prediction = target + jnp.array([[1.0, -1.0, 2.0, 100.0]])
    np.testing.assert_allclose(relative_l2(prediction, target, cloud), np.sqrt(7 / 18), rtol=1e-14)
    np.testing.assert_allclose(mse(prediction, target, cloud), 7 / 4, rtol=1e-14)
    assert max_error(prediction, target, cloud) == 2
    unweighted = Points(coordinates, mask=cloud.mask)
    np.testing.assert_allclose(mse(prediction, target, unweighted), 2.0, rtol=1e-14)
    gradient = jax.jit(jax.grad(training.relative_l2))(prediction, target, cloud)
    assert np.isfinite(gradient).all()


def test_pointwise_errors():
    target = jnp.zeros((2, 3))
    prediction = jnp.array([[1.0, -4.0, 0.0], [0.0, 0.0, 1.0]])
    assert mse(prediction, target) == 3
    assert max_error(prediction, target) == 4


@pytest.mark.parametrize("metric", [relative_l2, spectral_h1, difference_h1])
def test_relative_errors_have_a_zero_gradient_at_zero_error_and_a_right_one_elsewhere(metric):
    grid = Grid(8)
    target, direction = np.random.default_rng(0).normal(size=(2, 1, 8))
    loss = jax.jit(jax.value_and_grad(lambda u: metric(u, target, grid)))
    assert not np.any(loss(target)[1])
    u, h = target + 0.1 * direction[:, ::-1], 1e-6
    differences = (loss(u + h * direction)[0] - loss(u - h * direction)[0]) / (2 * h)
    np.testing.assert_allclose(np.vdot(loss(u)[1], direction), differences, rtol=1e-7)


def test_what_is_not_finite_stays_so():
    target = jnp.ones((1, 4))
    assert np.isnan(relative_l2(target.at[0, 1].set(jnp.nan), target))
    assert not np.isfinite(relative_l2(target, 0 * target))


@pytest.mark.dtype
@pytest.mark.parametrize("metric", [relative_l2, spectral_h1, difference_h1, jax.jit(mse), jax.jit(max_error)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_metrics_are_float32_at_least(metric, dtype):
    grid = Grid(8)
    target = jnp.asarray(np.sin(TAU * np.arange(8) / 8)[None], dtype)
    value = metric(2 * target, target, grid)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, 0.5 if metric.__name__ == "mse" else 1.0, rtol=1e-2)


def test_metrics_promote_no_dtype_by_accident():
    grid, u = Grid(8), jnp.asarray(np.sin(TAU * np.arange(8) / 8)[None], jnp.float32)
    with jax.numpy_dtype_promotion("strict"):
        for metric in (relative_l2, spectral_h1, difference_h1, jax.jit(mse), jax.jit(max_error)):
            assert metric(2 * u, u, grid).dtype == jnp.float32


@pytest.mark.plain
def test_fields_off_their_domain_are_errors():
    u = jnp.ones((1, 8))
    with pytest.raises(ValueError, match=r"`prediction` has shape \(1, 4\), `target` \(1, 8\); expected the same"):
        relative_l2(jnp.ones((1, 4)), u, Grid(8))
    with pytest.raises(ValueError, match=r"`target` has shape \(1, 8\); expected \(channels, \*\(16,\)\) on `domain`"):
        relative_l2(u, u, Grid(16))
    with pytest.raises(ValueError, match="`derivative` is 'fft'; expected 'spectral' or 'differences'"):
        relative_h1(u, u, Grid(8), derivative="fft")
    with pytest.raises(ValueError, match="axis 0 of `domain` is 'nodes'; expected periodic fields on 'left' axes"):
        spectral_h1(u, u, Grid(8, placement="nodes"))
    with pytest.raises(ValueError, match="`spacing` is not constant on a 'chebyshev' axis"):
        difference_h1(u, u, Grid(8, placement="chebyshev"))
    with pytest.raises(ValueError, match="axis 0 of `domain` has fewer than 3 points"):
        difference_h1(u[:, :2], u[:, :2], Grid(2))
