"""Kernel integrals, held to the integrals they stand for, with known kernels planted in the place of the MLP."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from opkit.layers import Ball, KernelIntegral, LowRankIntegral, MultilevelIntegral, PointwiseMLP, nested_subsets
from solvers import Grid, Points, as_points

A, V = (lambda x: 1 + x**2), (lambda x: np.sin(3 * x))
KERNEL = lambda x, y, a, b: np.exp(-x * y) * a * b
RADIUS = 0.3


class Known(eqx.Module):
    """A kernel given by a formula in `(x, y, a(x), a(y))`, each one number."""

    formula: Callable = eqx.field(static=True)

    def channels_last(self, edges):
        return self.formula(*jnp.moveaxis(edges, -1, 0))[..., None]


def planted(window, most=None, *, normalise=True, period=None, kernel=None):
    near = Ball(RADIUS, most, window=window, period=period)
    layer = KernelIntegral(
        1, ndim=1, attributes=1, neighbourhood=near, hidden=(2,), normalise=normalise, key=jax.random.key(0)
    )
    formula = (lambda x, y, a, b: jnp.exp(-x * y) * a * b) if kernel is None else kernel
    return eqx.tree_at(lambda k: k.kernel, layer, Known(formula))


def exact(x, window, *, normalise=True):
    smooth = lambda y: (1 - ((x - y) / RADIUS) ** 2) ** 2 if window == "smooth" else 1.0
    ends = max(0.0, x - RADIUS), min(1.0, x + RADIUS)
    total = quad(lambda y: smooth(y) * KERNEL(x, y, A(x), A(y)) * V(y), *ends, epsabs=1e-12)[0]
    return total / quad(smooth, *ends)[0] if normalise else total


@eqx.filter_jit
def apply(layer, domain, a, v):
    return layer.on(domain, a)(v)


def answer(layer, domain):
    x = np.asarray(as_points(domain).coordinates)
    return apply(layer, domain, A(x), V(x))[:, 0]


@pytest.mark.parametrize(("window", "order"), [("smooth", 2), ("ball", 1)])
def test_a_planted_kernel_gives_its_integral_at_the_order_of_the_quadrature_on_grids(window, order):
    # the points of the coarser grid, at which all are held, are on the finer ones
    errors = []
    for n in (20, 80):
        layer = planted(window, normalise=window == "ball")
        found = np.asarray(answer(layer, Grid(n + 1, placement="nodes")))[:: n // 4]
        expected = [exact(x, window, normalise=window == "ball") for x in np.linspace(0, 1, 5)]
        errors.append(np.max(np.abs(found - expected)))
    assert np.log2(errors[0] / errors[1]) / 2 > order - 0.2


def test_on_random_points_the_mean_over_the_ball_converges_at_order_one_half_and_a_sum_does_not():
    at = Points(jnp.array([[0.4]]))
    rng = np.random.default_rng(0)

    @jax.jit
    def errors(clouds):
        def one(x, *, layer):
            return layer.on(Points(x, jnp.ones(len(x))), A(x), at, A(at.coordinates))(jnp.sin(3 * x))[0, 0]

        mean = jax.vmap(lambda x: one(x, layer=planted("ball", clouds.shape[1])))(clouds)
        sums = jax.vmap(lambda x: one(x, layer=planted("ball", clouds.shape[1], normalise=False)))(clouds)
        return jnp.sqrt(jnp.mean((mean - exact(0.4, "ball")) ** 2)), jnp.mean(sums)

    (coarse, few), (fine, many) = (errors(jnp.asarray(rng.uniform(size=(200, n, 1)))) for n in (32, 512))
    assert np.log2(coarse / fine) / 4 == pytest.approx(0.5, abs=0.1)
    assert many / few == pytest.approx(16, rel=0.1)


def test_across_a_period_the_neighbour_is_its_nearest_image():
    layer = planted("ball", period=(1.0,), normalise=False, kernel=lambda x, y, a, b: jnp.abs(x - y))
    found = apply(layer, Grid(10), np.zeros((10, 1)), np.ones((10, 1)))
    np.testing.assert_allclose(found, 2 * (0.1 + 0.2 + 0.3) / 10)


@pytest.mark.slow
def test_a_matrix_kernel_is_the_sum_of_matrix_products_and_a_diagonal_one_of_products(key):
    grid, rng = Grid((4, 3), placement="cells"), np.random.default_rng(0)
    a, v = rng.normal(size=(12, 1)), rng.normal(size=(12, 2))
    x = np.asarray(as_points(grid).coordinates)
    pairs = np.concatenate([np.broadcast_to(b, (12, 12, b.shape[-1])) for b in (x[:, None], x, a[:, None], a)], -1)
    inside = np.linalg.norm(x[:, None] - x, axis=-1) < 0.5 + 1e-9  # closed
    weights = inside / inside.sum(1, keepdims=True)
    for kind, product in (("matrix", "ij,ijcd,jd->ic"), ("diagonal", "ij,ijc,jc->ic")):
        layer = KernelIntegral(2, ndim=2, attributes=1, neighbourhood=Ball(0.5), hidden=(5,), kind=kind, key=key)
        kernel = np.asarray(layer.kernel.channels_last(jnp.asarray(pairs)))
        kernel = kernel.reshape(12, 12, 2, 2) if kind == "matrix" else kernel
        np.testing.assert_allclose(apply(layer, grid, a, v), np.einsum(product, weights, kernel, v), atol=1e-14)


@pytest.mark.slow
def test_a_low_rank_kernel_is_the_sum_of_outer_products_over_the_whole_domain(key):
    rng = np.random.default_rng(0)
    x, a, v, w = (rng.uniform(size=shape) for shape in ((9, 2), (9, 1), (9, 3), (9,)))
    layer = LowRankIntegral(3, ndim=2, attributes=1, rank=4, hidden=(5,), normalise=False, key=key)
    mask = np.arange(9) < 7
    found = apply(layer, Points(*map(jnp.asarray, (x, w, mask))), a, v)
    left, right = (
        np.asarray(f.channels_last(jnp.asarray(np.concatenate([x, a], -1)))).reshape(9, 4, 3)
        for f in (layer.left, layer.right)
    )
    kernel = np.einsum("irc,jrd->ijcd", left, right)
    np.testing.assert_allclose(found, np.einsum("j,ijcd,jd->ic", w * mask, kernel, v), atol=1e-14)


@pytest.mark.slow
def test_the_v_cycle_adds_up_what_its_levels_give(key):
    # every ball holds the whole domain, every kernel is a constant: c mean(v) a level
    near = [Ball(2.0, 12)] * 3
    layer = MultilevelIntegral(1, ndim=1, attributes=1, neighbourhoods=near, ratio=2, hidden=(2,), key=key)
    constants = {"down": (2.0, 3.0), "same": (1.0, 5.0, 7.0), "up": (0.5, 0.25)}
    for part, values in constants.items():
        for level, c in enumerate(values):
            known = Known(partial(lambda c, x, y, a, b: c + 0 * x, c))
            layer = eqx.tree_at(lambda k, p=part, i=level: getattr(k, p)[i].kernel, layer, known)
    v = np.random.default_rng(0).normal(size=(12, 1))
    found = apply(layer, Grid(12), np.zeros((12, 1)), v)
    expected = (1 + 0.5 * (5 + 0.25 * 7 * 3) * 2) * v.mean()
    np.testing.assert_allclose(found, np.broadcast_to(expected, (12, 1)), rtol=1e-13)


@pytest.mark.slow
def test_subsets_are_nested_random_and_keep_the_sum_of_the_weights():
    x = np.arange(10.0)[:, None]
    cloud = Points(jnp.asarray(x), jnp.arange(1.0, 11.0), jnp.arange(10) < 8)
    draw = jax.jit(lambda key: nested_subsets(cloud, (6, 3), key=key))
    orders = []
    for seed in range(2):
        order, subsets = draw(jax.random.key(seed))
        first, second = (np.asarray(subset.coordinates) for subset in subsets)
        np.testing.assert_array_equal(first, x[order[:6]])
        np.testing.assert_array_equal(second, first[:3])
        orders.append(np.asarray(order).tolist())
        assert set(orders[-1][8:]) == {8, 9}
        for subset in subsets:
            assert np.all(subset.mask)
            assert np.sum(subset.weights) == pytest.approx(36.0)
    assert orders[0] != orders[1]


@pytest.mark.plain
def test_errors_name_the_argument():
    key = jax.random.key(0)
    sizes = {"ndim": 1, "attributes": 1, "hidden": (2,), "key": key}
    cloud, a = Points(jnp.ones((3, 1))), jnp.ones((3, 1))
    whole = MultilevelIntegral(1, neighbourhoods=[Ball(0.1, 3)], **sizes)
    calls = {
        "`kind` is 'full'": lambda: KernelIntegral(1, neighbourhood=Ball(0.1), kind="full", **sizes),
        "`source` has no weights": lambda: KernelIntegral(1, neighbourhood=Ball(0.1, 3), normalise=False, **sizes).on(
            cloud, a
        ),
        "`most` is missing": lambda: KernelIntegral(1, neighbourhood=Ball(0.1), **sizes).on(cloud, a),
        "`rank` is 0": lambda: LowRankIntegral(1, rank=0, **sizes),
        "`neighbourhoods` has 0 entries": lambda: MultilevelIntegral(1, neighbourhoods=[], **sizes),
        "`query` is given; a V-cycle": lambda: whole.on(cloud, a, cloud),
        r"`sizes` is \(4,\) of 3 points": lambda: nested_subsets(cloud, (4,), key=key),
        r"`sizes` is \(2, 3\)": lambda: nested_subsets(cloud, (2, 3), key=key),
        r"`sizes` is \(3,\); expected two or more": lambda: PointwiseMLP((3,), key=key),
        r"`radius` is 0\.0": lambda: Ball(0.0),
        "`window` is 'round'": lambda: Ball(0.1, window="round"),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            eqx.filter_eval_shape(call)
