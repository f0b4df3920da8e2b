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

from opkit.operators import FNO, ResNet
from solvers import Grid, Operator

IN, OUT, WIDTH, DEPTH = 2, 3, 4, 2


@dataclasses.dataclass(frozen=True)
class Consistent:
    """The outputs on spacings h and h / 2 differ by O(h^order); infinite order: by round-off once h resolves them."""

    order: float


@dataclasses.dataclass(frozen=True)
class OneResolution:
    """No consistency is claimed, for the reason given."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    build: Callable[..., Operator]  # build(ndim, key=key), IN to OUT channels
    parameters: Callable[[int], int]  # exact count in ndim dimensions
    claim: Consistent | OneResolution | None
    conditioning: int = 0
    placement: str = "left"


def mlp(inputs, hidden, outputs):
    return inputs * hidden + hidden + hidden * outputs + outputs


def fno(ndim, *, key):
    return FNO(
        IN, OUT, modes=(4, 3, 2)[:ndim], width=WIDTH, depth=DEPTH, groups=2, coordinates=False, conditioning=2, key=key
    )


def fno_parameters(ndim):
    spectral = 2 * (4, 7 * 3, 7 * 5 * 2)[ndim - 1] * WIDTH**2 + WIDTH
    skips, norm, film = WIDTH**2 + WIDTH, 2 * WIDTH, mlp(2, WIDTH, 2 * WIDTH)
    block = spectral + skips + norm + film + mlp(WIDTH, WIDTH // 2, WIDTH)
    return mlp(IN, 2 * WIDTH, WIDTH) + DEPTH * block + mlp(WIDTH, 2 * WIDTH, OUT)


def fno_on_a_box(ndim, *, key):
    return FNO(IN, OUT, modes=(4, 3, 2)[:ndim], width=WIDTH, depth=DEPTH, padding=0.25, mlp_ratio=0, key=key)


def fno_on_a_box_parameters(ndim):
    block = 2 * (4, 7 * 3, 7 * 5 * 2)[ndim - 1] * WIDTH**2 + WIDTH + WIDTH**2
    return mlp(IN + ndim, 2 * WIDTH, WIDTH) + DEPTH * block + mlp(WIDTH, 2 * WIDTH, OUT)


def resnet(ndim, *, key):
    boundary = ("reflect", "zero", "replicate")[:ndim]
    return ResNet(
        IN, OUT, ndim=ndim, width=WIDTH, depth=DEPTH, dilations=(1, 2), boundary=boundary, coordinates=True, key=key
    )


def resnet_parameters(ndim):
    convolutions = 2 * (WIDTH**2 * 3**ndim + WIDTH)
    return (IN + ndim) * WIDTH + WIDTH + DEPTH * convolutions + WIDTH * OUT + OUT


TABLE = [
    Row("FNO", fno, fno_parameters, Consistent(math.inf), conditioning=2),
    Row("FNO on a box", fno_on_a_box, fno_on_a_box_parameters, Consistent(1), placement="nodes"),
    Row("ResNet", resnet, resnet_parameters, OneResolution("its kernels count points, not lengths")),
]

every_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
every_dimension = pytest.mark.parametrize("ndim", [1, 2, 3])


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


@every_row
@every_dimension
def test_every_resolution_is_accepted_even_coarser_than_the_modes(row, ndim, key):
    check_resolutions(row, ndim, key)


@every_row
@pytest.mark.parametrize("ndim", [1, 2])
def test_what_is_claimed_about_the_discretisation_holds(row, ndim, key):
    check_claim(row, ndim, key)


@every_row
@every_dimension
def test_the_number_of_parameters_is_the_formula(row, ndim):
    arrays = eqx.filter(eqx.filter_eval_shape(row.build, ndim, key=jax.random.key(0)), lambda x: hasattr(x, "size"))
    assert sum(x.size for x in jax.tree.leaves(arrays)) == row.parameters(ndim)


@pytest.mark.dtype
@every_row
def test_the_precision_follows_the_input(row):
    op, grid = row.build(2, key=jax.random.key(0)), Grid((9, 8), placement=row.placement)
    u = smooth_field(grid)
    dtypes = [jnp.bfloat16, jnp.float32] + [jnp.float64] * jax.config.read("jax_enable_x64")
    for dtype in dtypes:
        assert eqx.filter_eval_shape(apply, op, u.astype(dtype), grid, parameters_of(row)).dtype == dtype
    if jax.config.read("jax_enable_x64"):
        low, high = (apply(op, u.astype(dtype), grid, parameters_of(row)) for dtype in dtypes[1:])
        np.testing.assert_allclose(low, high, atol=1e-5)


@every_row
def test_vmap_is_a_loop_and_jit_changes_nothing(row, key):
    op, grid = perturbed(row.build(1, key=key), key), Grid(9, placement=row.placement)
    u, args = jax.random.normal(key, (2, IN, 9)), parameters_of(row)
    loop = [op(v, grid, args=args) for v in u]
    compiled = [apply(op, v, grid, args) for v in u]
    mapped = eqx.filter_jit(jax.vmap(lambda v: op(v, grid, args=args)))(u)
    np.testing.assert_allclose(compiled, loop, atol=1e-12)
    np.testing.assert_allclose(mapped, loop, atol=1e-12)


@every_row
def test_the_gradient_is_the_limit_of_differences(row, key):
    grid = Grid((6, 5), placement=row.placement)
    arrays, static = eqx.partition(perturbed(row.build(2, key=key), key), eqx.is_inexact_array)
    u = smooth_field(grid)
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), (arrays, u))

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
    return dataclasses.replace(TABLE[0], name="planted", build=lambda ndim, *, key: Planted(fno(ndim, key=key), fault))


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
