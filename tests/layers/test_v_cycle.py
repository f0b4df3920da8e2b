"""The learned V-cycle with the stencils of a textbook: Laplacian, weighted Jacobi, full weighting, interpolation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.layers import VCycle

N = 63  # interior nodes an axis of the unit box, zero on its boundary
SECOND_DIFFERENCE = np.array([-1.0, 2.0, -1.0])
CENTRE = np.array([0.0, 1.0, 0.0])
INTERPOLATION = np.array([0.5, 1.0, 0.5])


def product(*axes):
    """The tensor product of a stencil for each axis."""
    total = np.ones(())
    for axis in axes:
        total = np.multiply.outer(total, axis)
    return total


def textbook(ndim, n, weights, key, **options):
    """Down to one node. `weights`: of the damped Jacobi smoother before and after the coarse grid."""
    levels = (n + 1).bit_length() - 1
    cycle = VCycle(1, 1, ndim=ndim, levels=levels, boundary="zero", key=key, **options)
    laplacian = sum(product(*(SECOND_DIFFERENCE if i == axis else CENTRE for i in range(ndim))) for axis in range(ndim))
    levels = []
    for i, level in enumerate(cycle.levels):
        h = 2.0**i / (n + 1)
        stencils = {
            "operator": laplacian / h**2,
            "restrict_rhs": product(*[INTERPOLATION / 2] * ndim),
            "restrict_solution": product(*[INTERPOLATION / 2] * ndim),
            "prolong": product(*[INTERPOLATION] * ndim),
        }
        for name, stencil in stencils.items():
            if getattr(level, name) is not None:
                weight = lambda x, name=name: getattr(x, name).weight
                level = eqx.tree_at(weight, level, jnp.asarray(stencil)[None, None])
        jacobi = [jnp.asarray(w * h**2 / (2 * ndim) * product(*[CENTRE] * ndim))[None, None] for w in weights]
        levels.append(eqx.tree_at(lambda x: [x.pre[0].weight, x.post[0].weight], level, jacobi))
    return eqx.tree_at(lambda c: c.levels, cycle, tuple(levels))


@eqx.filter_jit
def factors(cycle, error, cycles):
    """What each cycle for `A u = 0` multiplies the norm of `u` by."""

    def step(u, _):
        new = cycle(jnp.zeros_like(u), u)
        factor = jnp.linalg.norm(new) / jnp.linalg.norm(u)
        return new / jnp.linalg.norm(new), factor

    return jax.lax.scan(step, error, length=cycles)[1]


def error_matrix(n, weight):
    """What a V(1,1) cycle does to the error on `n` interior nodes of the unit interval, by dense matrices."""
    laplacian = (n + 1) ** 2 * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
    smooth = np.eye(n) - weight / (2 * (n + 1) ** 2) * laplacian
    if n == 1:
        return smooth @ smooth
    m = n // 2
    prolong = np.zeros((n, m))
    for j in range(m):
        prolong[2 * j : 2 * j + 3, j] = INTERPOLATION
    coarse = (m + 1) ** 2 * (2 * np.eye(m) - np.eye(m, k=1) - np.eye(m, k=-1))
    solve = (np.eye(m) - error_matrix(m, weight)) @ np.linalg.inv(coarse)
    return smooth @ (np.eye(n) - prolong @ solve @ (prolong.T / 2) @ laplacian) @ smooth


def test_with_textbook_weights_a_cycle_is_that_of_dense_matrices(key):
    error = np.random.default_rng(0).normal(size=15)
    contraction = factors(textbook(1, 15, (2 / 3, 2 / 3), key), jnp.asarray(error)[None], 4)
    expected = [np.linalg.norm(np.linalg.matrix_power(error_matrix(15, 2 / 3), k) @ error) for k in range(5)]
    np.testing.assert_allclose(contraction, np.divide(expected[1:], expected[:-1]), rtol=1e-10)


@pytest.mark.slow
def test_with_textbook_weights_cycles_contract_to_0_35_on_63_squared(key):
    error = jax.random.normal(key, (1, N, N))
    contraction = factors(textbook(2, N, (0.8, 0.8), key), error, 10)
    assert np.exp(np.mean(np.log(contraction))) <= 0.35
    np.testing.assert_allclose(contraction[-1], 0.36, atol=0.02)  # where it tends: two smoothings of factor 3/5
    # the weights that are best for two smoothings, at the roots of the Chebyshev polynomial on [1/2, 2]
    weights = 1 / (1.25 + 0.75 * np.sqrt(0.5) * np.array([1, -1]))
    assert factors(textbook(2, N, weights, key), error, 10).max() <= 0.35


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rhs", "coarse_start", "low", "high"),
    [("raw", "restricted", 4.1, 4.2), ("residual", "restricted", 1.2, 1.3), ("raw", "zero", 0.95, 1.0)],
)
def test_other_cycles_repeated_diverge_or_stall(rhs, coarse_start, low, high, key):
    cycle = textbook(2, N, (0.8, 0.8), key, rhs=rhs, coarse_start=coarse_start)
    assert low < factors(cycle, jax.random.normal(key, (1, N, N)), 30)[-1] < high


@pytest.mark.slow
def test_a_cycle_is_linear_and_starts_from_zero_or_from_what_it_is_given(key):
    cycle = VCycle(2, 3, ndim=1, levels=2, pre=(2, 1), coarse_start="restricted", boundary="reflect", key=key)
    f, u = jax.random.normal(key, (2, 2, 9)), jax.random.normal(key, (3, 9))
    run = jax.jit(lambda f, u: (cycle(f, u), cycle(f), cycle(f, jnp.zeros_like(u))))
    started, plain, zero = run(f[0], u)
    np.testing.assert_allclose(plain, zero, atol=1e-14)
    np.testing.assert_allclose(run(2 * f[0] + f[1], 2 * u)[0], 2 * started + run(f[1], 0 * u)[0], atol=1e-13)


@pytest.mark.plain
def test_errors_name_the_argument():
    def build(**options):
        return VCycle(1, 1, **({"ndim": 1, "levels": 2, "key": jax.random.key(0)} | options))

    calls = {
        "`levels` is 0": lambda: build(levels=0),
        "`pre` is 0; expected at least one": lambda: build(pre=0),
        r"`post` is \(1,\); expected .* one for each of 2 levels": lambda: build(post=(1,)),
        "`rhs` is 'both'": lambda: build(rhs="both"),
        "`coarse_start` is 'one'": lambda: build(coarse_start="one"),
        "`boundary` is 'circular'": lambda: build(boundary="circular"),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
