"""FNO's options and Transform Once: what the table of operators does not ask."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.operators import FNO, TransformOnce
from solvers import Grid

call = eqx.filter_jit(lambda op, u, grid: op(u, grid))


def count(op):
    return sum(x.size for x in jax.tree.leaves(eqx.filter(op, lambda x: hasattr(x, "size"))))


def even_field(grid):
    """Cosines of half waves: zero slope on every wall."""
    x = np.asarray(grid.coordinates())
    return jnp.asarray(np.cos(np.pi * x[0]) * np.cos(3 * np.pi * x[-1]) + 0.5 * np.cos(2 * np.pi * x[-1]))[None]


def smooth_field(grid):
    x = np.asarray(grid.coordinates())
    return jnp.asarray(np.sin(1.0 + x[0]) * np.cos(2 * np.pi * x[-1]))[None]


def differences(op, grids, field):
    """Between each grid and the next, of half its spacing, over the size of the last."""
    outputs = [np.asarray(call(op, field(grid), grid)) for grid in grids]
    every_second = (slice(None), *(slice(None, None, 2),) * grids[0].ndim)
    return [np.abs(b[every_second] - a).max() / np.std(outputs[-1]) for a, b in itertools.pairwise(outputs)]


def test_transform_once_answers_alike_on_33_and_65_points(key):
    """To round-off for fields that the cosines of both grids hold."""
    op = TransformOnce(1, 1, modes=(6, 6), width=4, depth=2, key=key)
    grids = [Grid((n, n), placement="nodes") for n in (33, 65)]
    assert differences(op, grids, even_field)[0] < 1e-12


def test_a_factorised_fno_of_rank_a_tenth_has_an_eighth_of_the_parameters_or_fewer():
    dense, factorised = (
        eqx.filter_eval_shape(FNO, 1, 1, modes=(12, 12), width=32, key=jax.random.key(0), **options)
        for options in ({}, {"factorisation": "tucker", "rank": 0.1})
    )
    assert count(factorised) <= count(dense) / 8


@pytest.mark.slow
@pytest.mark.parametrize("operator", [FNO, TransformOnce])
def test_in_the_chebyshev_basis_the_difference_between_grids_is_round_off(operator, key):
    op = operator(1, 1, modes=(6,), width=4, depth=2, basis="chebyshev", key=key)
    assert differences(op, [Grid(n, placement="chebyshev") for n in (65, 129)], smooth_field)[0] < 1e-12


@pytest.mark.slow
def test_in_the_fourier_basis_transform_once_differs_by_round_off_and_answers_on_other_grids(key):
    op = TransformOnce(1, 1, modes=(4, 3), width=4, depth=2, basis="fourier", key=key)
    wave = lambda grid: jnp.sin(2 * jnp.pi * grid.coordinates().sum(0))[None]
    grids = [Grid((16, 24)), Grid((32, 48))]
    assert differences(op, grids, wave)[0] < 1e-12
    v = jax.jit(lambda u: op(u, *grids))(wave(grids[0]))
    np.testing.assert_allclose(v[:, ::2, ::2], call(op, wave(grids[0]), grids[0]), atol=1e-12)


@pytest.mark.slow
def test_local_kernels_in_a_channel_are_consistent_at_first_order_up_to_the_walls(key):
    """Periodic along one axis, walls across the other; the largest difference, not the mean."""
    op = FNO(
        1, 1, modes=(4, 4), width=4, depth=2, basis=("fourier", "cosine"), difference_length=0.03, integral_radius=0.2,
        coordinates=False, key=key,
    )  # fmt: skip
    channel = lambda n: Grid((n, n + 1), placement=("left", "nodes"))
    field = lambda grid: smooth_field(Grid(grid.shape[::-1], placement=grid.placement[::-1])).swapaxes(1, 2)
    coarse, fine = differences(op, [channel(n) for n in (32, 64, 128)], field)
    assert np.log2(coarse / fine) > 0.8
    assert fine < 0.1


@pytest.mark.plain
def test_errors_name_the_argument():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"`padding` is 0\.1; .* another basis than Fourier"):
        FNO(1, 1, modes=(3,), width=4, basis="cosine", padding=0.1, key=key)
    with pytest.raises(ValueError, match=r"`padding` is 0\.1; .* local kernels"):
        FNO(1, 1, modes=(3,), width=4, difference_length=0.1, padding=0.1, key=key)
    with pytest.raises(ValueError, match="Give `coordinates=False`"):
        FNO(1, 1, modes=(3,), width=4, difference_length=0.1, key=key)
    with pytest.raises(ValueError, match="`basis` is 'chebyshev'; local kernels need even spacing"):
        FNO(1, 1, modes=(3,), width=4, integral_radius=0.1, basis="chebyshev", key=key)
    with pytest.raises(ValueError, match=r"`modes` is \(0,\)"):
        TransformOnce(1, 1, modes=(0,), width=4, key=key)
    with pytest.raises(ValueError, match="`depth` is 0"):
        TransformOnce(1, 1, modes=(3,), width=4, depth=0, key=key)
    op = TransformOnce(1, 1, modes=(3,), width=4, key=key)
    with pytest.raises(ValueError, match="its basis 'cosine' needs 'nodes' or 'cells'"):
        op(jnp.ones((1, 8)), Grid(8))
    with pytest.raises(ValueError, match="`args` was given"):
        op(jnp.ones((1, 8)), Grid(8, placement="nodes"), args=jnp.ones(1))
    fno = FNO(1, 1, modes=(3,), width=4, basis="sine", key=key)
    with pytest.raises(ValueError, match="this operator needs even spacing"):
        fno(jnp.ones((1, 8)), Grid(8, placement="chebyshev"))
