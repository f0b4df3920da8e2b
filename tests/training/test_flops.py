"""Operations counted from a jaxpr: by the textbook's formulas, and by XLA where it can count."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from opkit.layers import Conv
from opkit.operators import FNO
from opkit.training import count_flops
from solvers import Grid

A, B = jnp.ones((3, 4)), jnp.ones((4, 5))


def test_products_are_counted_as_xla_counts_them():
    f = lambda a, b: jnp.tanh(a @ b) @ (b.T + 1)
    expected = jax.jit(f).lower(A, B).compile().cost_analysis()["flops"]
    assert count_flops(f, A, B) == 2 * (3 * 4 * 5 + 3 * 5 * 4) == pytest.approx(expected, rel=0.25)


def test_a_scan_counts_as_often_as_it_runs_and_a_batch_as_many_times():
    turn = lambda x, _: (jnp.tanh(jnp.ones((4, 4)) @ x), None)
    repeated = lambda x: lax.scan(turn, x, length=7)[0]
    x = jnp.ones(4)
    assert count_flops(repeated, x) == 7 * 2 * 16
    assert count_flops(jax.vmap(repeated), jnp.ones((5, 4))) == 5 * 7 * 2 * 16
    assert count_flops(jax.checkpoint(repeated), x) == 7 * 2 * 16


def test_of_branches_the_dearest_counts_and_unknown_loops_are_refused():
    branch = lambda x: lax.cond(x[0] > 0, lambda x: A @ (B @ x), lambda x: A @ x[:4], x)
    assert count_flops(branch, jnp.ones(5)) == 2 * (20 + 12)
    grows = lambda x: lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, x)
    with pytest.raises(ValueError, match="while loop around products"):
        count_flops(grows, jnp.ones((2, 2)))


def test_complex_products_transforms_and_shapes_without_values():
    assert count_flops(lambda a, b: a @ b, A + 0j, B + 0j) == 4 * 2 * 3 * 4 * 5
    x = jax.ShapeDtypeStruct((3, 16), jnp.float32)
    assert count_flops(lambda x: jnp.fft.irfft(jnp.fft.rfft(x)), x) == 2 * 3 * 2.5 * 16 * 4
    assert count_flops(lambda x: jnp.fft.fft2(x + 0j), jnp.ones((5, 8, 4))) == 5 * 5 * 32 * 5


def test_operators_are_counted_by_their_shapes():
    convolution = Conv(2, 3, (3, 3), boundary="zero", key=jax.random.key(0))
    assert count_flops(convolution, jnp.ones((2, 8, 8))) == 2 * 9 * 2 * 3 * 64
    make = lambda depth: FNO(1, 1, modes=(4,), width=4, depth=depth, coordinates=False, key=jax.random.key(0))
    u, grid = jax.ShapeDtypeStruct((1, 16), jnp.float32), Grid(16)
    one, two, three = (count_flops(make(depth), u, grid) for depth in (1, 2, 3))
    assert three - two == two - one > 2 * 4 * 4 * 16
    gradient = eqx.filter_grad(lambda op, u: jnp.sum(op(u, grid) ** 2))
    assert 2 * one < count_flops(gradient, make(1), u) < 4 * one
