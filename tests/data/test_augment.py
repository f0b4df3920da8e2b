"""Symmetries: every transformation keeps the residual of every equation, and a wrong one does not."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from opkit.data import (
    LAWS,
    Amplitudes,
    Boosts,
    Lifts,
    Phases,
    Rescalings,
    Translations,
    Turns,
    Window,
    augment,
    augmentation,
    boost,
    change_units,
    lift,
    symmetries_of,
    translate,
    turn,
    turn_phase,
)
from opkit.training import PartKey, augmented, fit, one_step
from solvers import ETDRK, Grid, Symmetry, gaussian_random_field, rollout, symmetries, vector_field
from solvers import equations as eqs

LINE = Grid(24, lower=0.5, upper=2.0)
SQUARE = Grid((12, 12), lower=(0.0, -1.0), upper=(2.0, 1.0))
CUBE = Grid((9, 9, 9))


def wave(grid, *modes):
    """A fixed smooth field `(*n)`."""
    return sum(
        jnp.sin(2 * np.pi * (k + 1) * (x - low) / length + k)
        for k, x, low, length in zip(modes, grid.coordinates(), grid.lower, grid.extent, strict=True)
    )


CASES = {
    "advection": (eqs.Advection(0.7), LINE),
    "advection 2-D": (eqs.Advection([0.7, -0.3]), SQUARE),
    "diffusion": (eqs.Diffusion(0.1), SQUARE),
    "diffusion by axis": (eqs.Diffusion([0.1, 0.3]), SQUARE),
    "diffusion tensor": (eqs.Diffusion([[0.2, 0.1], [0.1, 0.3]]), SQUARE),
    "advection-diffusion": (eqs.AdvectionDiffusion([0.3, 0.1], [0.1, 0.3]), SQUARE),
    "dispersion": (eqs.Dispersion([0.01, 0.02]), SQUARE),
    "hyper-diffusion": (eqs.HyperDiffusion(0.01, 3), LINE),
    "variable transport": (
        eqs.VariableTransport(
            2 + wave(SQUARE, 0, 0), jnp.stack([wave(SQUARE, 0, 1), wave(SQUARE, 1, 0)]), None, wave(SQUARE, 1, 1)
        ),
        SQUARE,
    ),
    "reaction": (eqs.VariableTransport(0.3, None, wave(LINE, 1), None), LINE),
    "Burgers": (eqs.Burgers(0.05), LINE),
    "Burgers 2-D": (eqs.Burgers(0.05), SQUARE),
    "Burgers conservative": (eqs.Burgers(0.05, conservative=True), SQUARE),
    "KdV": (eqs.KortewegDeVries(2.0, 0.01), LINE),
    "Burgers-Fisher": (eqs.BurgersFisher(0.3, 0.7, 0.05, 1.2), LINE),
    "KS": (eqs.KuramotoSivashinsky(1.3, 0.1, 0.02), LINE),
    "front": (eqs.KuramotoSivashinskyFront(1.3, 0.1, 0.02), SQUARE),
    "Navier-Stokes": (eqs.NavierStokes2D(0.01, 0.1), SQUARE),
    "forced": (eqs.NavierStokes2D(0.01, forcing=wave(SQUARE, 1, 0)[None], mean_velocity=[0.2, 0.1]), SQUARE),
    "Kolmogorov": (eqs.NavierStokes2D(0.01, 0.1, forcing=eqs.KolmogorovForcing(0.6, 2)), SQUARE),
    "Navier-Stokes 3-D": (eqs.NavierStokes3D(0.01), CUBE),
    "forced 3-D": (eqs.NavierStokes3D(0.01, 0.1, forcing=jnp.stack([wave(CUBE, 0, 1, j) for j in range(3)])), CUBE),
    "Fisher": (eqs.FisherKPP(0.1, 1.3), SQUARE),
    "Allen-Cahn": (eqs.AllenCahn(0.1, 1.3, 0.8), LINE),
    "Cahn-Hilliard": (eqs.CahnHilliard(0.1, 0.03), SQUARE),
    "Swift-Hohenberg": (eqs.SwiftHohenberg(0.3, 1.1), SQUARE),
    "Swift-Hohenberg hexagons": (eqs.SwiftHohenberg(0.3, 1.1, 0.5), LINE),
    "Schroedinger": (eqs.NonlinearSchroedinger(0.4, 1.2), LINE),
    "Gross-Pitaevskii": (eqs.NonlinearSchroedinger(0.4, 1.2, wave(SQUARE, 1, 0)), SQUARE),
    "Ginzburg-Landau": (eqs.ComplexGinzburgLandau(1.1, 0.4, -0.7), SQUARE),
    "Gray-Scott": (eqs.GrayScott(0.1, 0.05, 0.04, 0.06), SQUARE),
    "FitzHugh-Nagumo": (eqs.FitzHughNagumo(0.1, 0.05, 0.3, 0.9, 0.5, 0.2, 0.8), SQUARE),
    "shallow water": (eqs.ShallowWater(1.2, 0.9, 0.0, 0.01, 0.02), SQUARE),
    "rotating": (eqs.ShallowWater(1.2, 0.9, 0.5, 0.01, 0.02), SQUARE),
    "wave": (eqs.Wave(1.2), SQUARE),
    "Klein-Gordon": (eqs.KleinGordon(1.2, 0.8), LINE),
    "phi^4": (eqs.PhiFour(1.2, 0.8, 0.6), LINE),
    "sine-Gordon": (eqs.SineGordon(1.2, 0.8), LINE),
}
DEFAULT = {"Burgers", "Kolmogorov"}
ALL = [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow) for name in CASES]


@functools.lru_cache
def window(name):
    """Two states of the wavenumbers that products of three keep, at the times 0.3 and 0.7: each is on a trajectory."""
    equation, grid = CASES[name]
    channels = equation.channels(grid.ndim) * (1 if equation.real else 2)
    keys = jax.random.split(jax.random.key(3), 2 * channels)
    smooth = lambda eigenvalues: 0.3 * jnp.exp(-0.02 * eigenvalues)
    modes = 3 if name == "sine-Gordon" else 5
    fields = [
        gaussian_random_field(grid, smooth, basis="periodic", modes=modes, key=k, zero_mean="2D" in repr(equation))
        for k in keys
    ]
    return Window(jnp.stack(fields).reshape(2, channels, *grid.shape), jnp.array([0.3, 0.7]), grid, equation)


def residuals(transforms, w):
    """Of each the largest of `du/dt - f(u)` of the transformed trajectory, over that of `f`.

    The derivative in time is that of the trajectory through each state, pushed through the transformation.
    """

    def one(transform, states, times):
        rate = jax.vmap(vector_field(w.equation, w.grid))(times, states)
        moved = lambda states, times: transform(Window(states, times, w.grid, w.equation))
        after, tangent = jax.jvp(moved, (states, times), (rate, jnp.ones_like(times)))
        velocity = tangent.states / tangent.times.reshape(-1, *(1,) * (states.ndim - 1))
        expected = jax.vmap(vector_field(after.equation, after.grid))(after.times, after.states)
        return jnp.max(jnp.abs(velocity - expected)) / jnp.max(jnp.abs(expected))

    every = jax.jit(lambda states, times: {name: one(f, states, times) for name, f in transforms.items()})
    return every(w.states, w.times)


def transformations(w):
    """Whatever the equation has of each kind: a symmetry, or a map to another of its class."""
    grid = w.grid
    some = [
        *((f"translate {j}", lambda w, j=j: translate(w, j, 0.37)) for j in range(grid.ndim)),
        *((f"turn {g.axes} {g.reflected}", lambda w, g=g: turn(w, g)) for g in symmetries(grid)[1::3]),
        *((f"boost {j}", lambda w, j=j: boost(w, j, 0.6)) for j in range(grid.ndim)),
        ("length", lambda w: change_units(w, length=1.7)),
        ("time", lambda w: change_units(w, time=1.3)),
        ("value", lambda w: change_units(w, value=-1.4)),
        ("sign", lambda w: change_units(w, value=-1.0)),
        ("pace", lambda w: change_units(w, time=1.3, value=1 / 1.3)),
        ("zoom", lambda w: change_units(w, length=1.7, time=1.7**2, value=1 / 1.7)),
        ("zoom all", lambda w: change_units(w, length=1.7, time=1.7**4, value=1.7**-2)),
        ("lift", lambda w: lift(w, 0.4)),
        ("phase", lambda w: turn_phase(w, 0.4)),
    ]
    found = {}
    for name, transform in some:
        with contextlib.suppress(ValueError):
            jax.eval_shape(lambda transform=transform: transform(w))
            found[name] = transform
    return found


@pytest.mark.parametrize("name", ALL)
def test_every_transformation_keeps_the_residual_of_every_equation(name):
    w = window(name)
    found = residuals(transformations(w), w)
    assert len(found) >= 3
    assert max(found.values()) < (1e-7 if name == "sine-Gordon" else 1e-11), found


def not_lifted(w):
    """A boost that forgets the velocity."""
    return dataclasses.replace(boost(w, 0, 0.6), states=boost(w, 0, 0.6).states - 0.6)


def even(w):
    """A reflection that takes the velocity for a scalar."""
    return dataclasses.replace(turn(w, MIRROR), states=-turn(w, MIRROR).states)


def unscaled(w):
    """Another pace with the same viscosity."""
    return dataclasses.replace(change_units(w, time=1.3, value=1 / 1.3), equation=w.equation)


MIRROR = Symmetry((0,), (True,))


def test_a_wrong_transformation_does_not():
    found = residuals({f.__name__: f for f in (not_lifted, even, unscaled)}, window("Burgers"))
    assert min(found.values()) > 0.03


def test_every_equation_has_a_law():
    known = {cls for cls in vars(eqs).values() if isinstance(cls, type) and issubclass(cls, eqs.Equation)}
    assert known - {eqs.Equation, eqs.SecondOrder} == set(LAWS) == {type(equation) for equation, _ in CASES.values()}


def test_a_turn_of_a_scalar_is_the_symmetry_of_the_box():
    u, others = np.random.default_rng(0).normal(size=(1, 1, 6, 6)), symmetries(Grid((6, 6)))[1:]
    w = Window(jnp.asarray(u), jnp.zeros(1), Grid((6, 6)), eqs.Diffusion(0.1))
    found, expected = jax.jit(
        lambda: ([turn(w, g).states[0] for g in others], [g(w.states[0], w.grid, edge="periodic") for g in others])
    )()
    np.testing.assert_array_equal(found, expected)


def test_a_shift_by_whole_cells_only_reorders():
    w = window("Burgers")
    found = jax.jit(lambda shift: translate(w, 0, shift).states)(5 * LINE.spacing[0])
    np.testing.assert_allclose(found, np.roll(w.states, 5, -1), atol=1e-13)


def has(name, **options):
    return {type(draw): draw for draw in symmetries_of(*CASES[name], **options)}


def test_the_symmetries_of_an_equation_are_those_that_leave_it_as_it_is():
    burgers = has("Burgers", speed=1.0, stretch=2.0)
    assert burgers.keys() == {Translations, Turns, Boosts}
    assert has("KdV", speed=1.0, stretch=2.0).keys() == {Translations, Boosts}  # a mirror changes its dispersion
    front = has("Allen-Cahn", level=1.0)
    assert (front.keys(), front[Amplitudes].signs) == ({Translations, Turns, Amplitudes}, True)
    assert has("Schroedinger").keys() == {Translations, Turns, Amplitudes, Phases}


@pytest.mark.slow
def test_what_is_on_the_points_ends_symmetries():
    assert len(has("Navier-Stokes")[Turns].elements) == 8
    kolmogorov = has("Kolmogorov", speed=1.0)
    assert kolmogorov.keys() == {Translations, Turns}
    assert kolmogorov[Translations].axes == (0,)
    assert [g.reflected for g in kolmogorov[Turns].elements] == [(False, False), (True, True)]
    assert has("forced").keys() == set()
    assert symmetries_of(eqs.NavierStokes2D(0.1, forcing=lambda t, x: x[:1]), SQUARE, speed=1.0) == ()
    rotations = has("rotating", speed=1.0)
    assert (rotations.keys(), len(rotations[Turns].elements)) == ({Translations, Turns}, 4)
    assert has("shallow water", speed=1.0)[Boosts].axes == (0, 1)
    linear = has("diffusion", stretch=2.0, level=1.0)
    assert linear.keys() == {Translations, Turns, Amplitudes, Lifts}
    assert linear[Amplitudes].largest == 2.0
    family = has("forced", stretch=2.0, changing=("coefficients", "times"))
    assert family.keys() == {Translations, Turns, Rescalings}
    assert family[Rescalings].power == -1
    assert Boosts in has("Burgers-Fisher", speed=1.0, changing=("coefficients",))


GROUP = (Translations((0,)), Turns(symmetries(LINE)), Boosts((0,), 1.0))
TRANSFORM = augmentation(GROUP, CASES["Burgers"][0], LINE, 0.1)
BATCH = np.random.default_rng(0).normal(size=(4, 3, 1, 24))


def square(prediction, target, domain):
    return jnp.mean((prediction - target) ** 2)


def test_samples_are_augmented_each_by_itself_whatever_the_split_of_the_batch():
    objective = augmented(one_step(square, None), TRANSFORM)
    model = lambda u: 0.5 * u + jnp.roll(u, 1, -1) ** 2
    key = jax.random.key(1)

    @jax.jit
    def losses(u, key):
        return objective(model, u, key=key, carry=None)[0]["data"].values

    whole = losses(BATCH, PartKey(key, 0, 4))
    halves = [losses(BATCH[i : i + 2], PartKey(key, i, 4)) for i in (0, 2)]
    np.testing.assert_allclose(jnp.concatenate(halves), whole, rtol=1e-12)
    assert len(np.unique(np.round(losses(np.stack([BATCH[0]] * 4), PartKey(key, 0, 4)), 6))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Burgers", "KdV", "Navier-Stokes", "shallow water", "Burgers-Fisher", "Schroedinger"])
def test_the_solver_goes_from_the_transformed_state_along_the_transformed_trajectory(name):
    equation, grid = CASES[name]
    changing = ("coefficients", "times") if name == "Burgers-Fisher" else ()
    group = symmetries_of(equation, grid, speed=0.5, stretch=1.3, changing=changing)
    steps, dt = 512, 1 / 2048

    def check(key):
        u = window(name).states[0]
        start = ETDRK(equation, grid, dt)
        u = start.decode(start.encode(u))
        run = rollout(start, steps, every=steps // 2, include_initial=True)(u)
        w = augment(Window(run.states, dt * steps / 2 * jnp.arange(3), grid, equation), group, key=key)
        stepper = ETDRK(w.equation, w.grid, (w.times[1] - w.times[0]) / (steps // 2))
        again = rollout(stepper, steps, every=steps // 2, include_initial=True)(w.states[0])
        return jnp.max(jnp.abs(again.states - w.states)), jnp.max(jnp.abs(w.states - run.states))

    error, change = jax.jit(jax.vmap(check))(jax.random.split(jax.random.key(5), 4))
    assert np.max(error) < 1e-8
    assert np.min(change) > 1e-2


@pytest.mark.slow
@pytest.mark.dtype
def test_augmented_windows_keep_their_precision_and_train():
    for dtype in (np.float32, np.float64) if jax.config.jax_enable_x64 else (np.float32,):
        assert TRANSFORM(jnp.asarray(BATCH[0], dtype), key=jax.random.key(0)).dtype == dtype
    scale = {"a": jnp.asarray(0.5, np.float32)}

    def objective(model, batch, *, key, carry):
        return one_step(square, None)(lambda u: model["a"] * u, batch, key=key, carry=carry)

    data = BATCH.astype(np.float32)
    state = fit(augmented(objective, TRANSFORM), scale, data, optax.adam(1e-2), steps=3, batch_size=2, seed=0)
    assert 0.46 < float(state.model["a"]) < 0.54
    assert float(state.model["a"]) != 0.5


@pytest.mark.plain
def test_what_has_no_meaning_is_refused():
    burgers, grid = eqs.Burgers(0.1), Grid(8)
    w = Window(jnp.zeros((2, 1, 8)), jnp.zeros(2), grid, burgers)
    flow = Grid((8, 8))
    still = lambda equation, where=flow: Window(
        jnp.zeros((1, equation.channels(where.ndim), *where.shape)), jnp.zeros(1), where, equation
    )
    forced = still(eqs.NavierStokes2D(0.1, forcing=eqs.KolmogorovForcing()))
    moved = still(eqs.NavierStokes2D(0.1, forcing=lambda t, x: x[:1]))
    field = still(eqs.NavierStokes2D(0.1, forcing=jnp.ones((1, 8, 8))))
    quarter = Symmetry((1, 0), (True, False))
    refused = [
        (r"`states` has shape \(2, 1, 8\) .*expected \(time, 1", lambda: Window(w.states, jnp.zeros(3), grid, burgers)),
        ("`grid` has placement", lambda: still(burgers, Grid(8, placement="nodes"))),
        ("`axis` is 1; the grid has axes 0 to 0", lambda: translate(w, 1, 0.1)),
        ("along which Kolmogorov's forcing varies", lambda: translate(forced, 1, 0.1)),
        ("`symmetry` has 2 axes", lambda: turn(w, quarter)),
        ("none of its kind", lambda: turn(forced, quarter)),
        ("exchanges axes 0 and 1", lambda: turn(still(eqs.Diffusion(0.1), Grid((8, 4))), quarter)),
        ("`forcing` is a function", lambda: translate(moved, 0, 0.1)),
        ("`forcing` is a function", lambda: change_units(moved, length=2.0)),
        ("no boost: `forcing` is fixed on the points", lambda: boost(field, 0, 0.1)),
        ("no boost: of its form", lambda: boost(still(eqs.Diffusion(0.1)), 0, 0.1)),
        ("conservative in several dimensions", lambda: boost(still(eqs.Burgers(0.1, conservative=True)), 0, 1.0)),
        ("a `coriolis` that is not known to be zero", lambda: boost(still(eqs.ShallowWater(coriolis=1.0)), 0, 1.0)),
        (r"multiply \(u \. grad\) u by 0.5; in Burgers it stays 1", lambda: change_units(w, value=2.0)),
        ("`length` is 1.0, `time` -1", lambda: change_units(w, time=-1.0)),
        ("depends on the values themselves", lambda: lift(w, 1.0)),
        ("which has no phase", lambda: turn_phase(w, 1.0)),
        ("`speed` is -1", lambda: symmetries_of(burgers, grid, speed=-1.0)),
        ("`changing` has .*'space'", lambda: symmetries_of(burgers, grid, changing=("space",))),
        ("`elements` is empty", lambda: Turns(())),
    ]
    for message, call in refused:
        with pytest.raises(ValueError, match=message):
            call()

    class Unknown(eqs.Diffusion):
        pass

    with pytest.raises(ValueError, match="`equation` is a Unknown, and how that transforms is not known"):
        still(Unknown(0.1))

    class Prepared:
        prepare = __call__ = lambda self, model, batch, *, key, carry: carry

    with pytest.raises(ValueError, match="`objective` is a Prepared with `prepare`"):
        augmented(Prepared(), TRANSFORM)
