"""Regions against closed forms: distances, uniform samples, normals, what rejection keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from opkit.physics import Ball, Box, PointCloud, Polygon, difference, intersection, union

ELL = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
REGIONS = {
    "interval": (Box(-1.0, 2.0), 3.0, 2),
    "box": (Box([0, 0, 0], [1, 2, 3]), 6.0, 22),
    "disc": (Ball([1, -1], 2.0), 4 * np.pi, 4 * np.pi),
    "ball": (Ball([0, 0, 0], 1.0), 4 / 3 * np.pi, 4 * np.pi),
    "polygon": (Polygon(ELL), 3.0, 8.0),
    "clockwise": (Polygon(ELL[::-1]), 3.0, 8.0),
    "union": (union(Box([0, 0], [1, 2]), Box([1, 0], [2, 1])), 3.0, 8.0),
    "intersection": (intersection(Ball([0, 0], 1.0), Box([0, -1], [1, 1])), np.pi / 2, np.pi + 2),
    "difference": (difference(Box([-1, -1], [1, 1]), Ball([0, 0], 0.5)), 4 - np.pi / 4, 8 + np.pi),
}
QUICK = ("interval", "polygon", "difference")
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in REGIONS]


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_inside_and_as_many_in_a_part_as_its_share_of_the_volume(key, name):
    region, volume, _ = REGIONS[name]
    points = np.asarray(jax.jit(lambda key: region.sample(4000, key=key))(key))
    assert (np.asarray(jax.vmap(region.signed_distance)(points)) < 1e-6).all()
    lower, upper = region.bounds
    grid = np.random.default_rng(0).uniform(lower, upper, (20000, region.ndim))
    inside = np.asarray(jax.vmap(region.contains)(grid))
    assert abs(inside.mean() * np.prod(upper - lower) - volume) < 5 * np.prod(upper - lower) * 0.5 / np.sqrt(20000)
    for axis in range(region.ndim):
        assert scipy.stats.ks_2samp(points[:, axis], grid[inside, axis]).pvalue > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_boundary_points_are_on_the_boundary_with_outward_unit_normals_and_pieces_have_their_shares(key, name):
    region, _, measure = REGIONS[name]
    points, normals, pieces = jax.jit(lambda key: region.sample_boundary(2000, key=key))(key)
    distance = jax.vmap(region.signed_distance)
    assert np.abs(distance(points)).max() < 1e-6
    np.testing.assert_allclose(jnp.linalg.norm(normals, axis=-1), 1, rtol=1e-6)
    assert (distance(points + 1e-3 * normals) > 0).all()
    assert (distance(points - 1e-3 * normals) < 0).all()
    share = np.bincount(np.asarray(pieces), minlength=len(region.pieces)) / 2000
    assert len(share) == len(region.pieces)
    if name == "polygon":
        np.testing.assert_allclose(share, np.array([2, 1, 1, 1, 1, 2]) / measure, atol=0.05)
    if name == "union":  # the wall that both share is none of the whole
        assert share[region.pieces.index("1/x0-")] == 0
        np.testing.assert_allclose(share[region.pieces.index("0/x0+")], 1 / measure, atol=0.03)
    if name == "difference":
        np.testing.assert_allclose(share[-1], np.pi / measure, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["box", "disc", "polygon"])
def test_signed_distance_is_the_distance_to_the_nearest_of_many_boundary_points(key, name):
    region, *_ = REGIONS[name]
    boundary = region.sample_boundary(40000, key=key).points
    lower, upper = region.bounds
    x = np.random.default_rng(1).uniform(lower - 0.5, upper + 0.5, (40, region.ndim))
    nearest = jnp.min(jnp.linalg.norm(x[:, None] - boundary, axis=-1), 1)
    found = jax.vmap(region.signed_distance)(x)
    np.testing.assert_allclose(jnp.abs(found), nearest, atol={"box": 0.05}.get(name, 2e-3))
    assert (found[np.asarray(jax.vmap(region.contains)(x))] <= 0).all()


def test_a_distance_has_a_unit_gradient_and_none_that_is_not_finite(key):
    for region in (REGIONS["box"][0], REGIONS["ball"][0]):
        points = region.sample(200, key=key)
        slope = jax.vmap(jax.grad(region.signed_distance))(points)
        np.testing.assert_allclose(jnp.linalg.norm(slope, axis=-1), 1, rtol=1e-6)
        assert jnp.isfinite(jax.grad(region.signed_distance)(jnp.asarray(np.mean(region.bounds, 0)))).all()


def test_a_cloud_is_drawn_from_without_repetition_and_keeps_names(key):
    angles = np.linspace(0, 2 * np.pi, 50, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    cloud = PointCloud(0.5 * circle, circle, circle, pieces_of=(angles > np.pi).astype(int), names=("upper", "lower"))
    drawn = cloud.sample(50, key=key)
    np.testing.assert_allclose(np.sort(drawn, 0), np.sort(0.5 * circle, 0))
    points, normals, pieces = cloud.sample_boundary(20, key=key)
    np.testing.assert_allclose(points, normals)
    assert cloud.pieces == ("upper", "lower")
    np.testing.assert_array_equal(pieces, jnp.arctan2(points[:, 1], points[:, 0]) < -1e-9)


def test_a_region_too_thin_to_be_hit_gives_no_points_rather_than_wrong_ones(key):
    thin = intersection(Ball([0, 0], 1.0), Ball([2.0, 0], 1.0 + 1e-9))
    assert jnp.isnan(thin.sample(4, key=key)).any()


@pytest.mark.plain
def test_shapes_that_are_none_are_errors():
    with pytest.raises(ValueError, match="`lower` is"):
        Box([0, 1], [1, 1])
    with pytest.raises(ValueError, match="`radius` -1"):
        Ball([0, 0], -1.0)
    with pytest.raises(ValueError, match="make edges 0 and 2 cross"):
        Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    with pytest.raises(ValueError, match="two in succession are equal"):
        Polygon([(0, 0), (0, 0), (1, 0), (0, 1)])
    with pytest.raises(ValueError, match="expected as many"):
        union(Box(0, 1), Box([0, 0], [1, 1]))
    with pytest.raises(ValueError, match="the intersection is empty"):
        intersection(Box(0, 1), Box(2, 3))
    with pytest.raises(ValueError, match="the cloud has 3 such points"):
        PointCloud(np.zeros((3, 2))).sample(4, key=jax.random.key(0))
    with pytest.raises(ValueError, match="no signed distance"):
        PointCloud(np.zeros((3, 2))).signed_distance(jnp.zeros(2))
