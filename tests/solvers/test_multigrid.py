from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers import (
    Dirichlet,
    EllipticProblem,
    Grid,
    Periodic,
    PowerSpectrum,
    Stencil,
    gaussian_random_field,
    multigrid,
    multigrid_solve,
    solve_elliptic,
)

# Here compiling is the cost: without LLVM's optimisations it takes a third of the time.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def diffusion(shape, periodic, contrast=1e3, shift=0.0):
    """A diffusion stencil with random jumps, unit spacing; Dirichlet, or Neumann where `shift` says so (negative)."""
    rng = np.random.default_rng(3)
    a = np.where(rng.random(shape) < 0.5, contrast, 1.0)
    ndim, zero = len(shape), (0,) * len(shape)
    entries = {zero: np.full(shape, max(shift, 0.0))}
    for axis, wraps in enumerate(periodic):
        other = np.roll(a, -1, axis)
        face = 2 * a * other / (a + other)
        last = tuple(-1 if k == axis else slice(None) for k in range(ndim))
        if not wraps:
            face[last] = 0
        up = tuple(int(k == axis) for k in range(ndim))
        entries[up] = -face
        entries[tuple(-k for k in up)] = -np.roll(face, 1, axis)
        entries[zero] = entries[zero] + face + np.roll(face, 1, axis)
        if not wraps and shift == 0:
            first = tuple(0 if k == axis else slice(None) for k in range(ndim))
            for edge in (first, last):
                entries[zero][edge] += 2 * a[edge]
    return Stencil({o: jnp.asarray(e) for o, e in entries.items()}, periodic)


def matrix(linear, shape):
    size = int(np.prod(shape))
    return jax.vmap(linear)(jnp.eye(size).reshape(size, *shape)).reshape(size, size).T


@pytest.mark.parametrize(
    ("shape", "periodic", "coarsest"),
    [
        ((101,), (False,), 20),
        ((11, 14), (False, False), 20),
        ((9, 10), (True, False), 20),
        pytest.param((11, 7), (True, True), 6, marks=pytest.mark.slow),
        pytest.param((5, 4, 6), (False, True, False), 20, marks=pytest.mark.slow),
        pytest.param((7, 5, 5), (True, True, True), 20, marks=pytest.mark.slow),
    ],
)
def test_a_cycle_is_symmetric_positive_definite_and_contracts(shape, periodic, coarsest):
    both = quick_jit(lambda operator: (matrix(multigrid(operator, coarsest=coarsest), shape), matrix(operator, shape)))
    for contrast in (4.0, 1e3):
        operator = diffusion(shape, periodic, contrast, shift=1e-3 if all(periodic) else 0.0)
        cycle, dense = (np.asarray(m) for m in both(operator))
        np.testing.assert_allclose(dense, dense.T, atol=1e-12)
        np.testing.assert_allclose(cycle, cycle.T, atol=1e-12 * np.abs(cycle).max())
        assert np.linalg.eigvalsh(cycle).min() > 0
        # Jumps from point to point at random leave a few slow modes at contrast 1000, which conjugate gradients remove.
        error = np.abs(np.linalg.eigvals(np.eye(len(dense)) - cycle @ dense))
        assert error.max() < (0.5 if contrast == 4.0 else 1.0)


def test_cycles_alone_solve_a_singular_periodic_problem_up_to_a_constant():
    operator = diffusion((12, 9), (True, True), contrast=4.0)
    f = jax.random.normal(jax.random.key(1), (12, 9))
    f = f - f.mean()
    u = quick_jit(lambda f: multigrid_solve(operator, f, cycles=25, singular=True))(f)
    dense = np.asarray(matrix(operator, (12, 9)))
    expected = np.linalg.lstsq(dense, np.ravel(f), rcond=1e-12)[0].reshape(12, 9)
    np.testing.assert_allclose(u - u.mean(), expected, atol=1e-8 * np.abs(expected).max())


def iterations(shape, contrasts, upper=1.0):
    """Of conjugate gradients to 1e-8, two draws a contrast of inclusions that know nothing of the grid."""
    grid = Grid(shape, 0.0, upper, "cells")

    def solve(key, contrast):
        field = gaussian_random_field(grid, PowerSpectrum(), basis="neumann", modes=12, key=key, zero_mean=True)
        a = jnp.where(field > 0, contrast, 1.0)
        solution = solve_elliptic(EllipticProblem(grid, a, 1.0, Dirichlet()))
        return solution.iterations, solution.relative_residual

    keys = jax.random.split(jax.random.key(0), 2)
    both = jax.vmap(jax.vmap(solve, (0, None)), (None, 0))
    steps, residuals = quick_jit(both)(keys, jnp.asarray(contrasts))
    assert float(residuals.max()) < 1.1e-8
    return np.asarray(steps.max(axis=1), float)


@pytest.mark.slow
def test_iterations_hardly_grow_from_32_to_128_points():
    assert np.all(iterations((128, 128), [4.0, 1e3]) <= 1.5 * iterations((32, 32), [4.0, 1e3]))


@pytest.mark.slow
def test_iterations_hardly_grow_from_32_to_256_points():
    contrasts = [4.0, 1e3, 1e6]
    assert np.all(iterations((256, 256), contrasts) <= 1.5 * iterations((32, 32), contrasts))


@pytest.mark.slow
def test_iterations_hardly_grow_in_three_dimensions():
    assert np.all(iterations((31, 29, 30), [4.0, 1e3]) <= 1.5 * iterations((8, 8, 8), [4.0, 1e3]))


@pytest.mark.slow
def test_odd_and_long_grids_need_hardly_more_iterations():
    squares = iterations((32, 32), [4.0, 1e3])
    assert np.all(iterations((101, 67), [4.0, 1e3]) <= 1.5 * squares)
    assert np.all(iterations((128, 32), [4.0, 1e3]) <= 1.5 * squares)


@pytest.mark.plain
def test_arguments_that_make_no_sense_are_refused():
    operator = Stencil({(0, 0): jnp.ones((4, 4))}, (False, False))
    with pytest.raises(ValueError, match="`coarsest` is 0"):
        multigrid(operator, coarsest=0)
    with pytest.raises(ValueError, match="`spacing` has 3 entries for an operator on 2 axes"):
        multigrid(operator, spacing=(1.0, 1.0, 1.0))


@pytest.mark.slow
def test_odd_periodic_axes_solve_like_even_ones():
    grid = Grid((33, 32), placement="left")
    a = 1 + jax.random.uniform(jax.random.key(2), grid.shape)
    f = jax.random.normal(jax.random.key(3), grid.shape)
    solution = quick_jit(lambda a, f: solve_elliptic(EllipticProblem(grid, a, f, Periodic())))(a, f)
    assert int(solution.iterations) < 12
