"""Trust-region Newton-CG against linear algebra, SciPy, and the published figure on a heat stencil."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from opkit.training import newton_cg

RNG = np.random.default_rng(0)


def minimise(function, start, optimiser, updates=1):
    """The parameters, the optimiser's state, and the values on the way."""

    @jax.jit
    def update(params, state):
        value, gradient = jax.value_and_grad(function)(params)
        step, state = optimiser.update(gradient, state, params, value=value, value_fn=function)
        return optax.apply_updates(params, step), state, value

    params, state, values = start, optimiser.init(start), []
    for _ in range(updates):
        params, state, value = update(params, state)
        values.append(float(value))
    return params, state, [*values, float(function(params))]


def test_the_minimum_of_a_convex_quadratic_is_the_linear_solution():
    a, b = RNG.normal(size=(9, 6)), RNG.normal(size=9)
    found, state, _ = minimise(lambda p: jnp.sum((a @ p - b) ** 2), jnp.zeros(6), newton_cg(iterations=20))
    np.testing.assert_allclose(found, np.linalg.lstsq(a, b)[0], atol=1e-8)
    assert state.stalled


def rosenbrock(p):
    x = jnp.concatenate([p["a"], p["b"]])
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def test_the_minimum_of_rosenbrock_is_scipys_at_about_its_cost():
    start = {"a": jnp.full(4, -1.2), "b": jnp.full(4, 1.0)}
    params, state, values = minimise(rosenbrock, start, newton_cg(), 80)
    flat = lambda x: rosenbrock({"a": x[:4], "b": x[4:]})
    product = jax.jit(lambda x, v: jax.jvp(jax.grad(flat), (x,), (v,))[1])
    oracle = scipy.optimize.minimize(
        jax.jit(flat),
        np.concatenate([start["a"], start["b"]]),
        jac=jax.jit(jax.grad(flat)),
        hessp=product,
        method="trust-ncg",
        options={"gtol": 1e-10},
    )
    np.testing.assert_allclose(np.concatenate([params["a"], params["b"]]), oracle.x, atol=1e-8)
    assert np.all(np.diff(values) <= 1e-14 * np.abs(values[:-1]))
    assert state.gradients - 80 < 1.5 * (oracle.njev + 2 * oracle.nhev)


def test_negative_curvature_leads_away_from_a_saddle():
    valley = lambda p: p[0] ** 4 / 4 - p[0] ** 2 / 2 + p[1] ** 2
    found, _, values = minimise(valley, jnp.array([1e-3, 1.0]), newton_cg(radius=0.1), 30)
    np.testing.assert_allclose(found, [1, 0], atol=1e-8)
    assert np.all(np.diff(values) <= 1e-14 * np.abs(values[:-1]))


def heat_stencil():
    """Learn five taps, applied four times a frame, from exact solutions of the heat equation on 64 points."""
    n, modes = 64, np.arange(1, 9)
    x = 2 * np.pi * np.arange(n) / n
    neighbours = (np.arange(n)[:, None] + np.arange(-2, 3)) % n
    phases, sizes = RNG.uniform(0, 2 * np.pi, (4, 8, 1)), RNG.normal(size=(4, 8, 1)) / modes[:, None]
    waves = sizes * np.cos(modes[:, None] * x + phases)
    now = jnp.asarray(waves.sum(1))
    after = jnp.asarray((waves * np.exp(-(modes[:, None] ** 2) * 0.01)).sum(1))

    def loss(taps):
        u = now
        for _ in range(4):
            u = u[:, neighbours] @ taps
        return jnp.mean((u - after) ** 2)

    return loss, jnp.array([0.0, 0.0, 1.0, 0.0, 0.0])


def test_a_heat_stencil_is_learnt_within_a_hundred_gradients_where_adam_is_not():
    loss, start = heat_stencil()
    found, state, _ = minimise(loss, start, newton_cg(iterations=10))

    def adam(rate):
        optimiser = optax.adam(rate)

        def body(carry, _):
            value, gradient = jax.value_and_grad(loss)(carry[0])
            updates, opt_state = optimiser.update(gradient, carry[1])
            return (carry[0] + updates, opt_state), value

        return jax.lax.scan(body, (start, optimiser.init(start)), length=101)[1]

    values = jax.jit(jax.vmap(adam))(jnp.array([1e-3, 1e-2, 1e-1]))
    print(f"{loss(found):.1e} after {state.gradients}; Adam {values[:, 100].min():.1e} after 100")
    assert loss(found) < 1e-9
    assert state.gradients <= 100
    assert values.min() > 1e-9


@pytest.mark.dtype
def test_precision_is_that_of_the_parameters():
    loss = lambda p: jnp.sum((p - jnp.arange(3, dtype=p.dtype)) ** 2) + jnp.sum(p**4)
    found, state, _ = minimise(loss, jnp.zeros(3, jnp.float32), newton_cg(iterations=10))
    assert found.dtype == state.radius.dtype == jnp.float32
    assert float(jnp.abs(jax.grad(loss)(found)).max()) < 1e-4


def test_a_value_that_is_not_finite_is_never_stepped_to():
    function = lambda p: jnp.sum(jnp.log(p) ** 2)
    found, _, values = minimise(function, jnp.full(2, 5.0), newton_cg(radius=20.0), 30)
    np.testing.assert_allclose(found, 1, rtol=1e-7)
    assert np.all(np.diff(values) <= 1e-14 * np.abs(values[:-1]))
    found, state, _ = minimise(function, jnp.full(2, -5.0), newton_cg())
    assert state.stalled
    np.testing.assert_array_equal(found, -5)


@pytest.mark.plain
def test_what_it_cannot_take_is_an_error():
    with pytest.raises(ValueError, match="`iterations` is 0"):
        newton_cg(iterations=0)
    with pytest.raises(ValueError, match="`radius` is 0"):
        newton_cg(radius=0.0)
    with pytest.raises(ValueError, match="`value_fn` is None"):
        newton_cg().update(jnp.zeros(3), None, jnp.zeros(3))
