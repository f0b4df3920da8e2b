import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.dynamics import GlobalPenalty, Integrator, LatentSDE, normal_kl


def latent(posterior, prior, deviation, *, dt0=0.05, solver=None, encoder=len, decoder=lambda z: z, size=1):
    return LatentSDE(
        encoder=encoder, posterior=posterior, prior=prior, decoder=decoder,
        diffusion=lambda t, z, args: jnp.full_like(z, deviation),
        integrator=Integrator(diffrax.ShARK() if solver is None else solver, diffrax.ConstantStepSize(), dt0=dt0),
        initial_mean=jnp.zeros(size), initial_log_deviation=jnp.zeros(size),
    )  # fmt: skip


@pytest.mark.slow
def test_the_divergence_of_a_constant_change_of_drift_is_exact_on_every_path(key):
    # |u|^2 / 2 = |b|^2 / (2 s^2), whatever the path.
    model = latent(lambda t, z, b: jnp.sin(z) + b, lambda t, z, args: jnp.sin(z), 0.5)
    b = jnp.array([1.0, -2.0])
    ts = np.array([0.5, 1.0, 2.0])
    path, kl = model.infer(jnp.zeros(2), 0.0, 2.0, b, key=key, ts=ts)
    np.testing.assert_allclose(kl, 5 / (2 * 0.25) * ts, rtol=1e-12)
    assert path.ys.shape == (3, 2)


@pytest.mark.slow
def test_the_divergence_of_two_ornstein_uhlenbeck_processes_is_the_known_one(key):
    # prior dz = -a z, posterior dz = -c (z - m), noise s. With z(t) ~ N(mu, v) under the posterior the rate is
    # E [(a - c) z + c m]^2 / (2 s^2).
    a, c, m, s, z0, t1, paths = 0.5, 2.0, 1.0, 0.7, -1.0, 2.0, 4000
    model = latent(lambda t, z, m: -c * (z - m), lambda t, z, args: -a * z, s, dt0=0.02)
    keys = jax.random.split(key, paths)
    kl = np.asarray(jax.jit(jax.vmap(lambda k: model.infer(jnp.full(1, z0), 0.0, t1, m, key=k)[1][0]))(keys))
    t = np.linspace(0, t1, 2001)
    mu, v = m + (z0 - m) * np.exp(-c * t), s**2 / (2 * c) * -np.expm1(-2 * c * t)
    rate = (((a - c) * mu + c * m) ** 2 + (a - c) ** 2 * v) / (2 * s**2)
    assert abs(kl.mean() - np.trapezoid(rate, t)) < 4 * kl.std() / np.sqrt(paths)


@pytest.mark.slow
def test_the_bound_is_the_evidence_for_the_exact_posterior_and_below_it_for_others(key):
    # A Brownian motion from 0 observed at 1 with noise of deviation r: the posterior's drift is
    # (x - z) / (1 - t + r^2), and x ~ N(0, 1 + r^2).
    x, r, paths = 1.5, 0.6, 4000

    def bound(scale):
        drift = lambda t, z, x: scale * (x - z) / (1 - t + r**2)
        model = latent(drift, lambda t, z, args: jnp.zeros_like(z), 1.0, dt0=0.02)

        def one(k):
            path, kl = model.infer(jnp.zeros(1), 0.0, 1.0, x, key=k)
            log_likelihood = -((x - path.ys[0, 0]) ** 2) / (2 * r**2) - jnp.log(2 * jnp.pi * r**2) / 2
            return log_likelihood - kl[0]

        draws = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, paths)))
        return draws.mean(), draws.std() / np.sqrt(paths)

    evidence = -(x**2) / (2 * (1 + r**2)) - np.log(2 * np.pi * (1 + r**2)) / 2
    mean, deviation = bound(1.0)
    assert abs(mean - evidence) < 4 * deviation
    mean, deviation = bound(0.3)
    assert mean < evidence - 4 * deviation


def test_the_divergence_of_normals_is_the_integral(key):
    mean, log_deviation, prior_mean, prior_log = 0.4, -0.5, -0.3, 0.2
    x = np.linspace(-9, 9, 20001)
    log_q = -(((x - mean) / np.exp(log_deviation)) ** 2) / 2 - log_deviation
    log_p = -(((x - prior_mean) / np.exp(prior_log)) ** 2) / 2 - prior_log
    expected = np.trapezoid(np.exp(log_q) * (log_q - log_p), x) / np.sqrt(2 * np.pi)
    got = normal_kl(*(jnp.full(3, p) for p in (mean, log_deviation, prior_mean, prior_log)))
    np.testing.assert_allclose(got, 3 * expected, rtol=1e-9)


@pytest.mark.slow
def test_a_series_is_encoded_solved_and_decoded_and_the_bound_has_a_gradient(key):
    weights = {"f": 0.3 * jnp.ones((2, 2)), "g": jnp.array(-0.5)}
    ts = jnp.array([0.0, 0.3, 1.0])
    xs = jnp.array([[1.0], [0.5], [0.2]])

    def loss(weights, key):
        model = LatentSDE(
            encoder=lambda ts, xs: (xs[:2, 0], jnp.full(2, -1.0), xs[-1, 0]),
            posterior=lambda t, z, c: jnp.tanh(weights["f"] @ z) + c, prior=lambda t, z, args: -z,
            diffusion=lambda t, z, args: jnp.exp(weights["g"]) * (1 + 0.1 * jnp.sin(z)),
            decoder=lambda z: z[:1], initial_mean=jnp.zeros(2), initial_log_deviation=jnp.zeros(2),
            integrator=Integrator(diffrax.SPaRK(), diffrax.PIDController(rtol=1e-2, atol=1e-2), dt0=0.1),
        )  # fmt: skip
        path = model(ts, xs, key=key, regulariser=GlobalPenalty("error", 0.1))
        assert (path.zs.shape, path.xs.shape) == ((3, 2), (3, 1))
        fit = jnp.sum((path.xs - xs) ** 2)
        return fit + path.initial_kl + path.path_kl + path.solve.penalty, (
            path.initial_kl,
            path.path_kl,
            path.solve.penalty,
        )

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, parts), gradient = step(weights, key)
    np.testing.assert_allclose(
        parts[0], normal_kl(jnp.array([1.0, 0.5]), jnp.full(2, -1.0), jnp.zeros(2), jnp.zeros(2))
    )
    assert all(part > 0 for part in parts)
    assert all(bool(jnp.all(jnp.isfinite(g)) & jnp.any(g != 0)) for g in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_samples_are_of_the_prior(key):
    # Stationary: N(0, 1) at the start and ever after.
    model = latent(lambda t, z, c: -z, lambda t, z, args: -z, np.sqrt(2.0), decoder=lambda z: 3 * z)
    ts = jnp.array([0.0, 0.5, 1.0])
    zs, xs = jax.jit(jax.vmap(lambda k: model.sample(ts, key=k)))(jax.random.split(key, 4000))
    np.testing.assert_allclose(np.var(zs, 0)[:, 0], 1.0, atol=4 * np.sqrt(2 / 4000))
    np.testing.assert_allclose(np.mean(zs[:, 0] * zs[:, 2]), np.exp(-1), atol=4 / np.sqrt(4000))
    np.testing.assert_allclose(xs, 3 * zs)


@pytest.mark.dtype
def test_a_latent_path_keeps_the_precision(key):
    model = latent(lambda t, z, c: c - z, lambda t, z, args: -z, 0.5, encoder=lambda ts, xs: (xs[0], xs[0] * 0, xs[1]))
    for dtype in (jnp.float32, jnp.result_type(float)):
        args = jnp.arange(3, dtype=dtype), jnp.ones((3, 1), dtype)
        path = jax.eval_shape(lambda ts, xs: model(ts, xs, key=key), *args)
        assert path.zs.dtype == path.path_kl.dtype == path.initial_kl.dtype == dtype
        assert jax.eval_shape(lambda ts: model.sample(ts, key=key), args[0])[0].dtype == dtype
