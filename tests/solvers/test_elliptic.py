from functools import partial

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla

from solvers import Dirichlet, EllipticProblem, Grid, Neumann, Periodic, Robin, elliptic_residual, solve_elliptic

# Here compiling is the cost: without LLVM's optimisations it takes a third of the time.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def assemble(grid, a, c, f, sides):
    """The finite-volume equations, face by face. `sides`: per axis "periodic" or two (kind, alpha, g)."""
    number = np.arange(a.size).reshape(a.shape)
    matrix, right = sp.lil_matrix((a.size, a.size)), np.array(f, float).ravel()
    for cell in np.ndindex(*a.shape):
        row = number[cell]
        matrix[row, row] += c[cell]
        for axis, (n, h) in enumerate(zip(a.shape, grid.spacing, strict=True)):
            for end, step in enumerate((-1, 1)):
                position = cell[axis] + step
                if 0 <= position < n or sides[axis] == "periodic":
                    other = (*cell[:axis], position % n, *cell[axis + 1 :])
                    coefficient = 2 / (1 / a[cell] + 1 / a[other]) / h**2
                    matrix[row, row] += coefficient
                    matrix[row, number[other]] -= coefficient
                    continue
                kind, alpha, g = sides[axis][end]
                g = np.asarray(g)[cell[:axis] + cell[axis + 1 :]] if np.ndim(g) else g
                k = 2 * a[cell] / h
                if kind == "dirichlet":
                    matrix[row, row] += k / h
                    right[row] += k * g / h
                else:  # the face value w solves alpha w + k (w - u) = g
                    matrix[row, row] += (k - k**2 / (alpha + k)) / h
                    right[row] += k * g / (alpha + k) / h
    return matrix.tocsc(), right


def condition(kind, alpha, g):
    return {"dirichlet": Dirichlet(g), "neumann": Neumann(g), "robin": Robin(alpha, g)}[kind]


CASES = {
    "1-D": ((101,), "cells", [(("dirichlet", 0, 0.7), ("robin", 2.0, -0.4))]),
    "2-D": (
        (13, 10),
        "cells",
        [
            (("dirichlet", 0, np.sin(np.arange(10.0))), ("neumann", 0.0, 0.3)),
            (("robin", 1.5, 0.2), ("dirichlet", 0, 1.0)),
        ],
    ),
    "2-D periodic": ((9, 10), ("left", "cells"), ["periodic", (("neumann", 0.0, 0.5), ("dirichlet", 0, 0.3))]),
    "3-D": (
        (4, 3, 5),
        "cells",
        [(("dirichlet", 0, 0.3), ("neumann", 0.0, 0.3)), (("robin", 1.5, 0.2), ("neumann", 0, 1.0)), "periodic"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_solution_and_gradients_agree_with_sparse_lu_and_central_differences(name):
    shape, placement, sides = CASES[name]
    grid = Grid(shape, 0.0, (1.0, 0.8, 1.3)[: len(shape)], placement)
    rng = np.random.default_rng(0)
    data = {"a": np.exp(rng.normal(size=shape)), "c": rng.random(shape), "f": rng.normal(size=shape)}
    data["sides"] = [np.asarray(side[end][2]) for side in sides if side != "periodic" for end in (0, 1)]
    probe = rng.normal(size=shape)

    def with_data(make, sides, values):
        values = iter(values)
        fill = lambda side: tuple(make(kind, alpha, next(values)) for kind, alpha, _ in side)
        return [make() if side == "periodic" else fill(side) for side in sides]

    def functional(data):
        boundary = with_data(lambda *side: condition(*side) if side else Periodic(), sides, data["sides"])
        solution = solve_elliptic(EllipticProblem(grid, data["a"], data["f"], boundary, data["c"]), rtol=1e-13)
        return jnp.sum(probe * jnp.sin(solution.value)), solution

    def reference(data):
        boundary = with_data(lambda *side: side or "periodic", sides, data["sides"])
        return sla.spsolve(*assemble(grid, data["a"], data["c"], data["f"], boundary)).reshape(shape)

    (_, solution), gradient = quick_jit(jax.value_and_grad(functional, has_aux=True))(data)
    expected = reference(data)
    assert solution.result == lx.RESULTS.successful
    assert np.linalg.norm(solution.value - expected) <= 1e-10 * np.linalg.norm(expected)

    for leaf in data:
        direction = jax.tree.map(lambda x, leaf=leaf: rng.normal(size=np.shape(x)), data[leaf])
        at = lambda e, leaf=leaf, d=direction: data | {leaf: jax.tree.map(lambda x, y: x + e * y, data[leaf], d)}
        moved = [np.sum(probe * np.sin(reference(at(e)))) for e in (1e-5, -1e-5)]
        slope = sum(np.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient[leaf], direction)), strict=True))
        assert slope == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-6), leaf


def manufactured(ndim, n):
    """The error of `u = sin(x + 1) cos(2 y) ... ` for smooth `a`, with a different condition on each side."""
    periodic = ndim == 3
    grid = Grid((n,) * ndim, 0.0, 1.0, ("cells",) * (ndim - periodic) + ("left",) * periodic)
    factors = [lambda x: jnp.sin(x + 1), lambda y: jnp.cos(2 * y), lambda z: jnp.sin(2 * jnp.pi * z)][:ndim]
    exact = lambda x: jnp.prod(jnp.stack([factor(x[k]) for k, factor in enumerate(factors)]))
    coefficient = lambda x: jnp.exp(0.5 * jnp.sin(2 * jnp.pi * x[-1]) * (jnp.cos(x[0]) if ndim > 1 else 1))
    flux = lambda x: coefficient(x) * jax.grad(exact)(x)
    source = lambda x: -jnp.trace(jax.jacfwd(flux)(x)) + 2.0 * exact(x)
    on_grid = lambda g: jax.vmap(g)(grid.coordinates().reshape(ndim, -1).T).reshape(grid.shape)

    def face(g, axis, end):
        at = grid.coordinates().take(0, axis=1 + axis).at[axis].set(float(end))
        return jax.vmap(g)(at.reshape(ndim, -1).T).reshape(at.shape[1:])

    def pair(axis):
        outward = lambda end: lambda x: (2 * end - 1) * flux(x)[axis]
        lower = Dirichlet(face(exact, axis, 0)) if axis else Neumann(face(outward(0), axis, 0))
        return lower, Robin(3.0, face(lambda x: 3.0 * exact(x) + outward(1)(x), axis, 1))

    def error():
        boundary = [Periodic() if periodic and axis == 2 else pair(axis) for axis in range(ndim)]
        solution = solve_elliptic(EllipticProblem(grid, on_grid(coefficient), on_grid(source), boundary, 2.0))
        return jnp.abs(solution.value - on_grid(exact)).max()

    return float(quick_jit(error)())


@pytest.mark.parametrize(("ndim", "n"), [(1, 32), (2, 8), pytest.param(2, 24, marks=pytest.mark.slow)])
def test_error_falls_with_the_square_of_the_spacing(ndim, n):
    assert np.log2(manufactured(ndim, n) / manufactured(ndim, 2 * n)) == pytest.approx(2.0, abs=0.2)


@pytest.mark.slow
def test_error_falls_with_the_square_of_the_spacing_in_three_dimensions():
    assert np.log2(manufactured(3, 8) / manufactured(3, 16)) == pytest.approx(2.0, abs=0.2)


def test_singular_problem_is_projected_and_says_by_how_much():
    grid = Grid((8, 8), 0.0, (1.0, 2.0), "cells")
    rng = np.random.default_rng(1)
    a, f = np.exp(rng.normal(size=(8, 8))), rng.normal(size=(8, 8))
    sides = [(("neumann", 0.0, 0.7), ("neumann", 0.0, -0.2)), (("neumann", 0.0, 0.0), ("neumann", 0.0, 0.1))]

    def solve(a, f):
        boundary = [tuple(condition(*side) for side in pair) for pair in sides]
        return solve_elliptic(EllipticProblem(grid, a, f, boundary), rtol=1e-12)

    value = lambda a: (lambda s: (jnp.sum(jnp.sin(s.value)), s))(solve(a, f))
    (_, solution), gradient = quick_jit(jax.value_and_grad(value, has_aux=True))(a)
    # Integrals over the box of volume 2: of f, and of the boundary fluxes over sides of length 2 and 1.
    imbalance = f.mean() + (0.7 * 2 - 0.2 * 2 + 0.1 * 1) / 2
    assert float(solution.incompatibility) == pytest.approx(imbalance, rel=1e-12)
    assert abs(float(solution.value.mean())) < 1e-14

    def reference(a):
        matrix, right = assemble(grid, a, np.zeros((8, 8)), f, sides)
        return np.linalg.lstsq(matrix.toarray(), right - right.mean(), rcond=1e-12)[0].reshape(8, 8)

    np.testing.assert_allclose(solution.value, reference(a), atol=1e-10 * np.abs(reference(a)).max())
    direction = rng.normal(size=(8, 8))
    moved = [np.sum(np.sin(reference(a + e * direction))) for e in (1e-5, -1e-5)]
    assert np.sum(gradient * direction) == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-6)


def test_a_compatible_periodic_problem_reports_none_and_solves_the_equation():
    grid = Grid((8, 6))
    x, y = grid.coordinates()
    problem = EllipticProblem(grid, 1.0 + 0.5 * jnp.sin(2 * jnp.pi * x), jnp.cos(2 * jnp.pi * y), Periodic())
    solution = quick_jit(lambda p: solve_elliptic(p, rtol=1e-12))(problem)
    assert abs(float(solution.incompatibility)) < 1e-15
    assert float(jnp.abs(elliptic_residual(problem, solution.value)).max()) < 1e-10


@pytest.mark.slow
def test_vmap_is_the_loop_and_forward_mode_is_reverse_mode():
    grid = Grid((7, 8), placement="cells")
    a = jnp.exp(jax.random.normal(jax.random.key(0), (3, 7, 8)))
    tangent = jax.random.normal(jax.random.key(1), (7, 8))
    value = lambda a: solve_elliptic(EllipticProblem(grid, a, 1.0, Dirichlet()), rtol=1e-12).value
    functional = lambda a: jnp.sum(value(a) ** 2)

    def both(a):
        _, forward = jax.jvp(functional, (a,), (tangent,))
        return value(a), forward, jnp.sum(jax.grad(functional)(a) * tangent)

    one = quick_jit(both)
    one_by_one = [one(each) for each in a]
    together = quick_jit(jax.vmap(both))(a)
    for got, expected in zip(together, zip(*one_by_one, strict=True), strict=True):
        np.testing.assert_allclose(got, jnp.stack(expected), rtol=1e-9)
    np.testing.assert_allclose(together[1], together[2], rtol=1e-9)


def test_a_solve_that_runs_out_of_steps_says_so_and_its_gradient_does_not_raise():
    grid = Grid((9, 9), placement="cells")

    def functional(a):
        solution = solve_elliptic(EllipticProblem(grid, a, 1.0, Dirichlet()), max_steps=1)
        return jnp.sum(solution.value), solution

    (_, solution), gradient = quick_jit(jax.value_and_grad(functional, has_aux=True))(jnp.ones((9, 9)))
    assert solution.result == lx.RESULTS.max_steps_reached
    assert float(solution.relative_residual) > 1e-8
    assert bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.dtype
def test_float32_in_is_float32_out():
    grid = Grid((9, 9), placement="cells")
    a = np.exp(np.random.default_rng(0).normal(size=(9, 9))).astype("float32")
    f = np.ones((9, 9), "float32")
    solve = lambda a, f: solve_elliptic(EllipticProblem(grid, a, f, Dirichlet(np.float32(0.5))))
    solution = quick_jit(solve)(a, f)
    assert solution.value.dtype == solution.relative_residual.dtype == "float32"
    assert solution.result == lx.RESULTS.successful
    side = (("dirichlet", 0.0, 0.5),) * 2
    expected = sla.spsolve(*assemble(grid, a.astype(float), np.zeros((9, 9)), f, [side, side])).reshape(9, 9)
    # The residual is at 1e-5; the conditioning of this small problem may make ten times that of it.
    np.testing.assert_allclose(solution.value, expected, atol=1e-4)


CELLS = Grid((4, 4), placement="cells")


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Grid((4, 4), placement="nodes"), 1.0, 1.0, Dirichlet()), "`grid` has placement 'nodes' on axis 0"),
        ((Grid((4, 4)), 1.0, 1.0, Dirichlet()), "`grid` has placement 'left' on axis 0"),
        ((CELLS, np.ones((1, 4, 4)), 1.0, Dirichlet()), "`a` has shape"),
        ((CELLS, 1.0, np.ones((3, 4)), Dirichlet()), "`f` has shape"),
        ((CELLS, np.eye(4), 1.0, Dirichlet()), "`a` has values between 0.0 and 1.0; expected positive"),
        ((CELLS, np.nan, 1.0, Dirichlet()), "`a` has values between nan"),
        ((CELLS, 1.0, 1.0, Dirichlet(), -1.0), "`c` has values between -1.0"),
        ((CELLS, 1.0, 1.0, Neumann(), 0.0), "leave `c` out"),
        ((CELLS, 1.0, 1.0, (Dirichlet(),)), "`boundary` has 1 entries for 2 axes"),
        ((CELLS, 1.0, 1.0, (Dirichlet(), (Dirichlet(),))), "`boundary` of axis 1 is .* a side is missing"),
        ((CELLS, 1.0, 1.0, (Dirichlet(), None)), "`boundary` of axis 1 is .* a side is missing"),
        ((CELLS, 1.0, 1.0, (Dirichlet(), (Periodic(), Dirichlet()))), "`boundary` of axis 1 is periodic on one side"),
        ((CELLS, 1.0, 1.0, Dirichlet(np.ones(3))), "lower side: `value` has shape"),
    ],
)
def test_a_problem_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EllipticProblem(*arguments)


@pytest.mark.plain
def test_tolerances_that_make_no_sense_are_refused():
    problem = EllipticProblem(CELLS, 1.0, 1.0, Dirichlet())
    with pytest.raises(ValueError, match="`rtol` is 0"):
        solve_elliptic(problem, rtol=0.0)
    with pytest.raises(ValueError, match="`max_steps` is 0"):
        solve_elliptic(problem, max_steps=0)
