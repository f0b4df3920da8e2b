"""Residuals of stationary and control problems: zero for the solvers' solutions and for exact ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from opkit.physics import Darcy, HamiltonJacobiBellman, Helmholtz, NavierStokes, Poisson, Stokes, Strong, StrongForm
from solvers import Dirichlet, EllipticProblem, Grid, Periodic, Robin, equations, solve_chebyshev, solve_elliptic


@eqx.filter_jit
def largest(forms, field, points):
    """The largest residual of each form."""
    return jnp.stack([jnp.abs(jax.vmap(Strong(form), (None, 0))(field, points)).max() for form in forms])


def box(n, d, key=0, low=-1.0, high=1.0):
    return jax.random.uniform(jax.random.key(key), (n, d), minval=low, maxval=high)


@pytest.mark.parametrize(
    ("form", "c"), [(Poisson, 0.0), (lambda f: Helmholtz(2.0, -f), -4.0)], ids=["Poisson", "Helmholtz"]
)
def test_residual_of_the_chebyshev_solution_vanishes_inside(form, c):
    grid = Grid((13, 16), (0.0, -1.0), (1.0, 2.0), "chebyshev")
    x, y = grid.coordinates()
    f = jnp.exp(x) * jnp.sin(2 * y)
    sides = [(Dirichlet(1.0), Robin(1.0, 0.5)), Dirichlet(0.3)]
    found = jax.jit(lambda f: Strong(form(f))(solve_chebyshev(f, grid, sides, c)[None], grid))(f)
    assert float(jnp.abs(found[0, 1:-1, 1:-1]).max()) < 1e-9


def coefficient(p):
    return jnp.exp(jnp.sin(p[0]) * jnp.cos(p[1]) / 2)


@pytest.mark.slow
def test_darcy_residual_of_the_finite_volume_solution_vanishes_at_its_order():
    @jax.jit
    def residuals():
        """On 16 and on 32 points, there also with the function."""
        found = []
        for n in (16, 32):
            grid = Grid((n, n), 0.0, 2 * np.pi)
            x, y = grid.coordinates()
            a, f, c = coefficient((x, y)), jnp.sin(x + 2 * y), 1 + jnp.cos(y) / 2
            u = solve_elliptic(EllipticProblem(grid, a, f, Periodic(), c), rtol=1e-12).value[None]
            found.append(Strong(Darcy(f=f, c=c))(jnp.concatenate([u, a[None]]), grid))
        return *found, Strong(Darcy(coefficient, f, c))(u, grid)

    coarse, fine, given = residuals()
    np.testing.assert_allclose(given, fine, atol=1e-10)
    sizes = [float(jnp.sqrt(jnp.mean(found**2))) for found in (coarse, fine)]
    assert sizes[1] < 1e-2
    assert 1.9 < np.log2(sizes[0] / sizes[1]) < 2.1


def test_darcy_at_points_is_the_divergence_of_the_flux_in_three_dimensions():
    u = lambda p: jnp.stack([jnp.sin(p[0] + 2 * p[1]) * jnp.exp(p[2])])
    flux = lambda p: coefficient(p) * jax.grad(lambda q: u(q)[0])(p)
    expected = lambda p: -jnp.trace(jax.jacfwd(flux)(p)) + p[2] * u(p)[0] - p[0]
    given = Darcy(coefficient, lambda p: p[0], lambda p: p[2])
    learnt = lambda p: jnp.append(u(p), coefficient(p))
    both = jax.jit(lambda p: (Strong(given)(u, p), Strong(Darcy(None, given.f, given.c))(learnt, p), expected(p)))
    first, second, exact = both(box(1, 3)[0])
    np.testing.assert_allclose(first, exact, rtol=1e-11)
    np.testing.assert_allclose(second, exact, rtol=1e-11)


def kovasznay(p, viscosity=0.05):
    rate = 0.5 / viscosity - jnp.sqrt(0.25 / viscosity**2 + 4 * jnp.pi**2)
    e, angle = jnp.exp(rate * p[0]), 2 * jnp.pi * p[1]
    v = -rate / (2 * jnp.pi) * e * jnp.sin(angle)
    return jnp.stack([1 - e * jnp.cos(angle), -v, -(e**2) / 2])


def around_a_sphere(p):
    """A sphere of radius 1 at rest in the flow (0, 0, 1), viscosity 2."""
    r = jnp.sqrt(jnp.sum(p**2))
    unit = jnp.array([0.0, 0.0, 1.0])
    near, far = (unit + p[2] * p / r**2) / r, (unit - 3 * p[2] * p / r**2) / r**3
    return jnp.append(unit - 0.75 * near - 0.25 * far, -1.5 * 2.0 * p[2] / r**3)


def decaying_vortices(p):
    t, x, y = p
    decay = jnp.exp(-0.2 * t)
    pressure = -(jnp.cos(2 * x) + jnp.cos(2 * y)) * decay**2 / 4
    return jnp.stack([jnp.cos(x) * jnp.sin(y) * decay, -jnp.sin(x) * jnp.cos(y) * decay, pressure])


FLOWS = {
    "Kovasznay": (NavierStokes(0.05), kovasznay, box(10, 2)),
    "Stokes around a sphere": (Stokes(2.0), around_a_sphere, box(10, 3, low=1.0, high=2.0)),
    "a channel": (NavierStokes(0.5, [3.0, 0.0]), lambda p: jnp.stack([3 * (1 - p[1] ** 2), 0, 0]), box(10, 2)),
    "decaying vortices": (NavierStokes(0.1, steady=False), decaying_vortices, box(10, 3)),
}


@pytest.mark.parametrize("name", FLOWS)
def test_residual_of_an_exact_flow_vanishes_and_shows_another_viscosity(name):
    form, flow, points = FLOWS[name]
    spoiled = eqx.tree_at(lambda form: form.viscosity, form, 1.1 * form.viscosity)
    right, wrong = largest((form, spoiled), flow, points)
    assert right < 1e-11
    assert wrong > 1e-2


def test_momentum_is_the_vorticity_equation_less_its_curl():
    flow = lambda p: jnp.stack([jnp.sin(p[1] + p[0]) * p[2], jnp.cos(p[1] * p[2] - p[0]), p[1] * p[2]])
    momentum = lambda p: Strong(NavierStokes(0.1, steady=False))(flow, p)
    turned = lambda p: flow(p)[:2]

    @jax.jit
    def both(p):
        slopes, divergence, spin = jax.jacfwd(momentum)(p), momentum(p)[2], jax.jacfwd(turned)(p)
        turning = slopes[1, 1] - slopes[0, 2] - (spin[1, 1] - spin[0, 2]) * divergence
        return turning, Strong(StrongForm(equations.NavierStokes2D(0.1)))(turned, p)[0]

    np.testing.assert_allclose(*both(box(1, 3)[0]), rtol=1e-10)


def test_a_flow_on_a_chebyshev_grid_has_the_residual_of_its_points():
    grid = Grid((20, 24), (-0.5, -0.5), (1.0, 0.5), "chebyshev")
    x = grid.coordinates()
    values = jax.vmap(jax.vmap(kovasznay, 1, 1), 2, 2)(x)
    pushed = NavierStokes(0.05, lambda p: jnp.stack([p[0] * p[1], 1.0]))
    found = eqx.filter_jit(Strong(pushed))(values, grid)
    np.testing.assert_allclose(found, jnp.stack([-x[0] * x[1], -jnp.ones_like(x[0]), 0 * x[0]]), atol=1e-7)
    on_grid = NavierStokes(0.05, jnp.stack([x[0] * x[1], jnp.ones_like(x[0])]))
    np.testing.assert_allclose(eqx.filter_jit(Strong(on_grid))(values, grid), found, atol=1e-12)


def test_residual_of_the_value_function_in_ten_dimensions_vanishes_by_cole_hopf():
    d, nu, mu, end = 10, 0.7, 0.4, 1.0

    def value(p):
        s = 1 + 4 * mu * (end - p[0])
        return jnp.stack([jnp.sum(p[1:] ** 2) / s + d * nu / (2 * mu) * jnp.log(s)])

    forms = HamiltonJacobiBellman(nu, mu), HamiltonJacobiBellman(nu, 1.1 * mu)
    right, wrong = largest(forms, value, box(5, d + 1, low=0.0))
    assert right < 1e-12
    assert wrong > 1e-2


def test_residual_of_the_value_function_vanishes_by_scipys_riccati_solution():
    rng = np.random.default_rng(0)
    a, half, nu, mu = rng.normal(size=(4, 4)), rng.normal(size=(4, 4)), 0.3, 0.4
    q = half @ half.T
    p = scipy.linalg.solve_continuous_are(a, 2 * np.sqrt(mu) * np.eye(4), q, np.eye(4))
    value = lambda z: jnp.stack([z[1:] @ p @ z[1:] - 2 * nu * np.trace(p) * z[0]])
    form = HamiltonJacobiBellman(nu, mu, lambda z: a @ z[1:], lambda z: z[1:] @ q @ z[1:])
    assert largest((form,), value, box(5, 5))[0] < 1e-11


@pytest.mark.dtype
def test_precision_is_that_of_the_points():
    p, net = jnp.array([0.3, 0.4], jnp.float32), lambda p: jnp.stack([p[0] * p[1], p[0], p[1] ** 2])
    one = lambda p: net(p)[:1]
    scalar = (
        Poisson(1.0),
        Helmholtz(2.0, lambda p: p[0]),
        Darcy(lambda p: 1 + p[0] ** 2, 1.0, 0.5),
        HamiltonJacobiBellman(),
    )
    for form in scalar:
        assert jax.eval_shape(lambda p, form=form: Strong(form)(one, p), p).dtype == jnp.float32
    for form in (Stokes(0.1, [0.0, 1.0]), NavierStokes(0.1, lambda p: p), NavierStokes(0.1)):
        assert jax.eval_shape(lambda p, form=form: Strong(form)(net, p), p).dtype == jnp.float32


def test_coefficients_are_differentiable():
    p = jnp.array([0.3, 0.4])
    total = eqx.filter_jit(lambda form: jnp.sum(Strong(form)(kovasznay, p) ** 2))
    slope = eqx.filter_grad(total)(NavierStokes(0.06, [0.1, 0.2]))
    moved = (total(NavierStokes(0.06 + 1e-6, [0.1, 0.2])) - total(NavierStokes(0.06 - 1e-6, [0.1, 0.2]))) / 2e-6
    np.testing.assert_allclose(slope.viscosity, moved, rtol=1e-6)
    network = eqx.nn.MLP(2, 1, 4, 1, jnp.tanh, key=jax.random.key(0))
    loss = lambda a: jnp.sum(Strong(Darcy(a, 1.0))(lambda p: jnp.stack([jnp.sin(p[0] * p[1])]), p) ** 2)
    assert all(
        float(jnp.abs(leaf).max()) > 0
        for leaf in jax.tree.leaves(eqx.filter_jit(eqx.filter_grad(loss))(network))
        if leaf.ndim == 2
    )


@pytest.mark.plain
def test_what_fits_no_stationary_form_is_an_error():
    p, three = jnp.zeros(2), lambda p: jnp.zeros(3)
    grid = Grid((8, 6))
    with pytest.raises(ValueError, match=r"`wavenumber` has shape \(2,\)"):
        Helmholtz([1.0, 2.0])
    with pytest.raises(ValueError, match=r"`viscosity` is -1\.0; expected a finite number of at least 0"):
        Stokes(-1.0)
    with pytest.raises(ValueError, match=r"`a` has shape \(8, 6\).*second component"):
        Darcy(jnp.ones((8, 6)))
    with pytest.raises(ValueError, match=r"has 3 components; Darcy takes 2: \(u, a\)"):
        Strong(Darcy())(three, p)
    with pytest.raises(ValueError, match="has 3 components; Darcy takes 1: u, as `a` is given"):
        Strong(Darcy(1.0))(three, p)
    with pytest.raises(ValueError, match="has 3 components; Stokes takes 4 along 3 axes"):
        Strong(Stokes(1.0))(three, jnp.zeros(3))
    with pytest.raises(ValueError, match="the value function is one"):
        Strong(HamiltonJacobiBellman())(three, p)
    with pytest.raises(ValueError, match=r"`f` has the shape \(6, 8\).*the points being \(8, 6\)"):
        Strong(Poisson(jnp.zeros((6, 8))))(jnp.zeros((1, 8, 6)), grid)
    with pytest.raises(ValueError, match=r"`f` gives the shape \(2,\); expected a number or \(3,\)"):
        Strong(Poisson(lambda p: p))(three, p)
