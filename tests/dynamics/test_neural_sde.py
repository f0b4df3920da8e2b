import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.dynamics import GlobalPenalty, Integrator, LocalPenalty, NeuralSDE, moment_residuals

GROWTH, NOISE = 0.7, 0.5
FINEST = 2.0**-11
FIXED = diffrax.ConstantStepSize()


def linear(solver, controller=FIXED, dt0=None, **options):
    """`dy = GROWTH y dt + NOISE y dW`."""
    drift, diffusion = lambda t, y, args: GROWTH * y, lambda t, y, args: NOISE * y
    return NeuralSDE(drift, diffusion, Integrator(solver, controller, dt0=dt0), resolution=FINEST, **options)


def exact(sde, y0, key):
    """Its solution at 1 on the path that the key gives."""
    motion = sde.terms(y0, 0.0, 1.0, key=jax.random.fold_in(key, 0)).terms[1].control
    correction = NOISE**2 / 2 if sde.interpretation == "Ito" else 0.0
    return y0 * jnp.exp(GROWTH - correction + NOISE * motion.evaluate(0.0, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "order"), [(diffrax.Euler(), 0.5), (diffrax.ItoMilstein(), 1.0), (diffrax.SPaRK(), 1.0)]
)
def test_paths_converge_to_the_exact_ones_at_the_solvers_strong_order(key, solver, order):
    y0, errors = jnp.ones(10), []  # Milstein's method forms the noise's Jacobian
    for dt0 in (2**-3, 2**-6):
        sde = linear(solver, dt0=dt0)
        off = jax.jit(jax.vmap(lambda key, sde=sde: sde(y0, 0.0, 1.0, key=key).ys[0] - exact(sde, y0, key)))(
            jax.random.split(key, 100)
        )
        errors.append(float(jnp.sqrt(jnp.mean(off**2))))
    measured = np.log2(errors[0] / errors[1]) / 3
    assert order - 0.1 < measured < order + 0.6


@pytest.mark.slow
def test_a_key_gives_the_same_path_at_every_tolerance(key):
    errors = []
    for tol in (1e-2, 1e-4):
        plain = diffrax.PIDController(rtol=tol, atol=tol, dtmin=FINEST, pcoeff=0.1, icoeff=0.3)
        sde = linear(diffrax.SPaRK(), diffrax.ClipStepSizeController(plain, store_rejected_steps=200), 0.1)
        paths = jax.jit(
            jax.vmap(lambda k, sde=sde: sde(jnp.ones(1), 0.0, 1.0, key=k).ys[0] - exact(sde, jnp.ones(1), k))
        )
        errors.append(float(jnp.abs(paths(jax.random.split(key, 50))).mean()))
    assert errors[1] < 5e-3 < errors[0] / 4


@pytest.mark.slow
def test_general_noise_enters_by_its_matrix_and_diagonal_noise_by_entries(key):
    matrix = jnp.array([[1.0, 2.0, 0.0], [0.5, 0.0, -1.0]])
    integrator = Integrator(diffrax.Heun(), FIXED, dt0=0.25)
    zero = lambda t, y, args: jax.tree.map(jnp.zeros_like, y)
    general = NeuralSDE(zero, lambda t, y, args: matrix, integrator, noise="general")
    diagonal = NeuralSDE(zero, lambda t, y, args: {"a": 2 * jnp.ones(3), "b": jnp.ones((2, 2))}, integrator)
    tree = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    for sde, y0, scaled in (
        (general, jnp.zeros(2), lambda w: matrix @ w),
        (diagonal, tree, lambda w: {"a": 2 * w["a"], "b": w["b"]}),
    ):
        w = sde.terms(y0, 0.0, 1.0, key=jax.random.fold_in(key, 0)).terms[1].control.evaluate(0.0, 1.0)
        got = jax.tree.map(lambda leaf: leaf[0], sde(y0, 0.0, 1.0, key=key).ys)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, scaled(w))


@pytest.mark.slow
def test_states_at_given_times_are_those_of_solves_that_end_there(key):
    sde = linear(diffrax.SPaRK(), dt0=2**-4)
    at = lambda t1, ts: sde(jnp.ones(3), 0.0, t1, key=key, ts=ts).ys
    ys = at(1.0, np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(ys[0], 1.0)
    np.testing.assert_allclose(ys[2], at(1.0, None)[0])
    assert ys.shape == (3, 3)


@pytest.mark.slow
def test_the_gradient_is_that_of_the_path(key):
    class Scaled(eqx.Module):
        growth: jax.Array
        noise: jax.Array

        def __call__(self, t, y, args):
            return self.growth * jnp.sin(y)

        def diffusion(self, t, y, args):
            return self.noise * jnp.cos(y)

    @jax.jit
    @jax.value_and_grad
    def value(parameters):
        f = Scaled(*parameters)
        sde = NeuralSDE(f, f.diffusion, Integrator(diffrax.Heun(), FIXED, dt0=0.1))
        return jnp.sum(sde(jnp.ones(4), 0.0, 1.0, key=key).ys ** 2)

    at, e = jnp.array([0.8, 0.4]), 1e-5
    slopes = [(value(at.at[i].add(e))[0] - value(at.at[i].add(-e))[0]) / (2 * e) for i in range(2)]
    np.testing.assert_allclose(value(at)[1], slopes, rtol=1e-8)


@pytest.mark.slow
def test_penalties_leave_the_path_alone_and_have_gradients(key):
    controller = diffrax.PIDController(rtol=1e-2, atol=1e-2)

    def run(noise, regulariser):
        sde = NeuralSDE(
            lambda t, y, args: -jnp.sin(3 * y), lambda t, y, args: noise * y,
            Integrator(diffrax.SPaRK(), controller, dt0=0.1),
        )  # fmt: skip
        out = sde(jnp.linspace(1.0, 2.0, 4), 0.0, 1.0, key=key, regulariser=regulariser)
        return out.penalty, out.ys

    _, plain = jax.jit(lambda noise: run(noise, None))(0.5)
    for regulariser in (
        GlobalPenalty("error", 1.0),
        LocalPenalty("error", 1.0),
        LocalPenalty("error", 1.0, at="accepted"),
    ):
        (penalty, ys), slope = jax.jit(jax.value_and_grad(lambda noise, r=regulariser: run(noise, r), has_aux=True))(
            0.5
        )
        np.testing.assert_allclose(ys, plain, rtol=1e-12)
        assert penalty > 0
        assert jnp.isfinite(slope)
        assert slope != 0


def test_moment_residuals_are_differences_of_sample_moments(key):
    paths = jax.random.normal(key, (7, 3, 2))
    mean, variance = jnp.full((3, 2), 0.1), jnp.full((3, 2), 4.0)
    equal = moment_residuals(paths, mean, variance)
    np.testing.assert_allclose(equal[0], np.mean(paths, 0) - 0.1)
    np.testing.assert_allclose(equal[1], np.var(paths, 0, ddof=1) - 4.0)
    efficient = moment_residuals(paths, mean, variance, weights="efficient")
    np.testing.assert_allclose(efficient, equal / np.array([2.0, 4 * np.sqrt(2)])[:, None, None])


def test_efficient_weights_make_residuals_of_equal_variance(key):
    draws = 2.0 + 3.0 * jax.random.normal(key, (4000, 50, 1, 1))
    residuals = jax.vmap(
        lambda p: moment_residuals(p, jnp.full((1, 1), 2.0), jnp.full((1, 1), 9.0), weights="efficient")
    )
    np.testing.assert_allclose(np.std(residuals(draws), 0)[:, 0, 0] * np.sqrt(50), 1.0, rtol=0.05)


@pytest.mark.dtype
def test_a_path_keeps_the_states_precision(key):
    sde = linear(diffrax.SPaRK(), diffrax.PIDController(rtol=1e-2, atol=1e-2), 0.1)
    for dtype in (jnp.float32, jnp.result_type(float)):
        out = jax.eval_shape(
            lambda y0: sde(y0, 0.0, 1.0, key=key, regulariser=GlobalPenalty("error", 0.1)), jnp.ones(2, dtype)
        )
        assert out.ys.dtype == out.penalty.dtype == dtype


@pytest.mark.plain
def test_solvers_that_do_not_fit_the_noise_are_refused(key):
    adaptive = diffrax.PIDController(rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="`solver` is Tsit5, for ordinary differential equations"):
        linear(diffrax.Tsit5(), adaptive)
    with pytest.raises(ValueError, match="`solver` is Euler, which has no error estimate for the noise"):
        linear(diffrax.Euler(), adaptive)
    with pytest.raises(ValueError, match="`solver` is GeneralShARK, which has no error estimate"):
        linear(diffrax.GeneralShARK(), adaptive)
    with pytest.raises(ValueError, match="`solver` is ItoMilstein, which needs noise='diagonal'"):
        linear(diffrax.ItoMilstein(), dt0=0.1, noise="general")
    with pytest.raises(ValueError, match="`solver` is ShARK, for noise that does not depend on the state"):
        linear(diffrax.ShARK(), dt0=0.1)(jnp.ones(2), 0.0, 1.0, key=key)


@pytest.mark.plain
def test_bad_arguments_are_refused(key):
    with pytest.raises(ValueError, match="`noise` is 'white'; expected one of"):
        linear(diffrax.Heun(), dt0=0.1, noise="white")
    with pytest.raises(ValueError, match=r"`diffusion` gives \(2,\) for a state of \(2,\); noise='general' takes"):
        linear(diffrax.Heun(), dt0=0.1, noise="general")(jnp.ones(2), 0.0, 1.0, key=key)
    sde = linear(diffrax.Heun(), dt0=0.1)
    with pytest.raises(ValueError, match=r"`t1` is 0.0 and `t0` 1.0; noise needs `t0 < t1`"):
        sde(jnp.ones(2), 1.0, 0.0, key=key)
    with pytest.raises(ValueError, match="expected increasing times from `t0`"):
        sde(jnp.ones(2), 0.0, 1.0, key=key, ts=np.array([0.5, 0.2]))
    matrix = NeuralSDE(sde.drift, lambda t, y, args: jnp.ones((2, 3)), sde.integrator)
    with pytest.raises(ValueError, match=r"`diffusion` gives \(2, 3\) for a state of \(2,\); noise='diagonal' takes"):
        matrix(jnp.ones(2), 0.0, 1.0, key=key)
    with pytest.raises(ValueError, match=r"`resolution` is -1\.0; expected a positive time"):
        NeuralSDE(sde.drift, sde.diffusion, sde.integrator, resolution=-1.0)
    with pytest.raises(ValueError, match="`paths` has 1 of them; a variance needs two"):
        moment_residuals(jnp.ones((1, 2, 1)), jnp.ones((2, 1)), jnp.ones((2, 1)))
    with pytest.raises(ValueError, match="`weights` is 'best'; expected"):
        moment_residuals(jnp.ones((3, 2, 1)), jnp.ones((2, 1)), jnp.ones((2, 1)), weights="best")
