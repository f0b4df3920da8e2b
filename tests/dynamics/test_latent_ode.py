"""The latent ODE against exact solutions, a Gaussian model whose evidence is known, and its own invariances."""

from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import expm
from scipy.stats import multivariate_normal

from opkit.dynamics import (
    DiagonalGaussian,
    GRUEncoder,
    Integrator,
    LatentODE,
    LocalPenalty,
    MLPField,
    ODERNNEncoder,
    elbo,
    on_common_times,
)

EULER = Integrator(diffrax.Euler(), diffrax.ConstantStepSize(), dt0=2.0)  # one step a gap
TS = jnp.array([0.0, 0.3, 0.4, 0.9, 1.3])


def linear_model(matrix, tolerance=1e-8, **options):
    """Encodes the first row; `z' = matrix z`, `x = 2 z`."""
    encoder = lambda ts, values, mask: DiagonalGaussian(values[0], jnp.full_like(values[0], 0.1))
    controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
    return LatentODE(
        encoder, lambda t, z, args: matrix.astype(z.dtype) @ z, lambda z: 2 * z, Integrator(None, controller, **options)
    )


def network(key, kind="gru", **integrator):
    keys = jax.random.split(key, 4)
    if kind == "gru":
        encoder = GRUEncoder(2, 3, 5, key=keys[0])
    else:
        encoder = ODERNNEncoder(2, 3, 5, MLPField(5, 4, 1, key=keys[3]), EULER, key=keys[0])
    decoder = eqx.nn.MLP(3, 2, 4, 1, jnp.tanh, key=keys[2])
    return LatentODE(encoder, MLPField(3, 4, 1, key=keys[1]), decoder, Integrator(**integrator))


@pytest.fixture(scope="module")
def series():
    rng = np.random.default_rng(0)
    values, mask = rng.standard_normal((3, len(TS), 2)), rng.random((3, len(TS), 2)) < 0.6
    mask[:, 2] = False
    return values, mask


def test_predictions_follow_the_matrix_exponential_beyond_what_was_observed(series):
    values, _ = series
    matrix = np.array([[-0.2, 1.0], [-2.0, 0.1]])
    query = jnp.array([0.1, 1.3, 4.0])
    posterior, out = eqx.filter_jit(linear_model(jnp.asarray(matrix)))(TS, *map(jnp.asarray, series), query)
    assert out.ys.shape == (3, 3, 2)
    for i, t in enumerate(query):
        exact = 2 * values[:, 0] @ expm(matrix * float(t)).T
        np.testing.assert_allclose(out.ys[:, i], exact, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(posterior.mean, values[:, 0])


@pytest.mark.parametrize("kind", ["gru", "ode-rnn"])
def test_encoders_see_neither_padding_nor_unobserved_times_nor_masked_values(kind, series, key):
    values, mask = series
    values = np.where(mask, values, np.nan)
    encode = eqx.filter_jit(network(key, kind).encode)

    def found(ts, places):
        """The series with its five rows at `places` of seven."""
        more, seen = np.full((3, 7, 2), np.nan), np.zeros((3, 7, 2), bool)
        more[:, places], seen[:, places] = values, mask
        return encode(*map(jnp.asarray, (ts, more, seen)))

    padded = found([*TS, TS[-1], TS[-1]], np.arange(5))
    between = found([0.0, 0.1, 0.3, 0.4, 0.5, 0.9, 1.3], np.array([0, 2, 3, 5, 6]))
    np.testing.assert_allclose(between.mean, padded.mean, rtol=1e-12)
    np.testing.assert_allclose(between.deviation, padded.deviation, rtol=1e-12)
    moved = found([0.0, 0.1, 0.3, 0.4, 0.5, 0.8, 1.3], np.array([0, 2, 3, 5, 6]))
    assert not np.allclose(moved.mean, padded.mean, rtol=1e-6)


@pytest.mark.slow
def test_ode_rnn_carries_its_state_back_through_the_gap_before_an_observation(key):
    """Observed at 0.9 alone; from there to 0 by one step of Euler's, of `h' = -h`."""
    encoder = ODERNNEncoder(1, 2, 3, lambda t, h, args: -h, EULER, key=key)
    found = eqx.filter_jit(encoder)(TS, jnp.ones((5, 1)), jnp.arange(5)[:, None] == 3)
    h = encoder.cell(jnp.ones(2), jnp.zeros(3)) * (1 + 0.9)
    mean, log_variance = np.split(encoder.head(h), 2)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(found.deviation**2, np.exp(log_variance), rtol=1e-9)


def test_elbo_with_the_exact_posterior_is_the_log_likelihood():
    """`x_i = c_i z + noise`, `z ~ N(0, 1)`. The bound is quadratic in `z`: two nodes give its mean exactly."""
    c, noise = np.array([0.5, -1.2, 2.0]), 0.3
    x, mask = np.array([0.4, 0.7, -1.0]), np.array([True, False, True])
    variance = 1 / (1 + (c**2)[mask].sum() / noise**2)
    mean = variance * (c * x)[mask].sum() / noise**2
    exact = multivariate_normal(np.zeros(2), np.outer(c[mask], c[mask]) + noise**2 * np.eye(2)).logpdf(x[mask])

    def bound(mean, variance):
        posterior = DiagonalGaussian(jnp.array([mean]), jnp.array([np.sqrt(variance)]))
        at = [(jnp.asarray(c) * (mean + s * np.sqrt(variance)))[:, None] for s in (-1, 1)]
        data = jnp.asarray(np.where(mask, x, np.nan))[:, None], jnp.asarray(mask)[:, None]
        return np.mean([elbo(posterior, predicted, *data, deviation=noise) for predicted in at])

    np.testing.assert_allclose(bound(mean, variance), exact, rtol=1e-12)
    assert bound(mean + 0.1, variance) < exact
    assert bound(mean, 1.3 * variance) < exact


def test_divergence_is_that_of_scipys_densities(key):
    """By the mean of the densities' logarithms over many draws, within 4 standard errors."""
    mean, deviation = np.array([0.3, -1.0]), np.array([0.5, 1.4])
    posterior = DiagonalGaussian(jnp.asarray(mean), jnp.asarray(deviation))
    draws = np.asarray(jax.vmap(lambda k: posterior.sample(key=k))(jax.random.split(key, 20_000)))
    gap = multivariate_normal(mean, np.diag(deviation**2)).logpdf(draws) - multivariate_normal([0, 0]).logpdf(draws)
    assert abs(gap.mean() - posterior.divergence()) < 4 * gap.std() / np.sqrt(len(gap))


@pytest.mark.slow
def test_a_batch_on_merged_times_agrees_with_each_series_on_its_own(series, key):
    values, mask = series
    model = network(key, controller=diffrax.PIDController(rtol=1e-8, atol=1e-8))
    mask = mask.copy()
    mask[:, 0], mask[1, 4] = True, False
    ts = np.asarray([[0.0, 0.3, 0.4, 0.9, 1.3], [0.0, 0.3, 0.4, 0.9, 0.9], [0.0, 0.4, 0.5, 1.0, 1.4]])
    own = eqx.filter_jit(jax.vmap(lambda t, v, m: model(t, v, m)[1].ys))(*map(jnp.asarray, (ts, values, mask)))
    times, merged, seen = map(jnp.asarray, on_common_times(ts, values, mask))
    common = eqx.filter_jit(lambda v, m: model(times, v, m)[1].ys)(merged, seen)
    for sample, row in zip(*np.nonzero(mask.any(-1)), strict=True):
        at = int(np.searchsorted(times, ts[sample, row]))
        np.testing.assert_allclose(common[sample, at], own[sample, row], rtol=1e-6, atol=1e-7)


def test_merged_times_hold_every_observation_once_and_nothing_else():
    ts = np.array([[0.0, 0.5, 0.5], [0.2, 0.5, 0.9]])
    values = np.arange(12.0).reshape(2, 3, 2) + 1
    mask = np.array([[[1, 1], [1, 0], [0, 0]], [[0, 0], [1, 1], [0, 1]]], bool)
    times, merged, seen = on_common_times(ts, values, mask)
    np.testing.assert_array_equal(times, [0, 0.5, 0.9])
    np.testing.assert_array_equal(merged, [[[1, 2], [3, 0], [0, 0]], [[0, 0], [9, 10], [0, 12]]])
    np.testing.assert_array_equal(seen, merged != 0)


@pytest.mark.slow
def test_training_raises_the_bound_and_the_penalty_reaches_the_vector_field(series, key):
    values, mask = map(jnp.asarray, series)
    model = network(key, controller=diffrax.PIDController(rtol=1e-3, atol=1e-3), max_steps=64)
    optimiser = optax.adam(3e-2)
    state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))
    penalty = LocalPenalty("error", 1.0)

    @eqx.filter_jit
    def step(model, state, weight, key):
        @partial(eqx.filter_value_and_grad, has_aux=True)
        def loss(model):
            posterior, out = model(TS, values, mask, regulariser=penalty, key=key)
            bound = elbo(posterior, out.ys, values, mask, deviation=0.3).mean()
            return weight * out.penalty - (1 - weight) * bound, bound

        (_, bound), gradient = loss(model)
        updates, state = optimiser.update(gradient, state)
        return eqx.apply_updates(model, updates), state, bound, gradient.vector_field

    *_, slope = step(model, state, 1.0, key)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope)) > 0
    bounds = []
    for _ in range(15):
        model, state, bound, _ = step(model, state, 0.0, key)
        bounds.append(float(bound))
    assert bounds[-1] > bounds[0] + 1


@pytest.mark.dtype
@pytest.mark.parametrize("kind", ["gru", "ode-rnn"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_that_of_the_values(kind, dtype, series, key):
    if not jax.config.jax_enable_x64 and dtype == np.float64:
        pytest.skip("no float64 without x64")
    values, mask = jnp.asarray(series[0], dtype), jnp.asarray(series[1])
    model = network(key, kind)
    posterior, out = eqx.filter_eval_shape(lambda: model(TS, values, mask, key=key))
    assert posterior.mean.dtype == posterior.deviation.dtype == out.ys.dtype == out.penalty.dtype == dtype
    bound = lambda p, x: elbo(p, x, values, mask, deviation=0.1, kl_weight=0.5)
    assert eqx.filter_eval_shape(bound, posterior, out.ys).dtype == dtype


def test_a_solve_that_does_not_arrive_predicts_nan_and_says_so(series):
    _, out = eqx.filter_jit(linear_model(100 * jnp.eye(2), max_steps=8))(TS, *map(jnp.asarray, series))
    assert not out.solved
    assert jnp.isfinite(out.ys[:, 0]).all()
    assert jnp.isnan(out.ys[:, -1]).all()


@pytest.mark.plain
def test_bad_input_is_named(key):
    values, mask = jnp.zeros((5, 2)), jnp.ones((5, 2), bool)
    model = network(key)
    with pytest.raises(ValueError, match=r"`ts` has 0\.9 at 3 and 0\.5 after it; expected increasing times"):
        model(TS.at[4].set(0.5), values, mask)
    with pytest.raises(ValueError, match=r"`query` has 1\.0 at 0 and 0\.5 after it"):
        model(TS, values, mask, jnp.array([1.0, 0.5]))
    with pytest.raises(ValueError, match=r"`query` begins at -1\.0; expected no time before 0\.0"):
        model(TS, values, mask, jnp.array([-1.0, 0.5]))
    with pytest.raises(ValueError, match=r"`mask` \(5, 1\)"):
        model(TS, values, mask[:, :1])
    with pytest.raises(ValueError, match="Series with times of their own"):
        model(jnp.stack([TS, TS]), jnp.stack([values, values]), jnp.stack([mask, mask]))
    with pytest.raises(ValueError, match="`ts` has nan"):
        model(TS.at[0].set(jnp.nan), values, mask)
