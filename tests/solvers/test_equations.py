"""What every equation does: its right-hand side, gradients, precision, number of transforms, and refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from solvers import Grid
from solvers.equations import (
    Advection,
    Burgers,
    Diffusion,
    Equation,
    GrayScott,
    HyperDiffusion,
    KolmogorovForcing,
    KortewegDeVries,
    KuramotoSivashinsky,
    NavierStokes2D,
    NavierStokes3D,
    NonlinearSchroedinger,
    ShallowWater,
    VariableTransport,
)
from solvers.exponential import ETDRK
from solvers.fourier import Fourier

from .equation_cases import CASES, Case, Waves

TIME = 0.4


def space_of(case: Case) -> Fourier:
    return Fourier(case.grid, degree=case.equation.degree, real=case.equation.real)


def initial(case: Case) -> np.ndarray:
    return case.state(Waves(case.grid, case.waves, 3))


def tendency(equation: Equation, space: Fourier, u_hat: jax.Array, t: jax.Array) -> jax.Array:
    symbol, rest = equation.linear(space), equation.nonlinear(space, u_hat, t)
    linear = jnp.sum(symbol * u_hat, 1) if symbol.ndim == u_hat.ndim + 1 else symbol * u_hat
    return linear if rest is None else linear + space.project(rest)


@eqx.filter_jit
def rate(equation: Equation, space: Fourier, u: jax.Array) -> jax.Array:
    return space.decode(tendency(equation, space, space.encode(u), jnp.asarray(TIME)))


@pytest.mark.parametrize("name", CASES)
def test_the_right_hand_side_is_that_of_the_formula(name):
    case = CASES[name]
    got, waves = rate(case.equation, space_of(case), jnp.asarray(initial(case))), Waves(case.grid, case.waves, 3)
    if isinstance(case.equation, NavierStokes3D):
        assert jnp.max(jnp.abs(divergence(got, case.grid))) < 1e-12
        got = curl(got, case.grid)
    expected = case.rate(waves)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-12 * np.max(np.abs(expected)))


def derivative(u, axis: int, grid: Grid):
    k = 2 * np.pi * np.fft.fftfreq(grid.shape[axis], grid.spacing[axis])
    k = np.expand_dims(k, tuple(j for j in range(grid.ndim) if j != axis))
    return np.fft.ifft(1j * k * np.fft.fft(u, axis=axis), axis=axis).real


def divergence(u, grid: Grid):
    return sum(derivative(u[j], j, grid) for j in range(3))


def curl(u, grid: Grid):
    return np.stack([derivative(u[k], j, grid) - derivative(u[j], k, grid) for j, k in ((1, 2), (2, 0), (0, 1))])


@pytest.mark.parametrize("scheme", ["euler", pytest.param("etdrk", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_a_rollout_in_the_state_and_every_coefficient_is_that_of_differences(name, scheme):
    case = CASES[name]
    u, target = jnp.asarray(initial(case)), jnp.asarray(initial(case)[..., ::-1])

    @jax.jit
    @jax.value_and_grad
    def functional(problem):
        (equation, u), space = problem, space_of(case)
        if scheme == "etdrk":
            advance = ETDRK(equation, case.grid, case.dt).advance
        else:
            advance = lambda v, t: v + case.dt * tendency(equation, space, v, t)
        v, _ = jax.lax.scan(lambda v, t: (advance(v, t), None), space.encode(u), case.dt * jnp.arange(3.0))
        return jnp.mean((space.decode(v) - target) ** 2)

    problem = (case.equation, u)
    leaves, tree = jax.tree.flatten(problem)
    _, gradient = functional(problem)
    rng = np.random.default_rng(5)
    for i, (leaf, slope) in enumerate(zip(leaves, jax.tree.leaves(gradient), strict=True)):
        direction = jnp.asarray(rng.normal(size=leaf.shape))
        h = 1e-4
        ends = [
            functional(jax.tree.unflatten(tree, [*leaves[:i], leaf + s * h * direction, *leaves[i + 1 :]]))[0]
            for s in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2 * h)
        assert abs(expected) > 1e-7
        np.testing.assert_allclose(jnp.sum(slope * direction), expected, rtol=1e-5)


@pytest.mark.dtype
@pytest.mark.parametrize("name", CASES)
def test_the_precision_is_that_of_the_state(name):
    case = CASES[name]
    precisions = ("float32", "float64") if jax.config.jax_enable_x64 else ("float32",)
    for precision in precisions:
        step = lambda u: ETDRK(case.equation, case.grid, case.dt, order=1)(u)
        u = jax.ShapeDtypeStruct(initial(case).shape, precision)
        assert jax.eval_shape(step, u).dtype == precision


@pytest.mark.parametrize(
    ("equation", "grid", "inverse", "forward"),
    [
        (Burgers(0.1), Grid(16), 1, 1),
        (Burgers(0.1), Grid((8, 8)), 3, 3),
        (Burgers(0.1), Grid((8, 8, 8)), 6, 4),
        (Burgers(0.1, conservative=True), Grid((8, 8)), 2, 3),
        (Burgers(0.1, conservative=True), Grid((8, 8, 8)), 3, 6),
        (KortewegDeVries(), Grid(16), 1, 1),
        (KuramotoSivashinsky(), Grid(16), 1, 1),
        (NonlinearSchroedinger(), Grid((16, 16)), 1, 1),
        (NavierStokes2D(0.1, 0.1, KolmogorovForcing(1.0, 1)), Grid((8, 8)), 2, 2),
        (NavierStokes3D(0.1), Grid((8, 8, 8)), 3, 5),
        (GrayScott(0.1, 0.1, 0.1, 0.1), Grid((16, 16)), 2, 1),
        (ShallowWater(), Grid((8, 8)), 4, 5),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Equation) else "",
)
def test_the_transforms_are_as_many_as_documented(equation, grid, inverse, forward):
    space = Fourier(grid, degree=equation.degree, real=equation.real)
    u_hat = jnp.zeros((equation.channels(grid.ndim), *space.shape), complex)
    counts = [0, 0]
    for eqn in transforms(jax.make_jaxpr(lambda v: equation.nonlinear(space, v, jnp.zeros(())))(u_hat).jaxpr):
        is_inverse = "I" in eqn.params["fft_type"].name
        counts[is_inverse] += int(np.prod(eqn.outvars[0].aval.shape[: -grid.ndim]))
    assert counts == [forward, inverse]


def transforms(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "fft":
            yield eqn
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda p: isinstance(p, core.ClosedJaxpr)):
            if isinstance(inner, core.ClosedJaxpr):
                yield from transforms(inner.jaxpr)


def test_a_batch_of_equations_is_a_vmap():
    grid, u = Grid(16), jnp.sin(2 * jnp.pi * jnp.arange(16.0) / 16)[None]
    step = lambda nu: ETDRK(Burgers(nu), grid, 0.01, order=1)(u)
    viscosities = jnp.array([0.01, 0.1])
    np.testing.assert_allclose(jax.jit(jax.vmap(step))(viscosities)[1], jax.jit(step)(0.1), atol=1e-14)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Burgers(-0.1), r"`viscosity` is -0\.1.*no negative value"),
        (lambda: Burgers(float("nan")), r"`viscosity` is nan; expected finite"),
        (lambda: Burgers([0.1, 0.2]), r"`viscosity` has shape \(2,\); expected one number.*jax\.vmap"),
        (lambda: Diffusion([0.1, -0.2]), r"`diffusivity` is -0\.2 somewhere"),
        (lambda: Diffusion([[1.0, 2.0], [2.0, 1.0]]), r"`diffusivity` has the eigenvalue -1"),
        (lambda: Diffusion(np.ones((4, 5))), r"`diffusivity` has shape \(4, 5\).*VariableTransport"),
        (lambda: HyperDiffusion(0.1, 0), r"`power` is 0"),
        (lambda: GrayScott(0.1, -0.1, 0.1, 0.1), r"`diffusivity_v` is -0\.1"),
        (lambda: KolmogorovForcing(1.0, 0), r"`mode` is 0"),
        (lambda: NavierStokes3D(0.1, forcing=KolmogorovForcing()), r"`forcing` is KolmogorovForcing"),
        (lambda: NavierStokes2D(0.1, mean_velocity=0.1), r"`mean_velocity` has shape \(\); expected \(2,\)"),
        (lambda: ETDRK(NavierStokes2D(0.1), Grid((8, 8, 8)), 0.1), r"`grid` has 3 axes; NavierStokes2D needs 2"),
        (lambda: ETDRK(KortewegDeVries(), Grid((8, 8)), 0.1), r"`grid` has 2 axes; KortewegDeVries needs 1"),
        (lambda: ETDRK(Advection([1.0, 2.0]), Grid(8), 0.1), r"`velocity` has 2 entries for 1 axes"),
        (lambda: ETDRK(Diffusion([1.0, 2.0]), Grid(8), 0.1), r"`diffusivity` has shape \(2,\) for 1 axes"),
        (
            lambda: ETDRK(VariableTransport(0.1, jnp.ones((1, 9))), Grid(8), 0.1),
            r"`velocity` has shape \(1, 9\); expected \(1, 8\)",
        ),
    ],
)
def test_a_bad_coefficient_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.plain
@pytest.mark.parametrize(
    ("forcing", "message"),
    [
        (KolmogorovForcing(1.0, 3), r"`mode` of the forcing is 3; the grid \(8, 8\) keeps wavenumbers up to 2"),
        (jnp.ones((8, 8)), r"`forcing` has shape \(8, 8\); expected \(1, 8, 8\)"),
        (lambda t, x: x, r"`forcing` has shape \(2, 8, 8\); expected \(1, 8, 8\)"),
    ],
)
def test_a_forcing_that_does_not_fit_is_refused(forcing, message):
    space = Fourier(Grid((8, 8)), degree=2)
    with pytest.raises(ValueError, match=message):
        rate(NavierStokes2D(0.1, forcing=forcing), space, jnp.zeros((1, 8, 8)))
