"""Balanced terms against gradients and kernels computed whole."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from opkit.training import Balanced, Term, fit, total

X = jnp.linspace(-1, 1, 30)[:, None]


def objective(model, batch, *, key, carry):
    u = jax.vmap(model)(X)
    return {"a": Term(u - X**2, "residual"), "b": Term(100 * u[:1], "residual", weight=0.5)}, {}, carry


def network():
    return eqx.nn.MLP(1, 1, 8, 1, jnp.tanh, key=jax.random.key(0))


def weights_after(method, steps, momentum=0.0):
    balanced = Balanced(objective, method, momentum=momentum)
    carry, model = balanced.start(("a", "b")), network()
    prepare = eqx.filter_jit(lambda carry, key: balanced.prepare(model, None, key=key, carry=carry))
    found = []
    for step in range(steps):
        carry = prepare(carry, jax.random.key(step))
        terms, metrics, carry = balanced(model, None, key=jax.random.key(step), carry=carry)
        found.append({name: float(metrics[f"weight/{name}"]) for name in ("a", "b")})
    return terms, found


def test_weighted_gradients_are_of_one_length():
    terms, (weights, same) = weights_after("gradient_norm", 2)
    norms = {
        name: float(
            optax.tree.norm(
                eqx.filter_grad(lambda m, n=name: objective(m, None, key=None, carry=None)[0][n].value)(network())
            )
        )
        for name in ("a", "b")
    }
    np.testing.assert_allclose(weights["a"] * norms["a"], weights["b"] * norms["b"], rtol=1e-10)
    np.testing.assert_allclose(weights["a"], sum(norms.values()) / norms["a"], rtol=1e-10)
    assert same == weights  # the next are due after `every` steps
    np.testing.assert_allclose(terms["b"].weight, 0.5 * weights["b"], rtol=1e-12)


@pytest.mark.slow
def test_traces_of_the_tangent_kernels_are_right_in_the_mean():
    params, static = eqx.partition(network(), eqx.is_inexact_array)
    traces = {}
    for name in ("a", "b"):
        residual = lambda p, n=name: objective(eqx.combine(p, static), None, key=None, carry=None)[0][
            n
        ].residual.ravel()
        jacobian = jax.tree.leaves(jax.jacobian(residual)(params))
        traces[name] = sum(float(jnp.sum(j**2)) for j in jacobian) / len(residual(params))
    balanced = Balanced(objective, "ntk", momentum=0.0)

    @jax.jit
    def once(key):
        weights = balanced.prepare(network(), None, key=key, carry=balanced.start(("a", "b"))).weights
        return weights["a"], weights["b"]

    a, b = jax.vmap(once)(jax.random.split(jax.random.key(0), 2000))
    # weight_b / weight_a = tr K_a / tr K_b, and K_b has one row: its estimate is exact
    np.testing.assert_allclose(jnp.mean(b / a), traces["a"] / traces["b"], rtol=0.05)


def test_momentum_mixes_and_fit_carries_the_weights():
    first = weights_after("gradient_norm", 1)[1][0]
    mixed = weights_after("gradient_norm", 1, momentum=0.9)[1][0]
    np.testing.assert_allclose(mixed["a"], 0.9 + 0.1 * first["a"], rtol=1e-10)
    balanced = Balanced(objective, every=2)
    state = fit(balanced, network(), None, optax.adam(1e-2), steps=5, seed=0, carry=balanced.start(("a", "b")))
    assert int(state.carry.step) == 5
    assert float(state.carry.weights["a"]) > 1.1
    plain = total(objective(network(), None, key=None, carry=None)[0])
    assert float(total(objective(state.model, None, key=None, carry=None)[0])) < float(plain)


@pytest.mark.plain
def test_what_cannot_be_balanced_is_an_error():
    with pytest.raises(ValueError, match="`method` is 'grad'"):
        Balanced(objective, "grad")
    with pytest.raises(ValueError, match="`momentum` is 1"):
        Balanced(objective, momentum=1.0)
    balanced = Balanced(objective)
    with pytest.raises(ValueError, match=r"the carry was started for \['a'\]"):
        balanced.prepare(network(), None, key=jax.random.key(0), carry=balanced.start(("a",)))
    losses = Balanced(lambda *a, **k: ({"a": Term(jax.vmap(a[0])(X), "losses")}, {}, None), "ntk")
    with pytest.raises(ValueError, match="the tangent kernel is that of residuals"):
        losses.prepare(network(), None, key=jax.random.key(0), carry=losses.start(("a",)))
