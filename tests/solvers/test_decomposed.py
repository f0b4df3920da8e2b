"""Fields in pieces on four devices: halos, transforms and solvers give what one device gives for the whole."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from solvers import ETDRK, Fourier, Grid, Piece, decomposed, finite_difference, repeat, vector_field
from solvers.equations import (
    Burgers,
    KolmogorovForcing,
    NavierStokes2D,
    NavierStokes3D,
    NonlinearSchroedinger,
    VariableTransport,
)

from .decomposed_cases import collectives, compiled, in_pieces, mesh_of

NUMPY_MODE = {"periodic": "wrap", "reflect": "reflect", "replicate": "edge"}


def padded(u, width, boundary):
    """By NumPy, axis by axis and side by side."""
    for axis, (pair, rules) in enumerate(zip(width, boundary, strict=True), 1):
        rules = rules if isinstance(rules, tuple) else (rules, rules)
        sides = []
        for side, (w, rule) in enumerate(zip(pair, rules, strict=True)):
            widths = [(0, 0)] * u.ndim
            widths[axis] = (w, 0) if side == 0 else (0, w)
            constant = {"zero": 0}.get(rule, rule)
            options = {"mode": NUMPY_MODE[rule]} if rule in NUMPY_MODE else {"constant_values": constant}
            whole = np.pad(u, widths, **options)
            sides.append(np.take(whole, range(w) if side == 0 else range(u.shape[axis], u.shape[axis] + w), axis))
        u = np.concatenate([sides[0], u, sides[1]], axis)
    return u


def blocks(whole, shape, cuts, width):
    """The windows of the padded whole field, side by side as devices return them."""
    rows = whole
    for axis, (n, devices, (low, high)) in enumerate(zip(shape, cuts, width, strict=True), 1):
        size = n // devices
        windows = [np.take(rows, range(i * size, (i + 1) * size + low + high), axis) for i in range(devices)]
        rows = np.concatenate(windows, axis)
    return rows


HALOS = [
    ((8, 6), ("x", "y"), ((1, 2), (2, 1)), ("periodic", "periodic")),
    ((8, 6), ("x", "y"), ((2, 1), (0, 2)), ("zero", ("reflect", 0.5))),
    ((12, 5), ("x", None), ((2, 2), (1, 3)), (("replicate", "reflect"), "periodic")),
    ((8, 5, 4), (None, None, "x"), ((1, 1), (2, 0), (1, 0)), ("replicate", "periodic", -1.0)),
]


@pytest.mark.parametrize(
    ("shape", "names", "width", "boundary"),
    [HALOS[1], *(pytest.param(*case, marks=pytest.mark.slow) for case in (HALOS[0], *HALOS[2:]))],
)
def test_halos_are_windows_of_the_padded_field_corners_included_and_transpose(shape, names, width, boundary):
    rng = np.random.default_rng(0)
    u = rng.normal(size=(2, *shape))
    run = in_pieces(lambda _, u: decomposed.halo_exchange(u, names, width, boundary), names)
    program = compiled(run, 0, u)
    assert collectives(program).keys() == {"collective-permute"}
    cuts = [1 if name is None else mesh_of(names).shape[name] for name in names]
    expected = blocks(padded(u, width, boundary), shape, cuts, width)
    assert np.array_equal(program(0, u), expected)
    w = rng.normal(size=expected.shape)
    gradient = jax.jit(jax.grad(lambda u: jnp.sum(w * run(0, u))))(u)
    np.testing.assert_allclose(np.sum(gradient * u), np.sum(w * (expected - program(0, 0 * u))), rtol=1e-12)


SLABS = [((8, 10), ("x", None)), ((4, 8, 5), ("x", None, None)), ((3, 8, 6), (None, "x", None))]
PENCILS = [((6, 4, 7), ("x", "y", None)), ((4, 10, 8), ("y", "x", None))]


@pytest.mark.parametrize(
    ("shape", "names"), [PENCILS[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in (*SLABS, PENCILS[1]))]
)
@pytest.mark.parametrize("real", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_transforms_are_scipys_there_and_back_and_transpose(shape, names, real):
    rng = np.random.default_rng(0)
    u = rng.normal(size=(2, *shape)) + (0 if real else 1j * rng.normal(size=(2, *shape)))
    there, back = (decomposed.rfftn, decomposed.irfftn) if real else (decomposed.fftn, decomposed.ifftn)
    behind = (None, *names[:-1])
    round_trip = in_pieces(lambda _, u: (there(u, names), back(there(u, names), names, shape)), names, behind, names)
    program = compiled(round_trip, 0, u)
    assert collectives(program).keys() == {"all-to-all"}
    expected = (scipy.fft.rfftn if real else scipy.fft.fftn)(u, axes=range(1, u.ndim))
    got, again = program(0, u)
    kept = tuple(slice(k) for k in expected.shape)
    np.testing.assert_allclose(got[kept], expected, atol=1e-12)
    assert not np.any(np.delete(got, range(expected.shape[-1]), -1))
    np.testing.assert_allclose(again, u, atol=1e-13)
    v, w = (jnp.asarray(rng.normal(size=a.shape), a.dtype) for a in (got, again))
    (pulled,) = jax.jit(lambda u, *t: jax.vjp(lambda u: round_trip(0, u), u)[1](t))(u, v, w)
    product = jnp.sum(v * got) + jnp.sum(w * again)  # both are linear
    np.testing.assert_allclose(jnp.sum(pulled * u).real, product.real, rtol=1e-11)


@pytest.mark.dtype
def test_transforms_keep_the_precision_of_the_field():
    u = jnp.ones((1, 8, 6), jnp.float32)
    shapes = jax.eval_shape(in_pieces(lambda _, u: decomposed.rfftn(u, ("x", None)), ("x", None), (None, "x")), 0, u)
    assert (shapes.shape, shapes.dtype) == ((1, 8, 4), jnp.complex64)
    field = jax.eval_shape(
        in_pieces(lambda _, a: decomposed.irfftn(a, ("x", None), (8, 6)), (None, "x"), ("x", None)), 0, shapes
    )
    assert (field.shape, field.dtype) == ((1, 8, 6), jnp.float32)


def mean_free(shape, channels, dtype=float):
    u = np.random.default_rng(1).normal(size=(channels, *shape))
    u -= u.mean(axis=tuple(range(1, u.ndim)), keepdims=True)
    return jnp.asarray(u, dtype)


def flow2d(nu, piece, dealiasing="truncate", order=4):
    force = KolmogorovForcing(0.7, 2)
    return repeat(ETDRK(NavierStokes2D(nu, 0.1, force), piece, 1e-2, dealiasing=dealiasing, order=order), 2)


def euler2d(nu, piece, dealiasing="truncate"):
    return flow2d(nu, piece, dealiasing, order=1)


def flow3d(nu, piece, dealiasing="truncate"):
    forcing = lambda t, x: 0.3 * jnp.stack([jnp.sin(x[1]), jnp.cos(x[2] + t), jnp.sin(x[0])])
    return repeat(ETDRK(NavierStokes3D(nu, forcing=forcing), piece, 1e-2, dealiasing=dealiasing), 2)


def burgers(nu, piece, dealiasing="truncate"):
    return repeat(ETDRK(Burgers(nu), piece, 1e-2, order=2, dealiasing=dealiasing), 2)


def waves(nu, piece, dealiasing="truncate"):
    return repeat(ETDRK(NonlinearSchroedinger(nu), piece, 1e-3, dealiasing=dealiasing), 2)


SOLVERS = [
    (euler2d, 1, (16, 10), ("x", None), "truncate"),
    (flow2d, 1, (16, 10), ("x", None), "truncate"),
    (flow2d, 1, (12, 10), ("x", None), "pad"),
    (flow3d, 3, (8, 8, 6), ("x", "y", None), "truncate"),
    (flow3d, 3, (8, 6, 7), ("y", "x", None), "pad"),
    (flow3d, 3, (6, 8, 6), (None, "x", None), "pad"),
    (burgers, 3, (4, 8, 7), ("x", None, None), "pad"),
    (waves, 2, (8, 12), ("x", None), "truncate"),
    (waves, 2, (12, 10, 8), ("x", "y", None), "pad"),
]


@pytest.mark.parametrize(
    ("solver", "channels", "shape", "names", "dealiasing"),
    [SOLVERS[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in SOLVERS[1:])],
)
def test_spectral_solvers_in_pieces_are_those_of_one_device_and_so_are_gradients(
    solver, channels, shape, names, dealiasing
):
    u, target = mean_free(shape, channels), np.random.default_rng(2).normal(size=(channels, *shape))
    grid = Grid(shape, 0.0, 2 * np.pi)

    def values(run):
        energy = lambda nu, u: (jnp.sum(target * run(nu, u)), run(nu, u))
        return jax.jit(jax.value_and_grad(energy, (0, 1), has_aux=True))(0.05, u)

    (_, whole), (slope, gradient) = values(lambda nu, u: solver(nu, grid, dealiasing)(u))
    pieces = in_pieces(lambda nu, u: solver(nu, Piece(grid, names), dealiasing)(u), names)
    (_, got), (got_slope, got_gradient) = values(pieces)
    assert jnp.linalg.norm(whole - u) > 1e-3 * jnp.linalg.norm(u)
    assert jnp.linalg.norm(got - whole) < 1e-12 * jnp.linalg.norm(whole)
    assert jnp.linalg.norm(got_gradient - gradient) < 1e-12 * jnp.linalg.norm(gradient)
    np.testing.assert_allclose(got_slope, slope, rtol=1e-11)


@pytest.mark.slow
@pytest.mark.dtype
def test_single_precision_stays_and_agrees():
    grid, u = Grid((16, 10), 0.0, 2 * np.pi), mean_free((16, 10), 1, jnp.float32)
    got = jax.jit(in_pieces(lambda _, u: flow2d(0.05, Piece(grid, ("x", None)))(u), ("x", None)))(0, u)
    whole = jax.jit(flow2d(0.05, grid))(u)
    assert got.dtype == jnp.float32
    assert jnp.linalg.norm(got - whole) < 1e-6 * jnp.linalg.norm(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "channels", "shape", "names"),
    [(flow2d, 1, (16, 10), ("x", None)), (flow3d, 3, (8, 8, 6), ("x", "y", None))],
)
def test_a_solver_step_exchanges_by_all_to_all_alone(solver, channels, shape, names):
    grid, u = Grid(shape, 0.0, 2 * np.pi), mean_free(shape, channels)
    run = in_pieces(lambda nu, u: solver(nu, Piece(grid, names))(u), names)
    assert collectives(compiled(run, 0.05, u)).keys() == {"all-to-all"}


@pytest.mark.slow
def test_a_quarter_of_the_memory_each():
    grid = Grid((128, 128), 0.0, 2 * np.pi)
    u = jax.ShapeDtypeStruct((1, 128, 128), float)

    def bytes_of(run):
        found = compiled(run, 0.05, u).memory_analysis()
        return found.temp_size_in_bytes + found.argument_size_in_bytes

    pieces = bytes_of(in_pieces(lambda nu, u: flow2d(nu, Piece(grid, ("x", None)))(u), ("x", None)))
    ratio = pieces / bytes_of(lambda nu, u: flow2d(nu, grid)(u))
    print(f"memory of a device, of that of one alone: {ratio:.3f}")
    assert ratio < 0.35


def transported(piece, dt=1e-3):
    """Advection and diffusion, by finite differences and two steps of the classical Runge-Kutta method."""

    def rate(u):
        slopes = sum((0.5 + axis) * finite_difference(u, piece, axis) for axis in range(piece.ndim))
        return 0.01 * sum(finite_difference(u, piece, axis, 2) for axis in range(piece.ndim)) - slopes

    def step(u):
        a = rate(u)
        b = rate(u + dt / 2 * a)
        c = rate(u + dt / 2 * b)
        return u + dt / 6 * (a + 2 * b + 2 * c + rate(u + dt * c))

    return repeat(step, 2)


def curvature(piece):
    """Along an axis, whatever the others are."""
    return lambda u: finite_difference(u, piece, 0, 2)


DIFFERENCES = [
    (curvature, Grid((24, 7), placement=("nodes", "chebyshev")), ("x", None)),
    (transported, Grid((24, 10), placement=("nodes", "left")), ("x", "y")),
    (transported, Grid((12, 8, 16), placement=("left", "cells", "cells")), ("x", None, "y")),
]


@pytest.mark.parametrize(
    ("solve", "grid", "names"),
    [DIFFERENCES[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in DIFFERENCES[1:])],
)
def test_finite_differences_in_pieces_are_those_of_one_device_and_so_are_gradients(solve, grid, names):
    u, target = mean_free(grid.shape, 2), np.random.default_rng(2).normal(size=(2, *grid.shape))

    def values(run):
        return jax.jit(jax.value_and_grad(lambda u: (jnp.sum(target * run(u)), run(u)), has_aux=True))(u)

    (_, whole), gradient = values(solve(grid))
    run = in_pieces(lambda _, u: solve(Piece(grid, names))(u), names)
    (_, got), got_gradient = values(lambda u: run(0, u))
    assert jnp.linalg.norm(got - whole) < 1e-12 * jnp.linalg.norm(whole)
    assert jnp.linalg.norm(got_gradient - gradient) < 1e-12 * jnp.linalg.norm(gradient)


def test_a_piece_has_its_own_points():
    grid = Grid((4, 6, 3), (0.0, 1.0, 2.0), (1.0, 3.0, 4.0), ("left", "cells", "nodes"))
    names = ("x", "y", None)
    run = in_pieces(lambda _, u: Piece(grid, names).coordinates() + 0 * u, names)
    np.testing.assert_array_equal(jax.jit(run)(0, jnp.zeros((3, *grid.shape))), grid.coordinates())


@pytest.mark.slow
def test_right_hand_sides_in_pieces_are_those_of_one_device():
    grid, u = Grid((16, 10), 0.0, 2 * np.pi), mean_free((16, 10), 1)
    run = in_pieces(lambda _, u: vector_field(NavierStokes2D(0.1), Piece(grid, ("x", None)))(0.0, u), ("x", None))
    expected = vector_field(NavierStokes2D(0.1), grid)(0.0, u)
    np.testing.assert_allclose(run(0, u), expected, atol=1e-12)


@pytest.mark.slow
def test_the_example_in_the_docstring_runs():
    lines = inspect.getdoc(Piece).split("\n")
    code = [line[4:] for line in lines if line.startswith("    ") or not line]
    text = "\n".join(code).replace("1024, 1024", "16, 16").replace("jax.devices()", "np.array(jax.devices()[:4])")
    start = mean_free((16, 16), 1)
    scope = {"jax": jax, "np": np, "pi": np.pi, "w": start, "Grid": Grid, "Piece": Piece, "repeat": repeat}
    scope |= {"ETDRK": ETDRK, "NavierStokes2D": NavierStokes2D}
    exec(text[text.index("mesh") :], scope)
    expected = repeat(ETDRK(NavierStokes2D(1e-3), Grid((16, 16), 0.0, 2 * np.pi), 1e-3), 100)(start)
    np.testing.assert_allclose(scope["w"], expected, atol=1e-12)


def on_line(function):
    """What tracing `function` of a piece raises."""
    jax.eval_shape(in_pieces(lambda _, u: function(u), ("x", None)), 0, jnp.zeros((1, 8, 6)))


GRID = Grid((8, 6))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda u: Piece(Grid((6, 8)), ("x", None)), "`whole` has 6 points on axis 0, which 4 devices .* do not"),
        (lambda u: Piece(GRID, ("z", None)), "`axis_names` has 'z', which is no axis of a mesh here"),
        (lambda u: Piece(GRID, ("x",)), "`axis_names` is .* for 2 axes"),
        (lambda u: Piece(GRID, ("x", "x")), "`axis_names` is .* none of them twice"),
        (lambda u: Fourier(Piece(Grid((6, 8)), (None, "x"))), "`grid` is cut by .* the last axis whole"),
        (lambda u: decomposed.rfftn(u, (None, "x")), "`axis_names` is .* None for the last axis"),
        (lambda u: decomposed.irfftn(0j * u, ("x", None), (6, 8)), "`shape` is .* a multiple of 4, the devices of 'x'"),
        (lambda u: decomposed.halo_exchange(u, ("x", None), 3), "`width` is 3 on an axis of which .* has 2 points"),
        (lambda u: decomposed.halo_exchange(u, ("x", None), 2, "reflect"), "`width` is 2 .* less for 'reflect'"),
        (lambda u: decomposed.halo_exchange(u, ("x", None), 1, "mirror"), "`boundary` of an axis is 'mirror'"),
        (lambda u: decomposed.halo_exchange(u, ("x", None), 1, (("periodic", "zero"), "zero")), "both 'periodic' or"),
        (lambda u: decomposed.halo_exchange(u, ("x", None), (1, 1, 1)), "`width` is .* for 2 axes"),
        (lambda u: ETDRK(VariableTransport(0.1), Piece(GRID, ("x", None)), 0.1), "`grid` is a Piece"),
        (lambda u: finite_difference(u, Piece(Grid((8, 6), placement="nodes"), ("x", None)), 0), "`width` is 4"),
    ],
)
def test_errors_name_the_argument(function, match):
    with pytest.raises(ValueError, match=match):
        on_line(lambda u: (function(u), u)[1])


@pytest.mark.plain
def test_outside_shard_map_names_are_unknown():
    with pytest.raises(ValueError, match=r"jax\.shard_map"):
        Piece(GRID, ("x", None))
