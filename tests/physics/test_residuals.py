"""Residuals: zero for solutions of the solvers and for exact ones, the same at points and on grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.physics import Strong, StrongForm
from solvers import ETDRK, Grid, finite_difference, rollout, spectral, vector_field
from solvers import equations as eqs

BOX = 2 * np.pi


def wavy(x, channels):
    """Smooth states `(channels, *n)` that no symmetry protects."""
    total = sum((j + 1) * x[j] for j in range(len(x)))
    return jnp.stack([jnp.sin(total + c) / 2 + 0.3 * jnp.cos(2 * x[0] - c) for c in range(channels)])


CASES = {
    "Burgers": (eqs.Burgers(0.05), 1, 1),
    "Burgers 2-D": (eqs.Burgers(0.05), 2, 2),
    "Burgers 2-D, conservative": (eqs.Burgers(0.05, conservative=True), 2, 2),
    "KdV": (eqs.KortewegDeVries(1.0, 0.1), 1, 1),
    "Burgers-Fisher": (eqs.BurgersFisher(0.3, 0.5, 0.05, 0.7), 1, 1),
    "Kuramoto-Sivashinsky": (eqs.KuramotoSivashinsky(1.0, 0.2, 0.1), 1, 1),
    "flame front": (eqs.KuramotoSivashinskyFront(1.0, 0.2, 0.1), 2, 1),
    "advection": (eqs.Advection([0.4, -0.2]), 2, 1),
    "diffusion": (eqs.Diffusion([[0.2, 0.05], [0.05, 0.1]]), 2, 1),
    "advection-diffusion": (eqs.AdvectionDiffusion(0.5, [0.2, 0.1]), 2, 1),
    "dispersion": (eqs.Dispersion(0.1), 1, 1),
    "hyperdiffusion": (eqs.HyperDiffusion(0.02, power=3), 1, 1),
    "Fisher-KPP": (eqs.FisherKPP(0.1, 0.8), 1, 1),
    "Allen-Cahn": (eqs.AllenCahn(0.05, 2.0, 1.5), 1, 1),
    "Cahn-Hilliard": (eqs.CahnHilliard(0.3, 0.1), 1, 1),
    "Swift-Hohenberg": (eqs.SwiftHohenberg(0.3, 1.2, 0.4), 1, 1),
    "Schroedinger": (eqs.NonlinearSchroedinger(0.2, 0.7), 1, 2),
    "Ginzburg-Landau": (eqs.ComplexGinzburgLandau(0.5, 0.3, -0.4), 1, 2),
    "shallow water": (eqs.ShallowWater(2.0, 0.5, 0.6, 0.05, 0.03), 2, 3),
    "Gray-Scott": (eqs.GrayScott(0.1, 0.05, 0.04, 0.06), 1, 2),
    "FitzHugh-Nagumo": (eqs.FitzHughNagumo(0.1, 0.05, 0.2, 0.5, 0.6, 0.3, 0.8), 1, 2),
    "wave": (eqs.Wave(0.7), 1, 2),
    "Klein-Gordon": (eqs.KleinGordon(0.7, 1.3), 1, 2),
    "phi-four": (eqs.PhiFour(0.7, 0.6, 0.8), 1, 2),
    "sine-Gordon": (eqs.SineGordon(0.7, 1.3), 1, 2),
}


QUICK = ("Burgers 2-D, conservative", "KdV", "diffusion", "Allen-Cahn", "Schroedinger", "shallow water", "wave")
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", NAMES)
def test_form_is_the_solvers_equation_and_another_coefficient_shows(name):
    equation, ndim, channels = CASES[name]
    grid = Grid((32,) * ndim, 0.0, BOX)
    x = grid.coordinates()
    second_order = isinstance(equation, eqs.SecondOrder)

    def form(equation, rate):
        """With the time derivative that the solver has."""

        def derivative(term):
            axes = (term,) if isinstance(term, int) else term
            times = axes.count(0)
            value = (u, rate)[min(times, 1)] if not second_order else (u[:1], None, rate[1:])[times]
            for axis in axes:
                value = spectral.derivative(value, grid, axis - 1) if axis else value
            return value

        unknown = lambda *wanted: tuple(
            sum(map(derivative, each)) if isinstance(each, list) else derivative(each) for each in wanted
        )
        return StrongForm(equation)(unknown, jnp.concatenate([jnp.zeros_like(x[:1]), x]))

    u = wavy(x, channels)
    rate = vector_field(equation, grid)(0.0, u, None)
    scale = float(jnp.abs(rate).max())
    run = jax.jit(form)
    assert float(jnp.abs(run(equation, rate)).max()) < 1e-10 * scale
    for i, leaf in enumerate(jax.tree.leaves(equation)):
        leaves = jax.tree.leaves(equation)
        spoiled = jax.tree.unflatten(jax.tree.structure(equation), [*leaves[:i], 1.1 * leaf, *leaves[i + 1 :]])
        assert float(jnp.abs(run(spoiled, rate)).max()) > 1e-5 * scale


def trajectory(equation, dt, points=64, until=0.2):
    """A solution `(1, t, x)` and its grid."""
    space, steps = Grid(points, 0.0, BOX), round(until / dt)
    u0 = wavy(space.coordinates(), 1)
    states = jax.jit(lambda u0: rollout(ETDRK(equation, space, dt), steps)(u0).states)(u0)
    u = jnp.moveaxis(jnp.concatenate([u0[None], states]), 0, 1)
    return u, Grid((steps + 1, points), 0.0, (until, BOX), ("nodes", "left"))


@pytest.mark.parametrize("equation", [eqs.Burgers(0.2), eqs.KortewegDeVries(1.0, 0.1)], ids=["Burgers", "KdV"])
def test_residual_of_the_solvers_solution_vanishes_at_the_solvers_order(equation):
    largest = []
    for dt in (0.02, 0.01):
        u, grid = trajectory(equation, dt)
        found = Strong(StrongForm(equation), accuracy=6)(u, grid)
        largest.append(float(jnp.sqrt(jnp.mean(found**2))))
    assert largest[1] < 1e-4
    assert 3.5 < np.log2(largest[0] / largest[1]) < 7


def test_residual_of_navier_stokes_vanishes_for_decaying_vortices_and_beltrami_flow():
    nu, d = 0.1, 0.3
    points = jax.random.uniform(jax.random.key(0), (20, 3), maxval=2.0)
    decay = lambda t: jnp.exp(-(2 * nu + d) * t)
    taylor_green = lambda p: decay(p[0]) * jnp.stack([jnp.cos(p[1]) * jnp.sin(p[2]), -jnp.sin(p[1]) * jnp.cos(p[2])])
    residual = Strong(StrongForm(eqs.NavierStokes2D(nu, d)))
    assert float(jnp.abs(jax.vmap(residual, (None, 0))(taylor_green, points)).max()) < 1e-13

    def beltrami(p):
        t, x, y, z = p
        v = jnp.stack([jnp.sin(z) + jnp.cos(y), jnp.sin(x) + jnp.cos(z), jnp.sin(y) + jnp.cos(x)]) * jnp.exp(-nu * t)
        return jnp.append(v, -jnp.sum(v**2) / 2)

    points = jax.random.uniform(jax.random.key(1), (20, 4), maxval=2.0)
    residual = Strong(StrongForm(eqs.NavierStokes3D(nu)))
    assert float(jnp.abs(jax.vmap(residual, (None, 0))(beltrami, points)).max()) < 1e-13


def test_a_forcing_drives_the_residual():
    forced = eqs.NavierStokes2D(0.1, forcing=lambda t, x: jnp.cos(x[1])[None])
    still = lambda p: jnp.zeros(2)
    found = Strong(StrongForm(forced))(still, jnp.array([0.0, 1.0, 0.5]))
    np.testing.assert_allclose(found, [-np.cos(0.5), 0.0], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["left", "nodes", "chebyshev"])
def test_points_and_grids_agree_to_the_order_of_the_grid(placement):
    field = lambda p: jnp.stack([jnp.exp(-0.2 * p[0]) * jnp.sin(p[1])])
    form = StrongForm(eqs.Burgers(0.05))
    errors = []
    for n in (16, 32):
        grid = Grid((n, n), 0.0, (1.0, BOX), ("chebyshev", placement))
        x = grid.coordinates()
        at_points = jax.vmap(jax.vmap(Strong(form), (None, 1), 1), (None, 2), 2)(field, x)
        on_grid = Strong(form)(jax.vmap(jax.vmap(field, 1, 1), 2, 2)(x), grid)
        errors.append(float(jnp.abs(at_points - on_grid).max()))
    assert errors[1] < (errors[0] / 12 if placement == "nodes" else 1e-8)


def test_differences_have_their_order_at_walls_and_are_exact_for_polynomials():
    for accuracy in (2, 4):
        for order in (1, 2, 3):
            errors = []
            for n in (40, 80):
                grid = Grid((3, n), 0.0, (1.0, 2.0), ("left", "nodes"))
                x = grid.coordinates()[1:]
                exact = jnp.sin(3 * x + order * jnp.pi / 2) * 3**order
                errors.append(
                    float(jnp.abs(finite_difference(jnp.sin(3 * x), grid, 1, order, accuracy=accuracy) - exact).max())
                )
            assert np.log2(errors[0] / errors[1]) > accuracy - 0.4
    grid = Grid(12, -1.0, 1.0, "cells")
    (x,) = grid.axes()
    np.testing.assert_allclose(finite_difference(x[None] ** 4, grid, 0, 1)[0], 4 * x**3, atol=1e-12)


def test_an_equation_is_learnt_through_its_residual():
    u, grid = trajectory(eqs.Burgers(0.05), 0.01)
    loss = lambda nu: jnp.mean(Strong(StrongForm(eqs.Burgers(nu)), accuracy=6)(u, grid) ** 2)
    slope, curvature = jax.grad(loss)(0.1), jax.grad(jax.grad(loss))(0.1)
    np.testing.assert_allclose(0.1 - slope / curvature, 0.05, rtol=1e-5)


def test_differences_may_stand_for_spectral_derivatives_on_periodic_axes():
    grid = Grid((8, 64), 0.0, (1.0, BOX), ("nodes", "left"))
    x = grid.coordinates()
    exact, found = (
        Strong(lambda u, x: u((1, 1))[0], spectral=spectral)(jnp.sin(x[1:]), grid) for spectral in (True, False)
    )
    error = float(jnp.abs(found - exact).max())
    assert 1e-9 < error < (BOX / 64) ** 4


@pytest.mark.plain
def test_what_fits_no_residual_is_an_error():
    residual = Strong(StrongForm(eqs.Burgers(0.1)))
    grid = Grid((8, 8), placement=("nodes", "left"))
    with pytest.raises(ValueError, match="`candidate` is an array of shape"):
        residual(jnp.zeros((1, 8, 8)), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"expected values \(c, \*\(8, 8\)\)"):
        residual(lambda x: x, grid)
    with pytest.raises(ValueError, match=r"`candidate` has shape \(1, 8\)"):
        residual(jnp.zeros((1, 8)), grid)
    with pytest.raises(ValueError, match="has 2 components; the residual of Burgers takes 1"):
        residual(lambda x: x, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"`form` gave the shape \(\)"):
        Strong(lambda u, x: u(0)[0][0])(lambda x: x[:1], jnp.zeros(2))
    with pytest.raises(ValueError, match="asks for the axes"):
        Strong(lambda u, x: u(3)[0])(jnp.zeros((1, 8, 8)), grid)
    with pytest.raises(ValueError, match="which has no strong form here"):
        Strong(StrongForm(eqs.VariableTransport(jnp.ones(8))))(lambda x: x[:1], jnp.zeros(2))
    with pytest.raises(ValueError, match="needs 5"):
        finite_difference(jnp.zeros((1, 4)), Grid(4, placement="nodes"), 0)
