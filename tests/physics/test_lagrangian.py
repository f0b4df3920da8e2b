"""Convection and diffusion in labels: zero for exact solutions, whatever the labels are."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.physics import Lagrangian, Strong
from solvers import Grid

NU = 0.3


def points(d):
    return jax.random.uniform(jax.random.key(0), (20, d), maxval=1.5)


def convected(p):
    """`u = exp(-nu t) sin(x - 50 t)`, its labels spread unevenly."""
    t, xi = p
    start = xi + 0.4 * jnp.sin(xi)
    return jnp.stack([start + 50 * t, jnp.exp(-NU * t) * jnp.sin(start)])


def front(p, speed=0.6, jump=0.9):
    """A front of Burgers' equation, `u = speed - jump tanh(jump y / 2 nu)`, `y = x - speed t`, on its characteristics:
    `y' = u - speed` has `sinh(jump y / 2 nu)` fall at the rate `jump^2 / 2 nu`."""
    t, xi = p
    k = jump / (2 * NU)
    y = jnp.arcsinh(jnp.sinh(k * xi) * jnp.exp(-jump * k * t)) / k
    return jnp.stack([speed * t + y, speed - jump * jnp.tanh(k * y)])


SHEAR = 1.3


def sheared(p, k=2.0, m=-0.7):
    """A wave in the flow `(SHEAR y, 0)`, whose crests it turns (Kelvin), in curved labels."""
    t, a, b = p
    x, y = a + 0.3 * jnp.sin(b), b + 0.2 * a * b
    square = k**2 * t + (m**3 - (m - k * SHEAR * t) ** 3) / (3 * k * SHEAR)
    return jnp.stack([x + SHEAR * t * y, y, jnp.exp(-NU * square) * jnp.cos(k * x + m * y)])


FORMS = {
    "convection": (Lagrangian(50.0, NU), convected, points(2)),
    "Burgers": (Lagrangian(lambda p, w: w, NU), front, points(2)),
    "shear": (Lagrangian(lambda p, w: jnp.stack([SHEAR * p[2], 0.0]), NU), sheared, points(3)),
}


@pytest.mark.parametrize("name", FORMS)
def test_residual_of_an_exact_solution_vanishes(name):
    form, field, where = FORMS[name]

    @jax.jit
    def largest(diffusivity):
        given = eqx.tree_at(lambda form: form.diffusivity, form, diffusivity)
        return jnp.abs(jax.vmap(Strong(given), (None, 0))(field, where)).max()

    assert float(largest(jnp.asarray(NU))) < 1e-11
    assert float(largest(jnp.asarray(1.1 * NU))) > 1e-2


@pytest.mark.parametrize("name", FORMS)
def test_diffusion_in_labels_is_not_diffusion_in_space(name):
    form, field, where = FORMS[name]
    d = where.shape[1] - 1

    def labels(u, x):
        rate, diffused = u(0, [(i, i) for i in range(1, d + 1)])
        return rate[d:] - form.diffusivity * diffused[d:]

    found = jax.jit(lambda: jax.vmap(Strong(labels), (None, 0))(field, where))()
    assert float(jnp.abs(found).max()) > 0.1


def test_in_labels_that_are_places_it_is_the_equation_in_space():
    u = lambda p: jnp.stack([jnp.sin(p[0] + 2 * p[1]) * jnp.exp(p[2] * p[3])])
    still = lambda p: jnp.concatenate([p[1:], u(p)])

    @jax.jit
    def both(p):
        hessian = jax.hessian(lambda p: u(p)[0])(p)
        expected = jax.grad(lambda p: u(p)[0])(p)[0] - NU * jnp.trace(hessian[1:, 1:])
        return Strong(Lagrangian(0.0, NU))(still, p), jnp.append(jnp.zeros(3), expected)

    found, expected = both(jnp.array([0.3, 0.1, 0.7, 0.4]))
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


def test_on_a_grid_it_vanishes_as_the_grid_resolves_it():
    def largest(n):
        grid = Grid((n, n), (0.0, -1.0), (1.0, 1.0), "chebyshev")
        values = jax.vmap(jax.vmap(front, 1, 1), 2, 2)(grid.coordinates())
        return jnp.abs(Strong(FORMS["Burgers"][0])(values, grid)).max()

    coarse, fine = jax.jit(lambda: (largest(16), largest(32)))()
    assert float(fine) < 1e-4 * float(coarse)


def test_velocity_and_diffusivity_are_found_through_the_residual():
    loss = lambda c: sum(jnp.sum(Strong(Lagrangian(c[0], c[1]))(convected, p) ** 2) for p in points(2)[:3])
    start = jnp.array([40.0, 0.1])
    newton = jax.jit(lambda c: c - jnp.linalg.solve(jax.hessian(loss)(c), jax.grad(loss)(c)))
    np.testing.assert_allclose(newton(start), [50.0, NU], rtol=1e-9)


@pytest.mark.dtype
def test_precision_is_that_of_the_points():
    p = jnp.array([0.1, 0.2, 0.3], jnp.float32)
    net = lambda p: jnp.stack([p[1] * p[2], p[0], jnp.sin(p[0])])
    for velocity in (1.0, [1.0, 2.0], lambda p, w: jnp.stack([w[0], p[1]])):
        residual = Strong(Lagrangian(velocity, 0.1))
        assert jax.eval_shape(lambda p, residual=residual: residual(net, p), p).dtype == jnp.float32


@pytest.mark.plain
def test_what_has_no_characteristics_is_an_error():
    with pytest.raises(ValueError, match=r"`diffusivity` is -1\.0"):
        Lagrangian(1.0, -1.0)
    with pytest.raises(ValueError, match="has 1 components; Lagrangian takes the 1 coordinates of a place"):
        Strong(Lagrangian(1.0))(lambda p: p[:1], jnp.zeros(2))
    with pytest.raises(ValueError, match=r"`velocity` gives the shape \(3,\); expected a number or \(2,\)"):
        Strong(Lagrangian(lambda p, w: p))(lambda p: p, jnp.zeros(3))
