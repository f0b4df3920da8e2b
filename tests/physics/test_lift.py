"""The transfinite lift: its values on the boundary, and what it asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.physics import BoundaryConditions, Box, BoxLift, DirichletData, HardConditions


def data(x):
    return jnp.stack([jnp.sum(jnp.sin(3 * x)) + jnp.prod(x), jnp.exp(x[0])])


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_lift_has_the_values_of_the_data_on_the_boundary_and_asks_for_no_others(d):
    box = Box((-1.0, 0.0, 2.0)[:d], (1.0, 0.5, 5.0)[:d])
    on_boundary = lambda x: jnp.abs(box.signed_distance(x)) < 1e-12
    lift = jax.jit(jax.vmap(BoxLift(box, lambda x: jnp.where(on_boundary(x), data(x), jnp.nan))))
    points = box.sample_boundary(200, key=jax.random.key(0)).points
    np.testing.assert_allclose(lift(points), jax.vmap(data)(points), atol=1e-13)
    assert np.isfinite(lift(box.sample(200, key=jax.random.key(1)))).all()


def test_the_lift_is_exact_for_sums_of_functions_of_one_coordinate():
    box = Box((-1.0, 0.0), (1.0, 2.0))
    value = lambda x: jnp.stack([jnp.sin(4 * x[0]) + jnp.exp(x[1])])
    points = box.sample(100, key=jax.random.key(0))
    found = jax.vmap(BoxLift(box, value))(points)
    np.testing.assert_allclose(found, jax.vmap(value)(points), atol=1e-13)


@pytest.mark.slow
def test_hard_conditions_take_it_with_bounded_second_derivatives_at_corners():
    box = Box((0.0, 0.0), (1.0, 1.0))
    lift = BoxLift(box, data)
    field = HardConditions(lambda x: jnp.ones(2) * x[0], BoundaryConditions(box, DirichletData(lift)))
    points = box.sample_boundary(100, key=jax.random.key(0)).points
    np.testing.assert_allclose(jax.vmap(field)(points), jax.vmap(data)(points), atol=1e-13)
    near = jnp.array([[1e-9, 1e-9], [1 - 1e-9, 1e-9]])
    bent = jax.vmap(jax.hessian(field))(near)
    assert np.abs(bent).max() < 100


@pytest.mark.plain
def test_a_point_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"`x` has shape \(3,\); expected \(2,\)"):
        BoxLift(Box((0.0, 0.0), (1.0, 1.0)), data)(jnp.ones(3))
