from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from solvers import Grid, spectral

GRIDS = [
    Grid(9, -1.0, 2.0),
    Grid(8, 0.0, 5.0),
    Grid((10, 7), (0.0, -1.0), (2.0, 0.5)),
    Grid((9, 8), 0.0, (2 * np.pi, 3.0)),
    Grid((6, 5, 8), 0.0, (1.0, 2.0, 3.0)),
]
MIXED = GRIDS[3]
ODD = Grid((9, 7), 0.0, (2.0, 3.0))
CUBE = Grid((9, 7, 11), 0.0, (1.0, 2.0, 3.0))
shape = lambda grid: "x".join(map(str, grid.shape))


def run(function, *arrays):
    """The results in NumPy: what is compiled is `function`, once, and nothing else."""
    return jax.tree.map(np.asarray, jax.jit(function)(*arrays))


def noise(grid, channels=1, seed=0):
    return np.random.default_rng(seed).normal(size=(channels, *grid.shape))


def without_nyquist(u, grid):
    for axis, n in enumerate(grid.shape, 1):
        if n % 2 == 0:
            u_hat = np.fft.rfft(u, axis=axis)
            u_hat[(slice(None),) * axis + (-1,)] = 0
            u = np.fft.irfft(u_hat, n, axis=axis)
    return u


def phase(grid, mode):
    """`k . (x - lower)` on the points, and `k`."""
    k = 2 * np.pi * np.asarray(mode) / np.asarray(grid.extent)
    shift = np.asarray(grid.coordinates()) - np.reshape(grid.lower, (-1, *[1] * grid.ndim))
    return np.tensordot(k, shift, 1), k


@pytest.mark.parametrize("grid", GRIDS, ids=shape)
def test_derivatives_of_modes_are_exact(grid):
    angle, k = phase(grid, (2, -1, 3)[: grid.ndim])
    wave = lambda turned: np.stack([np.sin(angle + 0.3 + turned), np.cos(angle + turned)])
    pairs = [(axis, order) for axis in range(grid.ndim) for order in (0, 1, 2, 3)]
    derivatives, laplacian, inverse = run(
        lambda u: (
            [spectral.derivative(u, grid, *pair) for pair in pairs],
            spectral.laplacian(u, grid),
            spectral.inverse_laplacian(u + 2.5, grid),
        ),
        wave(0),
    )
    for (axis, order), derivative in zip(pairs, derivatives, strict=True):
        exact = k[axis] ** order * wave(order * np.pi / 2)
        np.testing.assert_allclose(derivative, exact, rtol=0, atol=1e-12 * max(1, abs(k[axis]) ** order))
    np.testing.assert_allclose(laplacian, -np.sum(k**2) * wave(0), rtol=0, atol=1e-10)
    np.testing.assert_allclose(inverse, -wave(0) / np.sum(k**2), rtol=0, atol=1e-12)


def test_derivatives_converge_spectrally_on_an_analytic_function():
    errors = []
    for n in (16, 32):
        grid = Grid(n, 0.0, 2 * np.pi)
        x = 2 * np.pi * np.arange(n) / n
        slope = run(lambda u, grid=grid: spectral.derivative(u, grid, 0), np.exp(np.sin(x))[None])
        errors.append(np.max(abs(slope - np.cos(x) * np.exp(np.sin(x)))))
    assert errors[0] < 1e-5
    assert errors[1] < 1e-12


def test_the_nyquist_cosine_has_odd_derivatives_zero_and_even_ones_exact():
    grid = Grid(8, 0.0, 2 * np.pi)
    u = np.cos(np.pi * np.arange(8))[None]
    third, second = run(lambda u: [spectral.derivative(u, grid, 0, order) for order in (3, 2)], u)
    np.testing.assert_allclose(third, 0, atol=1e-12)
    np.testing.assert_allclose(second, -16 * u, atol=1e-12)


@pytest.mark.parametrize("grid", [GRIDS[1], GRIDS[4]], ids=shape)
def test_the_inverse_laplacian_solves_for_all_but_the_mean(grid):
    u = noise(grid, 2)
    back = run(lambda u: spectral.laplacian(spectral.inverse_laplacian(u, grid), grid), u)
    np.testing.assert_allclose(back, u - u.mean(tuple(range(1, u.ndim)), keepdims=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", [ODD, CUBE], ids=shape)
def test_vector_calculus_identities_hold(grid):
    def identities(u, p):
        slope, div = spectral.gradient(p, grid)[0], spectral.divergence(u, grid)
        yield spectral.divergence(slope, grid), spectral.laplacian(p, grid)
        yield spectral.curl(slope, grid), 0
        yield spectral.curl(spectral.curl(u, grid), grid), spectral.gradient(div, grid)[0] - spectral.laplacian(u, grid)
        if grid.ndim == 2:
            yield spectral.curl(spectral.curl(p, grid), grid), -spectral.laplacian(p, grid)

    for left, right in run(lambda u, p: list(identities(u, p)), noise(grid, grid.ndim), noise(grid)):
        np.testing.assert_allclose(left, right, atol=1e-10)


def test_the_jacobian_has_components_first():
    x, y = np.asarray(MIXED.coordinates())
    k = 2 * np.pi / 3
    jacobian = run(lambda u: spectral.gradient(u, MIXED), np.stack([np.sin(2 * x), np.cos(k * y) * np.sin(x)]))
    exact = [[2 * np.cos(2 * x), 0 * x], [np.cos(k * y) * np.cos(x), -k * np.sin(k * y) * np.sin(x)]]
    np.testing.assert_allclose(jacobian, exact, atol=1e-12)


def test_signs_of_vorticity_and_streamfunction_on_taylor_green():
    grid = Grid((12, 10), 0.0, 2 * np.pi)
    x, y = np.asarray(grid.coordinates())
    streamfunction = (np.cos(x) * np.cos(y))[None]
    velocity = np.stack([-np.cos(x) * np.sin(y), np.sin(x) * np.cos(y)])
    both, vorticity, back = run(
        lambda p, u: (spectral.curl(p, grid), spectral.curl(u, grid), spectral.velocity_from_vorticity(2 * p, grid)),
        streamfunction,
        velocity,
    )
    np.testing.assert_allclose(both, velocity, atol=1e-13)
    np.testing.assert_allclose(vorticity, 2 * streamfunction, atol=1e-13)
    np.testing.assert_allclose(back, velocity, atol=1e-13)


@pytest.mark.parametrize("grid", [GRIDS[2], CUBE], ids=shape)
def test_vorticity_determines_a_velocity_without_divergence_and_mean(grid):
    def there_and_back(u):
        u = spectral.leray_projection(u - u.mean(tuple(range(1, u.ndim)), keepdims=True), grid)
        return u, spectral.velocity_from_vorticity(spectral.curl(u, grid), grid)

    velocity, back = run(there_and_back, without_nyquist(noise(grid, grid.ndim), grid))
    np.testing.assert_allclose(back, velocity, atol=1e-12)


@pytest.mark.parametrize("grid", [MIXED, GRIDS[4]], ids=shape)
def test_leray_is_the_orthogonal_projection_onto_fields_without_divergence(grid):
    u, v = noise(grid, grid.ndim), noise(grid, grid.ndim, seed=1)

    def project(u, v, p):
        pu, pv, of_gradient = (spectral.leray_projection(w, grid) for w in (u, v, spectral.gradient(p, grid)[0]))
        return pu, pv, of_gradient, spectral.divergence(pu, grid), spectral.leray_projection(pu, grid)

    pu, pv, of_gradient, divergence, again = run(project, u, v, noise(grid, seed=2))
    np.testing.assert_allclose(divergence, 0, atol=1e-11)
    np.testing.assert_allclose(again, pu, atol=1e-13)
    np.testing.assert_allclose(np.sum(pu * v), np.sum(u * pv), rtol=1e-12)
    np.testing.assert_allclose(of_gradient, 0, atol=1e-11)
    space = tuple(range(1, u.ndim))
    np.testing.assert_allclose(pu.mean(space), u.mean(space), atol=1e-14)


@pytest.mark.parametrize("dealiasing", ["truncate", "pad"])
@pytest.mark.parametrize("factors", [2, 3])
def test_dealiased_products_are_the_kept_part_of_exact_ones(dealiasing, factors):
    grid = Grid((13, 16), 0.0, (1.0, 2.0))
    kept = [(n - 1) // (factors + 1 if dealiasing == "truncate" else 2) for n in grid.shape]

    def lowpass(u):  # on any number of points
        u_hat = np.fft.fft2(u)
        for axis, m in enumerate(kept, 1):
            k = abs(np.fft.fftfreq(u.shape[axis], 1 / u.shape[axis]))
            u_hat = np.where((k <= m).reshape([-1 if j == axis else 1 for j in range(3)]), u_hat, 0)
        return np.fft.ifft2(u_hat).real

    def points(u, shape):
        return scipy.signal.resample(scipy.signal.resample(u, shape[0], axis=1), shape[1], axis=2)

    fields = [noise(grid, channels, seed=channels) for channels in (2, 1, 2)[:factors]]
    exact = np.ones(1)
    for u in fields:
        exact = exact * points(lowpass(u), (64, 64))
    product = run(lambda *fields: spectral.dealiased_product(fields, grid, dealiasing=dealiasing), *fields)
    np.testing.assert_allclose(product, points(lowpass(exact), grid.shape), atol=1e-12)


@pytest.mark.parametrize("n", [7, 8, 11, 12])
def test_resampling_an_axis_is_scipys(n):
    u = np.random.default_rng(n).normal(size=(2, n, 3))
    grid = Grid((n, 3), -1.0, (2.0, 3.0))
    shapes = [m for m in (7, 8, 11, 12) if m != n]
    resampled = run(lambda u: [spectral.resample(u, grid, grid.resized((m, 3))) for m in shapes], u)
    for m, values in zip(shapes, resampled, strict=True):
        np.testing.assert_allclose(values, scipy.signal.resample(u, m, axis=1), atol=1e-13)


@pytest.mark.parametrize(("coarse", "fine"), [((6, 7), (10, 13)), ((7, 8), (14, 8)), ((4, 5, 6), (7, 8, 9))])
def test_resampling_up_is_exact_and_down_its_inverse_and_adjoint(coarse, fine):
    grid, new = Grid(coarse, 0.0, 2.0), Grid(fine, 0.0, 2.0)
    very_fine = grid.resized([2 * n for n in fine])

    def facts(u, v):
        up, down = spectral.resample(u, grid, new), spectral.resample(v, new, grid)
        finer = [spectral.resample(w, of, very_fine) for w, of in ((u, grid), (up, new), (v, new), (down, grid))]
        return spectral.resample(up, new, grid), finer

    u = noise(grid)
    again, (direct, by_way, v_fine, down_fine) = run(facts, u, noise(new, seed=1))
    # The interpolant is one function, whatever it went through.
    np.testing.assert_allclose(by_way, direct, atol=1e-12)
    np.testing.assert_allclose(again, u, atol=1e-13)
    # In L2 of the interpolants: the integrals of their products.
    np.testing.assert_allclose(np.sum(by_way * v_fine), np.sum(direct * down_fine), rtol=1e-11)


@pytest.mark.parametrize("mode", [(1, 0), (0, 3), (2, -3)])
def test_sobolev_norms_of_a_mode_scale_with_its_wavenumber_to_the_order(mode):
    angle, k = phase(MIXED, mode)
    orders = np.array([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
    norm = lambda u, s: [spectral.sobolev_norm(u, MIXED, s, homogeneous=h) for h in (False, True)]
    whole, seminorm = run(jax.vmap(norm, (None, 0)), 1.7 * np.cos(angle + 0.4)[None], orders)
    l2, length = 1.7 * np.sqrt(np.prod(MIXED.extent) / 2), np.linalg.norm(k)
    np.testing.assert_allclose(whole, l2 * (1 + length**2) ** (orders / 2), rtol=1e-12)
    np.testing.assert_allclose(seminorm, l2 * length**orders, rtol=1e-12)


@pytest.mark.parametrize("grid", [GRIDS[0], GRIDS[2], GRIDS[4]], ids=shape)
def test_sobolev_products_of_orders_zero_and_one_are_integrals(grid):
    u, v = (without_nyquist(noise(grid, 2, seed), grid) for seed in (0, 1))
    rough = noise(grid)

    def products(u, v, rough):
        product = partial(spectral.sobolev_inner_product, u, v, grid)
        values = product(), product(0, homogeneous=True), product(1), product(1.0, homogeneous=True)
        return values, spectral.gradient(u, grid), spectral.gradient(v, grid), spectral.sobolev_norm(rough, grid)

    (zero, seminorm_zero, one, seminorm_one), du, dv, norm = run(products, u, v, rough)
    integral = lambda f: np.sum(f * np.asarray(grid.weights()))
    np.testing.assert_allclose([zero, seminorm_zero], integral(u * v), rtol=1e-12)
    np.testing.assert_allclose(one, integral(u * v) + integral(du * dv), rtol=1e-11)
    np.testing.assert_allclose(seminorm_one, integral(du * dv), rtol=1e-11)
    np.testing.assert_allclose(norm**2, integral(rough**2), rtol=1e-12)  # at Nyquist too


def test_negative_orders_are_dual_norms():
    u = noise(MIXED)
    k = [2 * np.pi * np.fft.fftfreq(n, 1 / n) / length for n, length in zip(MIXED.shape, MIXED.extent, strict=True)]
    best = np.fft.ifft2(np.fft.fft2(u) / (1 + np.add.outer(k[0] ** 2, k[1] ** 2))).real  # (1 - laplacian)^-1 u
    ratio = lambda v: spectral.sobolev_inner_product(u, v, MIXED) / spectral.sobolev_norm(v, MIXED, 1.0)
    trials = np.concatenate([best[None], np.random.default_rng(1).normal(size=(64, 1, *MIXED.shape))])
    u = jnp.asarray(u)
    ratios, dual = run(lambda trials: (jax.vmap(ratio)(trials), spectral.sobolev_norm(u, MIXED, -1.0)), trials)
    np.testing.assert_allclose(ratios[0], dual, rtol=1e-12)
    assert np.all(ratios[1:] < dual)


def test_sobolev_norms_are_differentiable_at_zero_and_in_the_order():
    norm = lambda u, s: spectral.sobolev_norm(u, MIXED, s)
    angle, k = phase(MIXED, (2, 1))
    both = np.stack([np.zeros((1, *MIXED.shape)), np.sin(angle)[None]])
    in_u, in_s, value = run(jax.vmap(lambda u: (*jax.grad(norm, (0, 1))(u, 0.5), norm(u, 0.5))), both)
    assert np.all(in_u[0] == 0)
    assert in_s[0] == 0
    np.testing.assert_allclose(in_s[1], 0.5 * np.log1p(np.sum(k**2)) * value[1], rtol=1e-12)


@pytest.mark.parametrize("grid", GRIDS, ids=shape)
def test_the_energy_spectrum_sums_to_half_the_mean_square(grid):
    u = noise(grid, 2)
    k, energy = run(lambda u: spectral.energy_spectrum(u, grid), u)
    np.testing.assert_allclose(energy.sum(), 0.5 * np.mean(np.sum(u**2, 0)), rtol=1e-13)
    np.testing.assert_allclose(k, 2 * np.pi / max(grid.extent) * np.arange(len(k)), rtol=1e-14)


def test_a_mode_has_its_energy_in_its_shell():
    grid = Grid((16, 12), 0.0, (2.0, 1.0))
    modes, shells = [(0, 0), (3, 0), (0, 2), (3, -2), (8, 0)], [0, 3, 4, 5, 8]
    waves = np.stack([0.6 * np.cos(phase(grid, mode)[0])[None] for mode in modes])
    energy = run(jax.vmap(lambda u: spectral.energy_spectrum(u, grid)[1]), waves)
    expected = np.zeros(energy.shape)
    expected[range(5), shells] = np.array([0.36, 0.18, 0.18, 0.18, 0.36]) / 2  # the mean and Nyquist are not halved
    np.testing.assert_allclose(energy, expected, atol=1e-15)


def test_everything_is_differentiable():
    grid = Grid((6, 5), 0.0, (1.0, 2.0))

    def functional(u):
        w = spectral.leray_projection(u, grid)
        p = spectral.dealiased_product([u, w], grid)
        q = spectral.resample(p, grid, grid.resized((9, 4)))
        v = spectral.velocity_from_vorticity(spectral.curl(u, grid), grid)
        return (
            jnp.sum(q**2)
            + spectral.sobolev_norm(spectral.inverse_laplacian(u, grid) + v, grid, 0.7)
            + jnp.sum(jnp.sin(spectral.energy_spectrum(u, grid)[1]))
            + jnp.sum(spectral.divergence(u, grid) ** 3)
        )

    u, direction = noise(grid, 2), noise(grid, 2, seed=1)
    along = jax.jit(lambda e: jax.value_and_grad(functional)(u + e * direction))
    slope = np.sum(along(0.0)[1] * direction)
    np.testing.assert_allclose((along(1e-5)[0] - along(-1e-5)[0]) / 2e-5, slope, rtol=1e-7)


@pytest.mark.dtype
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_have_the_precision_of_the_field(dtype):
    if dtype == "float64" and not jax.config.jax_enable_x64:
        pytest.skip("no float64 without x64")
    grid = Grid((6, 5), 0.0, (1.0, 2.0))
    u = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 5)), dtype)

    def everything(u):
        return (
            spectral.gradient(u, grid),
            spectral.leray_projection(u, grid),
            spectral.velocity_from_vorticity(u[:1], grid),
            spectral.inverse_laplacian(u, grid),
            spectral.dealiased_product([u, u[:1]], grid),
            spectral.resample(u, grid, grid.resized((4, 9))),
            spectral.sobolev_norm(u, grid, 1.5),
            spectral.energy_spectrum(u, grid),
        )

    assert {str(x.dtype) for x in jax.tree.leaves(jax.eval_shape(everything, u))} == {dtype}
    back = run(lambda u: spectral.laplacian(spectral.inverse_laplacian(u, grid), grid), u)
    mean = np.mean(np.asarray(u), (1, 2), keepdims=True)
    np.testing.assert_allclose(back, u - mean, atol=1e-12 if dtype == "float64" else 2e-5)


def test_batches_come_from_vmap():
    grid = Grid((6, 5))
    u = np.stack([noise(grid, 2, seed) for seed in range(3)])
    each = lambda u: spectral.energy_spectrum(spectral.leray_projection(u, grid), grid)[1]
    together, one_by_one = run(lambda u: (jax.vmap(each)(u), [each(v) for v in u]), u)
    np.testing.assert_allclose(together, np.stack(one_by_one), rtol=1e-12)


@pytest.mark.plain
def test_errors_name_the_argument_and_the_fix():
    grid, u = Grid((6, 5)), jnp.ones((3, 6, 5))
    for call, message in [
        (lambda: spectral.derivative(u, grid, 2), "`axis` is 2; the grid has axes 0 to 1"),
        (lambda: spectral.derivative(u, grid, 0, -1), "`order` is -1"),
        (lambda: spectral.laplacian(u, Grid((5, 6))), r"shape \(3, 6, 5\); expected \(channels, \*\(5, 6\)\)"),
        (lambda: spectral.laplacian(u, Grid((6, 5), placement="cells")), "placement 'left'"),
        (lambda: spectral.divergence(u, grid), "`u` has 3 channels in 2-D; expected a vector field"),
        (lambda: spectral.leray_projection(u, grid), "one channel an axis"),
        (lambda: spectral.curl(u, grid), "`u` has 3 channels in 2-D; expected 2"),
        (lambda: spectral.velocity_from_vorticity(u, grid), "`vorticity` has 3 channels in 2-D"),
        (lambda: spectral.dealiased_product([u, u[:2]], grid), r"`factors` have \[3, 2\] channels"),
        (lambda: spectral.dealiased_product([], grid), "`factors` have"),
        (lambda: spectral.resample(u, grid, Grid((6, 5), 0.0, 2.0)), r"use grid.resized\(shape\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
