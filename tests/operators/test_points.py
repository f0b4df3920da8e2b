"""Operators on point clouds: symmetries, new clouds, masks, queries, and what is particular to each."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.fields import ModulatedSIREN
from opkit.layers import Ball, KernelIntegral, LowRankIntegral, Nearest
from opkit.operators import CORAL, GNO, BundleDecoder, Deformation, GeoFNO, MessagePassingSolver, PhysGTO
from solvers import Grid, Points, as_points, mapped_points, trapezoidal_weights

KEY = jax.random.key(0)
SMALL = {"ndim": 2, "width": 4, "depth": 2, "key": KEY}
OPERATORS = {
    "GNO": lambda: GNO(2, 2, integral=partial(KernelIntegral, neighbourhood=Ball(0.4, 9), hidden=(5,)), **SMALL),
    "LNO": lambda: GNO(2, 2, integral=partial(LowRankIntegral, rank=2, hidden=(5,)), **SMALL),
    "MP solver": lambda: MessagePassingSolver(1, frames=2, bundle=2, dt=0.1, neighbourhood=Nearest(4), **SMALL),
    "PhysGTO": lambda: PhysGTO(
        2, 2, neighbourhood=Nearest(4), tokens=3, heads=2, coordinates=False, residual=True, **SMALL
    ),
}
REST = ("GNO", "LNO", "PhysGTO")
MASK = np.arange(12) < 10


def cloud_and_values():
    rng = np.random.default_rng(0)
    return rng.uniform(size=(12, 2)), rng.uniform(0.5, 1.0, size=12), rng.normal(size=(2, 12))


@pytest.mark.parametrize("kind", ["MP solver", *(pytest.param(k, marks=pytest.mark.slow) for k in REST)])
def test_the_order_of_the_points_does_not_matter_nor_what_stands_at_masked_ones(kind):
    op = OPERATORS[kind]()
    call = jax.jit(lambda u, x, w, mask: op(u, Points(x, w, mask)))
    x, w, u = cloud_and_values()
    out = call(u, x, w, MASK)
    order = np.random.default_rng(1).permutation(12)
    renumbered = call(u[:, order], x[order], w[order], MASK[order])
    np.testing.assert_allclose(renumbered[:, MASK[order]], out[:, order][:, MASK[order]], atol=1e-12)
    other = call(np.where(MASK, u, 7.0), np.where(MASK[:, None], x, 0.3), np.where(MASK, w, 5.0), MASK)
    np.testing.assert_allclose(other[:, MASK], out[:, MASK], atol=1e-12)
    if kind in ("MP solver", "PhysGTO"):
        moved = call(u, x + np.array([0.5, -2.0]), w, MASK)
        np.testing.assert_allclose(moved, out, atol=1e-12)


@pytest.mark.dtype
@pytest.mark.slow
@pytest.mark.parametrize("kind", OPERATORS)
def test_precision_follows_the_values_on_clouds_of_any_under_strict_promotion(kind):
    op = OPERATORS[kind]()
    x, w, u = cloud_and_values()
    x64 = jax.config.read("jax_enable_x64")
    pairs = [(jnp.float32, jnp.float64), (jnp.float64, jnp.float32)] if x64 else [(jnp.float32, jnp.float32)]
    for dtype, coordinates in pairs:
        cloud = Points(jnp.asarray(x, coordinates), jnp.asarray(w, coordinates))
        with jax.numpy_dtype_promotion("strict"):
            out = eqx.filter_eval_shape(lambda u, c=cloud: op(u, c, Grid((3, 3))), jnp.asarray(u, dtype))
        assert (out.dtype, out.shape) == (dtype, (2, 3, 3))


@pytest.mark.slow
def test_new_clouds_change_the_answer_of_a_mean_by_its_quadrature_error_and_that_of_a_sum_without_end():
    rng = np.random.default_rng(0)
    fixed = rng.uniform(0.2, 0.8, size=(4, 2))
    kinds = {
        name: GNO(1, 1, integral=partial(KernelIntegral, neighbourhood=Ball(0.5, 80), hidden=(5,), **options), **SMALL)
        for name, options in {"mean": {}, "sum": {"normalise": False}}.items()
    }

    @jax.jit
    def answers(clouds):
        def one(x):
            u = jnp.sin(4 * x[None, :, 0]) + x[None, :, 1]
            return {name: op(u, Points(x, jnp.ones(len(x))))[0, :4] for name, op in kinds.items()}

        return jax.vmap(one)(clouds)

    few, many = (
        answers(jnp.asarray(np.concatenate([np.tile(fixed, (128, 1, 1)), rng.uniform(size=(128, n - 4, 2))], 1)))
        for n in (20, 80)
    )
    coarse, fine = (np.sqrt(np.mean(np.var(a["mean"], 0))) for a in (few, many))
    assert np.log2(coarse / fine) / 2 == pytest.approx(0.5, abs=0.1)
    assert np.abs(np.mean(few["mean"] - many["mean"], 0)).max() < 2 * coarse
    assert np.abs(np.mean(few["sum"] - many["sum"], 0)).min() > np.abs(np.mean(many["sum"], 0)).max() / 4


@pytest.mark.slow
def test_the_solver_adds_increments_that_grow_with_the_time(key):
    op = MessagePassingSolver(
        2, frames=2, bundle=3, dt=0.1, ndim=1, neighbourhood=Nearest(2), width=4, depth=1, conditioning=1, key=key
    )
    constant = eqx.tree_at(lambda o: o.decoder.second.bias, op, jnp.array([1.0, -2.0]))
    constant = eqx.tree_at(lambda o: o.decoder.second.weight, constant, replace_fn=jnp.zeros_like)
    u = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)))
    found = jax.jit(lambda u: constant(u, Grid(6), args=jnp.ones(1)))(u).reshape(3, 2, 6)
    steps = 0.1 * np.arange(1, 4)[:, None, None] * np.array([1.0, -2.0])[:, None]
    np.testing.assert_allclose(found, u[2:] + steps, atol=1e-14)


@pytest.mark.slow
def test_the_decoder_is_two_convolutions_along_the_features(key):
    decoder = BundleDecoder(21, 4, 2, activation=jnp.tanh, key=key)
    f = np.random.default_rng(0).normal(size=(5, 21))
    run = lambda signal, weight, stride: jax.lax.conv(signal, weight, (stride,), "VALID")
    first, second = decoder.first, decoder.second
    h = jnp.tanh(run(jnp.asarray(f[:, None]), first.weight[:, None], 3) + first.bias[:, None])
    taps = jnp.moveaxis(second.weight.reshape(2, -1, 8), 1, 2)
    out = run(h, taps, 1) + second.bias[:, None]
    np.testing.assert_allclose(decoder.channels_last(jnp.asarray(f)), jnp.swapaxes(out, 1, 2), atol=1e-13)


class Series(eqx.Module):
    """`sum_k z_k phi_k(x)` with functions orthonormal on the unit interval."""

    size: int = eqx.field(static=True)

    def __call__(self, x, code):
        k = jnp.arange(self.size)
        return jnp.sum(code * jnp.where(k > 0, 2**0.5, 1) * jnp.cos(jnp.pi * k * x), keepdims=True)


def series_operator(steps=3):
    return CORAL(Series(3), lambda z: 2 * z, Series(3), in_channels=1, ndim=1, code_size=3, steps=steps, rate=0.1)


def test_auto_decoding_of_an_orthonormal_series_takes_the_gradient_steps_it_should():
    op, grid = series_operator(), Grid(50, placement="cells")
    scaled = eqx.tree_at(lambda o: o.latent_map, op, lambda z, a: a[0] * z)
    series = lambda x, code: (np.array([1, 2**0.5, 2**0.5]) * code * np.cos(np.pi * np.arange(3) * x)).sum(-1)
    exact, at = np.array([0.5, -1.0, 2.0]), np.array([[0.2], [0.7]])

    @jax.jit
    def run(u):
        query = Points(jnp.asarray(at))
        answers = op(u, grid, query), scaled(u, grid, query, args=jnp.array([2.0]))
        return op.code(u, grid), answers, op.encode(u, grid)(query.coordinates[1])

    code, answers, at_last = run(series(np.asarray(grid.coordinates()).T, exact)[None])
    np.testing.assert_allclose(code, exact * (1 - (1 - 2 * 0.1) ** 3), rtol=1e-12)
    for answer in answers:
        np.testing.assert_allclose(answer[0], series(at, 2 * np.asarray(code)), rtol=1e-12)
    np.testing.assert_allclose(at_last, answers[0][:, 1], rtol=1e-12)


@pytest.mark.slow
def test_codes_of_other_samplings_differ_by_the_quadrature_error():
    rng = np.random.default_rng(0)
    f = lambda x: jnp.exp(x) * jnp.sin(3 * x)

    @jax.jit
    def code(x):
        return series_operator().code(f(x)[None], Points(x[:, None], trapezoidal_weights(x)))

    reference = code(jnp.linspace(0, 1, 641))
    jitter = lambda n: np.linspace(0, 1, n) + np.pad(rng.uniform(-0.4, 0.4, n - 2) / (n - 1), 1)
    coarse, fine = (np.abs(code(jnp.asarray(jitter(n))) - reference).max() for n in (21, 161))
    assert np.log2(coarse / fine) / 3 > 1.7


@pytest.mark.slow
def test_on_a_mapped_mesh_the_inner_operator_sees_values_volumes_and_coordinates(key):
    grid = Grid((6, 5), placement="cells")
    polar = lambda xi: (1 + xi[0]) * jnp.stack([jnp.cos(xi[1]), jnp.sin(xi[1])])
    cloud = mapped_points(grid, polar)
    assert float(cloud.weights.sum()) == pytest.approx(1.5)
    op = GeoFNO(lambda v, grid, args, key: v, in_channels=1, reference=grid, metric=True)
    u = jnp.asarray(np.random.default_rng(0).normal(size=(1, 30)))
    seen = op(u, cloud)
    np.testing.assert_array_equal(seen[0], u[0])
    np.testing.assert_allclose(seen[1], 1 + grid.coordinates()[0].reshape(-1), rtol=1e-12)
    np.testing.assert_allclose(seen[2:], cloud.coordinates.T)


@pytest.mark.slow
def test_a_learned_deformation_gets_the_gradient_of_the_whole(key):
    grid = Grid((6, 5), placement="nodes")
    field = ModulatedSIREN(2, 2, code_size=1, width=4, depth=1, omega=1.0, key=key)
    x = jnp.asarray(np.random.default_rng(0).uniform(0.1, 0.9, size=(20, 2)))
    u = jnp.sin(3 * x[:, :1]).T

    @jax.jit
    def value(step):
        moved = Deformation(lambda y: 0.1 * step * field(y, jnp.ones(1)))
        op = GeoFNO(lambda v, grid, args, key: jnp.sin(2 * v), in_channels=1, reference=grid, to_reference=moved)
        return jnp.sum(op(u, Points(x)) ** 2)

    h = 1e-6
    difference = (value(1.0 + h) - value(1.0 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(value)(1.0), difference, rtol=1e-5)


@pytest.mark.slow
def test_answers_elsewhere_are_interpolated_between_the_points():
    op = OPERATORS["GNO"]()
    grid, cloud = Grid((8, 8), placement="nodes"), as_points(Grid((5, 3), 0.1, 0.9, placement="nodes"))
    u = grid.coordinates()
    out = op(u, grid)
    np.testing.assert_array_equal(op(u, grid, Grid((8, 8), placement="nodes")), out)
    np.testing.assert_allclose(op(u, grid, as_points(grid)), out.reshape(2, -1), atol=1e-6)
    assert op(u, grid, cloud).shape == (2, 15)
    assert op(u.reshape(2, -1), as_points(grid), grid).shape == (2, 8, 8)


@pytest.mark.plain
def test_errors_name_the_argument():
    cloud, u = Points(jnp.ones((12, 2))), jnp.ones((2, 12))
    line = {"neighbourhood": Nearest(2), "ndim": 1, "key": KEY}
    siren = {"width": 4, "depth": 1, "key": KEY}
    coral = partial(CORAL, Series(3), abs, Series(3), in_channels=1, ndim=1, code_size=3)
    calls = {
        "`domain` has 1 dimensions; this operator was built for 2": lambda: OPERATORS["GNO"]()(u, Grid(12)),
        r"`u` has shape \(2, 11\); expected \(2, 12\)": lambda: OPERATORS["MP solver"]()(u[:, :11], cloud),
        r"`u` has shape \(3, 2, 12\)": lambda: OPERATORS["PhysGTO"]()(jnp.ones((3, 2, 12)), cloud),
        "`query` has 1 dimensions; `domain` has 2": lambda: OPERATORS["LNO"]()(u, cloud, Grid(3)),
        "`args` was given": lambda: OPERATORS["PhysGTO"]()(u, cloud, args=jnp.ones(1)),
        "`k` is 4; expected 1 to 2": lambda: OPERATORS["MP solver"]()(u[:, :3], Points(jnp.ones((3, 2)))),
        "`depth` is 0": lambda: GNO(1, 1, ndim=1, width=4, depth=0, integral=LowRankIntegral, key=KEY),
        "`width` is 8; a bundle of 6 frames needs at least 9": lambda: MessagePassingSolver(
            1, frames=1, bundle=6, dt=0.1, width=8, **line
        ),
        r"`dt` is 0\.0": lambda: MessagePassingSolver(1, frames=1, bundle=1, dt=0.0, **line),
        "`bundle` is 0": lambda: MessagePassingSolver(1, frames=1, bundle=0, dt=0.1, **line),
        "`residual` adds 1 channels to 2": lambda: PhysGTO(1, 2, residual=True, **line),
        "`rate` is -1": lambda: coral(rate=-1.0),
        "`steps` is 0": lambda: coral(steps=0),
        "`query` has 2 dimensions; this operator was built for 1": lambda: coral()(
            jnp.ones((1, 4)), Grid(4), Grid((3, 3))
        ),
        r"`code` has shape \(2,\); expected \(3,\)": lambda: ModulatedSIREN(1, 1, code_size=3, **siren)(
            jnp.ones(1), jnp.ones(2)
        ),
        "`code_size` is 0": lambda: ModulatedSIREN(1, 1, code_size=0, **siren),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            eqx.filter_eval_shape(call)
