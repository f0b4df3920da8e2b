"""Hard conditions: exact on every boundary, finite up to corners, and trainable."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.fields import MLP
from opkit.physics import (
    Ball,
    BoundaryConditions,
    Box,
    DirichletData,
    HardConditions,
    InitialConditions,
    NeumannData,
    PeriodicWith,
    PointCloud,
    Polygon,
    RobinData,
    SpaceTime,
    approximate_distance,
    derivatives,
    difference,
    intersection,
    laplacian,
    union,
)

ELL = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
HOUSE = [(3, 3), (5, 3), (5.5, 4.2), (4, 5), (3, 4)]
SQUARE = Box([-1, -1], [1, 1])
REGIONS = {
    "interval": Box(-1.0, 2.0),
    "box": Box([0, 0, 0], [1, 2, 3]),
    "disc": Ball([1, -1], 2.0),
    "ball": Ball([0, 0, 0], 1.0),
    "convex polygon": Polygon(HOUSE),
    "polygon": Polygon(ELL[::-1]),
    "union": union(Ball([0, 0], 1.0), Box([0, -0.5], [2, 0.5])),
    "intersection": intersection(Ball([0, 0], 1.0), Box([0, -1], [1, 1])),
    "difference": difference(SQUARE, Ball([0.2, 0.1], 0.5)),
    "box cut out": difference(Ball([0, 0, 0], 2.0), Box([-1, 0, 0], [0.5, 1, 1])),
    "nested": difference(
        union(SQUARE, Polygon([(0, -0.5), (3, -0.5), (3, 0.5)])), Polygon([(0, 0), (0.5, 0), (0, 0.5)])
    ),
    "space and time": SpaceTime(Polygon(ELL), 0.0, 2.0),
}


def quick(names, *others):
    """Some regions by default, the rest among the slow tests."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in others or REGIONS]


def value(x):
    """Data of two components."""
    return jnp.stack([jnp.cos(x.sum()), x[0] * x[-1]])


def network(x):
    return jnp.stack([jnp.sin(2 * x.sum()) + 1, jnp.exp(-x[0])])


def shares(region):
    """One condition object a piece, so that all are blended."""
    return {name: DirichletData(lambda x: value(x)) for name in region.pieces}


@pytest.mark.parametrize("name", quick(("box", "polygon", "difference")))
def test_dirichlet_data_hold_exactly_at_ten_thousand_boundary_points(key, name):
    region = REGIONS[name]
    u = HardConditions(network, BoundaryConditions(region, shares(region)))

    @jax.jit
    def off(key):
        return jax.vmap(lambda x: u(x) - value(x))(region.sample_boundary(10_000, key=key).points)

    assert np.abs(off(key)).max() <= 1e-14


CORNERS = {
    "box": np.stack(np.meshgrid([0, 1], [0, 2], [0, 1.5, 3]), -1).reshape(-1, 3),
    "convex polygon": np.array(HOUSE),
    "polygon": np.array(ELL),
    "difference": np.array([(-1, -1), (1, 1), (-1, 1)]),
    "union": np.array([(2, 0.5), (0.75**0.5, -0.5), (0.75**0.5, 0.5)]),
}


@pytest.mark.parametrize(
    ("name", "order"),
    [
        case if case == ("polygon", 1) else pytest.param(*case, marks=pytest.mark.slow)
        for case in itertools.product(CORNERS, (0, 1, 2))
    ],
)
def test_on_the_boundary_near_it_and_at_corners_two_derivatives_are_finite(key, name, order):
    region = REGIONS[name]
    corners = jnp.asarray(CORNERS[name], float)
    u = HardConditions(network, BoundaryConditions(region, shares(region)), order=order)

    @jax.jit
    def every(key):
        points, normals, _ = region.sample_boundary(500, key=key)
        inside = region.sample(500, key=key)
        near = jnp.concatenate([points, points - 1e-9 * normals, inside, corners * (1 + 1e-12), corners])
        second = [(i, j) for i in range(region.ndim) for j in range(i + 1)]
        return jax.vmap(lambda x: (u(x) - value(x), jax.jacrev(u)(x), derivatives(u, x, *second)))(near)

    off, slope, bends = every(key)
    np.testing.assert_allclose(off[-len(corners) :], 0, atol=1e-14)
    assert all(np.isfinite(each).all() for each in (slope, *bends))


def test_in_the_corner_of_a_box_the_product_is_smooth():
    u = HardConditions(lambda x: jnp.ones(1), BoundaryConditions(REGIONS["box"], DirichletData()))
    bend = jax.jit(jax.hessian(lambda x: u(x)[0]))(jnp.zeros(3))
    np.testing.assert_array_equal(bend, 0)  # of x y z (1 - x) (2 - y) (3 - z), at 0


@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", quick(("difference",)))
def test_a_distance_is_positive_inside_and_has_the_slope_one_on_the_boundary(key, name, order):
    region = REGIONS[name]
    distance = lambda x: approximate_distance(region, x, order=order)

    @jax.jit
    def every(key):
        points, normals, _ = region.sample_boundary(1000, key=key)
        return jax.vmap(distance)(region.sample(1000, key=key)), jax.vmap(jax.grad(distance))(points) + normals

    inside, off = map(np.asarray, every(key))
    assert (inside > 0).all()
    np.testing.assert_allclose(off, 0, atol=1e-9)


def test_the_distance_to_a_polygon_is_that_of_the_formulas():
    """Sukumar and Srivastava (2022), equations 8 to 11, by hand: lines, trimmed where they go on inside."""
    begin = np.array(ELL, float)
    end = np.roll(begin, -1, 0)
    x = np.random.default_rng(0).uniform(0, 2, (80, 2))
    x = x[(x < 1).any(-1)]
    inverse = 0
    for i in range(6):
        (ax, ay), (bx, by) = begin[i], end[i]
        length = np.hypot(bx - ax, by - ay)
        f = np.abs((x[:, 0] - ax) * (by - ay) - (x[:, 1] - ay) * (bx - ax)) / length
        if i in (2, 3):  # the edges at the re-entrant corner
            t = (length**2 / 4 - ((x - (begin[i] + end[i]) / 2) ** 2).sum(-1)) / length
            f = np.sqrt(f**2 + ((np.sqrt(t**2 + f**4 / 4) - t) / 2) ** 2)
        inverse = inverse + 1 / f**2
    found = jax.jit(jax.vmap(lambda x: approximate_distance(Polygon(ELL), x, order=2)))(x)
    np.testing.assert_allclose(found, inverse**-0.5, rtol=1e-12)


MIXED = {
    "interval": {"x0-": DirichletData(2.0), "x0+": NeumannData(3.0)},
    "box": {
        "x0-": DirichletData(lambda x: x[1]),
        "x0+": RobinData(2.0, 0.5, lambda x: jnp.stack([x[1], x[2]])),
        "x1-": None,
        "x1+": DirichletData(lambda x: 2.0 + x[0]),
        "x2-": NeumannData(lambda x: x[0]),
        "x2+": RobinData(lambda x: x[0], -1.0, 1.0),
    },
    "disc": {"sphere": RobinData(1.0, 2.0, lambda x: x[0])},
    "difference": {"0/x0-": NeumannData(1.0), "0/x0+": DirichletData(), "0/x1-": None, "0/x1+": None}
    | {"1/sphere": NeumannData(lambda x: x[0])},
    "polygon": {f"edge{i}": NeumannData(lambda x: x[1]) if i % 2 else DirichletData(1.0) for i in range(6)},
}


@pytest.mark.parametrize("name", quick(("interval",), *MIXED))
def test_neumann_and_robin_data_beside_dirichlet_data_hold_exactly(key, name):
    region = REGIONS[name]
    conditions = BoundaryConditions(region, MIXED[name])
    u = HardConditions(network, conditions)

    @jax.jit
    def residuals(key):
        points = region.sample_boundary(1000, key=key)
        return [jax.vmap(conditions, (None, 0, 0, 0))(field, *points) for field in (u, network)]

    hard, free = map(np.asarray, residuals(key))
    assert np.abs(hard).max() < 1e-9
    assert np.abs(free).max() > 0.1


@pytest.mark.parametrize("rate", [None, pytest.param(1.5, marks=pytest.mark.slow)])
def test_initial_and_boundary_data_hold_together(key, rate):
    region = SpaceTime(Box(-1, 1), 0.5, 2.0)
    side = lambda x: jnp.exp(x[0] - 0.5) if rate is None else 1 + (x[0] - 0.5) * rate + (x[0] - 0.5) ** 3
    data = {"start": None, "x0-": DirichletData(side), "x0+": NeumannData(lambda x: 3 * (x[0] - 0.5) ** 2)}
    boundary = BoundaryConditions(region, data, components=[1])
    bump = lambda x: 1 + (1 - x[1]) ** 2 * (1 + x[1])
    initial = InitialConditions(bump, rate, start=0.5, components=[1])
    field = lambda x: jnp.stack([x[0], jnp.sin(x.sum()) + 2, x[1]])
    u = HardConditions(field, boundary, initial)

    @jax.jit
    def every(key):
        points = region.sample_boundary(1000, key=key)
        x = points.points
        residuals = jax.vmap(boundary, (None, 0, 0, 0))(u, *points), jax.vmap(initial, (None, 0))(u, x)
        return residuals, jax.vmap(u)(x), jax.vmap(field)(x)

    residuals, found, free = every(key)
    np.testing.assert_allclose(residuals[0], 0, atol=1e-9)
    np.testing.assert_allclose(residuals[1], 0, atol=1e-12)
    np.testing.assert_array_equal(found[:, ::2], free[:, ::2])


def test_initial_data_alone_are_first_and_second_order_in_time():
    u = HardConditions(lambda x: jnp.ones(1), None, InitialConditions(lambda x: x[1]))
    np.testing.assert_allclose(u(jnp.array([0.3, 2.0])), [2.3])
    u = HardConditions(lambda x: jnp.ones(1), None, InitialConditions(lambda x: x[1], lambda x: -x[1]))
    np.testing.assert_allclose(u(jnp.array([0.3, 2.0])), [2 - 0.6 + 0.09])


@pytest.mark.slow
def test_only_the_network_is_trained_and_taylor_mode_sees_what_jax_sees(key):
    data = {"x0-": DirichletData(1.0), "x0+": NeumannData(2.0)}
    u = HardConditions(MLP(1, 1, width=8, depth=1, key=key), BoundaryConditions(Box(0, 1), data))
    x = jnp.array([[0.3], [0.9]])

    @eqx.filter_jit
    def slopes_and_laplacians(u):
        loss = lambda u: jnp.mean(jax.vmap(lambda x: laplacian(u, x))(x) ** 2)
        return eqx.filter_grad(loss)(u), jax.vmap(lambda x: (laplacian(u, x), jnp.trace(jax.hessian(u)(x)[0])))(x)

    slope, (ours, jaxs) = slopes_and_laplacians(u)
    np.testing.assert_allclose(ours[:, 0], jaxs, rtol=1e-9)
    assert all(leaf.any() for leaf in jax.tree.leaves(slope.field))
    assert not any(leaf.any() for leaf in jax.tree.leaves(slope.conditions))


def test_in_a_loss_the_data_are_differentiable():
    x = jnp.array([0.25])

    def loss(low):
        ends = BoundaryConditions(Box(0, 1), {"x0-": DirichletData(low), "x0+": DirichletData(2.0)})
        return HardConditions(lambda x: x, ends)(x)[0]

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(1.0), 0.75)


@pytest.mark.dtype
@pytest.mark.parametrize("name", quick(("polygon",), "disc", "polygon"))
def test_hard_conditions_hold_in_single_precision(key, name):
    region = REGIONS[name]
    u = HardConditions(network, BoundaryConditions(region, shares(region)))

    @jax.jit
    def every(key):
        points = region.sample_boundary(1000, key=key).points.astype(jnp.float32)
        return jax.vmap(lambda x: (u(x) - value(x), jax.jacfwd(u)(x)))(points)

    off, slope = every(key)
    assert off.dtype == slope.dtype == jnp.float32
    np.testing.assert_allclose(off, 0, atol=1e-6)
    assert jnp.isfinite(slope).all()


@pytest.mark.plain
def test_what_has_no_hard_form_is_an_error():
    square = BoundaryConditions(SQUARE, DirichletData(jnp.zeros(3)))
    with pytest.raises(ValueError, match="both None"):
        HardConditions(network)
    periodic = BoundaryConditions(Box(0, 1), {"x0-": PeriodicWith("x0+")})
    with pytest.raises(ValueError, match=r"periodic on \('x0-',\).*PeriodicEmbedding"):
        HardConditions(network, periodic)
    with pytest.raises(ValueError, match=r"`beta` is zero on \('x0-', 'x0\+'\)"):
        HardConditions(network, BoundaryConditions(Box(0, 1), RobinData(1, 0)))
    cloud = PointCloud(np.zeros((3, 2)), np.ones((1, 2)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="`region` is a PointCloud, for which there is no approximate distance"):
        HardConditions(network, BoundaryConditions(cloud, DirichletData()))
    touching = union(Box([0, 0], [1, 2]), Box([1, 0], [2, 1]))
    with pytest.raises(ValueError, match="share a wall"):
        HardConditions(network, BoundaryConditions(touching, DirichletData()))
    with pytest.raises(ValueError, match=r"`x` has shape \(3,\); expected \(2,\)"):
        HardConditions(network, square)(jnp.zeros(3))
    with pytest.raises(ValueError, match=r"`value` of .* has shape \(3,\); expected a number or \(2,\)"):
        HardConditions(network, square)(jnp.zeros(2))
    with pytest.raises(ValueError, match=r"`components` are \(2,\); expected different ones of a field of 2"):
        HardConditions(network, BoundaryConditions(SQUARE, DirichletData(), components=[2]))(jnp.zeros(2))
    with pytest.raises(ValueError, match="`order` is 3"):
        HardConditions(network, square, order=3)
    with pytest.raises(ValueError, match=r"`pieces` are \('top',\)"):
        approximate_distance(SQUARE, jnp.zeros(2), ["top"])
