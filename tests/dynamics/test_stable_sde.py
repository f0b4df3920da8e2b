import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.dynamics import Controlled, Integrator, NeuralSDE, StableSDE

FIXED = diffrax.ConstantStepSize()


def fixed(solver, dt0):
    return Integrator(solver, FIXED, dt0=dt0)


def motion(sde, z0, t1, key):
    """The Brownian motion's value at `t1`."""
    return sde.sde.terms(z0, 0.0, t1, key=jax.random.fold_in(key, 0)).terms[1].control.evaluate(0.0, t1)


@pytest.mark.slow
def test_the_langevin_form_settles_at_the_variance_of_the_ornstein_uhlenbeck_process(key):
    # ShARK is of order 1.5 here; z(6) has forgotten the start by e^-9.
    sde = StableSDE("langevin", lambda t, z, args: -1.5 * z, lambda t: 0.6, fixed(diffrax.ShARK(), 0.1))
    z = np.asarray(jax.jit(lambda: sde(jnp.full(20000, 2.0), 0.0, 6.0, key=key).ys[0])())
    variance = 0.6**2 / 3
    assert abs(z.mean() - 2 * np.exp(-9)) < 4 * np.sqrt(variance / 20000)
    assert abs(z.var() - variance) < 4 * variance * np.sqrt(2 / 20000)


@pytest.mark.slow
def test_the_langevin_form_with_noise_of_changing_size_converges_at_order_three_halves(key):
    def path(dt0):
        form = lambda t, z, args: -jnp.sin(2 * z)
        sde = StableSDE("langevin", form, lambda t: 0.5 + 0.3 * jnp.cos(t), fixed(diffrax.ShARK(), dt0))
        inner = NeuralSDE(sde.sde.drift, sde.sde.diffusion, sde.integrator, resolution=2**-10)
        return jax.jit(lambda: inner(jnp.linspace(-2, 2, 500), 0.0, 1.0, key=key).ys[0])()

    finest = path(2**-9)
    coarse, fine = (float(jnp.sqrt(jnp.mean((path(dt0) - finest) ** 2))) for dt0 in (2**-2, 2**-5))
    assert 1.3 < np.log2(coarse / fine) / 3 < 2.1


@pytest.mark.slow
def test_the_geometric_form_is_the_exact_geometric_motion_with_its_lognormal_moments(key):
    mu, sigma, t1 = 0.3, 0.4, 1.5
    sde = StableSDE("geometric", lambda t, z, args: jnp.full_like(z, mu), lambda t: sigma, fixed(diffrax.Euler(), 0.5))
    z0 = jnp.full(40000, 2.0)
    z, w = jax.jit(lambda: (sde(z0, 0.0, t1, key=key).ys[0], motion(sde, z0, t1, key)))()
    np.testing.assert_allclose(z, 2 * np.exp((mu - sigma**2 / 2) * t1 + sigma * np.asarray(w)), rtol=1e-12)
    mean = 2 * np.exp(mu * t1)
    variance = mean**2 * np.expm1(sigma**2 * t1)
    assert abs(z.mean() - mean) < 4 * np.sqrt(variance / 40000)
    np.testing.assert_allclose(z.var(), variance, rtol=0.06)  # four standard deviations, by the fourth moment


def test_the_geometric_form_stays_positive_where_its_euler_steps_would_not(key):
    fall = lambda t, z, args: -4.0 + 0 * z
    geometric = StableSDE("geometric", fall, lambda t: 2.0, fixed(diffrax.Euler(), 0.5))
    naive = StableSDE("linear", lambda t, z, args: z * fall(t, z, args), lambda t: 2.0, fixed(diffrax.Euler(), 0.5))
    ts = np.linspace(0.0, 5.0, 11)
    z, other = jax.jit(
        lambda: (
            geometric(jnp.ones(500), 0.0, 5.0, key=key, ts=ts).ys,
            naive(jnp.ones(500), 0.0, 5.0, key=key, ts=ts).ys,
        )
    )()
    assert (z > 0).all()
    assert (other < 0).any()


@pytest.mark.slow
@pytest.mark.parametrize("solver", [diffrax.ItoMilstein(), diffrax.SPaRK()])
def test_the_linear_form_has_the_ito_solution_whatever_the_solvers_sense(key, solver):
    a, s = 0.5, 0.8
    sde = StableSDE("linear", lambda t, z, args: a * z, lambda t: s, fixed(solver, 2**-7))
    z0 = jnp.ones(300)
    z, w = jax.jit(lambda: (sde(z0, 0.0, 1.0, key=key).ys[0], motion(sde, z0, 1.0, key)))()
    np.testing.assert_allclose(z, np.exp(a - s**2 / 2 + s * np.asarray(w)), rtol=0.06)
    assert np.abs(np.log(z) - (a - s**2 / 2 + s * np.asarray(w))).mean() < 5e-3


@pytest.mark.slow
def test_the_weak_error_of_eulers_steps_is_the_exact_one_of_order_one(key):
    # For dz = a z dt + s z dW Euler's mean after n steps is (1 + a h)^n exactly.
    a, s, paths = 1.0, 0.3, 40000
    for n in (4, 16):
        sde = StableSDE("linear", lambda t, z, args: a * z, lambda t: s, fixed(diffrax.Euler(), 1 / n))
        z = np.asarray(jax.jit(lambda sde=sde: sde(jnp.ones(paths), 0.0, 1.0, key=key).ys[0])())
        assert abs(z.mean() - (1 + a / n) ** n) < 4 * z.std() / np.sqrt(paths)


@pytest.mark.slow
def test_a_data_path_controls_the_drift_and_missing_samples_are_bridged(key):
    ts = np.linspace(0.0, 1.0, 9)
    xs = np.stack([np.sin(3 * ts), ts**2], 1)
    xs[3:5, 0] = np.nan
    coefficients = diffrax.backward_hermite_coefficients(jnp.asarray(ts), jnp.asarray(xs))
    path = diffrax.CubicInterpolation(jnp.asarray(ts), coefficients)
    integral = jnp.mean(jax.vmap(path.evaluate)((jnp.arange(4096) + 0.5) / 4096), 0)
    for form in ("langevin", "linear"):
        sde = StableSDE(form, Controlled(lambda t, z, x: x), lambda t: 0.0, fixed(diffrax.Heun(), 2**-6))
        z = jax.jit(lambda sde=sde: sde(jnp.zeros(2), 0.0, 1.0, path, key=key).ys[0])()
        np.testing.assert_allclose(z, integral, atol=2e-4)
    np.testing.assert_allclose(integral, [(1 - np.cos(3.0)) / 3, 1 / 3], atol=2e-2)  # the bridge over the gap


@pytest.mark.slow
@pytest.mark.parametrize("form", ["langevin", "linear", "geometric"])
def test_the_gradient_is_a_central_difference(key, form):
    @jax.jit
    @jax.value_and_grad
    def value(p):
        drift = lambda t, z, args: jnp.tanh(p[0] * z + args)
        sde = StableSDE(form, drift, lambda t: p[1] * (1 + t), fixed(diffrax.Heun(), 0.1))
        return jnp.sum(sde(jnp.array([0.5, 1.5]), 0.0, 1.0, 0.3, key=key).ys ** 2)

    at, e = jnp.array([0.8, 0.4]), 1e-5
    slopes = [(value(at.at[i].add(e))[0] - value(at.at[i].add(-e))[0]) / (2 * e) for i in range(2)]
    np.testing.assert_allclose(value(at)[1], slopes, rtol=1e-8)


@pytest.mark.dtype
def test_every_form_keeps_the_precision(key):
    for form in ("langevin", "linear", "geometric"):
        sde = StableSDE(form, lambda t, z, args: -jnp.tanh(z), lambda t: 0.1 * (1 + t), fixed(diffrax.Heun(), 0.1))
        for dtype in (jnp.float32, jnp.result_type(float)):
            out = jax.eval_shape(lambda z0, sde=sde: sde(z0, 0.0, 1.0, key=key), jnp.ones(2, dtype))
            assert out.ys.dtype == dtype


@pytest.mark.plain
def test_bad_forms_and_starts_are_refused(key):
    drift = lambda t, z, args: -z
    with pytest.raises(ValueError, match="`form` is 'stable'; expected one of"):
        StableSDE("stable", drift, lambda t: 0.1, fixed(diffrax.Heun(), 0.1))
    sde = StableSDE("geometric", drift, lambda t: 0.1, fixed(diffrax.Heun(), 0.1))
    with pytest.raises(ValueError, match="`z0` has entries that are not positive"):
        sde(jnp.array([1.0, 0.0]), 0.0, 1.0, key=key)
    linear = StableSDE("linear", drift, lambda t: 0.1, fixed(diffrax.ShARK(), 0.1))
    with pytest.raises(ValueError, match="`solver` is ShARK, for noise that does not depend on the state"):
        linear(jnp.ones(2), 0.0, 1.0, key=key)
