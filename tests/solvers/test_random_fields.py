import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.special

from solvers import Grid, MaternSpectrum, PowerSpectrum, WhiteSpectrum, gaussian_random_field, karhunen_loeve

PLACEMENTS = {"periodic": "left", "neumann": "cells", "dirichlet": "nodes"}


def draw(grid, basis, modes, key, spectrum=None, **kwargs):
    return gaussian_random_field(grid, spectrum or PowerSpectrum(), basis=basis, modes=modes, key=key, **kwargs)


@pytest.mark.parametrize("basis", ["periodic", "neumann", "dirichlet"])
def test_empirical_covariance_is_the_exact_sum(basis, key):
    grid = Grid(6, -1.0, 2.0, PLACEMENTS[basis])
    modes, extent = 9, 3.0
    spectrum = PowerSpectrum(alpha=1.5, tau=2.0, sigma=3.0)
    draws = jax.jit(jax.vmap(lambda k: draw(grid, basis, modes, k, spectrum)))(jax.random.split(key, 40_000))
    x = np.asarray(grid.axes()[0]) + 1.0
    functions = {
        "periodic": [(0, np.ones_like(x))]
        + [
            (2 * np.pi * q / extent, np.sqrt(2) * f(2 * np.pi * q * x / extent))
            for q, f in itertools.product(range(1, 5), (np.cos, np.sin))
        ],
        "neumann": [(np.pi * q / extent, np.sqrt(2 - (q == 0)) * np.cos(np.pi * q * x / extent)) for q in range(9)],
        "dirichlet": [(np.pi * q / extent, np.sqrt(2) * np.sin(np.pi * q * x / extent)) for q in range(1, 10)],
    }[basis]
    exact = sum(9.0 * (w**2 + 4.0) ** -1.5 * np.outer(f, f) for w, f in functions)
    empirical = np.cov(np.asarray(draws).T, bias=True)
    # The deviation of an empirical covariance of Gaussians from N draws.
    variance = np.diag(exact)
    allowed = 5 * np.sqrt((np.outer(variance, variance) + exact**2) / 40_000)
    assert np.all(np.abs(empirical - exact) <= allowed + 1e-12)


@pytest.mark.parametrize("basis", ["periodic", "neumann", "dirichlet"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_the_same_key_gives_the_same_function_at_any_resolution(basis, ndim, key):
    shape, upper = (6, 5, 4)[:ndim], (2.0, 1.0, 0.7)[:ndim]
    modes = (9, 8, 7)[:ndim]
    coarse = Grid(shape, 0.0, upper, "nodes")
    fine = Grid([2 * n - 1 for n in shape], 0.0, upper, "nodes")
    shared = draw(fine, basis, modes, key)[(slice(None, None, 2),) * ndim]
    np.testing.assert_allclose(draw(coarse, basis, modes, key), shared, rtol=0, atol=1e-14)


def test_neumann_fields_on_cells_are_scipys_inverse_dct(key):
    n, extent = (8, 6), (2.0, 3.0)
    grid = Grid(n, 0.0, extent, "cells")
    xi = np.asarray(jax.random.normal(key, n))
    q = [np.arange(m) * np.pi / length for m, length in zip(n, extent, strict=True)]
    deviation = (q[0][:, None] ** 2 + q[1] ** 2 + 9.0) ** -1.0
    # The orthonormal DCT-II has modes of mean square 1 / n on cells.
    expected = scipy.fft.idctn(deviation * xi, norm="ortho") * np.sqrt(48)
    np.testing.assert_allclose(draw(grid, "neumann", n, key), expected, rtol=0, atol=1e-13)


def test_dirichlet_fields_on_nodes_are_scipys_dst(key):
    grid = Grid(9, 0.0, 2.0, "nodes")
    xi = np.asarray(jax.random.normal(key, (7,)))
    deviation = ((np.arange(1, 8) * np.pi / 2) ** 2 + 9.0) ** -1.0
    inside = scipy.fft.idst(deviation * xi, type=1, norm="ortho") * np.sqrt(8)
    field = draw(grid, "dirichlet", 7, key)
    np.testing.assert_allclose(field[1:-1], inside, rtol=0, atol=1e-13)
    np.testing.assert_allclose(field[jnp.array([0, -1])], 0, atol=1e-13)


def test_periodic_power_falls_at_the_spectrums_slope(key):
    grid = Grid(256)
    each = jax.vmap(lambda k: draw(grid, "periodic", 255, k, PowerSpectrum(alpha=1.7, tau=0.0)))
    draws = jax.jit(each)(jax.random.split(key, 400))
    power = np.mean(np.abs(np.fft.rfft(np.asarray(draws), axis=1)) ** 2, axis=0)
    q = np.arange(4, 100)
    slope = np.polyfit(np.log(q), np.log(power[q]), 1)[0]
    assert slope == pytest.approx(-3.4, abs=0.05)


def test_matern_spectrum_sums_to_the_matern_covariance():
    # Of the whole line: modes over a long periodic box, summed, against Bessel's closed form.
    length, nu, extent = 0.3, 1.5, 12.0
    q = np.arange(-4000, 4001)
    wave = 2 * np.pi * q / extent
    variance = np.asarray(MaternSpectrum(nu, length, 2.0, ndim=1, volume=extent)(jnp.asarray(wave**2)))
    r = np.linspace(0.05, 1.0, 7)
    z = np.sqrt(2 * nu) * r / length
    exact = 4.0 * 2 ** (1 - nu) / scipy.special.gamma(nu) * z**nu * scipy.special.kv(nu, z)
    np.testing.assert_allclose(np.cos(np.outer(r, wave)) @ variance, exact, atol=1e-6)
    assert variance.sum() == pytest.approx(4.0, rel=1e-6)


def test_white_spectrum_gives_every_mode_its_variance():
    np.testing.assert_array_equal(WhiteSpectrum(3.0)(jnp.array([0.0, 7.0])), [9.0, 9.0])


def test_zero_mean_takes_out_the_mean_and_nothing_else(key):
    grid = Grid((8, 8), placement="cells")
    with_mean, without = (draw(grid, "neumann", 5, key, zero_mean=flag) for flag in (False, True))
    assert abs(float(without.mean())) < 1e-15
    np.testing.assert_allclose(with_mean - with_mean.mean(), without, atol=1e-15)


def test_gradient_in_a_spectrums_parameters_is_finite_where_a_mode_has_no_variance(key):
    loss = lambda alpha: jnp.sum(draw(Grid(8), "periodic", 7, key, PowerSpectrum(alpha, 0.0)) ** 2)
    difference = (loss(2.0 + 1e-6) - loss(2.0 - 1e-6)) / 2e-6
    assert float(jax.grad(loss)(2.0)) == pytest.approx(float(difference), rel=1e-6)


@pytest.mark.dtype
def test_fields_come_in_the_dtype_asked_for(key):
    for spectrum in (PowerSpectrum(), MaternSpectrum(1.0, 0.2, ndim=2), WhiteSpectrum()):
        field = draw(Grid((4, 4)), "periodic", 3, key, spectrum, dtype="float32")
        assert field.dtype == "float32"
        assert np.all(np.isfinite(field))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"basis": "cosine", "modes": 4}, "`basis` is 'cosine'"),
        ({"basis": "neumann", "modes": (4, 4, 4)}, "`modes` is"),
        ({"basis": "neumann", "modes": 0}, "`modes` is 0"),
        ({"basis": "dirichlet", "modes": 4, "zero_mean": True}, "`zero_mean` has no meaning"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused(arguments, message, key):
    with pytest.raises(ValueError, match=message):
        gaussian_random_field(Grid((4, 4)), PowerSpectrum(), key=key, **arguments)


@pytest.mark.plain
def test_a_matern_spectrum_without_a_dimension_is_refused():
    with pytest.raises(ValueError, match="`ndim` is 0"):
        MaternSpectrum(1.0, 0.2, ndim=0)


def test_standard_normal_coordinates_give_what_is_drawn():
    grid, spectrum = Grid((8, 9), lower=(0.0, 1.0), upper=(2.0, 4.0), placement="cells"), PowerSpectrum(2.0, 3.0, 5.0)
    key = jax.random.key(3)
    white = jax.random.normal(key, (4, 5))
    drawn = gaussian_random_field(grid, spectrum, basis="neumann", modes=(4, 5), key=key)
    np.testing.assert_array_equal(karhunen_loeve(white, grid, spectrum, basis="neumann"), drawn)
    assert jnp.mean(karhunen_loeve(white, grid, spectrum, basis="neumann", zero_mean=True)) == pytest.approx(
        0, abs=1e-12
    )
