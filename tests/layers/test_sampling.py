"""Between grids: against SciPy, transposes, and what linear functions must do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from opkit.layers import StridedConv, TransposedConv, average_pool, interpolate, stagger, unstagger
from solvers import Grid

SCIPY = {"periodic": "wrap", "zero": "constant", "reflect": "mirror", "replicate": "nearest"}


def linear(grid):
    x, y = np.asarray(grid.coordinates())
    return (2 * x - 3 * y + 1)[..., None]


def test_pooling_and_interpolation_are_exact_for_linear_functions_on_cells_away_from_the_ends():
    fine, coarse = Grid((12, 8), placement="cells"), Grid((6, 4), placement="cells")
    rules = ("replicate", "zero")
    pooled, back = jax.jit(lambda u: (average_pool(u, rules), interpolate(average_pool(u, rules), (12, 8), rules)))(
        linear(fine)
    )
    np.testing.assert_allclose(pooled, linear(coarse), atol=1e-14)
    np.testing.assert_allclose(back[1:-1, 1:-1], linear(fine)[1:-1, 1:-1], atol=1e-14)


@pytest.mark.parametrize("rules", [("periodic", "reflect"), pytest.param(("replicate",) * 2, marks=pytest.mark.slow)])
def test_constants_survive_any_number_of_points(rules, key):
    up = TransposedConv(1, 1, (3, 3), boundary=rules, key=key)
    up = eqx.tree_at(lambda c: c.weight, up, jnp.asarray(np.outer(*[[0.5, 1.0, 0.5]] * 2))[None, None])

    @jax.jit
    def both(u, coarse):
        return interpolate(average_pool(u, rules), u.shape[:-1], rules), up.channels_last(coarse, u.shape[:-1])

    for result in both(np.ones((5, 6, 1)), np.ones((3, 3, 1))):
        np.testing.assert_allclose(result, np.ones((5, 6, 1)), atol=1e-15)


@pytest.mark.parametrize("rule", ["zero", "reflect"])
def test_a_strided_convolution_is_scipys_correlation_at_every_second_point(rule, key):
    first = int(rule == "zero")
    conv = StridedConv(1, 1, (3, 3), boundary=rule, key=key)
    u = np.random.default_rng(0).normal(size=(1, 7, 8))
    expected = ndimage.correlate(u[0], np.asarray(conv.weight[0, 0]), mode=SCIPY[rule])[first::2, first::2]
    np.testing.assert_allclose(jax.jit(lambda u: conv(u))(u)[0], expected, atol=1e-14)


@pytest.mark.parametrize(
    ("rule", "shape"), [("zero", (7, 8)), pytest.param("periodic", (6, 8), marks=pytest.mark.slow)]
)
def test_the_transposed_convolution_is_the_transpose(rule, shape, key):
    down = StridedConv(2, 3, (3, 3), boundary=rule, key=key)
    up = TransposedConv(3, 2, (3, 3), boundary=rule, key=key)
    up = eqx.tree_at(lambda c: c.weight, up, jnp.swapaxes(down.weight, 0, 1))
    rng = np.random.default_rng(0)
    u = rng.normal(size=(2, *shape))

    @jax.jit
    def products(u):
        v = down(u)
        return jnp.sum(v * v), jnp.sum(u * up(v, shape))

    np.testing.assert_allclose(*products(u), rtol=1e-12)


def test_stagger_is_numpys_slicing_and_its_round_trip_exact():
    u = np.random.default_rng(0).normal(size=(2, 4, 6, 9))
    parts, back = jax.jit(lambda u: (stagger(u, (2, 1, 3)), unstagger(stagger(u, (2, 1, 3)), (2, 1, 3))))(u)
    np.testing.assert_array_equal(parts, [u[:, i::2, :, k::3] for i in range(2) for k in range(3)])
    np.testing.assert_array_equal(back, u)


@pytest.mark.plain
def test_errors_name_the_argument():
    key, u = jax.random.key(0), jnp.ones((2, 5, 5))
    down, up = StridedConv(1, 1, (3, 3), key=key), TransposedConv(1, 1, (3, 3), key=key)
    calls = {
        "`stride` is 3; expected 1 or 2": lambda: StridedConv(1, 1, (3, 3), stride=3, key=key),
        r"`kernel` is \(5,\); expected 1 or 3": lambda: TransposedConv(1, 1, (5,), key=key),
        "`u` has 2 channels": lambda: down(u),
        "at least 2 points an axis": lambda: down(jnp.ones((1, 1, 4))),
        r"`v` is on \(5, 5\) points; expected \(4, 4\), every second of \(8, 8\)": lambda: up(u[:1], (8, 8)),
        r"`x` is on \(5,\) points; expected \(4,\), half of `shape` \(8,\)": lambda: interpolate(
            jnp.ones((5, 1)), (8,), ("zero",)
        ),
        r"`factor` is \(2, 2\); expected divisors of the points \(5, 5\)": lambda: stagger(u, 2),
        "`factor` is .*one for each of 2 axes": lambda: stagger(u, (1, 1, 1)),
        r"`parts` are 3; expected the product of `factor` \(2,\)": lambda: unstagger(jnp.ones((3, 1, 4)), 2),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
