import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.equations import Burgers, KleinGordon, PhiFour, SineGordon
from solvers.grid import Grid
from solvers.symplectic import _SCHEMES, Symplectic

OMEGA = 0.5
LINE = Grid(256, -30.0, 30.0)


def breather(t):
    """The breather of sine-Gordon of frequency 1/2 and its velocity, largest at `t = 0`."""
    width = np.sqrt(1 - OMEGA**2)
    g = width / OMEGA / np.cosh(width * np.linspace(-30, 30, 256, endpoint=False))
    c, s = np.cos(OMEGA * t), np.sin(OMEGA * t)
    return jnp.stack([4 * np.arctan(g * c), -4 * OMEGA * g * s / (1 + (g * c) ** 2)])


def run(stepper, u, steps):
    return stepper.decode(jax.lax.fori_loop(0, steps, lambda _, v: stepper.advance(v), stepper.encode(u)))


def energies(stepper, u, samples, every):
    """The energy at every `every`-th step."""

    def block(v, _):
        v = jax.lax.fori_loop(0, every, lambda _, v: stepper.advance(v), v)
        return v, SineGordon().energy(LINE, stepper.decode(v))

    return np.asarray(jax.jit(lambda u: jax.lax.scan(block, stepper.encode(u), None, length=samples)[1])(u))


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize(("order", "steps"), [(2, 250), (4, 80)])
def test_the_order_is_reached_on_the_breather(order, steps):
    # The breather's tail at the ends of the box leaves 1e-10 of error; the order-4 errors are above 1e-8.
    solve = jax.jit(lambda dt, n: run(Symplectic(SineGordon(), LINE, dt, order=order), breather(0.0), n))
    errors = [relative(solve(20.0 / n, n)[0], breather(20.0)[0]) for n in (steps, 2 * steps, 4 * steps)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(orders[-1], order, atol=0.1 if order == 2 else 0.2)


def test_the_breather_after_two_hundred_time_units():
    # Velocity-Verlet with 256 points and dt = 0.05 has a relative error of about 6e-4 (in a box of 40 to 80).
    u = jax.jit(lambda u: run(Symplectic(SineGordon(), LINE, 0.05, order=2), u, 4000))(breather(0.0))
    assert relative(u[0], breather(200.0)[0]) < 7e-4


@pytest.mark.parametrize("order", [2, 4])
def test_energy_oscillates_and_does_not_drift(order):
    drift(order, samples=200, every=50)


@pytest.mark.slow
@pytest.mark.parametrize("order", [2, 4])
def test_energy_does_not_drift_over_a_hundred_thousand_steps(order):
    drift(order, samples=2000, every=50)


def drift(order, samples, every):
    """The largest errors of the first and the last third agree, and so the trend over the run is small beside them."""
    start = SineGordon().energy(LINE, breather(0.0))
    error = energies(Symplectic(SineGordon(), LINE, 0.1, order=order), breather(0.0), samples, every) / start - 1
    amplitude = np.abs(error).max()
    assert amplitude < {2: 2.2e-3, 4: 5e-9}[order]
    slope = np.polyfit(np.linspace(0, 1, samples), error, 1)[0]
    assert abs(slope) < 0.1 * amplitude


@pytest.mark.parametrize("order", [2, 4])
def test_a_run_backwards_returns(order):
    forth, back = (Symplectic(PhiFour(), LINE, dt, order=order) for dt in (0.05, -0.05))
    u = breather(3.0)
    u = forth.decode(forth.encode(u))
    again = jax.jit(lambda u: run(back, run(forth, u, 200), 200))(u)
    np.testing.assert_allclose(again, u, atol=1e-11)


@pytest.mark.parametrize("order", [2, 4])
def test_an_oscillator_is_bounded_up_to_the_limit_and_no_further(order):
    kicks, drifts, limit = _SCHEMES[order]

    def growth(x):
        step = np.eye(2)
        for i, b in enumerate(kicks):
            step = np.array([[1, 0], [-b * x, 1]]) @ step
            if i < len(drifts):
                step = np.array([[1, drifts[i] * x], [0, 1]]) @ step
        return np.abs(np.linalg.eigvals(step)).max()

    assert max(growth(x) for x in np.linspace(0.01, limit, 500, endpoint=False)) < 1 + 1e-6
    assert growth(1.0005 * limit) > 1.001


def test_a_plane_wave_has_the_frequency_of_its_equation():
    grid = Grid((12, 16), 0.0, 2 * np.pi)
    x, y = grid.coordinates()
    phase, frequency = 2 * x - y, np.sqrt(4 * 5 + 9)
    stepper = Symplectic(KleinGordon(2.0, 3.0), grid, 0.01)
    u = run(stepper, jnp.stack([jnp.cos(phase), frequency * jnp.sin(phase)]), 100)
    np.testing.assert_allclose(u[0], jnp.cos(phase - frequency), atol=1e-8)


def test_gradients_in_the_state_and_a_coefficient_are_central_differences():
    grid = Grid(32, 0.0, 2 * np.pi)
    x = grid.axes()[0]

    @jax.jit
    def value(mass, size):
        u = size * jnp.stack([jnp.cos(x), 0.5 * jnp.sin(2 * x)])
        stepper = Symplectic(SineGordon(1.0, mass), grid, 0.05)
        v = jax.lax.scan(lambda v, _: (stepper.advance(v), None), stepper.encode(u), None, length=20)[0]
        return jnp.sum(stepper.decode(v)[0] ** 3 + stepper.decode(v)[1] ** 2)

    gradients = jax.jit(jax.grad(value, (0, 1)))(1.5, 2.0)
    h = 1e-5
    slopes = [
        (value(1.5 + h, 2.0) - value(1.5 - h, 2.0)) / (2 * h),
        (value(1.5, 2.0 + h) - value(1.5, 2.0 - h)) / (2 * h),
    ]
    np.testing.assert_allclose(gradients, slopes, rtol=1e-7)


@pytest.mark.dtype
def test_the_state_keeps_its_precision():
    for dtype in (jnp.float32, jnp.result_type(float)):
        assert jax.eval_shape(Symplectic(SineGordon(), LINE, 0.1), breather(0.0).astype(dtype)).dtype == dtype


@pytest.mark.plain
def test_a_step_beyond_the_stability_bound_is_refused():
    equation = SineGordon()
    # The highest frequency is sqrt(1 + (2 pi 128 / 60)^2) = 13.44.
    with pytest.raises(ValueError, match=r"`dt` is 0.15; frequencies reach 13.44 .* = 0.1488"):
        Symplectic(equation, LINE, 0.15, order=2)
    with pytest.raises(ValueError, match=r"`dt` is 0.24; .* = 0.2354"):
        jax.jit(lambda u: Symplectic(equation, LINE, 0.24)(u))(breather(0.0))
    Symplectic(equation, LINE, 0.148, order=2)
    Symplectic(equation, LINE, 0.235)


@pytest.mark.plain
def test_other_equations_orders_and_steps_are_refused():
    with pytest.raises(ValueError, match=r"`equation` is Burgers; a symplectic stepper is for u_tt"):
        Symplectic(Burgers(0.1), LINE, 0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`order` is 3"):
        Symplectic(SineGordon(), LINE, 0.1, order=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`dt` is 0.0; expected a finite step, not zero"):
        Symplectic(SineGordon(), LINE, 0.0)
    with pytest.raises(ValueError, match=r"`u` has shape \(1, 256\); SineGordon has states \(2, 256\)"):
        Symplectic(SineGordon(), LINE, 0.1)(jnp.zeros((1, 256)))
