import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers import Grid, Symmetry, symmetries


def bump(x):
    """A function without any symmetry, periodic in no axis."""
    return sum((j + 1) * jnp.sin((j + 1) * x[j] + 0.3 * j) for j in range(len(x)))[None]


@pytest.mark.parametrize("placement", ["cells", "nodes", "chebyshev"])
@pytest.mark.parametrize(("shape", "order"), [((6,), 2), ((5, 5), 8), ((4, 6), 4), ((3, 3, 3), 48)])
def test_group_acts_as_composition_with_the_inverse_map(placement, shape, order):
    grid = Grid(shape, -1.0, 1.0, placement)
    x = grid.coordinates()
    group = symmetries(grid)
    assert len(set(group)) == order
    assert jnp.array_equal(group[0](x, grid, edge="zero"), x)
    for g in group:
        # reflecting then exchanging a field is evaluating it at exchanged-back, then reflected coordinates
        signs = jnp.where(jnp.array(g.reflected), -1.0, 1.0)
        y = jnp.stack([signs[j] * x[g.axes.index(j)] for j in range(len(shape))])
        image = g(bump(x), grid, edge="zero")
        np.testing.assert_allclose(image, bump(y), atol=1e-14)
        np.testing.assert_allclose(g.inverse(image, grid, edge="zero"), bump(x), atol=0)


def test_left_axis_reflects_about_the_middle_of_the_box_with_the_edge_as_told():
    grid = Grid(8)
    x = grid.axes()[0]
    flip = Symmetry((0,), (True,))
    wave = jnp.sin(2 * jnp.pi * x)[None] + jnp.cos(4 * jnp.pi * x)[None]
    mirrored = -jnp.sin(2 * jnp.pi * x) + jnp.cos(4 * jnp.pi * x)
    np.testing.assert_allclose(flip(wave, grid, edge="periodic")[0], mirrored, atol=1e-14)
    bridge = (x * (1 - x) * (1 + x))[None]  # zero at both ends
    np.testing.assert_allclose(flip(bridge, grid, edge="zero")[0], (1 - x) * x * (2 - x), atol=1e-14)
    ramp = x[None]
    np.testing.assert_allclose(flip(ramp, grid, edge="nearest")[0], [7 / 8, *(1 - x[1:])], atol=1e-14)
    both = flip(jnp.concatenate([bridge, ramp]), grid, edge=("zero", "nearest"))
    alone = [flip(bridge, grid, edge="zero"), flip(ramp, grid, edge="nearest")]
    np.testing.assert_array_equal(both, jnp.concatenate(alone))


def test_laplacian_commutes_with_every_symmetry_of_a_cube(key):
    grid = Grid((4, 4, 4), placement="left")
    u = jax.random.normal(key, (2, 4, 4, 4))

    def laplacian(v):
        return sum(jnp.roll(v, s, axis) for axis in (1, 2, 3) for s in (-1, 1)) - 6 * v

    for g in symmetries(grid):
        np.testing.assert_allclose(
            laplacian(g(u, grid, edge="periodic")), g(laplacian(u), grid, edge="periodic"), atol=1e-13
        )


@pytest.mark.plain
def test_contradictions_are_refused():
    with pytest.raises(ValueError, match=r"`axes`, `reflected`.*permutation"):
        Symmetry((0, 0), (True, False))
    swap = Symmetry((1, 0), (False, False))
    with pytest.raises(ValueError, match=r"`axes` \(1, 0\) exchange axes of `grid` that differ"):
        swap(jnp.ones((1, 4, 6)), Grid((4, 6)), edge="zero")
    with pytest.raises(ValueError, match=r"`u` has shape \(1, 4, 5\)"):
        swap(jnp.ones((1, 4, 5)), Grid((4, 4)), edge="zero")
    with pytest.raises(ValueError, match="`edge` has 2 of them; expected one, or one for each of 1 channels"):
        swap(jnp.ones((1, 4, 4)), Grid((4, 4)), edge=("zero", "nearest"))
    with pytest.raises(ValueError, match="`edge` is 'wrap'"):
        swap(jnp.ones((1, 4, 4)), Grid((4, 4)), edge="wrap")
