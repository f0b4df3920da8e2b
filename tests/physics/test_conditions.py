"""Soft conditions, and the region of space and time: residuals of solutions that satisfy them, by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.physics import (
    Ball,
    BoundaryConditions,
    Box,
    DirichletData,
    InitialConditions,
    NeumannData,
    PeriodicWith,
    PointCloud,
    Polygon,
    RobinData,
    SpaceTime,
    check_agreement,
    check_points,
)

over = lambda conditions: jax.vmap(conditions, (None, 0, 0, 0))


def flow(x):
    """Two components, with a value and slopes that differ everywhere."""
    return jnp.stack([jnp.sin(x[0]) * jnp.exp(x[1]), x[0] ** 2 * x[1]])


def slopes(x):
    return jax.jacfwd(flow)(x)


def test_residuals_of_a_function_with_its_own_values_and_slopes_as_data_vanish_on_every_piece(key):
    region = Box([-1, -1], [1, 1])
    data = {
        "x0-": DirichletData(flow),
        "x0+": NeumannData(lambda x: slopes(x)[:, 0]),
        "x1-": RobinData(2.0, jnp.array([1.0, 3.0]), lambda x: 2 * flow(x) - jnp.array([1, 3]) * slopes(x)[:, 1]),
        "x1+": None,
    }
    conditions = BoundaryConditions(region, data)

    @jax.jit
    def residuals(key):
        points = region.sample_boundary(100, key=key)
        return points.pieces, over(conditions)(flow, *points), over(conditions)(lambda x: flow(x) + 1, *points)

    pieces, found, moved = map(np.asarray, residuals(key))
    assert set(pieces) == set(range(4))
    np.testing.assert_allclose(found, 0, atol=1e-12)
    np.testing.assert_allclose(moved, np.array([1, 0, 2, 0])[pieces][:, None].repeat(2, 1), atol=1e-12)


def test_periodic_sides_compare_values_on_one_and_slopes_on_the_other(key):
    region = SpaceTime(Box([-1, 0], [1, 1]), 0.0, 2.0)
    conditions = BoundaryConditions(region, {"start": None, "x0-": PeriodicWith("x0+"), "x1-": None, "x1+": None})
    wave = lambda x: jnp.sin(jnp.pi * x[1:2] + x[0]) * x[2]
    other = lambda x: x[0] * (x[1:2] + x[1:2] ** 2)

    @jax.jit
    def residuals(key):
        points = region.sample_boundary(60, key=key)
        return points.pieces, points.points[:, 0], over(conditions)(wave, *points), over(conditions)(other, *points)

    pieces, t, zero, found = map(np.asarray, residuals(key))
    np.testing.assert_allclose(zero, 0, atol=1e-13)
    left, right = (pieces == region.pieces.index(name) for name in ("x0-", "x0+"))
    np.testing.assert_allclose(found[left, 0], -2 * t[left])  # (-1 + 1) - (1 + 1), times t
    np.testing.assert_allclose(found[right, 0], 4 * t[right])  # (1 + 2) - (1 - 2), times t
    assert not found[~left & ~right].any()


def test_conditions_for_some_components_leave_the_others_out(key):
    region = Ball([0, 0, 0], 1.0)
    field = lambda x: jnp.stack([x[0], x[1], x[2], 7 + x[0]])
    conditions = BoundaryConditions(region, NeumannData(1.0), components=(0, 2))

    @jax.jit
    def residuals(key):
        points = region.sample_boundary(20, key=key)
        return points, over(conditions)(field, *points)

    points, found = residuals(key)
    np.testing.assert_allclose(found, np.asarray(points.normals)[:, [0, 2]] - 1, atol=1e-14)


def test_initial_residuals_are_those_of_the_value_and_of_the_rate_at_the_start():
    field = lambda x: jnp.stack([jnp.cos(3 * x[0]) * x[1], x[1] - 2 * x[0]])
    start = InitialConditions(lambda x: jnp.stack([x[1], x[1]]), jnp.array([0.0, -2.0]))
    later = InitialConditions(lambda x: x[1], start=1.0, components=[1])
    found = jax.jit(lambda x: (start(field, x), later(field, x)))(jnp.array([0.7, 0.3]))
    np.testing.assert_allclose(found[0], 0, atol=1e-15)
    np.testing.assert_allclose(found[1], [-2.0], atol=1e-15)


def test_data_are_leaves_with_the_gradient_of_the_residual():
    conditions = BoundaryConditions(Box(0, 1), RobinData(2.0, 3.0, 4.0))
    x = jnp.array([1.0])
    loss = lambda conditions: conditions(lambda x: x**2, x, x, 1)[0]
    slope = jax.jit(jax.grad(loss))(conditions).data[0]
    assert [float(leaf) for leaf in jax.tree.leaves(slope)] == [1.0, 2.0, -1.0]


def test_space_time_is_sampled_inside_and_where_its_data_are(key):
    region = SpaceTime(Ball([0, 0], 2.0), 1.0, 3.0)
    assert region.pieces == ("start", "sphere")
    points, boundary = jax.jit(lambda key: (region.sample(500, key=key), region.sample_boundary(401, key=key)))(key)
    check_points(region, points)
    check_points(region, boundary)
    points, boundary = jax.tree.map(np.asarray, (points, boundary))
    assert abs(points[:, 0].mean() - 2) < 0.1
    first = boundary.pieces == 0
    assert first.sum() == 201
    np.testing.assert_array_equal(boundary.normals[first], np.tile([-1.0, 0, 0], (201, 1)))
    np.testing.assert_array_equal(boundary.normals[~first][:, 0], 0)
    np.testing.assert_allclose(np.linalg.norm(boundary.normals, axis=1), 1)


@pytest.mark.dtype
def test_residuals_have_the_precision_of_the_point():
    conditions = BoundaryConditions(Box([0, 0], [1, 1]), RobinData(2.0, np.float64(1.0), lambda x: 1.0))
    x = jnp.array([1.0, 0.5], jnp.float32)
    assert conditions(lambda x: x[:1], x, jnp.array([1.0, 0], jnp.float32), 1).dtype == jnp.float32
    assert InitialConditions(1.0, 2)(lambda x: x[:1], x).dtype == jnp.float32


@pytest.mark.plain
def test_conditions_that_do_not_fit_a_region_are_errors():
    region = Box([0, 0], [1, 1])
    some = {"x0-": DirichletData(), "x0+": DirichletData(), "x1-": DirichletData()}
    with pytest.raises(ValueError, match=r"`data` has no condition for the pieces \['x1\+'\]"):
        BoundaryConditions(region, some)
    with pytest.raises(ValueError, match="`data` names 'top', which is no piece"):
        BoundaryConditions(region, some | {"top": None})
    with pytest.raises(ValueError, match=r"`data` of 'x1\+' is 0.0; expected DirichletData"):
        BoundaryConditions(region, some | {"x1+": 0.0})
    with pytest.raises(ValueError, match="without a condition of its own"):
        BoundaryConditions(region, some | {"x1+": PeriodicWith("x1-")})
    with pytest.raises(ValueError, match="only of opposite sides of a Box"):
        BoundaryConditions(Polygon([(0, 0), (1, 0), (1, 1)]), {"edge0": PeriodicWith("edge1"), "edge2": None})
    with pytest.raises(ValueError, match=r"`shift` is \(1.0,\); expected 2"):
        BoundaryConditions(region, {"x0-": PeriodicWith("x0+", [1.0]), "x1-": None, "x1+": None})
    with pytest.raises(ValueError, match="`start` is 1"):
        SpaceTime(region, 1.0, 0.0)


@pytest.mark.plain
def test_points_fields_and_data_of_wrong_shape_are_errors():
    conditions = BoundaryConditions(Box([0, 0], [1, 1]), DirichletData(jnp.zeros(3)))
    x = jnp.zeros(2)
    with pytest.raises(ValueError, match=r"`x` has shape \(5, 2\); expected \(2,\), one point"):
        conditions(lambda x: x, jnp.zeros((5, 2)), x, 0)
    with pytest.raises(ValueError, match=r"`normal` has shape \(1,\)"):
        conditions(lambda x: x, x, jnp.zeros(1), 0)
    with pytest.raises(ValueError, match=r"`value` of the condition on .*x0-.* has shape \(3,\)"):
        conditions(lambda x: x, x, x, 0)
    with pytest.raises(ValueError, match=r"`field` gives an array of shape \(\); expected one array \(c,\)"):
        conditions(lambda x: x[0], x, x, 0)
    with pytest.raises(ValueError, match="`field` is a float"):
        InitialConditions(0.0)(1.0, x)
    with pytest.raises(ValueError, match=r"`components` are \(4,\)"):
        InitialConditions(0.0, components=[4])(lambda x: x, x)


@pytest.mark.plain
def test_points_outside_and_data_that_do_not_meet_are_errors(key):
    region = SpaceTime(Box(0, 1), 0.0, 1.0)
    with pytest.raises(ValueError, match=r"`points`: 1 of 2 are outside the region .* number 1, \[0.5, 2.0\]"):
        check_points(region, jnp.array([[0.5, 0.5], [0.5, 2.0]]))
    with pytest.raises(ValueError, match="2 of 2 are outside"):
        check_points(region, jnp.full((2, 2), jnp.nan))
    with pytest.raises(ValueError, match=r"`points` has shape \(2, 3\); expected \(n, 2\)"):
        check_points(region, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="traced"):
        jax.jit(lambda x: check_points(region, x))(jnp.zeros((2, 2)))
    boundary = region.sample_boundary(10, key=key)
    check_points(region, boundary)
    with pytest.raises(ValueError, match="5 of 10 are off the boundary"):
        check_points(region, boundary._replace(points=boundary.points.at[:5, 0].add(0.1)))
    with pytest.raises(ValueError, match="no signed distance"):
        check_points(PointCloud(np.zeros((3, 2))), jnp.zeros((3, 2)))
    conditions = BoundaryConditions(region, DirichletData(lambda x: x[0]))
    check_agreement(conditions, InitialConditions(lambda x: x[1] * (1 - x[1])), boundary)
    with pytest.raises(ValueError, match=r"on the piece 'x0\+', at \[0.0, 1.0\], they differ by 1"):
        check_agreement(conditions, InitialConditions(lambda x: x[1]), boundary)
