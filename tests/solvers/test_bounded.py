import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from solvers import Grid
from solvers.bounded import Bounded

WALLS = [(basis, placement) for basis in ("dirichlet", "neumann") for placement in ("nodes", "cells")]
BOX = Grid((9, 8, 7), (0.0, -1.0, 0.0), (2.0, 0.5, 3.0), ("nodes", "cells", "left"))


def run(function, *arrays):
    """The results in NumPy: what is compiled is `function`, once, and nothing else."""
    return jax.tree.map(np.asarray, jax.jit(function)(*arrays))


def unit(grid):
    """`(x - lower) / extent` along each axis."""
    axes = zip(grid.axes(), grid.lower, grid.extent, strict=True)
    return [(np.asarray(x) - low) / length for x, low, length in axes]


@pytest.mark.parametrize(("basis", "placement"), WALLS)
def test_coefficients_are_scipys(basis, placement):
    n = 9
    u = np.random.default_rng(0).normal(size=n)
    space = Bounded(Grid(n, -1.0, 2.0, placement), basis)
    a = run(space.forward, u[None])[0]
    expected = np.zeros(n + (placement == "cells"))
    if basis == "dirichlet" and placement == "nodes":
        expected[1:-1] = scipy.fft.dst(u[1:-1], type=1) / (n - 1)
    elif basis == "dirichlet":
        expected[1:] = scipy.fft.dst(u, type=2) / n
        expected[-1] /= 2
    else:
        kind, intervals = (1, n - 1) if placement == "nodes" else (2, n)
        expected[:n] = scipy.fft.dct(u, type=kind) / intervals
        expected[0] /= 2
        if placement == "nodes":
            expected[-1] /= 2
    np.testing.assert_allclose(a, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("basis", "placement"), [*WALLS, ("periodic", "left")])
@pytest.mark.parametrize("n", [8, 9])
def test_the_series_and_its_derivatives_are_as_documented(basis, placement, n):
    grid = Grid(n, -1.0, 2.0, placement)
    space, s = Bounded(grid, basis), unit(grid)[0][:, None]
    a = np.random.default_rng(n).normal(size=space.shape)
    if basis == "periodic":
        q = np.concatenate([np.arange(n // 2 + 1), np.arange(1, (n + 1) // 2)])
        k, turns = 2 * np.pi * q / 3.0, np.where(np.arange(n) > n // 2, 3, 0)  # a sine is a cosine three quarters on
    else:
        q = np.arange(space.shape[0])
        k, turns = np.pi * q / 3.0, np.full(len(q), 3 if basis == "dirichlet" else 0)
        unseen = [0] if basis == "dirichlet" else []
        if (basis == "dirichlet") == (placement == "nodes"):
            unseen += [-1]
        a[unseen] = 0
    series = lambda order: (k**order * np.cos(k * 3.0 * s + (turns + order) * np.pi / 2)) @ a
    values, back, *derivatives = run(
        lambda a, u: (
            space.inverse(a),
            space.inverse(space.forward(u)),
            *(space.derivative(u, 0, order) for order in (0, 1, 2, 3)),
        ),
        a[None],
        series(0)[None],
    )
    np.testing.assert_allclose(values[0], series(0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(back[0], series(0), rtol=0, atol=1e-13)
    for order, derivative in enumerate(derivatives):
        np.testing.assert_allclose(derivative[0], series(order), rtol=0, atol=1e-13 * max(k) ** order)


def test_walls_and_periodic_axes_mix():
    space = Bounded(BOX, ("dirichlet", "neumann", "periodic"))
    x, y, z = np.meshgrid(*unit(BOX), indexing="ij")
    u = np.sin(2 * np.pi * x) * np.cos(3 * np.pi * y) * np.cos(4 * np.pi * z + 0.3)
    eigenvalue = (np.pi) ** 2 + (2 * np.pi) ** 2 + (4 * np.pi / 3) ** 2
    slope = -2 * np.pi * np.sin(2 * np.pi * x) * np.sin(3 * np.pi * y) * np.cos(4 * np.pi * z + 0.3)

    def facts(u):
        y_slope = space.derivative(u, 1)
        laplacian = (
            space.differentiated(1).derivative(y_slope, 1) + space.derivative(u, 0, 2) + space.derivative(u, 2, 2)
        )
        return y_slope, laplacian, space.laplacian(u), space.solve(u, 0.7)

    y_slope, by_axis, laplacian, solution = run(facts, u[None])
    np.testing.assert_allclose(y_slope[0], slope, atol=1e-12)
    np.testing.assert_allclose(by_axis[0], -eigenvalue * u, atol=1e-11)
    np.testing.assert_allclose(laplacian[0], -eigenvalue * u, atol=1e-11)
    np.testing.assert_allclose(solution[0], u / (eigenvalue + 0.7), atol=1e-14)


@pytest.mark.parametrize("placement", ["nodes", "cells"])
def test_poisson_problems_converge_spectrally(placement):
    def error(n, basis):
        grid = Grid(n, 0.0, 2.0, placement)
        s = unit(grid)[0]
        c, d, k = np.cos(np.pi * s), np.sin(np.pi * s), np.pi / 2
        bump = np.exp(c)
        if basis == "dirichlet":  # u = sin(pi s) exp(cos(pi s))
            u, f = d * bump, k**2 * d * bump * (1 + 3 * c - d**2)
        else:  # u = exp(cos(pi s)) - mean
            u, f = bump - np.i0(1.0), k**2 * bump * (c - d**2)
        return np.max(abs(run(Bounded(grid, basis).solve, f[None])[0] - u))

    for basis in ("dirichlet", "neumann"):
        assert error(8, basis) < 1e-3
        assert error(25, basis) < 1e-13


def test_without_dirichlet_walls_the_mean_is_left_out():
    grid = Grid((6, 5), placement=("cells", "left"))
    space = Bounded(grid, ("neumann", "periodic"))
    f = np.random.default_rng(0).normal(size=(1, 6, 5))
    u, image = run(lambda f: (space.solve(f), -space.laplacian(space.solve(f))), f)
    np.testing.assert_allclose(u.mean(), 0, atol=1e-15)
    np.testing.assert_allclose(image, f - f.mean(), atol=1e-12)


def test_solutions_are_differentiable_and_batched():
    space = Bounded(BOX, ("dirichlet", "neumann", "periodic"))
    rng = np.random.default_rng(0)
    f, direction = rng.normal(size=(2, 2, *BOX.shape))

    @jax.jit
    def loss(e):
        u = jax.vmap(space.solve)(jnp.stack([f + e * direction, f]), jnp.stack([1.0 + e, 2.0]))
        return jnp.sum(u**3) + jnp.sum(space.derivative(u[0], 0) ** 2)

    difference = (loss(1e-4) - loss(-1e-4)) / 2e-4
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.0), difference, rtol=1e-6)


@pytest.mark.dtype
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_have_the_precision_of_the_field(dtype):
    if dtype == "float64" and not jax.config.jax_enable_x64:
        pytest.skip("no float64 without x64")
    space = Bounded(BOX, ("dirichlet", "neumann", "periodic"))
    u = jnp.asarray(np.random.default_rng(0).normal(size=(1, *BOX.shape)), dtype)
    everything = lambda u: (
        space.inverse(space.forward(u)),
        space.laplacian(u),
        space.solve(u),
        [space.derivative(u, k) for k in range(3)],
    )
    results = run(everything, u)
    assert {str(x.dtype) for x in jax.tree.leaves(results)} == {dtype}
    inside = np.asarray(u)[:, 1:-1]
    np.testing.assert_allclose(results[0][:, 1:-1], inside, atol=1e-14 if dtype == "float64" else 2e-6)


@pytest.mark.plain
def test_errors_name_the_argument_and_the_fix():
    grid = Grid((6, 5), placement=("nodes", "left"))
    space = Bounded(grid, ("dirichlet", "periodic"))
    for call, message in [
        (lambda: Bounded(grid, "sine"), "`basis` of axis 0 is 'sine'; expected one of"),
        (lambda: Bounded(grid, ["dirichlet"]), "`basis` has 1 entries for 2 axes"),
        (
            lambda: Bounded(grid, "dirichlet"),
            "axis 1 is 'dirichlet' on 5 points of placement 'left'; .*'nodes' or 'cells'",
        ),
        (lambda: Bounded(grid, "periodic"), "axis 0 is 'periodic' .* expected placement 'left'"),
        (lambda: Bounded(Grid(2, placement="nodes"), "neumann"), "three points or more"),
        (lambda: space.forward(jnp.ones((6, 5))), r"`u` has shape \(6, 5\); expected \(channels, \*\(6, 5\)\)"),
        (lambda: space.inverse(jnp.ones((1, 5, 5))), r"`a` has shape"),
        (lambda: space.derivative(jnp.ones((1, 6, 5)), 2), "`axis` is 2 and `order` 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
