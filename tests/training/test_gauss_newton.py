"""Gauss-Newton methods against linear algebra, Optimistix and an exact solution."""

import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import pytest
from jax.flatten_util import ravel_pytree

from opkit.training import (
    Checkpoints,
    Loss,
    Term,
    fit,
    gauss_newton,
    init_state,
    make_train_step,
    newton_cg,
    residual_vector,
)

RNG = np.random.default_rng(0)
DAMPINGS = ["levenberg_marquardt", pytest.param("fixed", marks=pytest.mark.slow)]


def minimise(terms_fn, start, optimiser, updates=1):
    """The parameters, the optimiser's state, and the values on the way."""
    value_fn = Loss(terms_fn)

    @jax.jit
    def update(params, state):
        value, gradient = jax.value_and_grad(value_fn)(params)
        step, state = optimiser.update(gradient, state, params, value=value, value_fn=value_fn)
        return optax.apply_updates(params, step), state, value

    params, state, values = start, optimiser.init(start), []
    for _ in range(updates):
        params, state, value = update(params, state)
        values.append(float(value))
    return params, state, [*values, float(value_fn(params))]


def never_rise(values):
    return np.all(np.diff(values) <= 1e-14 * np.array(values[:-1]))


@pytest.mark.parametrize(("rows", "solve"), [(9, "dense"), (4, "kernel")])
def test_one_step_without_damping_is_the_least_squares_solution(rows, solve):
    a, b = RNG.normal(size=(rows, 6)), RNG.normal(size=rows)
    terms = lambda p: {"r": Term.of(lambda p, s: s[0] @ p - s[1], p, (jnp.asarray(a), jnp.asarray(b)))}
    optimiser = gauss_newton("fixed", strength=0.0, solve=solve)
    found, _, _ = minimise(terms, jnp.zeros(6), optimiser)
    np.testing.assert_allclose(found, np.linalg.lstsq(a, b)[0], rtol=1e-10)


X = jnp.linspace(-1, 1, 20)[:, None]
NETWORK, STATIC = eqx.partition(eqx.nn.MLP(1, "scalar", 5, 1, jnp.tanh, key=jax.random.key(0)), eqx.is_inexact_array)


def network_terms(params):
    model = eqx.combine(params, STATIC)
    return {"slope": Term.of(lambda m, x: jax.grad(m)(x) - 3 * jnp.cos(3 * x), model, X, weight=0.1)}


def step_of(solve, **options):
    """The first step, and the damping after it."""
    found, state, _ = minimise(network_terms, NETWORK, gauss_newton(strength=1.0, solve=solve, **options))
    return ravel_pytree(found)[0] - ravel_pytree(NETWORK)[0], state.damping


def same(one, other):
    return jnp.linalg.norm(one[0] - other[0]) < 1e-8 * jnp.linalg.norm(other[0]) and abs(one[1] / other[1] - 1) < 1e-8


def test_the_step_is_the_published_one_and_the_same_however_it_is_solved():
    """Transtrum and Sethna's, with the second derivative along it by differences."""
    dense = step_of("dense")
    flat, unravel = ravel_pytree(NETWORK)
    residual = jax.jit(lambda p: residual_vector(network_terms(unravel(p))))
    jacobian, r = jax.jacfwd(residual)(flat), residual(flat)
    gradient = jacobian.T @ r
    damping = jnp.sum((jacobian @ gradient) ** 2) / jnp.sum(gradient**2)
    matrix = jacobian.T @ jacobian + damping * jnp.eye(len(flat))
    step = -jnp.linalg.solve(matrix, gradient)
    second = (residual(flat + 1e-3 * step) - 2 * r + residual(flat - 1e-3 * step)) / 1e-6
    expected = step - jnp.linalg.solve(matrix, jacobian.T @ second) / 2
    np.testing.assert_allclose(dense[0], expected, rtol=1e-5, atol=1e-6 * float(jnp.abs(expected).max()))
    assert float(jnp.linalg.norm(expected - step)) > 1e-2 * float(jnp.linalg.norm(step))
    assert same(step_of("kernel"), dense)
    assert same(step_of("matrix_free", tolerance=1e-13, max_steps=500), dense)


@pytest.mark.slow
def test_the_scaled_step_is_the_same_however_it_is_solved():
    assert same(step_of("kernel", scaled=True), step_of("dense", scaled=True))


@pytest.mark.slow
@pytest.mark.parametrize("damping", DAMPINGS)
def test_the_minimum_is_that_of_optimistix(damping):
    t = jnp.linspace(0, 3, 25)
    y = 2 * jnp.exp(-1.3 * t) + 0.5 + 0.1 * jnp.asarray(np.random.default_rng(0).normal(size=25))
    decay = lambda p, s: p["a"] * jnp.exp(-p["b"] * s[0]) + p["c"] - s[1]
    start = {"a": jnp.asarray(1.0), "b": jnp.asarray(0.1), "c": jnp.asarray(0.0)}
    solver = optimistix.LevenbergMarquardt(1e-13, 1e-13)
    reference = optimistix.least_squares(lambda p, _: decay(p, (t, y)), solver, start, throw=False).value
    found, _, values = minimise(lambda p: {"r": Term.of(decay, p, (t, y))}, start, gauss_newton(damping), 30)
    for name in start:
        np.testing.assert_allclose(found[name], reference[name], rtol=1e-7)
    assert never_rise(values)


@pytest.mark.parametrize("damping", DAMPINGS)
def test_no_step_is_taken_to_where_the_value_is_not_finite(damping):
    terms = lambda p: {"r": Term(jnp.log(p) + 3, "residual")}
    found, _, values = minimise(terms, jnp.full(2, 5.0), gauss_newton(damping), 40)
    np.testing.assert_allclose(found, np.exp(-3), rtol=1e-6)
    assert never_rise(values)
    found, state, _ = minimise(terms, jnp.full(2, -5.0), gauss_newton(damping))
    assert state.stalled
    np.testing.assert_array_equal(found, -5)


@pytest.mark.slow
def test_a_small_network_solves_poissons_equation_to_a_millionth_in_sixty_iterations():
    """`-u'' = pi^2 sin(pi x)` with zero ends, `u = x (1 - x) N(x)`, at 40 points."""
    model = eqx.nn.MLP("scalar", "scalar", 16, 2, jnp.tanh, key=jax.random.key(0))
    points = (jnp.arange(40) + 0.5) / 40
    candidate = lambda model: lambda x: x * (1 - x) * model(x)

    def residual(model, x):
        return jax.grad(jax.grad(candidate(model)))(x) + jnp.pi**2 * jnp.sin(jnp.pi * x)

    def objective(model, batch, *, key, carry):
        return {"physics": Term.of(residual, model, points)}, {}, carry

    state = fit(objective, model, None, gauss_newton(iterations=60), steps=1, seed=0)
    x = jnp.linspace(0, 1, 201)
    exact = jnp.sin(jnp.pi * x)
    off = jax.vmap(candidate(state.model))(x) - exact
    error = float(jnp.linalg.norm(off) / jnp.linalg.norm(exact))
    print(f"relative error {error:.1e}")
    assert error < 1e-6


def drawn(model, batch, *, key, carry):
    x = jax.random.uniform(key, (30,))
    return {"data": Term.of(lambda m, x: m["a"] * jnp.tanh(m["b"] * x) - jnp.sin(3 * x), model, x)}, {}, carry


@pytest.mark.parametrize(
    "optimiser",
    [
        pytest.param(gauss_newton(iterations=3), id="gauss_newton"),
        pytest.param(newton_cg(iterations=3), id="newton_cg", marks=pytest.mark.slow),
        pytest.param(optax.lbfgs(), id="lbfgs", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_on_points_drawn_anew_agrees_bit_for_bit(optimiser, tmp_path):
    def run():
        model = {"a": jnp.ones(()), "b": jnp.ones(())}
        return fit(drawn, model, None, optimiser, steps=6, chunk=3, seed=0, checkpoints=Checkpoints(tmp_path, keep=2))

    whole = run()
    shutil.rmtree(tmp_path / "6")
    assert eqx.tree_equal(run(), whole)


@pytest.mark.slow
def test_fit_takes_optaxs_lbfgs_to_the_least_squares_solution():
    a, b = np.random.default_rng(1).normal(size=(9, 4)), np.random.default_rng(2).normal(size=9)

    def objective(model, batch, *, key, carry):
        return {"data": Term.of(lambda w, s: s[0] @ w - s[1], model, batch)}, {}, carry

    data = (jnp.asarray(a), jnp.asarray(b))
    state = fit(objective, jnp.zeros(4), data, optax.lbfgs(), steps=20, seed=0)
    np.testing.assert_allclose(state.model, np.linalg.lstsq(a, b)[0], atol=1e-6)


@pytest.mark.dtype
def test_matrix_free_steps_keep_float32():
    x = jnp.linspace(-1, 1, 20, dtype=jnp.float32)
    params = {"a": jnp.ones((), jnp.float32), "b": jnp.zeros((), jnp.float32)}
    terms = lambda p: {"r": Term.of(lambda p, x: p["a"] * jnp.exp(p["b"] * x) - 2 * jnp.exp(x), p, x)}
    found, state, _ = minimise(terms, params, gauss_newton(solve="matrix_free", iterations=20))
    np.testing.assert_allclose([found["a"], found["b"]], [2, 1], rtol=1e-5)
    assert {leaf.dtype for leaf in jax.tree.leaves((found, state.damping))} == {jnp.dtype(jnp.float32)}


@pytest.mark.plain
def test_what_it_cannot_take_is_an_error():
    with pytest.raises(ValueError, match="`damping` is 'newton'"):
        gauss_newton("newton")
    with pytest.raises(ValueError, match="`solve` is 'qr'"):
        gauss_newton(solve="qr")
    with pytest.raises(ValueError, match="`trials` 0"):
        gauss_newton(trials=0)
    with pytest.raises(ValueError, match="`strength` is -1"):
        gauss_newton(strength=-1)
    with pytest.raises(ValueError, match="`scaled` needs the diagonal"):
        gauss_newton(scaled=True, solve="matrix_free")
    with pytest.raises(ValueError, match="need float64: enable it"):
        gauss_newton().init({"w": jnp.zeros(3, jnp.float32)})
    with pytest.raises(ValueError, match="or `value_fn` no `Loss`"):
        gauss_newton().update(jnp.zeros(3), None, jnp.zeros(3), value=jnp.ones(()), value_fn=jnp.sum)

    def losses(w, batch, *, key, carry):
        return {"data": Term(w * batch, "losses")}, {}, carry

    optimiser = gauss_newton(solve="matrix_free")
    step = make_train_step(losses, optimiser)
    with pytest.raises(ValueError, match="'data' as per-sample losses; a least-squares method needs residuals"):
        step(init_state(jnp.ones(2), optimiser), jnp.ones(2), key=jax.random.key(0))
