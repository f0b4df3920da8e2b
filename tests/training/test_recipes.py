"""Recipes against plainly written loops: values, gradients, and where the gradient ends."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from opkit.operators import FNO
from opkit.training import (
    Term,
    curriculum,
    fit,
    init_state,
    make_train_step,
    noisy,
    one_step,
    pushforward,
    relative_l2,
    tanh_share,
    total,
    unroll,
    unrolled,
    weighted,
)
from solvers import Grid, as_stepper, rollout

from .recipe_cases import RNG, WINDOWS, Step, assert_equal, plain, square, value_and_gradient

GRID = Grid(8)
KEY = jax.random.key(0)
cut = jax.lax.stop_gradient


def loop(windows, steps, *, cut_every=None, own=None):
    """The mean over samples and steps of the squared error; steps from `own` on enter from the data."""

    def loss(model):
        losses = []
        for window in windows:
            v = window[0]
            for i in range(steps):
                if own is not None:
                    v = jnp.where(i >= own, window[i], v)
                if cut_every is not None and i and i % cut_every == 0:
                    v = cut(v)
                v = model(v, GRID)
                losses.append(jnp.mean((v - window[i + 1]) ** 2))
        return sum(losses) / len(losses)

    return loss


UNROLLED = {every: unrolled(square, GRID, steps=4, cut_every=every, remat=every == 2) for every in (None, 1, 2)}


@pytest.mark.parametrize("cut_every", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_unrolled_is_the_plain_loop_and_so_is_its_gradient(cut_every):
    found = value_and_gradient(UNROLLED[cut_every], Step(), WINDOWS[:2, :5], KEY)
    assert_equal(found, plain(loop(WINDOWS[:2], 4, cut_every=cut_every), Step()))


def test_a_cut_gradient_is_that_of_steps_from_fixed_states():
    model, windows, h = Step(), WINDOWS[:2, :5], 1e-6

    def loss(b, fixed):
        moved = eqx.tree_at(lambda m: m.b, model, b)
        states = lambda m: jax.vmap(lambda u: unroll(m, u[:1], GRID, steps=4))(jnp.asarray(windows))
        entered = jnp.concatenate([windows[:, :1], states(model)[:, :-1]], 1)
        return square(jax.vmap(jax.vmap(moved))(entered) if fixed else states(moved), windows[:, 1:], GRID)

    loss = jax.jit(loss, static_argnums=1)
    slope = lambda fixed: (loss(model.b + h, fixed) - loss(model.b - h, fixed)) / (2 * h)
    for every, fixed in ((1, True), (None, False)):
        gradient = value_and_gradient(UNROLLED[every], model, windows, KEY)[1]
        np.testing.assert_allclose(gradient.b.item(), slope(fixed), rtol=1e-7)
    assert abs(slope(True) - slope(False)) > 1e-2


def test_pushforward_without_steps_is_one_step():
    objectives = pushforward(square, GRID, steps=0), one_step(square, GRID)
    run = lambda: [
        total(objective(Step(), jnp.asarray(WINDOWS[:, :2]), key=KEY, carry=None)[0]) for objective in objectives
    ]
    np.testing.assert_allclose(*jax.jit(run)(), rtol=1e-14)


def pushed(window, n):
    """The loss of the step after `n` steps without gradient."""

    def loss(model):
        v = window[0]
        for _ in range(n):
            v = model(v, GRID)
        return jnp.mean((model(cut(v), GRID) - window[n + 1]) ** 2)

    return loss


def test_pushforward_takes_the_gradient_of_the_last_step_alone_up_to_its_cap():
    objective, batch = pushforward(square, GRID, steps=2, cap=lambda step: step // 10), WINDOWS[:2, :4]
    mean = lambda n: lambda model: sum(pushed(window, n)(model) for window in batch) / 2
    candidates = jax.jit(lambda model: [jax.value_and_grad(mean(n))(model) for n in range(3)])(Step())

    def seen(carry):
        lengths = set()
        for seed in range(8):
            found = value_and_gradient(objective, Step(), batch, jax.random.key(seed), jnp.int32(carry))
            n = int(np.argmin([abs(found[0] - value) for value, _ in candidates]))
            assert_equal(found, candidates[n])
            assert found[2] == carry + 1
            lengths.add(n)
        return lengths

    assert seen(99) == {0, 1, 2}
    assert seen(19) == {0, 1}
    assert seen(9) == {0}


PUSHED = pushforward(square, GRID, steps=2)
PUSHED_EACH = pushforward(square, GRID, steps=2, draw="sample")


@pytest.mark.slow
def test_pushforward_draws_a_length_for_each_sample_where_asked():
    windows = jnp.asarray(np.tile(WINDOWS[:1, :4], (200, 1, 1, 1)))
    terms, _, _ = jax.jit(lambda key: PUSHED_EACH(Step(), windows, key=key, carry=None))(KEY)
    values = [float(pushed(WINDOWS[0], n)(Step())) for n in range(3)]
    nearest = np.argmin(np.abs(np.asarray(terms["data"].values) - np.array(values)), 1)
    np.testing.assert_allclose(terms["data"].values[:, 0], np.take(values, nearest), rtol=1e-12)
    assert np.all(np.bincount(nearest) > 40)


def test_a_curriculum_goes_from_teacher_forcing_to_unrolled():
    objective = curriculum(square, GRID, steps=3, share=lambda step: step / 40)
    expected = jax.jit(lambda own: jax.value_and_grad(loop(WINDOWS[:1], 3, own=own))(Step()))
    for step, own in ((0, 0), (20, 2), (40, 3)):
        found = value_and_gradient(objective, Step(), WINDOWS[:1, :4], KEY, jnp.int32(step))
        assert_equal(found, expected(own))
        assert found[2] == step + 1


def test_the_share_is_the_published_one():
    share = tanh_share(1000)
    np.testing.assert_allclose([share(s) for s in (0, 500, 700)], [0.0066929, 0.5, 0.8807971], atol=1e-6)


def test_a_bundle_of_states_is_predicted_from_the_last_frames():
    model, frames, bundle = Step(2, 3), 2, 3
    windows = 0.5 * RNG.normal(size=(1, 8, 1, 8))

    def expected(model):
        losses = []
        for window in windows:
            history = [window[0], window[1]]
            for _ in range(2):
                history += list(model(jnp.concatenate(history[-frames:]), GRID)[:, None])
            losses += [jnp.mean((v - y) ** 2) for v, y in zip(history[2:], window[2:], strict=True)]
        return sum(losses) / len(losses)

    objective = unrolled(square, GRID, steps=2, frames=frames, bundle=bundle)
    assert_equal(value_and_gradient(objective, model, windows, KEY), plain(expected, model))
    states = jax.eval_shape(lambda: unroll(model, jnp.asarray(windows[0, :2]), GRID, steps=2, bundle=bundle))
    assert states.shape == (6, 1, 8)
    last = pushforward(square, GRID, steps=1, frames=frames, bundle=bundle)
    terms, _, _ = jax.eval_shape(lambda: last(model, jnp.asarray(windows), key=KEY, carry=None))
    assert terms["data"].values.shape == (1, 3)


@pytest.mark.slow
def test_unroll_is_the_rollout_of_the_stepper():
    states = rollout(as_stepper(Step(), GRID), 5)(jnp.asarray(WINDOWS[0, 0])).states
    np.testing.assert_allclose(unroll(Step(), jnp.asarray(WINDOWS[0, :1]), GRID, steps=5), states, rtol=1e-12)


@pytest.mark.slow
def test_windows_are_cut_from_longer_trajectories_anywhere():
    windows = jnp.asarray(np.tile(WINDOWS[:1], (100, 1, 1, 1)))
    terms, _, _ = jax.jit(lambda key: one_step(square, GRID)(Step(), (windows,), key=key, carry=None))(KEY)
    values = jax.jit(jax.vmap(lambda u, v: square(Step()(u), v, GRID)))(WINDOWS[0, :5], WINDOWS[0, 1:])
    nearest = np.argmin(np.abs(np.asarray(terms["data"].values) - values), 1)
    np.testing.assert_allclose(terms["data"].values[:, 0], values[nearest], rtol=1e-12)
    assert np.all(np.bincount(nearest, minlength=5) > 5)


@pytest.mark.slow
def test_parameters_of_a_trajectory_reach_each_step():
    args = jnp.asarray(RNG.normal(size=(2, 1)))
    shifted = lambda model: sum(
        loop(window[None], 2)(lambda v, grid, a=a: model(v, args=a)) for window, a in zip(WINDOWS, args, strict=False)
    )
    expected = plain(lambda model: shifted(model) / 2, Step())
    found = value_and_gradient(unrolled(square, None, steps=2), Step(), (WINDOWS[:2, :3], args), KEY)
    assert_equal(found, expected)


@pytest.mark.slow
def test_noise_is_fresh_at_every_input_and_not_in_the_targets():
    still = lambda u, domain, query=None, *, args=None, key=None: u
    objective = noisy(unrolled(square, GRID, steps=2), 0.3)
    terms, _, _ = jax.jit(lambda: objective(still, jnp.zeros((2, 3, 1, 4096)), key=KEY, carry=None))()
    np.testing.assert_allclose(terms["data"].values / 0.09, [[1, 2], [1, 2]], rtol=0.1)
    assert len(np.unique(terms["data"].values)) == 4


class Counted:
    """An objective that reports its carry, and a `prepare` that adds one."""

    def prepare(self, model, batch, *, key, carry):
        return carry + 1

    def __call__(self, model, batch, *, key, carry):
        return {"data": Term(jnp.asarray([carry, 3.0]), "losses", weight=2.0)}, {"carry": jnp.asarray(carry)}, carry


def test_weighted_objectives_add_up_and_keep_their_own_carry():
    constant = lambda model, batch, *, key, carry: ({"data": Term(jnp.ones(3), "losses")}, {}, carry)
    both = weighted({"a": (0.5, constant), "b": (3.0, Counted())})
    carry = both.prepare(None, None, key=KEY, carry={"a": None, "b": 4.0})
    terms, metrics, carry = both(None, None, key=KEY, carry=carry)
    assert list(terms) == ["a/data", "b/data"]
    assert metrics == {"b/carry": 5}
    assert carry == {"a": None, "b": 5}
    assert not terms["b/data"].whole
    np.testing.assert_allclose(total(terms), 0.5 * 1 + 3 * 2 * (5 + 3) / 2)
    alone = weighted({"a": (0.5, constant)})
    assert alone(None, None, key=KEY, carry=None)[2] is None
    assert not hasattr(alone, "prepare")


@pytest.mark.slow
def test_a_batch_in_parts_trains_as_the_whole():
    objective = weighted({"a": (1.0, noisy(PUSHED, 0.1)), "b": (0.5, PUSHED_EACH)})
    states = []
    for micro_batches in (1, 3):
        optimiser = optax.sgd(0.1)
        step = jax.jit(make_train_step(objective, optimiser, micro_batches=micro_batches))
        states.append(step(init_state(Step(), optimiser), jnp.asarray(WINDOWS), key=KEY)[0].model)
    np.testing.assert_allclose(states[0].a, states[1].a, rtol=1e-12)


@pytest.mark.slow
def test_recipes_train_under_fit_from_whole_trajectories():
    x = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    phases = RNG.uniform(0, 2 * np.pi, size=(8, 1))
    data = np.stack([np.sin(x + phases + 0.5 * t) * 0.9**t for t in range(6)], 1)[:, :, None]
    objective = curriculum(relative_l2, GRID, steps=3, share=tanh_share(60))
    losses = []
    fit(
        objective, Step(), data, optax.adam(0.05),
        steps=60, batch_size=4, seed=0, carry=0, chunk=20, log=lambda step, figures: losses.append(figures["loss"]),
    )  # fmt: skip
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.dtype
def test_values_and_gradients_stay_in_float32():
    windows, grid = jnp.zeros((2, 4, 1, 4, 3, 4), jnp.float32), Grid((4, 3, 4))
    for objective in (
        unrolled(relative_l2, grid, steps=2, cut_every=1, remat=True),
        noisy(pushforward(relative_l2, grid, steps=1), 0.1),
        curriculum(relative_l2, grid, steps=2, share=tanh_share(10)),
    ):
        loss = lambda model, objective=objective: total(objective(model, windows, key=KEY, carry=jnp.int32(0))[0])
        with jax.numpy_dtype_promotion("strict"):
            value, gradient = jax.eval_shape(jax.value_and_grad(loss), Step(dtype=jnp.float32))
        assert value.dtype == gradient.a.dtype == jnp.float32


@pytest.mark.slow
def test_an_fno_with_parameters_unrolls_and_is_pushed_in_two_dimensions():
    op = FNO(2, 1, modes=(2, 2), width=4, depth=2, conditioning=2, key=KEY)
    windows, args = jnp.asarray(RNG.normal(size=(2, 6, 1, 8, 8))), jnp.asarray(RNG.normal(size=(2, 2)))
    grid = Grid((8, 8))
    for objective in (
        unrolled(relative_l2, grid, steps=3, frames=2, remat=True),
        pushforward(relative_l2, grid, steps=2, frames=2),
    ):
        value, gradient, _ = value_and_gradient(objective, op, (windows, args), KEY)
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(gradient.lift))


@pytest.mark.plain
def test_what_does_not_fit_together_is_an_error():
    run = lambda objective, windows=WINDOWS, model=None, carry=None: objective(
        model or Step(), jnp.asarray(windows), key=KEY, carry=carry
    )
    with pytest.raises(ValueError, match=r"`batch` has windows of 6 states; this recipe needs 7"):
        run(unrolled(square, GRID, steps=6))
    with pytest.raises(ValueError, match=r"`batch` has shape \(3, 1, 8\); expected windows"):
        run(one_step(square, GRID), WINDOWS[:, 0])
    for wrong in ({"steps": 0}, {"steps": 2, "cut_every": 0}, {"steps": 2, "bundle": 0}, {"steps": 2, "frames": 0}):
        with pytest.raises(ValueError, match="is 0; expected 1 or more"):
            unrolled(square, GRID, **wrong)
    with pytest.raises(ValueError, match="`steps` is -1; expected 0 or more"):
        pushforward(square, GRID, steps=-1)
    with pytest.raises(ValueError, match="`draw` is 'each'; expected 'batch' or 'sample'"):
        pushforward(square, GRID, steps=1, draw="each")
    with pytest.raises(ValueError, match=r"`carry` is None; .* pass `carry=0`"):
        run(curriculum(square, GRID, steps=2, share=tanh_share(3)))
    with pytest.raises(ValueError, match="`carry` is None"):
        run(pushforward(square, GRID, steps=2, cap=lambda step: 1))
    with pytest.raises(ValueError, match=r"`model` makes float32 \(2, 8\) of float32 \(1, 8\); expected .* \(1, 8\)"):
        run(one_step(square, GRID), model=Step(1, 2))
    with pytest.raises(ValueError, match="`key` is missing; noise needs one"):
        run(noisy(one_step(square, None), 0.1))
    with pytest.raises(ValueError, match="`scale` is -1; expected the deviation"):
        noisy(one_step(square, GRID), -1)
    with pytest.raises(ValueError, match="`parts` is empty"):
        weighted({})
    with pytest.raises(ValueError, match="`over` is 0"):
        tanh_share(0)
    with pytest.raises(ValueError, match="`steps` is 0, `bundle` 1; expected 1 or more"):
        unroll(Step(), jnp.asarray(WINDOWS[0, :1]), GRID, steps=0)
