"""Metrics of rollouts against plain NumPy and closed forms; spectra, and losses by wavenumber."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.training import (
    band_errors,
    correlation_by_step,
    correlation_time,
    drift_by_step,
    error_by_step,
    error_figure,
    error_spectrum,
    finite_by_step,
    geometric_mean,
    integral,
    relative_h1,
    relative_l1,
    relative_l2,
    relative_sobolev,
    space_time_figure,
    spectral_error,
    spectrum_figure,
)
from solvers import Grid, Points

RNG = np.random.default_rng(0)
TAU = 2 * np.pi


def test_errors_and_correlations_by_step_are_those_of_numpy():
    prediction, target = RNG.normal(size=(2, 4, 2, 8)) + 0.5
    target = target + prediction
    errors, correlations = jax.jit(lambda p, t: [f(p, t, Grid(8)) for f in (error_by_step, correlation_by_step)])(
        prediction, target
    )
    expected = [np.sqrt(np.mean((p - t) ** 2) / np.mean(t**2)) for p, t in zip(prediction, target, strict=True)]
    np.testing.assert_allclose(errors, expected, rtol=1e-12)
    expected = [np.corrcoef(p.ravel(), t.ravel())[0, 1] for p, t in zip(prediction, target, strict=True)]
    np.testing.assert_allclose(correlations, expected, rtol=1e-12)


def test_quadrature_and_masks_count_in_correlations_and_integrals():
    weights, mask = np.array([1.0, 2.0, 3.0, 5.0]), np.array([True, True, True, False])
    cloud = Points(jnp.zeros((4, 1)), weights=jnp.asarray(weights), mask=jnp.asarray(mask))
    p, t = RNG.normal(size=(2, 1, 1, 4))
    p[..., 3] = np.nan
    moments = np.cov(p[0, 0, :3], t[0, 0, :3], aweights=weights[:3], ddof=0)
    run = lambda p, t: (correlation_by_step(p, t, cloud)[0], integral(p[0], cloud, 2), relative_l1(p[0], t[0], cloud))
    found, mass, l1 = jax.jit(run)(p, t)
    np.testing.assert_allclose(found, moments[0, 1] / np.sqrt(moments[0, 0] * moments[1, 1]), rtol=1e-12)
    size = lambda u: np.sum(weights[:3] * np.abs(u[0, 0, :3]))
    np.testing.assert_allclose(l1, size(p - t) / size(t), rtol=1e-12)
    np.testing.assert_allclose(mass, [np.sum(weights[:3] * p[0, 0, :3] ** 2)], rtol=1e-12)


def test_a_blow_up_is_an_infinite_error_without_correlation_and_never_nan():
    target = RNG.normal(size=(5, 1, 8))
    bad = target.copy()
    bad[2, 0, 3], bad[3], bad[4] = np.inf, np.nan, 7.0  # the last constant
    run = jax.jit(lambda p, t: (error_by_step(p, t), correlation_by_step(p, t), drift_by_step(p, jnp.sum)))
    errors, correlations, drift = run(bad, target)
    assert np.isinf(errors[2:4]).all()
    np.testing.assert_allclose(correlations, [1, 1, 0, 0, 0], atol=1e-12)
    expected = [0, abs(bad[1].sum() - bad[0].sum()), np.inf, np.inf, abs(56 - bad[0].sum())]
    np.testing.assert_allclose(drift, expected)
    share = jax.jit(finite_by_step)(np.stack([bad, target, target, target]))
    np.testing.assert_allclose(share, [1, 1, 0.75, 0.75, 0.75])
    means = jax.jit(lambda e: [geometric_mean(e), geometric_mean(e, 2)])
    np.testing.assert_allclose(means(np.array([[0.1, 0.4, 0.2], [2.0, 8.0, np.nan]])), [[0.2, np.inf], [0.2, 4.0]])


def test_the_correlation_time_is_interpolated_from_one_at_the_beginning():
    time = jax.jit(lambda c: correlation_time(c, 0.5, 0.8))
    np.testing.assert_allclose(time(jnp.asarray([0.98, 0.9, 0.7, 0.95])), 0.5 * 2.5)
    np.testing.assert_allclose(time(jnp.asarray([0.6, 0.9, 0.9, 0.9])), 0.5 * 0.5)
    np.testing.assert_allclose(time(jnp.asarray([0.9, np.nan, 0.9, 0.9])), 0.5 * (1 + 0.1 / 0.9))
    np.testing.assert_allclose(time(jnp.asarray([0.99, 0.9, 0.9, 0.8])), 2.0)


def test_what_is_conserved_does_not_drift():
    t, x = np.arange(6)[:, None, None], np.arange(16) / 16
    states = jnp.asarray(1 + 0.5 * np.sin(TAU * (x - 0.3 * t)) * 0.9**t)
    grid = Grid(16)
    mass, energy = jax.jit(lambda u: [drift_by_step(u, lambda v, p=p: integral(v, grid, p)) for p in (1, 2)])(states)
    np.testing.assert_allclose(mass, 0, atol=1e-15)
    np.testing.assert_allclose(energy[:, 0], 0.125 * (1 - 0.81 ** t[:, 0, 0]), rtol=1e-10)


def test_the_spectrum_of_an_error_is_its_energy_by_wavenumber():
    x = np.arange(32) / 32
    target = np.sin(TAU * x)[None, None]
    error = 0.1 * np.sin(TAU * 12 * x)[None, None] + 0.2 * np.cos(TAU * 2 * x)
    shells = error_spectrum(error, target, Grid(32), periodic=True)
    np.testing.assert_allclose(shells[[2, 12]], [0.04, 0.01], rtol=1e-10)
    assert sum(shells) == pytest.approx(0.05)
    bands = band_errors(shells)
    np.testing.assert_allclose([bands["low"], bands["middle"], bands["high"]], [0.2, 0, 0.1], atol=1e-12)
    nodes = Grid((17, 17), placement="nodes")
    cosine = np.outer(np.cos(3 * np.pi * np.linspace(0, 1, 17)), np.ones(17))[None, None]
    assert np.argmax(error_spectrum(cosine, np.ones_like(cosine), nodes, periodic=False)) == 3


def test_errors_in_bands_square_to_the_whole_and_weights_weigh_them():
    grid = Grid((8, 6), 0.0, (1.0, 2.0))
    prediction, target = RNG.normal(size=(2, 2, 8, 6))

    def run(p, t):
        low, high, whole = (
            spectral_error(p, t, grid, weight=w) for w in (lambda k: k < 7, lambda k: k >= 7, jnp.ones_like)
        )
        both = spectral_error(p, t, grid, weight=lambda k: jnp.where(k < 7, 2.0, 3.0))
        return low, high, whole, both, relative_l2(p, t, grid)

    low, high, whole, both, l2 = jax.jit(run)(prediction, target)
    np.testing.assert_allclose(whole, l2, rtol=1e-12)
    np.testing.assert_allclose(low**2 + high**2, l2**2, rtol=1e-12)
    np.testing.assert_allclose(2 * low**2 + 3 * high**2, both**2, rtol=1e-12)


def test_sobolev_errors_of_single_modes_are_exact():
    grid = Grid((9, 9))
    x = np.meshgrid(*map(np.asarray, grid.axes()), indexing="ij")[0][None]
    target = np.sin(TAU * x)
    prediction = target + 0.25 * np.cos(TAU * 3 * x)
    h1 = partial(relative_h1, derivative="spectral")
    losses = (*(partial(relative_sobolev, s=s) for s in (0, -1, 1)), h1)
    run = jax.jit(lambda p, t: [loss(p, t, grid) for loss in losses])
    ratio = (1 + (3 * TAU) ** 2) / (1 + TAU**2)
    expected = 0.25 * ratio ** np.array([0, -0.5, 0.5, 0.5])
    np.testing.assert_allclose(run(prediction, target), expected, rtol=1e-12)


@pytest.mark.slow
def test_figures_show_every_name_and_end_where_rollouts_blow_up():
    import matplotlib.pyplot as plt

    errors = np.geomspace(0.01, 1, 6) * RNG.uniform(0.5, 2, size=(5, 1))
    blown = np.where(np.arange(6) > 3, np.nan, errors)
    figure = error_figure({"one step": errors, "unrolled": blown}, dt=0.2)
    lines = figure.axes[0].get_lines()
    np.testing.assert_allclose(lines[0].get_ydata(), np.median(errors, 0))
    assert np.isnan(lines[1].get_ydata()[4:]).all()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["one step", "unrolled"]
    spectrum = spectrum_figure({"truth": np.geomspace(1, 1e-6, 9)})
    np.testing.assert_allclose(spectrum.axes[0].get_lines()[0].get_xdata(), np.arange(1, 9))
    pictures = space_time_figure({"truth": RNG.normal(size=(6, 8)), "model": np.full((6, 8), np.nan)})
    assert [axes.get_title() for axes in pictures.axes[:2]] == ["truth", "model"]
    plt.close("all")


@pytest.mark.dtype
def test_metrics_are_float32_for_float32_and_narrower():
    grid = Grid(8)

    def run(u):
        losses = spectral_error(u[0], u[0], grid, weight=jnp.ones_like), relative_sobolev(u[0], u[0], grid, s=-1)
        errors, correlations = error_by_step(u, u), correlation_by_step(u, u, grid)
        drift = drift_by_step(u, lambda v: integral(v, grid))
        means = geometric_mean(errors), correlation_time(correlations, 0.1)
        return errors, correlations, finite_by_step(u[None]), drift, *means, *losses

    for dtype in (jnp.float32, jnp.bfloat16):
        with jax.numpy_dtype_promotion("strict"):
            values = jax.eval_shape(run, jnp.ones((3, 1, 8), dtype))
        assert {value.dtype for value in values} == {jnp.dtype(jnp.float32)}


@pytest.mark.plain
def test_wrong_arguments_are_errors():
    u = jnp.ones((3, 1, 8))
    with pytest.raises(ValueError, match="`horizon` is 4; expected 1 to 3"):
        geometric_mean(jnp.ones(3), 4)
    with pytest.raises(ValueError, match=r"`prediction` has shape \(2, 1, 8\), `target` \(3, 1, 8\)"):
        correlation_by_step(u[:2], u)
    with pytest.raises(ValueError, match=r"`threshold` is 1\.2, `dt` 0\.1; expected 0 < threshold < 1"):
        correlation_time(jnp.ones(3), 0.1, 1.2)
