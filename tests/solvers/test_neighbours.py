"""Searches among points, held against SciPy's k-d tree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import KDTree

from solvers import (
    Grid,
    Points,
    as_points,
    check_distinct,
    displacement,
    grid_neighbours,
    nearest_neighbours,
    radius_neighbours,
)

RNG = np.random.default_rng(0)
SOURCE, QUERY = RNG.uniform(size=(60, 2)), RNG.uniform(size=(25, 2))
RADIUS, MOST = 0.2, 20


def sets(index):
    return [set(row[row >= 0].tolist()) for row in np.asarray(index)]


def test_under_jit_and_vmap_both_searches_find_what_a_tree_finds_also_on_the_torus():
    def run(x, y):
        source, query = Points(x), Points(y)
        return [
            radius_neighbours(source, RADIUS, MOST, query, chunk=8),
            nearest_neighbours(source, 5, query, period=(1.0, 1.0), chunk=100),
        ]

    clouds = np.stack([SOURCE, SOURCE[::-1]])
    ball, nearest = jax.jit(jax.vmap(run, (0, None)))(jnp.asarray(clouds), jnp.asarray(QUERY))
    assert not ball.overflow
    for i, cloud in enumerate(clouds):
        expected = [set(row) for row in KDTree(cloud).query_ball_point(QUERY, RADIUS)]
        assert sets(ball.index[i]) == expected
        np.testing.assert_array_equal(ball.count[i], [len(row) for row in expected])
        np.testing.assert_array_equal(nearest.index[i], KDTree(cloud, boxsize=1.0).query(QUERY, k=5)[1])


def test_masked_points_neither_have_nor_are_neighbours_and_self_may_be_left_out():
    mask = np.arange(60) % 3 > 0
    found = nearest_neighbours(Points(jnp.asarray(SOURCE), mask=jnp.asarray(mask)), 4, include_self=False)
    expected = np.flatnonzero(mask)[KDTree(SOURCE[mask]).query(SOURCE[mask], k=5)[1][:, 1:]]
    np.testing.assert_array_equal(found.index[mask], expected)
    assert np.all(np.asarray(found.index)[~mask] == -1)


def test_more_neighbours_than_there_is_room_for_are_reported_and_the_nearest_kept():
    line = Points(jnp.linspace(0.0, 1.0, 11)[:, None])
    found = radius_neighbours(line, 0.25, 3)
    assert bool(found.overflow)
    np.testing.assert_array_equal(found.count, [3, 4, 5, 5, 5, 5, 5, 5, 5, 4, 3])
    assert sets(found.index)[5] == {4, 5, 6}


def test_on_grids_the_search_of_the_host_finds_the_same():
    grid, coarse = Grid((8, 6), placement=("left", "cells")), Grid((3, 2), placement="cells")
    expected = radius_neighbours(as_points(grid), 0.3, 40, as_points(coarse), period=(1.0, None))
    found = grid_neighbours(grid, coarse, radius=0.3, period=(1.0, None))
    assert sets(found) == sets(expected.index)
    assert found.shape[1] == int(expected.count.max())
    four = grid_neighbours(Grid((8, 8)), k=4, period=(1.0, 1.0), include_self=False)
    assert sets(four)[0] == {1, 7, 8, 56}


def test_displacements_go_to_the_nearest_image():
    x, y = jnp.array([[0.1, 0.1], [0.9, 0.2]]), jnp.array([[0.9, 0.9], [0.2, 5.1]])
    np.testing.assert_allclose(displacement(x, y, (1.0, None)), [[0.2, -0.8], [-0.3, -4.9]], atol=1e-15)


@pytest.mark.plain
def test_errors_name_the_argument():
    cloud = Points(jnp.asarray(SOURCE[:6], jnp.float32), mask=jnp.arange(6) < 4)
    calls = {
        "`k` is 5; expected 1 to 4, the number of points": lambda: nearest_neighbours(cloud, 5),
        "`k` is 4; expected 1 to 3": lambda: nearest_neighbours(cloud, 4, include_self=False),
        "`k` is 7; expected 1 to 6": lambda: grid_neighbours(Grid((2, 3)), k=7),
        "`k` and `radius` are both left out": lambda: grid_neighbours(Grid(4)),
        r"`radius` is -1\.0; expected a positive": lambda: radius_neighbours(cloud, -1.0, 3),
        r"`radius` is 0\.6 for `period` .*; expected at most half": lambda: radius_neighbours(
            cloud, 0.6, 3, period=(None, 1.0)
        ),
        "`most` is 0": lambda: radius_neighbours(cloud, 0.1, 0),
        "`query` has 1 dimensions; `source` has 2": lambda: nearest_neighbours(cloud, 1, Points(jnp.ones((2, 1)))),
        r"`period` is \(1\.0,\); expected .* 2 axes": lambda: nearest_neighbours(cloud, 1, period=(1.0,)),
        r"`points` \[1, 3\] are 0 apart": lambda: check_distinct(
            Points(jnp.asarray([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [2.0, 3.0]]))
        ),
        "`points` are being traced": lambda: jax.jit(check_distinct)(cloud),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
    check_distinct(Points(jnp.asarray([[0.0], [1.0], [0.0]]), mask=jnp.asarray([True, True, False])))
