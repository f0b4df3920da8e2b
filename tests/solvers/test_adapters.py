import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from solvers import ETDRK, Grid, VectorFieldSum, as_stepper, as_vector_field, rollout, spectral, vector_field
from solvers.equations import Burgers

LINE = Grid(32, 0.0, 2 * np.pi)
STATE = jnp.sin(LINE.coordinates()) + 0.3 * jnp.cos(2 * LINE.coordinates())


class Diffusion(eqx.Module):
    """The operator `u -> nu u_xx`."""

    nu: Array

    def __call__(self, u, domain, query=None, *, args=None, key=None):
        return self.nu * (1.0 if args is None else args) * spectral.laplacian(u, domain)


def solve(f, u, args=None):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(f), diffrax.Tsit5(), 0.0, 0.5, 0.01, u, args,
        stepsize_controller=diffrax.PIDController(rtol=1e-9, atol=1e-9), max_steps=512,
    ).ys[0]  # fmt: skip


def test_an_operator_is_a_vector_field_by_the_method_of_lines():
    found = jax.jit(lambda u, a: solve(as_vector_field(Diffusion(jnp.array(0.2)), LINE), u, a))(STATE, jnp.array(3.0))
    x = LINE.coordinates()
    exact = np.exp(-0.3) * np.sin(x) + 0.3 * np.exp(-1.2) * np.cos(2 * x)
    np.testing.assert_allclose(found, exact, atol=1e-8)


def test_an_equation_and_a_closure_make_the_whole_equation_and_the_closure_gets_its_gradient():
    def split(nu):
        return VectorFieldSum(vector_field(Burgers(0.0), LINE), as_vector_field(Diffusion(nu), LINE))

    # the wavenumbers that dealiasing drops have no diffusion in the equation, so they must be empty
    def loss(f):
        u = STATE + 0.02 * f(0.0, STATE, None)
        u = u + 0.02 * f(0.02, u, None)
        return jnp.sum(spectral.resample(u, LINE, LINE.resized(15)) ** 3)

    whole, parts = (lambda nu: loss(vector_field(Burgers(nu), LINE))), (lambda nu: loss(split(nu)))
    run = jax.jit(lambda nu: (jax.value_and_grad(whole)(nu), jax.value_and_grad(parts)(nu)))
    np.testing.assert_allclose(*run(jnp.array(0.3)), rtol=1e-12)


def test_an_operator_is_a_stepper_in_rollouts():
    etd = ETDRK(Burgers(0.1), LINE, 0.01)
    step = as_stepper(lambda u, domain, query=None, *, args=None, key=None: etd(u), LINE)
    own, theirs = jax.jit(lambda u: (rollout(step, 5)(u).states, rollout(etd, 5)(u).states))(STATE)
    np.testing.assert_allclose(own, theirs, atol=1e-13)


def test_a_stepper_hands_on_its_args_and_the_key_of_the_step(key):
    noisy = lambda u, domain, query=None, *, args=None, key=None: u + args * jax.random.normal(key, u.shape)
    states = jax.jit(lambda u: rollout(as_stepper(noisy, LINE, jnp.array(2.0)), 2)(u, key=key).states)(STATE)
    second = 2.0 * jax.random.normal(jax.random.fold_in(key, 1), STATE.shape)
    np.testing.assert_allclose(states[1] - states[0], second, atol=1e-14)


@pytest.mark.dtype
def test_precision_follows_the_state():
    f = VectorFieldSum(vector_field(Burgers(0.1), LINE), as_vector_field(lambda u, domain, **_: -u, LINE))
    assert jax.eval_shape(f, 0.0, STATE.astype("float32")).dtype == np.float32


@pytest.mark.plain
def test_errors_name_the_argument():
    grows = as_vector_field(lambda u, domain, **_: jnp.concatenate([u, u]), LINE)
    with pytest.raises(ValueError, match=r"`op` makes float32 \(2, 32\) of float32 \(1, 32\)"):
        grows(0.0, STATE)
    with pytest.raises(ValueError, match="`op` makes float16"):
        as_stepper(lambda u, domain, **_: u.astype("float16"), LINE)(STATE)
    with pytest.raises(ValueError, match="`summands` is empty"):
        VectorFieldSum()
