"""What is particular to the operators on several grids."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.layers import Wave
from opkit.operators import LSM, MgNO, UNet
from solvers import Grid

from . import rows_branch_trunk, rows_multilevel
from .rows import IN, OUT

ROWS = [*rows_branch_trunk.ROWS, *rows_multilevel.ROWS]


@pytest.mark.slow
def test_periodic_operators_commute_with_translations_by_their_coarsest_spacing(key):
    grid = Grid(16)
    u = np.random.default_rng(0).normal(size=(1, 16))
    operators = (
        MgNO(1, 1, ndim=1, width=2, depth=1, levels=3, key=key),
        UNet(1, 1, ndim=1, width=2, levels=3, waves=2, key=key),
        LSM(1, 1, ndim=1, width=2, levels=3, heads=1, tokens=2, key=key),
    )
    run = eqx.filter_jit(lambda u: [op(u, grid) for op in operators])
    for v, moved in zip(run(u), run(np.roll(u, 4, 1)), strict=True):
        np.testing.assert_allclose(moved, np.roll(v, 4, 1), atol=1e-13)
        assert not np.allclose(v, v.mean())


def test_a_wave_of_zero_weights_leaves_its_input(key):
    op = UNet(1, 1, ndim=1, width=2, levels=1, waves=2, key=key)
    op = eqx.tree_at(lambda o: o.waves, op, jax.tree.map(jnp.zeros_like, op.waves))
    out, expected = jax.jit(lambda u: (op(u, Grid(7)), op.project(op.lift(u))))(np.arange(7.0)[None])
    np.testing.assert_allclose(out, expected, atol=1e-14)


def test_the_inputs_copies_enter_every_coarser_level(key):
    options = {"ndim": 1, "boundary": "periodic", "groups": None, "conditioning": 0, "activation": jnp.tanh}
    plain, copies = (
        eqx.filter_eval_shape(Wave, (2, 3, 4), input_copies=flag, key=key, **options) for flag in (False, True)
    )
    assert [block.first.weight.shape[1] for block in plain.down] == [2, 2, 3]
    assert [block.first.weight.shape[1] for block in copies.down] == [2, 4, 5]
    assert [block.first.weight.shape[1] for block in copies.up] == [5, 7]


@pytest.mark.slow
def test_an_operator_takes_grids_of_any_size_with_the_levels_they_allow(key):
    op = MgNO(1, 1, ndim=1, width=2, depth=1, levels=6, boundary="zero", key=key)
    for n in (2, 63, 64):
        out = jax.eval_shape(lambda u, n=n: op(u, Grid(n)), jnp.ones((1, n)))
        assert out.shape == (1, n)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_of_the_table_that_are_slow_are_at_least_traced(row, key):
    op = eqx.filter_eval_shape(row.build, 2, key=key)
    arrays = jax.tree.leaves(eqx.filter(op, lambda x: hasattr(x, "size")))
    assert sum(x.size for x in arrays) == row.parameters(2)
    args = jnp.ones(row.conditioning) if row.conditioning else None
    out = eqx.filter_eval_shape(lambda op, u: op(u, Grid((9, 6)), args=args), op, jnp.ones((IN, 9, 6), jnp.bfloat16))
    assert (out.shape, out.dtype) == ((OUT, 9, 6), jnp.bfloat16)


@pytest.mark.plain
@pytest.mark.parametrize("family", [MgNO, UNet, LSM])
def test_errors_name_the_argument(family):
    def build(**options):
        return family(1, 1, **({"ndim": 1, "width": 8, "key": jax.random.key(0)} | options))

    u = jnp.ones((1, 8))
    calls = {
        "`width` is 0": lambda: build(width=0),
        "`ndim` is 4": lambda: build(ndim=4),
        "`levels` is 0": lambda: build(levels=0),
        "`conditioning` is -1": lambda: build(conditioning=-1),
        "`boundary` is 'circular'": lambda: build(boundary="circular"),
        "`args` is missing": lambda: build(conditioning=1)(u, Grid(8)),
        "`query` differs": lambda: build(boundary="zero")(u, Grid(8), Grid(16)),
        r"`u` has shape \(2, 8\)": lambda: build()(jnp.ones((2, 8)), Grid(8)),
    }
    if family is MgNO:
        calls["`depth` is 0"] = lambda: build(depth=0)
        calls["`rhs` is 'both'"] = lambda: build(rhs="both")
    if family is UNet:
        calls["`waves` is 0"] = lambda: build(waves=0)
        calls["`multiplier` is 0"] = lambda: build(multiplier=0)
    if family is LSM:
        calls["`heads` is 3"] = lambda: build(heads=3)
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
