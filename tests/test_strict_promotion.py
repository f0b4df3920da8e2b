"""Our own numerics never mix dtypes by accident: they run under JAX's strict promotion, in both precisions."""

import jax
import jax.numpy as jnp
import pytest

from opkit.data import Normalised, fit_normaliser
from opkit.operators import FNO, ResNet, Symmetrised
from opkit.training import relative_h1, relative_l2
from solvers import Dirichlet, EllipticProblem, Grid, PowerSpectrum, Robin, gaussian_random_field, solve_elliptic


@pytest.fixture(params=["float32", pytest.param("float64", marks=pytest.mark.slow)])
def dtype(request):
    return jnp.dtype(request.param)


def test_operators_and_metrics(dtype, key):
    grid = Grid((6, 6))
    u = jax.random.normal(key, (2, 1, 6, 6), dtype)
    for op in (
        FNO(1, 1, modes=(2, 2), width=4, depth=1, groups=2, padding=0.5, key=key),
        ResNet(1, 1, ndim=2, width=4, depth=1, groups=1, coordinates=True, key=key),
    ):
        whole = Symmetrised(Normalised(op, fit_normaliser(u), fit_normaliser(u)))

        def loss(v, whole=whole):
            w = whole(v, grid)
            return relative_l2(w, v, grid) + relative_h1(w, v, grid, derivative="spectral")

        with jax.numpy_dtype_promotion("strict"):
            gradient = jax.jit(jax.grad(loss))(u[0])
        assert gradient.dtype == dtype
        assert jnp.all(jnp.isfinite(gradient))


def test_random_fields_and_the_elliptic_solver(dtype, key):
    grid = Grid((8, 9), placement="cells")

    def mean(a):
        sides = [(Dirichlet(0.0), Robin(jnp.ones((), dtype))), Dirichlet(0.0)]
        return solve_elliptic(EllipticProblem(grid, a, jnp.ones((), dtype), sides)).value.mean()

    with jax.numpy_dtype_promotion("strict"):
        field = gaussian_random_field(grid, PowerSpectrum(), basis="neumann", modes=4, key=key, dtype=dtype)
        gradient = jax.jit(jax.grad(mean))(jnp.exp(field))
    assert gradient.dtype == dtype
    assert jnp.all(jnp.isfinite(gradient))
