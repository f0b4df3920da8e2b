"""Networks against line-by-line transcriptions of their formulas, and the last layer against least squares."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from opkit.fields import (
    MLP,
    SIREN,
    Cauchy,
    Chain,
    Dense,
    FactorisedDense,
    FourierFeatures,
    GaussianFeatures,
    ModifiedMLP,
    ModulatedSIREN,
    PirateNet,
    Separable,
    Snake,
    fit_readout,
)

from .field_cases import SMALL, deepened

TINY = {"rtol": 1e-12, "atol": 1e-14}


@eqx.filter_jit
def call(field, x):
    return field(x)


@eqx.filter_jit
def call_all(field, points):
    return jax.vmap(field)(points)


fit = eqx.filter_jit(fit_readout)


def dense(layer, x):
    return np.asarray(layer.weight) @ x + np.asarray(layer.bias)


def randomised(field):
    """The field with every array drawn anew, biases too."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.array(rng.normal(size=leaf.shape, scale=0.5)), field)


def test_modified_mlp_is_the_papers_formula(key):
    field = randomised(ModifiedMLP(3, 2, width=5, depth=3, key=key))
    x = np.array([0.3, -0.2, 0.9])
    u, v = (np.tanh(dense(gate.linear, x)) for gate in field.gates)
    h = x
    for layer in field.layers:
        f = dense(layer.linear, h)
        h = np.tanh(f) * u + (1 - np.tanh(f)) * v
    np.testing.assert_allclose(call(field, jnp.array(x)), dense(field.readout, h), **TINY)


def test_pirate_net_is_the_papers_formula(key):
    net = deepened(randomised(PirateNet(4, 2, width=5, depth=2, activation=jnp.sin, key=key)), 0.7)
    phi = np.array([0.3, -0.2, 0.9, 0.1])
    u, v = (np.sin(dense(gate.linear, phi)) for gate in net.gates)
    x = phi
    for block in net.blocks:
        first, second, third = (layer.linear for layer in block.layers)
        f = np.sin(dense(first, x))
        z1 = f * u + (1 - f) * v
        g = np.sin(dense(second, z1))
        z2 = g * u + (1 - g) * v
        h = np.sin(dense(third, z2))
        x = 0.7 * h + (1 - 0.7) * x
    np.testing.assert_allclose(call(net, jnp.array(phi)), dense(net.readout, x), **TINY)


def test_pirate_net_starts_as_a_linear_map_of_its_embedding_and_can_leave_it(key):
    net = PirateNet(4, 2, **SMALL)
    a, b = np.random.default_rng(0).normal(size=(2, 4))
    at_a, at_b, at_both = (call(net, jnp.array(x)) for x in (a, b, 2 * a - 3 * b))
    np.testing.assert_allclose(at_both, 2 * at_a - 3 * at_b, **TINY)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda n: n(jnp.array(a)).sum()))(net)
    assert all(block.alpha != 0 for block in gradient.blocks)


def test_siren_is_the_papers_formula_with_a_frequency_an_axis(key):
    field = SIREN(2, 3, width=6, depth=3, omega=(2.0, 5.0), hidden_omega=4.0, key=key)
    x = np.array([0.3, -0.2])
    h = np.sin(dense(field.layers[0], np.array([2.0, 5.0]) * x))
    for layer in field.layers[1:]:
        h = np.sin(4.0 * dense(layer, h))
    np.testing.assert_allclose(call(field, jnp.array(x)), dense(field.readout, h), **TINY)


def test_a_modulated_siren_shifts_every_sine_by_its_code(key):
    options = {"width": 6, "depth": 3, "omega": (2.0, 5.0), "hidden_omega": 4.0, "key": key}
    field = ModulatedSIREN(2, 3, code_size=4, **options)
    x, z = np.array([0.3, -0.2]), np.array([0.5, -1.0, 0.2, 2.0])
    first, *others = field.siren.layers
    h = np.sin(dense(first, np.array([2.0, 5.0]) * x) + field.shifts[0].weight @ z)
    for layer, shift in zip(others, field.shifts[1:], strict=True):
        h = np.sin(4.0 * dense(layer, h) + shift.weight @ z)
    np.testing.assert_allclose(field(jnp.array(x), jnp.array(z)), dense(field.siren.readout, h), **TINY)
    plain = SIREN(2, 3, **options)
    np.testing.assert_array_equal(field(jnp.array(x), jnp.zeros(4)), plain(jnp.array(x)))


@pytest.mark.parametrize(("omega", "hidden_omega"), [(30.0, 30.0), (1.0, 30.0), ((1.0, 20.0), 1.0)])
def test_siren_starts_with_sines_of_arguments_of_spread_one(omega, hidden_omega, key):
    field = SIREN(2, 1, width=512, depth=6, omega=omega, hidden_omega=hidden_omega, key=key)
    points = np.random.default_rng(0).uniform(-1, 1, (64, 2))
    h = np.sin(points * np.array(omega) @ np.asarray(field.layers[0].weight).T + np.asarray(field.layers[0].bias))
    for layer in field.layers[1:]:
        argument = hidden_omega * (h @ np.asarray(layer.weight).T + np.asarray(layer.bias))
        assert abs(argument.std() - 1) < 0.1
        assert abs(argument.mean()) < 0.1
        h = np.sin(argument)


def test_factorised_weights_are_a_product_whose_factors_both_train(key):
    layer, plain = FactorisedDense(3, 4, mean=1.0, key=key), Dense(3, 4, key=key)
    product = np.diag(np.exp(layer.log_scale)) @ np.asarray(layer.direction)
    np.testing.assert_allclose(layer.weight, product, **TINY)
    np.testing.assert_allclose(product, plain.weight, **TINY)
    x = jnp.array([0.2, -0.5, 1.0])
    np.testing.assert_allclose(call(layer, x), call(plain, x), **TINY)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda w: w(x).sum()))(layer)
    np.testing.assert_allclose(gradient.log_scale, product @ x, **TINY)
    np.testing.assert_allclose(gradient.direction, np.outer(np.exp(layer.log_scale), x), **TINY)


def test_starting_scales_have_the_asked_mean_and_deviation(key):
    scale = FactorisedDense(1, 4000, mean=0.5, deviation=0.1, key=key).log_scale
    assert abs(scale.mean() - 0.5) < 0.01
    assert abs(scale.std() - 0.1) < 0.01


def test_activations_are_their_formulas():
    x = np.linspace(-3, 3, 7)
    a, p, q, d = np.random.default_rng(0).uniform(0.5, 2, (4, 7))
    snake = x + np.sin(a * x) ** 2 / a
    np.testing.assert_allclose(Snake(a)(jnp.array(x)), snake, **TINY)
    np.testing.assert_allclose(Cauchy(p, q, d)(jnp.array(x)), (p * x + q) / (x**2 + d**2), **TINY)


def test_every_layer_trains_its_own_activation(key):
    field = MLP(2, 1, activation=Snake(3.0), **SMALL)
    first, second = (layer.activation.log_frequency for layer in field.layers)
    assert first.unsafe_buffer_pointer() != second.unsafe_buffer_pointer()
    gradient = eqx.filter_jit(eqx.filter_grad(lambda f: f(jnp.array([0.3, 0.4]))[0]))(field)
    first, second = (layer.activation.log_frequency for layer in gradient.layers)
    assert first != second


def test_gaussian_features_are_a_sum_of_scipys_gaussians(key):
    field = GaussianFeatures(2, 3, gaussians=5, width=(0.3, 0.8), key=key)
    points = np.random.default_rng(0).uniform(-1, 1, (6, 2))
    expected = 0
    for centre, weight in zip(np.asarray(field.centres), np.asarray(field.readout.weight).T, strict=True):
        normal = stats.multivariate_normal(centre, np.diag([0.3**2, 0.8**2]))
        expected = expected + np.outer(normal.pdf(points) / normal.pdf(centre), weight)
    np.testing.assert_allclose(call_all(field, points), expected, **TINY)


@pytest.mark.parametrize("out_size", [1, 3])
def test_a_separable_field_on_a_grid_is_the_field_at_its_points_and_so_are_its_derivatives(out_size, key):
    keys = jax.random.split(key, 3)
    field = Separable([MLP(1, 2 * 3, width=4, depth=1, key=k) for k in keys], out_size)
    t, x, y = axes = (jnp.linspace(0, 1, 3), jnp.linspace(-1, 1, 4), jnp.linspace(0, 2, 2))
    points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1)

    @jax.jit
    def both(t):
        at_points = jax.vmap(jax.vmap(jax.vmap(lambda p: jax.jvp(field, (p,), (jnp.eye(3)[0],)))))(points)
        return at_points, jax.jvp(lambda t: field.on_grid((t, x, y)), (t,), (jnp.ones(3),))

    at_points, on_grid = both(t)
    for expected, found in zip(at_points, on_grid, strict=True):
        assert found.shape == (out_size, 3, 4, 2)
        np.testing.assert_allclose(found, np.moveaxis(expected, -1, 0), **TINY)


@pytest.mark.parametrize("linear", [Dense, partial(FactorisedDense, mean=1.0)])
def test_the_last_layer_is_fitted_as_numpys_least_squares(linear, key):
    field = MLP(2, 2, width=8, depth=1, linear=linear, key=key)
    points = np.random.default_rng(0).uniform(-1, 1, (40, 2))
    values = np.stack([np.sin(3 * points[:, 0]), points[:, 1] ** 2], 1)
    fitted = fit(field, jnp.array(points), jnp.array(values))
    design = np.append(np.tanh([dense(field.layers[0].linear, p) for p in points]), np.ones((40, 1)), 1)
    expected = design @ np.linalg.lstsq(design, values)[0]
    np.testing.assert_allclose(call_all(fitted, points), expected, atol=1e-10)
    assert eqx.tree_equal(fitted.layers, field.layers)


@pytest.mark.dtype
def test_a_pirate_net_starts_from_data_that_its_embedding_can_represent():
    key = jax.random.key(0)
    embedding = FourierFeatures(2, 3, scale=2.0, key=key)
    field = Chain(embedding, PirateNet(6, 1, **SMALL))
    points = jax.random.uniform(key, (30, 2))
    target = lambda x: 0.5 + jnp.cos(embedding.frequencies.value[1] @ x)[None]
    fitted = fit(field, points, call_all(target, points))
    tolerance = 1e-11 if points.dtype == jnp.float64 else 1e-4
    np.testing.assert_allclose(call_all(fitted, points + 0.3), call_all(target, points + 0.3), atol=tolerance)
    gaussians = GaussianFeatures(2, 1, gaussians=4, width=0.6, key=key)
    again = fit(gaussians, points, call_all(gaussians, points))
    np.testing.assert_allclose(again.readout.weight, gaussians.readout.weight, atol=tolerance)
