"""One table of checks over every operator: a new operator is one more row.

A row says what the operator claims about its discretisation; a row that claims nothing fails. The checks are plain
functions, so that the last tests can plant operators that are wrong and show them caught.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.operators import FNO
from solvers import Frozen, Grid

from . import rows_basic, rows_branch_trunk, rows_multilevel, rows_points, rows_spectral, rows_staggered
from .rows import IN, OUT, Consistent, OneResolution

TABLE = [
    *rows_basic.ROWS,
    *rows_spectral.ROWS,
    *rows_staggered.ROWS,
    *rows_multilevel.ROWS,
    *rows_branch_trunk.ROWS,
    *rows_points.ROWS,
]

every_row = pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.name, marks=[pytest.mark.slow] * row.slow) for row in TABLE]
)


def cases(most):
    """Every row in every dimension up to `most` that it works in; three dimensions are slow to compile."""
    return pytest.mark.parametrize(
        ("row", "ndim"),
        [
            pytest.param(row, ndim, id=f"{row.name} {ndim}-D", marks=[pytest.mark.slow] * (ndim == 3 or row.slow))
            for row in TABLE
            for ndim in row.dimensions
            if ndim <= most
        ],
    )


def perturbed(op, key):
    """Every weight moved a little, so that nothing is still at a special initial value (gates, FiLM)."""
    arrays, static = eqx.partition(op, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(arrays)
    rng = np.random.default_rng(0)
    moved = [x + 0.1 * rng.normal(size=x.shape).astype(x.dtype) for x in leaves]
    return eqx.combine(jax.tree.unflatten(structure, moved), static)


def parameters_of(row):
    return jnp.linspace(-0.5, 0.8, row.conditioning) if row.conditioning else None


@eqx.filter_jit
def apply(op, u, grid, args):
    return op(u, grid, args=args)


def smooth_field(grid):
    """IN channels of waves of one and two periods across the box: resolved by every grid used here."""
    rng = np.random.default_rng(1)
    x = np.asarray(grid.coordinates())
    waves = [rng.normal() * np.cos(2 * np.pi * (k * x).sum(axis=0) + c) for c in range(IN) for k in (1, 2)]
    return jnp.asarray(0.3 * np.stack(waves).reshape(IN, 2, *grid.shape).sum(axis=1))


def check_resolutions(row, ndim, key):
    op = row.build(ndim, key=key)
    args = parameters_of(row)
    for shape in [(9, 6, 7), (16, 12, 8), (3, 2, 2)]:  # non-square, finer, coarser than the modes
        grid = Grid(shape[:ndim], placement=row.placement)
        out = eqx.filter_eval_shape(apply, op, jnp.ones((IN, *grid.shape)), grid, args)
        assert out.shape == (OUT, *grid.shape), f"{row.name} on {grid.shape} gives {out.shape}"
    assert jnp.isfinite(apply(op, jnp.ones((IN, *grid.shape)), grid, args)).all()


def check_claim(row, ndim, key):
    """The observed order of the difference between grids against the claimed one."""
    assert row.claim is not None, f"{row.name} claims nothing about its discretisation; say so, or say why not"
    if isinstance(row.claim, OneResolution):
        assert row.claim.reason
        return
    op, args = perturbed(row.build(ndim, key=key), key), parameters_of(row)
    points = {1: (64, 128, 256), 2: (24, 48, 96)}[ndim]
    ends = row.placement == "nodes"
    grids = [Grid((n + ends,) * ndim, placement=row.placement) for n in points]
    outputs = [np.asarray(apply(op, smooth_field(grid), grid, args)) for grid in grids]
    every_second = (slice(None), *(slice(None, None, 2),) * ndim)
    coarse, fine = (np.sqrt(np.mean((b[every_second] - a) ** 2)) for a, b in itertools.pairwise(outputs))
    scale = np.std(outputs[-1])
    if row.claim.order == math.inf:
        assert fine < 1e-9 * scale, f"{row.name} differs between grids by {fine / scale:.1e}, not round-off"
    else:
        order = math.log2(coarse / fine)
        assert order > row.claim.order - 0.3, f"{row.name} differs between grids at order {order:.2f}"
        assert fine < 0.1 * scale, f"{row.name} differs between grids by {fine / scale:.1e}"


@cases(3)
def test_every_resolution_is_accepted_even_coarser_than_the_modes(row, ndim, key):
    check_resolutions(row, ndim, key)


@cases(2)
def test_what_is_claimed_about_the_discretisation_holds(row, ndim, key):
    check_claim(row, ndim, key)


@cases(3)
def test_the_number_of_parameters_is_the_formula(row, ndim):
    arrays = eqx.filter(eqx.filter_eval_shape(row.build, ndim, key=jax.random.key(0)), lambda x: hasattr(x, "size"))
    assert sum(x.size for x in jax.tree.leaves(arrays)) == row.parameters(ndim)


@pytest.mark.dtype
@every_row
def test_the_precision_follows_the_input(row):
    ndim = min(2, max(row.dimensions))
    op, grid = row.build(ndim, key=jax.random.key(0)), Grid((9, 8)[:ndim], placement=row.placement)
    u = smooth_field(grid)
    dtypes = [jnp.bfloat16, jnp.float32] + [jnp.float64] * jax.config.read("jax_enable_x64")
    for dtype in dtypes:
        assert eqx.filter_eval_shape(apply, op, u.astype(dtype), grid, parameters_of(row)).dtype == dtype
    if jax.config.read("jax_enable_x64"):
        low, high = (apply(op, u.astype(dtype), grid, parameters_of(row)) for dtype in dtypes[1:])
        np.testing.assert_allclose(low, high, atol=row.rounding)


@every_row
def test_vmap_is_a_loop_and_jit_changes_nothing(row, key):
    ndim = min(row.dimensions)
    op, grid = perturbed(row.build(ndim, key=key), key), Grid((9, 8)[:ndim], placement=row.placement)
    u, args = jax.random.normal(key, (2, IN, *grid.shape)), parameters_of(row)
    loop = [op(v, grid, args=args) for v in u]
    compiled = [apply(op, v, grid, args) for v in u]
    mapped = eqx.filter_jit(jax.vmap(lambda v: op(v, grid, args=args)))(u)
    np.testing.assert_allclose(compiled, loop, atol=1e-12)
    np.testing.assert_allclose(mapped, loop, atol=1e-12)


@every_row
def test_the_gradient_is_the_limit_of_differences(row, key):
    ndim = min(2, max(row.dimensions))
    grid = Grid((6, 5)[:ndim], placement=row.placement)
    arrays, static = eqx.partition(perturbed(row.build(ndim, key=key), key), eqx.is_inexact_array)
    u = smooth_field(grid)
    rng = np.random.default_rng(2)
    frozen = lambda x: isinstance(x, Frozen)  # has no gradient, on purpose
    move = lambda x: jax.tree.map(jnp.zeros_like, x) if frozen(x) else jnp.asarray(rng.normal(size=x.shape))
    direction = jax.tree.map(move, (arrays, u), is_leaf=frozen)

    @jax.jit
    def value_and_slope(step):
        def value(point):
            out = eqx.combine(point[0], static)(point[1], grid, args=parameters_of(row))
            return jnp.sum(jnp.sin(out))

        point = jax.tree.map(lambda x, d: x + step * d, (arrays, u), direction)
        result, gradient = jax.value_and_grad(value)(point)
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        return result, sum(jnp.vdot(g, d) for g, d in pairs)

    step = 1e-5
    difference = (value_and_slope(step)[0] - value_and_slope(-step)[0]) / (2 * step)
    np.testing.assert_allclose(value_and_slope(0.0)[1], difference, rtol=1e-6)


class Planted(eqx.Module):
    """A periodic FNO followed by `fault(v, grid)`."""

    op: FNO
    fault: Callable = eqx.field(static=True)

    def __call__(self, u, domain, query=None, *, args=None, key=None):
        return self.fault(self.op(u, domain, query, args=args), domain)


def layer_norm_of_one_grid(v, grid):
    weight = jnp.asarray(np.random.default_rng(3).normal(size=(16,)))
    return (v - v.mean()) / v.std() * weight


def layer_norm_of_any_grid(v, grid):
    weight = jnp.asarray(np.random.default_rng(3).normal(size=grid.shape))
    return (v - v.mean()) / v.std() * weight


def planted(fault):
    return dataclasses.replace(
        TABLE[0], name="planted", build=lambda ndim, *, key: Planted(TABLE[0].build(ndim, key=key), fault)
    )


def test_a_layer_norm_over_space_is_caught(key):
    with pytest.raises((TypeError, ValueError), match=r"broadcast|incompatible"):
        check_resolutions(planted(layer_norm_of_one_grid), 1, key)
    for claim in (Consistent(math.inf), Consistent(1)):
        row = dataclasses.replace(planted(layer_norm_of_any_grid), claim=claim)
        with pytest.raises(AssertionError, match="differs between grids"):
            check_claim(row, 1, key)


def test_a_hidden_factor_of_the_spacing_is_caught(key):
    for claim in (Consistent(math.inf), Consistent(1)):
        row = dataclasses.replace(planted(lambda v, grid: v / grid.spacing[0]), claim=claim)
        with pytest.raises(AssertionError, match="differs between grids"):
            check_claim(row, 1, key)


def test_a_row_without_a_claim_is_caught(key):
    with pytest.raises(AssertionError, match="claims nothing"):
        check_claim(dataclasses.replace(TABLE[0], claim=None), 1, key)
