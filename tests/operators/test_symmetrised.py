import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.operators import FNO, Symmetrised
from solvers import Grid, Points, symmetries


@pytest.mark.dtype
@pytest.mark.parametrize(("shape", "placement"), [((6, 6), "cells"), ((5, 7), "nodes"), ((6, 6), "left")])
def test_symmetrised_operator_is_equivariant_and_the_bare_one_is_not(shape, placement, key):
    grid = Grid(shape, placement=placement)
    bare = FNO(1, 1, modes=(3, 3), width=4, depth=2, key=key)
    whole = Symmetrised(bare)
    u = jax.random.normal(jax.random.fold_in(key, 1), (1, *shape))

    @jax.jit
    def defects():
        """The largest difference between `op g u` and `g op u` relative to `op u`: symmetrised, and bare."""

        def defect(op):
            v = op(u, grid)
            images = [(g(u, grid, edge="periodic"), g(v, grid, edge="periodic")) for g in symmetries(grid)[1:]]
            inputs, expected = (jnp.stack(part) for part in zip(*images, strict=True))
            return jnp.max(jnp.abs(jax.vmap(lambda w: op(w, grid))(inputs) - expected)) / jnp.max(jnp.abs(v))

        return defect(whole), defect(bare)

    with_group, without = defects()
    assert with_group < 30 * jnp.finfo(u.dtype).eps
    assert without > 1000 * with_group


def test_symmetrising_an_equivariant_operator_changes_nothing(key):
    grid = Grid((8,))
    u = jax.random.normal(key, (1, 8))

    def smooth(v, domain, query=None, *, args=None, key=None):
        return v + 0.5 * (jnp.roll(v, 1, -1) + jnp.roll(v, -1, -1))

    np.testing.assert_allclose(Symmetrised(smooth)(u, grid), smooth(u, grid), atol=1e-14)


@pytest.mark.plain
def test_domains_without_a_box_are_refused(key):
    op = Symmetrised(lambda v, domain, **_: v)
    with pytest.raises(ValueError, match="`domain` is a Points"):
        op(jnp.ones((1, 3)), Points(jnp.ones((3, 2))))
    with pytest.raises(ValueError, match="`query` differs"):
        op(jnp.ones((1, 4)), Grid(4), Grid(8))
