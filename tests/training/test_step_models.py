"""Lead times, tendencies, refinement, boosting and solvers in the loop: exact solutions and plainly written loops."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.training import (
    AdamsBashforth,
    Boosted,
    Corrected,
    Refiner,
    TendencyStep,
    all_to_all,
    denoising,
    diverted,
    label_free,
    lead_args,
    lead_pairs,
    one_step,
    partition,
    semigroup_defect,
    tendencies,
    tendency,
    unrolled,
    weighted,
)
from solvers import Grid, as_stepper, rollout

from .recipe_cases import RNG, WINDOWS, Step, assert_equal, plain, square, value_and_gradient

GRID = Grid(8)
KEY = jax.random.key(0)


def evaluate(objective, model, windows, key=KEY):
    """The values of the one term, by sample."""
    windows = jax.tree.map(jnp.asarray, windows)
    terms, _, _ = jax.jit(lambda key: objective(model, windows, key=key, carry=None))(key)
    (term,) = terms.values()
    return np.asarray(term.values)


def decay(u, domain=None, query=None, *, args, key=None):
    """`u exp(-rate lead)`, of `args = (lead, rate)`."""
    return u * jnp.exp(-args[0] * args[1])


# Lead times


@pytest.mark.parametrize(("steps", "pairs"), [(10, 66), (7, 36)])
def test_a_trajectory_has_the_published_number_of_pairs(steps, pairs):
    starts, ends = lead_pairs(steps + 1)
    assert len(starts) == pairs
    assert np.all(ends >= starts)
    assert np.sum(ends == starts) == steps + 1


def test_all_pairs_are_the_plain_double_loop_and_so_is_the_gradient():
    windows, args = WINDOWS[:2, :3], RNG.normal(size=(2, 1))

    class Leading(eqx.Module):
        step: Step

        def __call__(self, u, domain, query=None, *, args=None, key=None):
            return args[0] * self.step(u, args=args[1:]) + u

    def expected(model):
        losses = [
            square(model(w[i], GRID, args=jnp.stack([0.3 * (j - i), a[0]])), w[j], GRID)
            for w, a in zip(windows, args, strict=True)
            for i in range(3)
            for j in range(i, 3)
        ]
        return sum(losses) / 12

    model = Leading(Step())
    found = value_and_gradient(all_to_all(square, GRID, 0.3, frames=3), model, (windows, args), KEY)
    assert_equal(found, plain(expected, model))


@pytest.mark.slow
def test_a_semigroup_has_no_loss_on_any_pair_and_no_defect():
    u, args = jnp.asarray(WINDOWS[0, :1]), np.array([[1.0], [2.0]])
    windows = np.stack([np.concatenate([u * np.exp(-0.2 * i * rate) for i in range(5)]) for rate in (1.0, 2.0)])
    losses = evaluate(all_to_all(square, GRID, 0.2, frames=4, pairs=7), decay, (windows, args))
    assert losses.shape == (2, 7)
    assert np.all(losses < 1e-30)
    affine = lambda u, domain, *, args, key: u * (1 - args[0])
    defect = lambda model: semigroup_defect(model, u[0], GRID, 0.3, 0.5, args=jnp.ones(1))
    defects = jax.jit(lambda: [defect(model) for model in (decay, affine)])()
    np.testing.assert_allclose(defects, [0, abs((1 - 0.8) - 0.7 * 0.5) / 0.2], rtol=1e-12, atol=1e-15)


# Tendencies


def test_differences_in_time_have_their_order():
    orders = {"forward": 1, "central": 2, "richardson": 4}

    @partial(jax.jit, static_argnums=0)
    def errors(dt):
        u = jnp.exp(dt * jnp.arange(-2.0, 3.0))[:, None, None]  # its own rate
        return [jnp.max(jnp.abs(rates - states)) for states, rates in (tendencies(u, dt, name) for name in orders)]

    falls = np.log2(np.divide(errors(0.1), errors(0.05)))
    np.testing.assert_allclose(falls, list(orders.values()), atol=0.15)


def logistic(u, domain=None, query=None, *, args=None, key=None):
    return u * (1 - u)


def exact(t):
    return 1 / (1 + 3 * np.exp(-t))


START = np.full((1, 8), exact(0.0))


def test_steps_by_a_tendency_have_the_order_of_their_method():
    steppers = {
        "euler": (1, lambda dt: as_stepper(TendencyStep(logistic, dt, "euler"), GRID)),
        "heun": (2, lambda dt: as_stepper(TendencyStep(logistic, dt, "heun"), GRID)),
        "rk4": (4, lambda dt: as_stepper(TendencyStep(logistic, dt, "rk4"), GRID)),
        "ab2": (2, lambda dt: AdamsBashforth(logistic, GRID, dt)),
    }
    ends = jax.jit(lambda: {
        name: [rollout(make(2.0 / n), n, every=n)(jnp.asarray(START)).states[0, 0, 0] for n in (16, 32)]
        for name, (_, make) in steppers.items()
    })()  # fmt: skip
    for name, (order, _) in steppers.items():
        errors = np.abs(np.asarray(ends[name]) - exact(2.0))
        assert abs(np.log2(errors[0] / errors[1]) - order) < 0.2, name


def test_a_tendency_is_matched_where_its_neighbours_are_known():
    windows = np.stack([START * exact(0.3 * i + s) / exact(0.0) for s in (0, 1) for i in range(5)]).reshape(2, 5, 1, 8)
    objective = tendency(lambda p, t, domain: jnp.max(jnp.abs(p - t)), GRID, 0.3)
    assert np.all(evaluate(objective, logistic, windows) < 1e-3)
    expected = lambda model: sum(square(model(w[1]), (w[2] - w[0]) / 0.6, GRID) for w in WINDOWS[:2]) / 2
    found = value_and_gradient(tendency(square, GRID, 0.3, differences="central"), Step(), WINDOWS[:2, :3], KEY)
    assert_equal(found, plain(expected, Step()))


def test_the_residual_step_is_one_step_of_euler():
    expected = lambda model: sum(square(w[0] + 0.1 * model(w[0]), w[1], GRID) for w in WINDOWS[:2]) / 2
    found = value_and_gradient(one_step(square, GRID), TendencyStep(Step(), 0.1, "euler"), WINDOWS[:2, :2], KEY)
    assert_equal(found, plain(expected, Step()))


# Refinement


def test_the_schedule_is_that_of_the_published_code_read_as_deviations():
    np.testing.assert_allclose(Refiner(Step(), least=4e-7**0.5).deviations, [1, 8.6e-2, 7.4e-3, 6.3e-4], rtol=1e-2)


CHANGE = RNG.normal(size=(1, 8))


def telling(v, domain, query=None, *, args, key=None):
    """Knows the change, and so the noise: for three refinements down to `6.3e-4`."""
    sigma = 6.3e-4 ** args[0]
    return jnp.where(args[0] == 0, 0.9 * CHANGE, (v[:1] - CHANGE) / sigma)


def test_refinement_finds_what_the_network_knows_and_without_noise_is_its_first_prediction():
    u, model = jnp.asarray(WINDOWS[0, 0]), Step(2, 1)
    knowing = Refiner(telling, scale=0.3)
    noiseless = Refiner(lambda v, domain, query=None, *, args, key=None: model(v), steps=2, least=1e-60)
    found = jax.jit(lambda: [refiner(u, GRID, key=KEY) for refiner in (knowing, noiseless)])()
    np.testing.assert_allclose(found[0], u + 0.3 * CHANGE, rtol=1e-12)
    np.testing.assert_allclose(found[1], u + model(jnp.concatenate([jnp.zeros_like(u), u])), rtol=1e-14)


def test_denoising_asks_for_the_change_at_the_first_level_and_for_the_noise_above():
    windows = jnp.asarray(np.tile([WINDOWS[0, 0], WINDOWS[0, 0] + 0.3 * CHANGE], (400, 1, 1, 1)))

    @jax.jit
    def losses(known):
        op = lambda v, domain, query=None, *, args, key=None: known * telling(v, domain, args=args)
        return denoising(GRID)(Refiner(op, scale=0.3), windows, key=KEY, carry=None)[0]["data"].values

    silent, knowing = losses(0.0), losses(1.0)
    first = np.isclose(silent, np.mean(CHANGE**2), rtol=1e-10)
    assert 70 < first.sum() < 130  # a quarter
    assert abs(silent[~first].mean() - 1) < 0.1
    np.testing.assert_allclose(knowing[~first], 0, atol=1e-20)
    np.testing.assert_allclose(knowing[first], 0.01 * np.mean(CHANGE**2), rtol=1e-10)


# Boosting


class Band(eqx.Module):
    """The wavenumbers from `low` to `high` of `gain` times the last channel but `skip`."""

    gain: jax.Array
    low: int = eqx.field(static=True)
    high: int = eqx.field(static=True)

    def __call__(self, u, domain, query=None, *, args=None, key=None):
        k = jnp.arange(5)
        return jnp.fft.irfft(jnp.where((k >= self.low) & (k < self.high), jnp.fft.rfft(u[:1]), 0), 8) * self.gain


def test_boosting_adds_the_band_that_the_first_model_left_over_and_trains_it_alone():
    boosted = Boosted(Band(jnp.asarray(1.0), 0, 3), Band(jnp.asarray(2.0), 3, 5), scale=0.5)
    u = WINDOWS[0, 0]
    assert len(jax.tree.leaves(partition(boosted)[0])) == 1
    batch = np.stack([u, u])[None]
    value, gradient, _ = value_and_gradient(one_step(square, GRID), boosted, batch, KEY)
    assert value < 1e-30
    assert gradient.first.tree.gain == 0
    half = eqx.tree_at(lambda m: m.second.gain, boosted, jnp.asarray(1.0))
    high = np.fft.irfft(np.where(np.arange(5) >= 3, np.fft.rfft(u), 0), 8)
    value, gradient, _ = value_and_gradient(one_step(square, GRID), half, batch, KEY)
    np.testing.assert_allclose(value, np.mean((0.5 * high) ** 2), rtol=1e-10)
    np.testing.assert_allclose(gradient.second.gain, -0.5 * np.mean(high**2), rtol=1e-10)


def test_the_second_model_sees_the_input_and_the_first_ones_answer():
    seen = []
    second = lambda v, domain, *, args, key: seen.append(v) or v[:1]
    Boosted(lambda u, domain, *, args, key: 2 * u, second)(jnp.asarray(WINDOWS[0, 0]), GRID)
    np.testing.assert_array_equal(seen[0], np.concatenate([WINDOWS[0, 0], 2 * WINDOWS[0, 0]]))


# Solvers in the loop


class Coarse(eqx.Module):
    """A solver with an array of its own."""

    rate: jax.Array

    def __call__(self, u):
        return jnp.sin(self.rate * u)


COARSE = Coarse(jnp.asarray(0.8))


def test_a_correction_is_trained_through_the_solver_which_is_not():
    model, windows = Corrected(COARSE, Step()), WINDOWS[:2, :3]

    def expected(model):
        losses = []
        for w in windows:
            v = w[0]
            for i in range(2):
                v = jnp.sin(0.8 * v)
                v = v + model.op(v)
                losses.append(square(v, w[i + 1], GRID))
        return sum(losses) / 4

    found = value_and_gradient(unrolled(square, GRID, steps=2), model, windows, KEY)
    value, gradient = plain(expected, model)
    assert_equal((found[0], found[1].op), (value, gradient.op))
    assert found[1].step.tree.rate == 0
    assert len(jax.tree.leaves(partition(model)[0])) == 2


def test_the_diverted_chain_asks_the_solver_at_the_models_own_states():
    windows = WINDOWS[:2, :1]

    def expected(model):
        losses = []
        for w in windows:
            v = w[0]
            for _ in range(2):
                target = COARSE(v)
                v = model(v)
                losses.append(square(v, target, GRID) + 0.3 * square(v, jax.lax.stop_gradient(target), GRID))
        return sum(losses) / 4

    chain = lambda cut: diverted(square, GRID, COARSE, steps=2, cut_reference=cut)
    both = weighted({"through": (1.0, chain(False)), "cut": (0.3, chain(True))})
    assert_equal(value_and_gradient(both, Step(), windows, KEY), plain(expected, Step()))


def test_without_labels_the_residual_of_successive_states_is_the_loss():
    implicit = lambda u, v, args: (v - u) / 0.1 - args[0] * (u + v) / 2
    exact_map = lambda u, args: u * (1 + 0.05 * args[0]) / (1 - 0.05 * args[0])
    windows, args = WINDOWS[:2, :1], np.array([[0.4], [-1.0]])
    residuals = evaluate(label_free(implicit, None, steps=2), exact_map, (windows, args))
    assert residuals.shape == (2, 2, 1, 8)
    np.testing.assert_allclose(residuals, 0, atol=1e-13)


@pytest.mark.plain
def test_what_does_not_fit_together_is_an_error():
    u, windows = jnp.asarray(WINDOWS[0, 0]), jnp.asarray(WINDOWS)
    with pytest.raises(ValueError, match="`dt` is 0, `frames` 3, `pairs` None; expected positive"):
        all_to_all(square, GRID, 0, frames=3)
    with pytest.raises(ValueError, match="`differences` is 'backward'; expected one of"):
        tendency(square, GRID, 0.1, differences="backward")
    with pytest.raises(ValueError, match="`dt` is -1; expected the positive time"):
        tendencies(windows[0], -1, "central")
    with pytest.raises(ValueError, match="`u` has 4 states; 'richardson' differences need 5"):
        tendencies(windows[0, :4], 0.1, "richardson")
    with pytest.raises(ValueError, match=r"`method` is 'rk2'; expected one of .* or Diffrax's"):
        TendencyStep(Step(), 0.1, "rk2")
    with pytest.raises(ValueError, match="`query` differs from `domain`"):
        TendencyStep(Step(), 0.1, "rk4")(u, GRID, Grid(4))
    with pytest.raises(ValueError, match=r"`steps` is 0, `least` 0\.00063, `scale` 1\.0"):
        Refiner(Step(), steps=0)
    with pytest.raises(ValueError, match="`key` is missing; refinement draws noise"):
        Refiner(Step())(u, GRID)
    with pytest.raises(ValueError, match="`model` is a Step; `denoising` trains a `Refiner`"):
        denoising(GRID)(Step(), windows, key=KEY, carry=None)
    for make in (lambda: diverted(square, GRID, COARSE, steps=0), lambda: label_free(square, GRID, steps=0)):
        with pytest.raises(ValueError, match="`steps` is 0; expected 1 or more"):
            make()


@pytest.mark.dtype
def test_steps_stay_in_float32():
    u, op = jnp.asarray(WINDOWS[0, 0], jnp.float32), Step(dtype=jnp.float32)
    wide = Step(2, 1, dtype=jnp.float32)
    for step in (TendencyStep(op, 0.1, "rk4"), Refiner(wide), Boosted(op, wide), Corrected(jnp.sin, op)):
        with jax.numpy_dtype_promotion("strict"):
            out = jax.eval_shape(lambda step=step: step(u, GRID, key=KEY))
        assert out.dtype == jnp.float32
    with jax.numpy_dtype_promotion("strict"):
        later = jax.eval_shape(lambda: rollout(AdamsBashforth(op, GRID, 0.1), 2)(u).states)
    assert later.dtype == lead_args(jnp.float32(0.1), jnp.ones(2, jnp.float32)).dtype == jnp.float32
