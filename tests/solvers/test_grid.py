import numpy as np
import pytest

from solvers import Grid, Points

BOX = {"lower": (-1.0, 0.5), "upper": (2.0, 1.0)}


def integral(f, n, placement):
    grid = Grid(n, -1.0, 2.0, placement)
    return float(np.sum(np.asarray(grid.weights()) * f(np.asarray(grid.coordinates()[0]))))


@pytest.mark.parametrize(("placement", "degree"), [("left", 0), ("nodes", 1), ("cells", 1), ("chebyshev", 8)])
def test_weights_integrate_polynomials_of_their_degree_exactly(placement, degree):
    for power in range(degree + 1):
        exact = (2.0 ** (power + 1) - (-1.0) ** (power + 1)) / (power + 1)
        assert integral(lambda x, power=power: x**power, 9, placement) == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize(("placement", "order"), [("left", 1), ("nodes", 2), ("cells", 2)])
def test_weights_converge_at_their_order(placement, order):
    exact = np.exp(2.0) - np.exp(-1.0)
    coarse, fine = (abs(integral(np.exp, n, placement) - exact) for n in (65, 129))
    intervals = {"nodes": 128 / 64}.get(placement, 129 / 65)
    assert np.log(coarse / fine) / np.log(intervals) == pytest.approx(order, abs=0.05)


def test_rectangle_rule_is_exact_on_resolved_periodic_functions():
    wave = lambda x: 1 + np.cos(2 * np.pi * 3 * (x + 1) / 3) ** 2
    assert integral(wave, 13, "left") == pytest.approx(4.5, rel=1e-14)


def test_clenshaw_curtis_converges_spectrally():
    exact = np.exp(2.0) - np.exp(-1.0)
    assert abs(integral(np.exp, 16, "chebyshev") - exact) < 1e-13


def test_weights_of_a_box_sum_to_its_volume_on_mixed_placements():
    grid = Grid((5, 7, 4), (0.0, -1.0, 2.0), (2.0, 1.0, 2.5), ("nodes", "chebyshev", "left"))
    assert float(grid.weights().sum()) == pytest.approx(2.0, rel=1e-14)


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("left", [-1, 0, 1, 2]),
        ("nodes", [-1, 1 / 3, 5 / 3, 3]),
        ("cells", [-0.5, 0.5, 1.5, 2.5]),
        ("chebyshev", [-1, 0, 2, 3]),
    ],
)
def test_axes_hold_the_points_of_their_placement(placement, expected):
    (axis,) = Grid(4, -1.0, 3.0, placement).axes()
    np.testing.assert_allclose(axis, expected, atol=1e-15)


def test_coordinates_use_ij_indexing():
    grid = Grid((3, 4), placement="cells", **BOX)
    x, y = grid.axes()
    coordinates = grid.coordinates()
    assert coordinates.shape == (2, 3, 4)
    np.testing.assert_array_equal(coordinates[:, 2, 1], [x[2], y[1]])


def test_spacing_is_the_distance_between_points():
    grid = Grid((3, 4), placement=("nodes", "left"), **BOX)
    for axis, h in zip(grid.axes(), grid.spacing, strict=True):
        np.testing.assert_allclose(np.diff(axis), h, rtol=1e-14)


def test_resized_keeps_the_box_and_grids_compare_and_hash():
    grid = Grid((3, 4), placement="cells", **BOX)
    assert grid.resized((6, 8)).resized((3, 4)) == grid
    assert hash(grid.resized((3, 4))) == hash(grid)
    assert grid.resized((6, 8)) != grid


@pytest.mark.dtype
def test_arrays_come_in_the_dtype_asked_for():
    grid = Grid((3, 4))
    for array in (*grid.axes("float32"), grid.coordinates("float32"), grid.weights("float32")):
        assert array.dtype == "float32"


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((),), "`shape` is empty"),
        (((4, 4), (0.0, 0.0, 0.0)), "`lower` has 3 entries for 2 axes"),
        (((4, 4), 0.0, (1.0,)), "`upper` has 1 entries for 2 axes"),
        (((4, 4), 0.0, 1.0, ("left",)), "`placement` has 1 entries for 2 axes"),
        ((4, 0.0, 1.0, "middle"), "`placement` of axis 0 is 'middle'"),
        ((1, 0.0, 1.0, "nodes"), "`shape` gives axis 0 1 points; placement 'nodes' needs at least 2"),
        ((1, 0.0, 1.0, "chebyshev"), "needs at least 2"),
        ((0, 0.0, 1.0), "needs at least 1"),
        ((4, 1.0, 1.0), "`lower`, `upper` of axis 0 are 1.0, 1.0"),
        ((4, 0.0, float("inf")), "expected finite"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(*arguments)


@pytest.mark.plain
def test_spacing_of_a_chebyshev_axis_is_refused():
    with pytest.raises(ValueError, match="`spacing` is not constant"):
        _ = Grid(4, placement="chebyshev").spacing


@pytest.mark.plain
def test_points_whose_lengths_differ_are_refused():
    with pytest.raises(ValueError, match="`weights` is for 3 points; `coordinates` has 4"):
        Points(np.zeros((4, 2)), weights=np.zeros(3))
    with pytest.raises(ValueError, match="`coordinates` has shape"):
        Points(np.zeros(4))
