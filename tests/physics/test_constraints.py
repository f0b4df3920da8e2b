"""Fields without divergence, and projections: exact to rounding, and the nearest there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from opkit.fields import MLP
from opkit.physics import DivergenceFree, Projected, divergence, project

MORE = [(None, 2), ((1, 2, 3), 3)]


@pytest.mark.parametrize(
    ("axes", "out"), [((1, 2), 2), (None, 4), *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]
)
def test_a_velocity_from_a_potential_has_no_divergence_and_further_components_are_passed_through(key, axes, out):
    space = 2 if out == 2 else 3
    d = space + (axes is not None)
    potential = MLP(d, out, width=8, depth=2, key=key)
    flow = DivergenceFree(potential, axes)
    x = jax.random.normal(key, (20, d))
    velocity = lambda x: flow(x)[:space]
    every = lambda x: (divergence(velocity, x, axes), jax.jacfwd(velocity)(x), flow(x)[space:], potential(x))
    found, slopes, passed, given = jax.jit(jax.vmap(every))(x)
    assert jnp.abs(slopes).max() > 0.01
    np.testing.assert_allclose(found, 0, atol=4e-16)
    np.testing.assert_array_equal(passed, given[:, (1 if space == 2 else 3) :])


def test_the_stream_function_of_a_vortex_gives_its_velocity():
    flow = DivergenceFree(lambda x: jnp.stack([-jnp.sin(x[0]) * jnp.sin(x[1])]))
    x = jnp.array([0.3, 1.1])
    np.testing.assert_allclose(flow(x), [-np.sin(0.3) * np.cos(1.1), np.cos(0.3) * np.sin(1.1)], atol=1e-15)
    rotation = DivergenceFree(lambda x: jnp.stack([0 * x[0], 0 * x[0], -(x[0] ** 2 + x[1] ** 2) / 2]))
    np.testing.assert_allclose(rotation(jnp.array([1.0, 2.0, 3.0])), [-2, 1, 0], atol=1e-15)


def test_a_projection_satisfies_the_constraints_to_rounding_and_is_the_nearest_point(key):
    keys = jax.random.split(key, 4)
    matrix = jax.random.normal(keys[0], (3, 2, 4))
    target, y = jax.random.normal(keys[1], (3,)), jax.random.normal(keys[2], (2, 4))
    weights = jnp.exp(jax.random.normal(keys[3], (2, 4)))
    onto = jax.jit(lambda y: project(y, matrix, target, weights=weights))
    z = onto(y)
    np.testing.assert_allclose(np.einsum("mij,ij->m", matrix, z), target, atol=2e-15)
    np.testing.assert_allclose(onto(z), z, atol=2e-15)
    flat = np.asarray(matrix).reshape(3, 8)
    nearest = scipy.optimize.minimize(
        lambda z: float((np.ravel(weights) * (z - np.ravel(y)) ** 2).sum()),
        np.zeros(8),
        constraints={"type": "eq", "fun": lambda z: flat @ z - np.asarray(target)},
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(np.ravel(z), nearest.x, atol=1e-6)
    plain = np.ravel(y) - np.linalg.pinv(flat) @ (flat @ np.ravel(y) - np.asarray(target))
    np.testing.assert_allclose(np.ravel(project(y, matrix, target)), plain, atol=1e-14)


def test_the_gradient_of_a_projection_is_that_of_finite_differences(key):
    given = jax.random.normal(key, (5,)), jax.random.normal(jax.random.fold_in(key, 1), (2, 5))
    along = jax.tree.map(lambda z: jnp.cos(7 * z), given)
    loss = jax.jit(lambda s: jnp.sum(jnp.sin(project(given[0] + s * along[0], given[1] + s * along[1], 0.3))))
    slope = jax.jit(jax.grad(loss))(0.0)
    np.testing.assert_allclose(slope, (loss(1e-5) - loss(-1e-5)) / 2e-5, rtol=1e-6)


def test_a_projected_field_is_tangential_to_spheres_at_every_point(key):
    network = MLP(3, 3, width=8, depth=1, key=key)
    field = Projected(network, lambda x: x[None] / jnp.linalg.norm(x))
    x = jax.random.normal(key, (50, 3))
    fixed = Projected(network, jnp.ones((1, 3)), lambda x: x[0], weights=jnp.array([1.0, 2.0, 1e9]))
    u, v, free = jax.jit(jax.vmap(lambda x: (field(x), fixed(x), network(x))))(x)
    np.testing.assert_allclose(jnp.sum(u * x, -1) / jnp.linalg.norm(x, axis=-1), 0, atol=2e-15)
    np.testing.assert_allclose(v.sum(-1), x[:, 0], atol=1e-14)
    np.testing.assert_allclose(v[:, 2], free[:, 2], atol=1e-8)
    slope = jax.jit(jax.grad(lambda f: jnp.sum(f(x[0]))))(fixed)
    assert all(not leaf.any() for leaf in jax.tree.leaves(slope.constraint))


@pytest.mark.dtype
def test_constrained_fields_have_the_precision_of_the_point():
    x = jnp.ones(3, jnp.float32)
    assert project(x, jnp.ones((1, 3)), 2.0).dtype == jnp.float32
    assert DivergenceFree(lambda x: jnp.sin(x))(x).dtype == jnp.float32
    np.testing.assert_allclose(project(x, jnp.ones((1, 3)), 2.0), 2 / 3, rtol=1e-6)


@pytest.mark.plain
def test_constraints_that_do_not_fit_are_errors():
    y = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"`matrix` has shape \(2, 4\); expected \(m, 3\)"):
        project(y, jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="4 rows for 3 values"):
        project(y, jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="2 rows of rank 1"):
        project(y, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="2 rows of rank 1"):
        Projected(lambda x: x, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"`target` has shape \(2,\)"):
        project(y, jnp.ones((1, 3)), jnp.zeros(2))
    with pytest.raises(ValueError, match="`weights` are not all positive"):
        project(y, jnp.ones((1, 3)), weights=y)
    with pytest.raises(ValueError, match=r"`weights` have shape \(2,\)"):
        project(y, jnp.ones((1, 3)), weights=jnp.ones(2))
    with pytest.raises(ValueError, match=r"`axes` are \(0, 1, 2, 3\); expected the two or three of space"):
        DivergenceFree(lambda x: x)(jnp.zeros(4))
    with pytest.raises(ValueError, match="`potential` has 2 components; expected a vector potential"):
        DivergenceFree(lambda x: x[:2])(y)
