"""Jacobians and normal equations against JAX's own derivatives of the residual vector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from opkit.training import Term, normal_equations, residual_jacobian, residual_products, residual_vector, total

RNG = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape))
PARAMS = {"inner": draw(2, 4), "outer": draw(4, 2), "shift": draw()}
INSIDE, EDGE, DATA = draw(7, 2), draw(3, 2), (draw(5, 2), draw(5, 2, 2))
MASK, ENTRIES = jnp.asarray([1, 1, 0, 1, 0, 1, 1], bool), jnp.asarray(RNG.uniform(size=(5, 2)) < 0.6)


def field(params, x):
    return jnp.tanh(x @ params["inner"]) @ params["outer"] + params["shift"] * x


def physics(params, x):
    """Not a number at one of the points, which the mask excludes."""
    values = field(params, x) ** 2 + jax.jvp(lambda x: field(params, x), (x,), (jnp.ones(2),))[1]
    return jnp.where(jnp.all(x == INSIDE[2]), jnp.nan, values)


def terms_fn(params):
    scaled = {**params, "outer": 2 * params["outer"]}
    bare = jax.vmap(lambda x: field(params, x)[0])(INSIDE)
    return {
        "physics": Term.of(physics, params, INSIDE, weight=3.0, mask=MASK),
        "edge": Term.of(lambda p, x: jnp.sum(field(p, x)), scaled, EDGE, weight=0.5),
        "closure": Term.of(lambda _, x: field(scaled, x), None, EDGE),
        "data": Term.of(lambda p, s: field(p, s[0])[:, None] - s[1], params, DATA, mask=ENTRIES, count=9.0),
        "bare": Term(bare, "residual", mask=MASK),
        "tall": Term(jnp.outer(bare, jnp.arange(5.0)), "residual"),
        "none": Term.of(physics, params, INSIDE[:0]),
    }


@pytest.fixture(scope="module")
def reference():
    flat, unravel = ravel_pytree(PARAMS)
    vector = lambda flat: residual_vector(terms_fn(unravel(flat)))
    return jax.jit(lambda flat: (vector(flat), jax.jacfwd(vector)(flat)))(flat)


@pytest.mark.parametrize("chunk", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_the_jacobian_and_its_normal_equations_are_those_of_the_residual_vector(reference, chunk):
    residual, jacobian = reference
    found, (matrix, gradient) = jax.jit(
        lambda p: (residual_jacobian(terms_fn, p, chunk=chunk), normal_equations(terms_fn, p, chunk=chunk))
    )(PARAMS)
    np.testing.assert_allclose(found, jacobian, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(matrix, jacobian.T @ jacobian, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradient, jacobian.T @ residual, rtol=1e-12, atol=1e-12)


def test_products_are_those_with_the_jacobian(reference):
    residual, jacobian = reference
    v, w = draw(jacobian.shape[1]), draw(jacobian.shape[0])

    @jax.jit
    def products(params):
        found, push, pull = residual_products(terms_fn, params)
        return found, push(v), pull(w)

    for one, other in zip(products(PARAMS), (residual, jacobian @ v, jacobian.T @ w), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_half_the_gradient_of_the_total_is_the_jacobians_product_with_the_residual(reference):
    residual, jacobian = reference
    gradient = jax.jit(jax.grad(lambda p: total(terms_fn(p))))(PARAMS)
    np.testing.assert_allclose(ravel_pytree(gradient)[0], 2 * jacobian.T @ residual, rtol=1e-12, atol=1e-12)


def test_more_residuals_a_sample_than_parameters_are_differentiated_forwards():
    terms = lambda p: {"r": Term.of(lambda p, x: jnp.sin(p * x), p, INSIDE), "w": Term(p * DATA[0], "residual")}
    jacobian = jax.jit(lambda p: residual_jacobian(terms, p))(jnp.asarray(0.3))
    expected = np.concatenate([np.ravel(INSIDE * np.cos(0.3 * INSIDE)) / np.sqrt(14), np.ravel(DATA[0]) / np.sqrt(10)])
    np.testing.assert_allclose(jacobian[:, 0], expected, rtol=1e-12)


def test_normal_equations_of_many_parameters_are_exact():
    rows = np.random.default_rng(4).normal(size=(40, 611))
    terms = lambda p: {"r": Term.of(lambda p, row: row @ p, p, jnp.asarray(rows), weight=40.0)}
    matrix, gradient = jax.jit(lambda p: normal_equations(terms, p))(jnp.ones(611))
    np.testing.assert_allclose(matrix, rows.T @ rows, atol=1e-12)
    np.testing.assert_allclose(gradient, rows.T @ rows.sum(1), atol=1e-11)


def test_normal_equations_in_chunks_take_less_memory_than_the_jacobian():
    params, points = {"a": jnp.ones((2, 50)), "b": jnp.ones(50)}, draw(4000, 2)
    terms = lambda p: {"r": Term.of(lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], p, points)}
    compiled = jax.jit(lambda p: normal_equations(terms, p, chunk=100)).lower(params).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4000 * 150 * 8 / 2


@pytest.mark.plain
def test_losses_and_empty_chunks_are_errors():
    losses = lambda p: {"data": Term(p * jnp.ones(3), "losses")}
    with pytest.raises(ValueError, match="'data' as per-sample losses; a least-squares method needs residuals"):
        residual_jacobian(losses, jnp.ones(()))
    with pytest.raises(ValueError, match="`chunk` is 0"):
        normal_equations(lambda p: {"r": Term(p * jnp.ones(3), "residual")}, jnp.ones(()), chunk=0)
