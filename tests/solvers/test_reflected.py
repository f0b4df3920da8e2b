from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers import ETDRK, Grid, repeat, rollout
from solvers.equations import Burgers, Diffusion, FisherKPP, KortewegDeVries, KuramotoSivashinsky, NavierStokes2D
from solvers.reflected import Reflected, Reflection

SHOCK = Path(__file__).parents[3] / "shared" / "data" / "burgers_shock.npz"
VISCOSITY = 0.01 / np.pi


def run(function, *arrays):
    """The results in NumPy: what is compiled is `function`, once, and nothing else; steppers are built inside it."""
    return jax.tree.map(np.asarray, jax.jit(function)(*arrays))


def between(walls, equation, dt, **options):
    return Reflected(ETDRK(equation, walls.periodic, dt, **options), walls)


def cole_hopf(x, t, viscosity):
    """Burgers from `-sin(pi x)`: the quotient of two integrals over the heat kernel, by the trapezoidal rule, which is
    spectrally accurate on them; the weights are kept from overflow by their largest exponent."""
    eta = np.linspace(-2.5, 2.5, 4001)
    y = x[:, None] - eta
    exponent = -np.cos(np.pi * y) / (2 * np.pi * viscosity) - eta**2 / (4 * viscosity * t)
    weight = np.exp(exponent - exponent.max(1, keepdims=True))
    return -np.sum(np.sin(np.pi * y) * weight, 1) / np.sum(weight, 1)


@cache
def shock():
    """The literature's problem at `t = 0, 0.01 .. 0.99` on its 256 points, which are every 8th of ours."""
    walls = Reflection(Grid(8 * 255 + 1, -1.0, 1.0, "nodes"), "dirichlet")
    step = between(walls, Burgers(VISCOSITY), 0.01 / 40)
    x = np.asarray(walls.grid.axes()[0])
    trajectory = rollout(step, 40 * 99, every=40, include_initial=True)
    states = run(lambda u: trajectory(u).states[:, 0, ::8], -np.sin(np.pi * x)[None])
    return x[::8], states


@pytest.mark.slow
@pytest.mark.skipif(not SHOCK.exists(), reason="needs the literature's data")
def test_the_literatures_burgers_shock_is_reproduced():
    data = np.load(SHOCK)
    x, states = shock()
    np.testing.assert_allclose(x, data["x"], atol=1e-14)
    assert np.max(abs(states - data["u"])) <= 1e-8


@pytest.mark.slow
def test_the_burgers_shock_is_cole_and_hopfs():
    x, states = shock()
    for i in (10, 40, 60, 99):
        assert np.max(abs(states[i] - cole_hopf(x, i / 100, VISCOSITY))) <= 1e-8


def test_a_thicker_shock_between_walls_is_cole_and_hopfs():
    walls = Reflection(Grid(257, -1.0, 1.0, "nodes"), "dirichlet")
    x = np.asarray(walls.grid.axes()[0])
    u = run(lambda u: repeat(between(walls, Burgers(0.1 / np.pi), 1 / 400), 200)(u)[0], -np.sin(np.pi * x)[None])
    np.testing.assert_allclose(u, cole_hopf(x, 0.5, 0.1 / np.pi), atol=1e-9)


@pytest.mark.parametrize("placement", [("nodes", "cells"), ("cells", "nodes")])
def test_channels_may_differ_in_their_walls(placement):
    """Burgers in 2-D with free slip: `u = -2 nu grad(p) / p`, where `p` obeys the heat equation."""
    grid = Grid((25, 33), (0.0, -1.0), (1.0, 1.0), placement)
    walls = Reflection(grid, (("dirichlet", "neumann"), ("neumann", "dirichlet")))
    viscosity, a, b = 0.1, np.pi, np.pi / 2
    x, y = np.asarray(grid.coordinates())

    def exact(t):
        decay = 0.5 * np.exp(-viscosity * (a**2 + b**2) * t)
        p = 1 + decay * np.cos(a * x) * np.cos(b * (y + 1))
        p_x, p_y = -a * np.sin(a * x) * np.cos(b * (y + 1)), -b * np.cos(a * x) * np.sin(b * (y + 1))
        return -2 * viscosity * decay * np.stack([p_x, p_y]) / p

    u = run(lambda u: repeat(between(walls, Burgers(viscosity), 0.01), 50)(u), exact(0.0))
    np.testing.assert_allclose(u, exact(0.5), atol=1e-9)


@pytest.mark.parametrize(("basis", "placement"), [("dirichlet", "cells"), ("neumann", "nodes"), ("neumann", "cells")])
def test_diffusion_between_walls_is_exact(basis, placement):
    grid = Grid(12, 1.0, 3.0, placement)
    walls = Reflection(grid, basis)
    angle = np.pi / 2 * 3 * (np.asarray(grid.axes()[0]) - 1.0)
    u = (np.sin if basis == "dirichlet" else np.cos)(angle)[None]
    after = run(lambda u: between(walls, Diffusion(0.2), 0.5)(u), u)
    np.testing.assert_allclose(after, u * np.exp(-0.2 * (1.5 * np.pi) ** 2 * 0.5), atol=1e-14)


def test_a_vortex_in_a_box_of_free_slip_decays_exactly():
    grid = Grid((17, 13), 0.0, (1.0, 2.0), "nodes")
    walls = Reflection(grid, "dirichlet")
    x, y = np.asarray(grid.coordinates())
    vorticity = 5 * (np.sin(np.pi * x) * np.sin(np.pi * y / 2))[None]
    after = run(lambda u: repeat(between(walls, NavierStokes2D(0.02), 0.05), 10)(u), vorticity)
    np.testing.assert_allclose(after, np.exp(-0.02 * 1.25 * np.pi**2 * 0.5) * vorticity, atol=1e-13)


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("placement", [("nodes", "cells", "left"), ("left", "nodes", "cells"), ("cells",), ("nodes",)])
def test_the_symmetric_part_is_the_mean_over_images(placement, real):
    shape = (4, 5, 3)[: len(placement)]
    one, other = {"nodes": "dirichlet", "cells": "neumann"}, {"nodes": "neumann", "cells": "dirichlet"}
    rows = [tuple(basis.get(name, "periodic") for name in placement) for basis in (one, other)]
    walls = Reflection(Grid(shape, placement=placement), rows)
    rng = np.random.default_rng(0)
    u = rng.normal(size=(2, *walls.periodic.shape)) + (0 if real else 1j * rng.normal(size=(2, *walls.periodic.shape)))
    axes = tuple(range(1, u.ndim))
    expected = u.copy()
    for axis, name in enumerate(placement):
        if name != "left":
            image = np.flip(expected, axis + 1)
            image = np.roll(image, 1, axis + 1) if name == "nodes" else image
            signs = [-1 if row[axis] == "dirichlet" else 1 for row in rows]
            expected = (expected + np.reshape(signs, (2, *[1] * len(shape))) * image) / 2
    transform, back = (np.fft.rfftn, np.fft.irfftn) if real else (np.fft.fftn, np.fft.ifftn)
    found = run(lambda v: walls.symmetrise(v, real=real), transform(u, axes=axes))
    np.testing.assert_allclose(back(found, walls.periodic.shape, axes=axes), expected, atol=1e-14)
    if real:
        np.testing.assert_allclose(run(lambda u: walls.extend(walls.restrict(u)), expected), expected, atol=1e-14)


def test_chaos_does_not_break_the_symmetry():
    walls = Reflection(Grid(49, 0.0, 30.0, "nodes"), "dirichlet")
    x = np.asarray(walls.grid.axes()[0])

    def asymmetry(u, free, stepper):
        v = jax.lax.fori_loop(0, 2000, lambda i, v: stepper.advance(v), free.encode(walls.extend(u)))
        u = free.decode(v)
        return jnp.max(abs(u - walls.extend(walls.restrict(u)))), jnp.max(abs(u))

    def both(u):
        free = ETDRK(KuramotoSivashinsky(), walls.periodic, 0.25)
        return asymmetry(u, free, Reflected(free, walls)), asymmetry(u, free, free)

    (kept, size), (lost, _) = run(both, (np.sin(2 * np.pi * x / 30) + 0.3 * np.sin(np.pi * x / 30))[None])
    assert size > 1
    assert kept < 1e-13
    assert lost > 1e-2


def test_the_gradient_in_the_viscosity_is_that_of_differences():
    grid = Grid(33, 0.0, 1.0, "cells")
    walls = Reflection(grid, "dirichlet")
    u = np.sin(np.pi * np.asarray(grid.axes()[0]))[None]

    @jax.jit
    @jax.value_and_grad
    def loss(viscosity):
        return jnp.sum(repeat(between(walls, Burgers(viscosity), 0.02, order=2), 10)(jnp.asarray(u)) ** 2)

    difference = (loss(0.05 + 1e-5)[0] - loss(0.05 - 1e-5)[0]) / 2e-5
    np.testing.assert_allclose(loss(0.05)[1], difference, rtol=1e-7)


@pytest.mark.dtype
def test_float32_states_stay_float32():
    walls = Reflection(Grid(16, placement="cells"), "dirichlet")
    u = np.sin(np.pi * (np.arange(16) + 0.5) / 16).astype("float32")[None]
    after = run(lambda u: between(walls, Burgers(0.1), 0.01)(u), u)
    assert after.dtype == "float32"
    np.testing.assert_allclose(after, u, atol=0.05)


@pytest.mark.plain
def test_equations_without_the_symmetry_are_refused():
    walls = Reflection(Grid(17, placement="nodes"), "dirichlet")
    for equation in (FisherKPP(0.1, 1.0), KortewegDeVries(6.0, 1.0)):
        with pytest.raises(ValueError, match=r"breaks that: .* of the change is not so continued"):
            between(walls, equation, 0.001)


@pytest.mark.plain
def test_errors_name_the_argument_and_the_fix():
    grid = Grid((6, 5), placement=("nodes", "left"))
    walls = Reflection(grid, (("dirichlet", "periodic"), ("neumann", "periodic")))
    for call, message in [
        (lambda: Reflection(grid, "dirichlet"), "`basis` of axis 1 is 'dirichlet'"),
        (lambda: Reflection(grid, (("dirichlet",),)), "`basis` has 1 entries for 2 axes"),
        (lambda: walls.extend(jnp.ones((1, 6, 5))), r"`u` has shape \(1, 6, 5\); expected \(2, \*\(6, 5\)\)"),
        (lambda: Reflected(ETDRK(Burgers(0.1), Grid((6, 5)), 0.1), walls), "expected the doubled box"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
