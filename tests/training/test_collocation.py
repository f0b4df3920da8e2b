"""Residuals at drawn points: when they are drawn, and what an optimiser sees of them."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.training import Collocation, fit, init_state, make_train_step, quasi_newton, residual_vector


def network():
    return eqx.nn.MLP(1, 1, 6, 1, jnp.tanh, key=jax.random.key(0))


def residual(model, x):
    """Of `u' = u`, `u(0) = 1`, in the candidate `1 + x N(x)`."""
    u = lambda x: 1 + x * model(x[None])[0]
    return jnp.stack([jax.grad(u)(x[0]) - u(x[0])])


at_all = eqx.filter_jit(jax.vmap(residual, (None, 0)))


def uniform(*_, key):
    return jax.random.uniform(key, (40, 1))


def test_terms_are_the_residuals_at_the_samples_of_each():
    pairs = jnp.ones((3, 1)), jnp.full((3, 1), 2.0)
    misfit = lambda model, sample: model(sample[0]) - sample[1]
    objective = Collocation(
        {"physics": (residual, uniform), "data": (misfit, lambda *_, key: pairs)}, weights={"data": 5.0}
    )
    model = network()
    carry = objective.start(model, key=jax.random.key(1))
    terms, _, _ = objective(model, None, key=jax.random.key(2), carry=carry)
    points = np.asarray(carry.samples["physics"])
    np.testing.assert_allclose(terms["physics"].value, np.mean(at_all(model, points) ** 2), rtol=1e-12)
    np.testing.assert_allclose(terms["data"].value, (model(jnp.ones(1))[0] - 2) ** 2, rtol=1e-12)
    assert float(terms["data"].weight) == 5.0
    assert residual_vector(terms).shape == (43,)


def test_points_are_drawn_every_so_many_steps_and_stay_within_one():
    objective = Collocation({"physics": (residual, uniform)}, every=3)
    optimiser = quasi_newton(iterations=4)
    step = eqx.filter_jit(make_train_step(objective, optimiser))
    state = init_state(network(), optimiser, carry=objective.start(network(), key=jax.random.key(0)))
    seen = []
    for i in range(7):
        before = objective(state.model, None, key=jax.random.key(i), carry=state.carry)[0]["physics"].value
        state, _ = step(state, None, key=jax.random.key(i))
        after = objective(state.model, None, key=jax.random.key(i), carry=state.carry)[0]["physics"].value
        seen.append(np.asarray(state.carry.samples["physics"]))
        if i % 3:  # on the same points the value falls
            assert float(after) < float(before)
    changed = [not np.array_equal(a, b) for a, b in pairwise(seen)]
    assert changed == [False, False, True, False, False, True]


def test_a_sampler_sees_the_size_of_the_residual_the_draw_and_what_was_before():
    def worst(size, step, previous, *, key):
        drawn = jax.random.uniform(key, (20, 1))
        if previous is None:
            return drawn[:5]
        return jnp.concatenate([previous[1:], drawn[jnp.argmax(size(drawn))][None]]) + 0 * step

    model = network()
    objective = Collocation({"physics": (residual, worst)})
    carry = objective.start(model, key=jax.random.key(3))
    first = objective.prepare(model, None, key=jax.random.key(4), carry=carry)
    np.testing.assert_array_equal(first.samples["physics"], carry.samples["physics"])  # fresh ones stay
    second = objective.prepare(model, None, key=jax.random.key(5), carry=first)
    drawn = jax.random.uniform(jax.random.fold_in(jax.random.key(5), 0), (20, 1))
    size = np.abs(at_all(model, drawn))
    np.testing.assert_array_equal(second.samples["physics"][-1], drawn[int(np.argmax(size))])
    np.testing.assert_array_equal(second.samples["physics"][:-1], first.samples["physics"][1:])


@pytest.mark.slow
def test_fit_solves_an_equation_on_new_points_each_step():
    objective = Collocation({"physics": (residual, uniform)})
    model = network()
    carry = objective.start(model, key=jax.random.key(0))
    state = fit(objective, model, None, quasi_newton(iterations=40, logarithm=True), steps=4, seed=0, carry=carry)
    x = jnp.linspace(0, 1, 11)
    found = 1 + x * jax.vmap(state.model)(x[:, None])[:, 0]
    np.testing.assert_allclose(found, np.exp(x), atol=1e-5)


@pytest.mark.plain
def test_what_is_no_collocation_is_an_error():
    with pytest.raises(ValueError, match="`weights` are of \\['boundary'\\]"):
        Collocation({"physics": (residual, uniform)}, weights={"boundary": 1.0})
    with pytest.raises(ValueError, match="`every` is 0"):
        Collocation({"physics": (residual, uniform)}, every=0)
