"""Trajectories, their memory, and what is said when they blow up."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers import Grid
from solvers.equations.equation import Equation
from solvers.exponential import ETDRK
from solvers.rollout import TransformStepper, repeat, rollout

GRID = Grid(32, upper=2 * np.pi)
U = jnp.sin(GRID.coordinates()) + 0.3 * jnp.cos(3 * GRID.coordinates() + 1)


class Burgers(Equation):
    nu: float
    degree = 2

    def channels(self, ndim):
        return 1

    def linear(self, space):
        return self.nu * space.laplacian

    def nonlinear(self, space, u_hat, t):
        return -0.5 * space.derivative(0) * space.from_points(space.to_points(u_hat) ** 2)


class Pulsed(Equation):
    """`du/dt = cos t`."""

    degree = 2

    def channels(self, ndim):
        return 1

    def linear(self, space):
        return 0 * space.laplacian

    def nonlinear(self, space, u_hat, t):
        return jnp.zeros_like(u_hat).at[:, 0].set(jnp.cos(t) * space.grid.shape[0])


class Kicked(eqx.Module):
    """A random walk that keeps a transform, `2 u` in a PyTree, and knows the time."""

    dt: float = 0.5

    def encode(self, u):
        return {"twice": 2 * u}

    def advance(self, v, t, *, key):
        return {"twice": v["twice"] + jax.random.normal(key, U.shape, U.dtype) + 100 * t}

    def decode(self, v):
        return v["twice"] / 2


def step_by_step(stepper, u, steps):
    states = [u]
    for _ in range(steps):
        states.append(stepper(states[-1]))
    return jnp.stack(states)


@pytest.mark.dtype
def test_a_rollout_is_the_steps_taken_one_by_one():
    stepper = ETDRK(Burgers(0.1), GRID, 0.02)
    assert isinstance(stepper, TransformStepper)
    u = stepper.decode(stepper.encode(U))
    reference = step_by_step(jax.jit(lambda u: stepper(u)), u, 14)
    tolerance = 200 * float(jnp.finfo(U.dtype).eps)

    run = jax.jit(rollout(stepper, 12, every=3, warm_up=2, include_initial=True))(U)
    np.testing.assert_allclose(run.states, reference[2::3], atol=tolerance)
    assert run.states.dtype == U.dtype
    assert run.blow_up == -1
    assert run.finite
    np.testing.assert_allclose(jax.jit(repeat(stepper, 14))(U), reference[14], atol=tolerance)
    np.testing.assert_allclose(repeat(stepper, 0)(U), u, atol=tolerance)


def test_any_function_of_a_state_is_a_stepper():
    run = rollout(lambda u: 0.5 * u + 1, 6, every=2)(U)
    np.testing.assert_allclose(run.states, jnp.stack([2 + 0.5**n * (U - 2) for n in (2, 4, 6)]), atol=1e-14)
    twice = repeat(lambda u: 0.5 * u + 1, 2)
    np.testing.assert_allclose(rollout(twice, 3)(U).states, run.states, atol=1e-14)


def test_time_dependent_equations_see_the_time():
    dt, t0 = 0.1, 0.7
    stepper = ETDRK(Pulsed(), GRID, dt)
    run = rollout(stepper, 20, warm_up=5)(0 * U, t0=t0)
    t = t0 + dt * np.arange(6, 26)
    np.testing.assert_allclose(run.states.mean((1, 2)), np.sin(t) - np.sin(t0), atol=1e-7)


def test_each_step_has_the_key_of_its_number(key):
    run = rollout(Kicked(), 4, every=2, warm_up=1)(U, t0=3.0, key=key)
    noise = [jax.random.normal(jax.random.fold_in(key, i), U.shape) + 100 * (3 + 0.5 * i) for i in range(5)]
    np.testing.assert_allclose(run.states, [U + sum(noise[:3]) / 2, U + sum(noise) / 2], rtol=1e-14)
    np.testing.assert_allclose(repeat(Kicked(), 5)(U, t0=3.0, key=key), run.states[1], rtol=1e-14)


def test_a_blow_up_names_step_and_sample():
    step = lambda u: jnp.where(u > 0, u, jnp.inf) - 1  # infinite at the first state that is not positive, then finite
    starts = jnp.full((4, 1, 3), 100.0).at[1, 0, 2].set(2.0).at[2, 0, 0].set(jnp.nan).at[3, 0, 1].set(5.0)
    run = jax.vmap(rollout(step, 4, every=2, warm_up=3))(starts)
    np.testing.assert_array_equal(run.blow_up, [-1, 3, 0, 6])
    np.testing.assert_array_equal(run.finite, [True, False, False, False])
    single = jax.jit(rollout(ETDRK(Burgers(1e-6), GRID, 5.0), 50, every=50))(1e3 * U)
    assert 0 < single.blow_up <= 50


@pytest.fixture(scope="module", params=["repeat", "rollout"])
def gradients(request):
    """In the initial state and the coefficient, without rematerialisation and with."""

    def loss(u, nu, remat):
        stepper = ETDRK(Burgers(nu), GRID, 0.02, order=1)
        if request.param == "repeat":
            return jnp.sum(repeat(stepper, 40, remat=remat)(u) ** 3)
        return jnp.sum(rollout(stepper, 40, every=20, remat=remat)(u).states ** 3)

    return [
        jax.jit(jax.value_and_grad(lambda u, nu, remat=remat: loss(u, nu, remat), (0, 1))) for remat in (False, True)
    ]


def test_gradients_are_the_same_with_rematerialisation_and_those_of_differences(gradients):
    without, with_remat = gradients
    value, (du, dnu) = without(U, 0.1)
    value_again, (du_again, dnu_again) = with_remat(U, 0.1)
    np.testing.assert_allclose(value, value_again, rtol=1e-13)
    np.testing.assert_allclose(du, du_again, atol=1e-12)
    np.testing.assert_allclose(dnu, dnu_again, rtol=1e-11)
    f, h = (lambda u, nu: with_remat(u, nu)[0]), 1e-6
    np.testing.assert_allclose(dnu, (f(U, 0.1 + h) - f(U, 0.1 - h)) / (2 * h), rtol=1e-6)
    direction = jnp.cos(2 * GRID.coordinates())
    slope = (f(U + h * direction, 0.1) - f(U - h * direction, 0.1)) / (2 * h)
    np.testing.assert_allclose(jnp.sum(du * direction), slope, rtol=1e-6)


@pytest.mark.parametrize("run", [repeat, lambda *args, **kw: rollout(*args, **kw, every=args[1])])
def test_memory_of_a_gradient_grows_as_the_square_root_of_the_steps(run):
    def memory(steps, remat):
        loss = lambda u: jnp.sum(jax.tree.leaves(run(lambda u: u + 0.01 * jnp.sin(u), steps, remat=remat)(u))[0])
        return jax.jit(jax.grad(loss)).lower(jnp.tile(U, 32)).compile().memory_analysis().temp_size_in_bytes

    assert memory(1600, False) > 12 * memory(100, False)
    assert memory(1600, True) < 5 * memory(100, True)
    assert memory(1600, True) < memory(1600, False) / 10


@pytest.mark.plain
def test_wrong_rollouts_are_errors():
    with pytest.raises(ValueError, match=r"`steps` is 10, `every` 3; expected positive numbers, `steps` a multiple"):
        rollout(lambda u: u, 10, every=3)
    with pytest.raises(ValueError, match=r"`warm_up` is -1; expected 0 or more"):
        rollout(lambda u: u, 10, warm_up=-1)
    with pytest.raises(ValueError, match=r"`steps` is -2; expected 0 or more"):
        repeat(lambda u: u, -2)
    with pytest.raises(ValueError, match=r"`stepper` makes float32 \(2, 32\) of float32 \(1, 32\); a step keeps shape"):
        rollout(lambda u: jnp.concatenate([u, u]), 3)(U)
    with pytest.raises(ValueError, match=r"`stepper` makes bfloat16 \(1, 32\) of float32"):
        repeat(lambda u: u.astype(jnp.bfloat16), 3)(U)
