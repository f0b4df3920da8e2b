"""Dense quasi-Newton methods against SciPy, the published formulas and the secant equation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from opkit.training import Term, fit, quasi_newton

METHODS = ("bfgs", "self_scaled_bfgs", "self_scaled_broyden")


def rosenbrock(p):
    x = jnp.concatenate([p["a"], p["b"]])
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


START = {"a": jnp.full(4, -1.2), "b": jnp.full(4, 1.0)}


def minimise(function, start, optimiser, updates=1):
    @jax.jit
    def update(params, state):
        value, gradient = jax.value_and_grad(function)(params)
        step, state = optimiser.update(gradient, state, params, value=value, value_fn=function)
        return optax.apply_updates(params, step), state

    params, state = start, optimiser.init(start)
    for _ in range(updates):
        params, state = update(params, state)
    return params, state


@pytest.mark.parametrize("method", METHODS)
def test_minimum_of_rosenbrock_is_found_in_about_as_many_evaluations_as_scipy_takes(method):
    params, state = minimise(rosenbrock, START, quasi_newton(method, iterations=300))
    x = np.concatenate([params["a"], params["b"]])
    flat = lambda x: rosenbrock({"a": x[:4], "b": x[4:]})
    found = scipy.optimize.minimize(
        jax.jit(flat), np.concatenate([START["a"], START["b"]]), jac=jax.jit(jax.grad(flat)), options={"gtol": 1e-10}
    )
    np.testing.assert_allclose(x, found.x, atol=1e-7)
    assert state.stalled
    assert state.evaluations < 2 * found.nfev


def test_updates_are_the_published_formula_and_satisfy_the_secant_equation():
    rng = np.random.default_rng(0)
    n = 5
    matrix = rng.normal(size=(n, n))
    hessian = jnp.asarray(matrix @ matrix.T + np.eye(n))
    function = lambda x: 0.5 * x @ hessian @ x + 0.1 * jnp.sum(x**4)
    x, gradient = jnp.asarray(rng.normal(size=n)), jax.grad(function)
    for method in METHODS:
        optimiser = quasi_newton(method)
        state, here = optimiser.init(x), x
        for count in range(4):
            value, g = jax.value_and_grad(function)(here)
            step, after = jax.jit(optimiser.update, static_argnames="value_fn")(
                g, state, here, value=value, value_fn=function
            )
            y, old = gradient(here + step) - g, np.asarray(state.inverse)
            if count == 0:
                old = old * (step @ y) / (y @ y)
            np.testing.assert_allclose(
                after.inverse, published(old, np.asarray(step), np.asarray(y), method), rtol=1e-9
            )
            np.testing.assert_allclose(after.inverse @ y, step, rtol=1e-9, atol=1e-14)
            assert np.linalg.eigvalsh(after.inverse).min() > 0
            here, state = here + step, after


def published(H, s, y, method):
    """Urban et al., equations 10 to 23, line by line."""
    sy, Hy = s @ y, H @ y
    b, h = s @ np.linalg.solve(H, s) / sy, y @ Hy / sy
    a = h * b - 1
    phi, tau = 1.0, 1.0
    if method == "self_scaled_bfgs":
        tau = min(1, 1 / b)
    if method == "self_scaled_broyden":
        rho_minus = min(1, h * (1 - np.sqrt(a / (a + 1))))
        theta = max((rho_minus - 1) / a, min(1 / rho_minus, (1 - b) / b))
        sigma, rho_plus = 1 + theta * a, min(1, 1 / b)
        root = sigma ** (1 / (1 - len(s)))
        tau = min(rho_plus * root, sigma) if theta <= 0 else rho_plus * min(root, 1 / theta)
        phi = (1 - theta) / (1 + a * theta)
    v = np.sqrt(y @ Hy) * (s / sy - Hy / (y @ Hy))
    return (H - np.outer(Hy, Hy) / (y @ Hy) + phi * np.outer(v, v)) / tau + np.outer(s, s) / sy


@pytest.mark.slow
def test_several_iterations_an_update_are_as_many_updates_of_one():
    at_once, _ = minimise(rosenbrock, START, quasi_newton("self_scaled_broyden", iterations=12))
    singly, _ = minimise(rosenbrock, START, quasi_newton("self_scaled_broyden"), updates=12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), at_once, singly)


@pytest.mark.slow
def test_the_logarithm_has_the_same_minimum_of_a_least_squares_problem():
    function = lambda x: jnp.sum((jnp.array([3.0, 1.0, 2.0]) * x - 1) ** 2) + jnp.sum(x**4)
    plain, _ = minimise(function, jnp.zeros(3), quasi_newton(iterations=50))
    logarithm, _ = minimise(function, jnp.zeros(3), quasi_newton(iterations=50, logarithm=True))
    np.testing.assert_allclose(plain, logarithm, atol=1e-6)


def test_fit_takes_it_and_a_network_learns_to_a_millionth():
    model = eqx.nn.MLP(1, "scalar", 12, 2, jnp.tanh, key=jax.random.key(0))
    x = jnp.linspace(-1, 1, 40)[:, None]

    def objective(model, batch, *, key, carry):
        return {"data": Term(jax.vmap(model)(x) - jnp.sin(3 * x[:, 0]), "residual")}, {}, carry

    state = fit(objective, model, None, quasi_newton(iterations=100), steps=4, seed=0)
    off = jax.vmap(state.model)(x) - jnp.sin(3 * x[:, 0])
    assert float(jnp.abs(off).max()) < 1e-5
    assert int(state.opt_state.iterations) == 400 or bool(state.opt_state.stalled)


@pytest.mark.plain
def test_what_it_cannot_take_is_an_error():
    with pytest.raises(ValueError, match="`method` is 'newton'"):
        quasi_newton("newton")
    with pytest.raises(ValueError, match="`iterations` is 0"):
        quasi_newton(iterations=0)
    with pytest.raises(ValueError, match="need float64: enable it"):
        quasi_newton().init({"w": jnp.zeros(3, jnp.float32)})
    with pytest.raises(ValueError, match="`value_fn` is None"):
        quasi_newton().update(jnp.zeros(3), None, jnp.zeros(3))
