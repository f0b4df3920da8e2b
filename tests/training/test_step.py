"""One training step: in a user's own loop, in a scan, with any optimiser."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from opkit.training import Term, init_state, make_train_step, partition, residual_vector, supervised, total
from solvers import Frozen

RNG = np.random.default_rng(0)
X, Y = jnp.asarray(RNG.normal(size=(8, 3))), jnp.asarray(RNG.normal(size=(8, 2)))
KEY = jax.random.key(0)


def mlp():
    return eqx.nn.MLP(3, 2, 4, 1, key=KEY)


OBJECTIVE = supervised(lambda p, t, domain: jnp.mean((p - t) ** 2), None)


@pytest.fixture(scope="module")
def own_loop():
    """Three steps of a user's own loop, on Equinox and Optax alone."""
    model, optimiser = mlp(), optax.adam(1e-2)

    def loss(model):
        return jnp.mean((jax.vmap(model)(X) - Y) ** 2)

    @eqx.filter_jit
    def step(model, opt_state):
        gradient = eqx.filter_grad(loss)(model)
        updates, opt_state = optimiser.update(gradient, opt_state)
        return eqx.apply_updates(model, updates), opt_state

    opt_state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))
    for _ in range(3):
        model, opt_state = step(model, opt_state)
    return model


def close(a, b):
    return eqx.tree_equal(a, b, rtol=1e-12, atol=1e-14, typematch=True)


def test_the_step_does_what_a_plain_loop_does(own_loop):
    state = init_state(mlp(), optax.adam(1e-2))
    step = eqx.filter_jit(make_train_step(OBJECTIVE, optax.adam(1e-2)))
    for _ in range(3):
        state, metrics = step(state, (X, Y), key=KEY)
    assert close(state.model, own_loop)
    assert state.step == 3
    assert set(metrics) == {"loss", "grad_norm", "finite", "term/data"}
    assert metrics["finite"]


def test_an_objective_trains_in_a_users_loop_without_the_step(own_loop):
    model, optimiser = mlp(), optax.adam(1e-2)
    trained, rest = partition(model)
    opt_state = optimiser.init(trained)

    @jax.jit
    def step(trained, opt_state):
        def loss(trained):
            terms, _, _ = OBJECTIVE(eqx.combine(trained, rest), (X, Y), key=KEY, carry=None)
            return total(terms)

        updates, opt_state = optimiser.update(jax.grad(loss)(trained), opt_state)
        return optax.apply_updates(trained, updates), opt_state

    for _ in range(3):
        trained, opt_state = step(trained, opt_state)
    assert close(eqx.combine(trained, rest), own_loop)


def test_the_step_runs_inside_a_users_scan(own_loop):
    step = make_train_step(OBJECTIVE, optax.adam(1e-2))
    arrays, static = eqx.partition(init_state(mlp(), optax.adam(1e-2)), eqx.is_array)

    @jax.jit
    def run(arrays):
        def body(arrays, _):
            state, metrics = step(eqx.combine(arrays, static), (X, Y), key=KEY)
            return eqx.filter(state, eqx.is_array), metrics["loss"]

        return jax.lax.scan(body, arrays, length=3)

    arrays, losses = run(arrays)
    assert close(eqx.combine(arrays, static).model, own_loop)
    assert losses[2] < losses[0]


def test_a_bare_function_of_arrays_is_a_model_when_its_parameters_are():
    """An operator that is a lambda over a PyTree of parameters: nothing asks for a module."""

    def objective(parameters, batch, *, key, carry):
        x, y = batch
        residual = x @ parameters["w"] - y
        return {"fit": Term(residual, "residual")}, {"bias": jnp.mean(residual)}, carry + 1

    state = init_state({"w": jnp.zeros((3, 2))}, optax.sgd(0.1), carry=0)
    state, metrics = jax.jit(make_train_step(objective, optax.sgd(0.1)))(state, (X, Y), key=KEY)
    np.testing.assert_allclose(state.model["w"], 0.1 * 2 * X.T @ Y / Y.size, rtol=1e-12)
    np.testing.assert_allclose(metrics["bias"], -np.mean(Y), rtol=1e-12)
    assert state.carry == 1


@pytest.mark.parametrize(
    ("optimiser", "steps"),
    [
        (optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10, decrease_factor=0.5)), 200),
        pytest.param(optax.lbfgs(), 12, marks=pytest.mark.slow),
    ],
)
def test_optimisers_that_search_along_a_line_get_its_function(optimiser, steps):
    def objective(model, batch, *, key, carry):
        return {"fit": Term(batch[0] @ model["w"] - batch[1], "residual")}, {}, carry

    step = jax.jit(make_train_step(objective, optimiser))
    state = init_state({"w": jnp.zeros((3, 2))}, optimiser)
    for _ in range(steps):
        state, _ = step(state, (X, Y), key=KEY)
    np.testing.assert_allclose(state.model["w"], np.linalg.lstsq(X, Y)[0], atol=1e-6)


def test_optimisers_that_ask_for_the_terms_get_their_function():
    def update(updates, state, params, *, value_fn, value, **unused):
        doubled = residual_vector(value_fn.terms_fn(jax.tree.map(lambda p: 2 * p, params)))
        return jax.tree.map(jnp.zeros_like, updates), jnp.sum(doubled**2) / value

    optimiser = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    objective = lambda w, batch, *, key, carry: ({"a": Term.of(lambda w, x: w * x, w, batch)}, {}, carry)
    state, _ = make_train_step(objective, optimiser)(init_state(jnp.ones(2), optimiser), X[:, :2], key=KEY)
    np.testing.assert_allclose(state.opt_state, 4, rtol=1e-12)


def test_a_term_that_keeps_its_residual_costs_a_first_order_step_nothing():
    def flops(term):
        objective = lambda model, batch, *, key, carry: ({"data": term(model, batch[0])}, {}, carry)
        trained, rest = partition(mlp())
        step = make_train_step(objective, optax.sgd(0.1))
        run = lambda trained: step(init_state(eqx.combine(trained, rest), optax.sgd(0.1)), (X, Y), key=KEY)[1]
        return jax.jit(run).lower(trained).compile().cost_analysis()["flops"]

    residual = lambda model, x: model(x) ** 2
    bare = flops(lambda model, x: Term(jax.vmap(lambda x: residual(model, x))(x), "residual"))
    assert flops(lambda model, x: Term.of(residual, model, x)) == bare


@pytest.mark.parametrize(("x", "rate"), [(jnp.inf, 0.1), (1.0, jnp.inf)])
def test_a_loss_or_an_update_that_is_not_finite_leaves_a_flag(x, rate):
    def objective(w, batch, *, key, carry):
        return {"a": Term(w * batch, "residual")}, {}, carry

    step = make_train_step(objective, optax.sgd(rate))
    _, metrics = step(init_state(jnp.ones(2), optax.sgd(rate)), jnp.array([1.0, x]), key=KEY)
    assert not metrics["finite"]


@pytest.mark.dtype
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_step_keeps_the_precision_of_the_model(dtype):
    optimiser = optax.adamw(optax.cosine_decay_schedule(1e-2, 10))
    state = init_state({"w": jnp.zeros((3, 2), dtype)}, optimiser)

    def objective(model, batch, *, key, carry):
        return {"fit": Term(batch[0] @ model["w"] - batch[1], "residual")}, {}, carry

    new, metrics = jax.jit(make_train_step(objective, optimiser))(state, (X.astype(dtype), Y.astype(dtype)), key=KEY)
    assert [a.dtype for a in jax.tree.leaves(new)] == [a.dtype for a in jax.tree.leaves(state)]
    assert metrics["loss"].dtype == jnp.float32


def test_a_frozen_table_gets_neither_gradient_nor_momentum():
    model = {"w": jnp.ones(2), "table": Frozen(jnp.ones(2))}
    state = init_state(model, optax.adam(0.1))
    assert len([a for a in jax.tree.leaves(state.opt_state) if a.ndim]) == 2


@pytest.mark.plain
def test_metrics_that_clash_or_are_no_scalars_are_errors():
    def objective(metrics):
        return lambda w, batch, *, key, carry: ({"a": Term(w * batch, "residual")}, metrics, carry)

    state = init_state(jnp.ones(2), optax.sgd(0.1))
    with pytest.raises(ValueError, match="`metrics` of the objective has 'loss', which the step itself reports"):
        make_train_step(objective({"loss": jnp.ones(())}), optax.sgd(0.1))(state, jnp.ones(2), key=KEY)
    with pytest.raises(ValueError, match=r"has 'error' of shape \(2,\); expected a scalar"):
        make_train_step(objective({"error": jnp.ones(2)}), optax.sgd(0.1))(state, jnp.ones(2), key=KEY)
