"""Steady diffusion with varying coefficients, `-div(a grad u) + c u = f`: Poisson, Darcy flow and screened
Poisson.

Finite volumes around the points of a uniform grid: the flux through a face takes the harmonic mean of `a` on
its two sides (exact in one dimension for a coefficient constant in each cell), a boundary lies half a cell
from the nearest point. Second order where `a` is smooth."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from .boundary import Condition, Dirichlet, Neumann, Periodic, Robin, Sides, per_side
from .grid import Grid
from .krylov import PreconditionedCG
from .multigrid import Stencil, multigrid


class EllipticProblem(eqx.Module):
    """`-div(a grad u) + c u = f` on a box, with a condition on each side.

    Its arrays are the data of the equation: build it inside a function to differentiate in them or to `vmap`
    over them.

    **Arguments:** `grid`: placement `cells`, or on a periodic axis `left`. `a`: `(*n,)` or a number,
    positive. `f`: `(*n,)` or a number. `boundary`: one `Dirichlet`, `Neumann`, `Robin` or `Periodic` for all
    sides, or one entry an axis, which is one of these or a pair (lower, upper). `c`: `(*n,)` or a number, not
    negative and positive somewhere; `None` for zero. With `c=None` and no `Dirichlet` or `Robin` side, `u` is
    determined up to a constant: its mean is then set to zero. (A `Robin` side with `alpha = 0` throughout is
    not recognised as such; use `Neumann`.)

    **Raises:** `ValueError` for a placement that does not fit a side, wrong shapes, a missing side; on
    concrete values for `a` that is not positive and finite, and for `c` negative, or zero throughout where it
    decides that `u` is unique."""

    grid: Grid
    a: Float[Array, " *n"]
    f: Float[Array, " *n"]
    boundary: tuple[Sides, ...]
    c: Float[Array, " *n"] | None

    def __init__(
        self,
        grid: Grid,
        a: ArrayLike,
        f: ArrayLike,
        boundary: Condition | Sequence[Condition | Sequence[Condition]],
        c: ArrayLike | None = None,
    ):
        self.grid = grid
        self.boundary = per_side(boundary, grid)
        for axis, ((side, _), placement) in enumerate(zip(self.boundary, grid.placement, strict=True)):
            if placement != "cells" and not (placement == "left" and isinstance(side, Periodic)):
                raise ValueError(
                    f"`grid` has placement {placement!r} on axis {axis}; finite volumes need 'cells', or 'left' on a "
                    "periodic axis. Build it as Grid(shape, placement='cells')."
                )
        dtype = jnp.result_type(a, f) if c is None else jnp.result_type(a, f, c)
        dtype = jnp.result_type(dtype, float) if not jnp.issubdtype(dtype, jnp.floating) else dtype
        self.a = _on_grid("a", a, grid, dtype)
        self.f = _on_grid("f", f, grid, dtype)
        self.c = None if c is None else _on_grid("c", c, grid, dtype)
        _check_values("a", a, lambda v: np.isfinite(v) & (v > 0), "positive and finite everywhere")
        if c is not None:
            _check_values("c", c, lambda v: np.isfinite(v) & (v >= 0), "finite and not negative")
            if _all_natural(self.boundary):
                _check_values("c", c, lambda v: np.any(v > 0), "positive somewhere; leave `c` out where it is zero")

    @property
    def singular(self) -> bool:
        """Whether constants solve the homogeneous equation."""
        return self.c is None and _all_natural(self.boundary)


class EllipticSolution(eqx.Module):
    """What `solve_elliptic` returns.

    `value`: `u`, `(*n,)`. `result`: Lineax's code, `lx.RESULTS.successful` where the iteration met `rtol`.
    `iterations`: of conjugate gradients. `relative_residual`: `||b - A u|| / ||b||`, computed anew from `u`
    (`b` is `f` with the boundary data, projected in the singular case); rounding alone leaves about `eps
    ||A|| ||u|| / ||b||`, with `||A|| ~ 4 d a / h^2`: 1e-3 for a 256 x 256 grid in float32. `incompatibility`:
    in the singular case the mean of `b` over the box, which a compatible problem has zero and which was
    subtracted; otherwise zero."""

    value: Float[Array, " *n"]
    result: lx.RESULTS
    iterations: Int[Array, ""]
    relative_residual: Float[Array, ""]
    incompatibility: Float[Array, ""]


def solve_elliptic(
    problem: EllipticProblem, *, rtol: float | None = None, max_steps: int = 200, preconditioner_dtype: Any = None
) -> EllipticSolution:
    """Solve by conjugate gradients preconditioned with one multigrid V-cycle.

    Differentiable in every array of `problem`, in forward and reverse mode, implicitly: a gradient costs one
    more solve with the same hierarchy. In the singular case `f` with its boundary data is projected to zero
    mean and `u` has zero mean (all cells weigh the same). One problem a call; `vmap` runs until its slowest
    problem has converged.

    **Arguments:** `rtol`: where the iteration stops, relative to the right-hand side in the 2-norm; by
    default 1e-8 in float64 and 1e-5 in float32. `max_steps`: the most iterations. `preconditioner_dtype`: of
    the multigrid cycle, by default that of the problem; float32 halves its memory traffic under a float64
    solve.

    **Returns:** an `EllipticSolution`; one that did not converge says so in `result`.

    **Raises:** `ValueError` for `rtol` or `max_steps` not positive.
    """
    dtype = problem.a.dtype
    if rtol is None:
        rtol = 1e-8 if dtype == jnp.float64 else 1e-5
    if rtol <= 0:
        raise ValueError(f"`rtol` is {rtol}; expected a positive number such as 1e-8.")
    if max_steps < 1:
        raise ValueError(f"`max_steps` is {max_steps}; expected at least one.")
    stencil, right = _discretise(problem)
    frozen = jax.tree.map(lambda x: lax.stop_gradient(x).astype(preconditioner_dtype or dtype), stencil)
    cycle = multigrid(frozen, spacing=problem.grid.spacing, singular=problem.singular)
    apply, precondition = stencil.__call__, lambda r: cycle(r.astype(preconditioner_dtype or dtype)).astype(dtype)
    incompatibility = jnp.zeros((), dtype)
    if problem.singular:
        # A rank-one shift of the constants makes the operator regular and leaves zero-mean functions alone.
        incompatibility = jnp.mean(right)
        right = right - incompatibility
        shift = lax.stop_gradient(jnp.mean(stencil.entries[(0,) * problem.grid.ndim]))
        apply = lambda u: stencil(u) + shift * jnp.mean(u)
        fluctuating = precondition
        precondition = lambda r: _centred(fluctuating(_centred(r))) + jnp.mean(r) / shift

    structure = jax.eval_shape(lambda: right)
    operator = lx.FunctionLinearOperator(apply, structure, lx.positive_semidefinite_tag)
    inverse = lx.FunctionLinearOperator(precondition, structure, lx.positive_semidefinite_tag)
    solution = lx.linear_solve(
        operator,
        right,
        PreconditionedCG(rtol, max_steps),
        options={"preconditioner": inverse},
        throw=False,
    )
    residual, size = (jnp.sqrt(jnp.sum(x * x)) for x in lax.stop_gradient((right - apply(solution.value), right)))
    return EllipticSolution(
        value=solution.value,
        result=lx.RESULTS.where(
            solution.stats["converged"] | (solution.result != lx.RESULTS.successful),
            solution.result,
            lx.RESULTS.max_steps_reached,
        ),
        iterations=solution.stats["num_steps"],
        relative_residual=residual / jnp.where(size > 0, size, 1),
        incompatibility=incompatibility,
    )


def elliptic_residual(problem: EllipticProblem, u: Float[Array, " *n"]) -> Float[Array, " *n"]:
    """`-div(a grad u) + c u - f` of the discrete equation, boundary conditions included: zero at its
    solution. Per unit of volume, so that boundary data enter a cell divided by its width."""
    stencil, right = _discretise(problem)
    return stencil(u) - right


def _discretise(problem: EllipticProblem) -> tuple[Stencil, Float[Array, " *n"]]:
    """The operator as a stencil and its right-hand side, per unit of volume."""
    grid, a, right = problem.grid, problem.a, problem.f
    ndim = grid.ndim
    entries, centre = {}, jnp.zeros_like(a) if problem.c is None else problem.c
    for axis, ((lower, upper), h) in enumerate(zip(problem.boundary, grid.spacing, strict=True)):
        n = grid.shape[axis]
        first, last = (lax.slice_in_dim(a, i, i + 1, axis=axis) for i in (0, n - 1))
        before, after = (lax.slice_in_dim(a, i, i + n - 1, axis=axis) for i in (0, 1))
        inner = 2 * before * after / (before + after) / h**2
        pad = lambda x, low, high, axis=axis: jnp.pad(x, [(low, high) if k == axis else (0, 0) for k in range(ndim)])
        towards_upper, towards_lower = pad(inner, 0, 1), pad(inner, 1, 0)
        if isinstance(lower, Periodic) and n > 1:
            wrap = 2 * first * last / (first + last) / h**2
            towards_upper, towards_lower = towards_upper + pad(wrap, n - 1, 0), towards_lower + pad(wrap, 0, n - 1)
        unit = tuple(int(k == axis) for k in range(ndim))
        entries[unit], entries[tuple(-k for k in unit)] = -towards_upper, -towards_lower
        centre = centre + towards_upper + towards_lower
        if not isinstance(lower, Periodic):
            for side, edge, place in ((lower, first, (0, n - 1)), (upper, last, (n - 1, 0))):
                diagonal, source = _side(side, edge, h, axis)
                centre, right = centre + pad(diagonal, *place), right + pad(source, *place)
    entries[(0,) * ndim] = centre
    return Stencil(entries, tuple(isinstance(lower, Periodic) for lower, _ in problem.boundary)), right


def _side(side: Condition, a: Array, h: float, axis: int) -> tuple[Array, Array]:
    """What a side adds to the diagonal and to the right-hand side of its cells, whose coefficient is `a`.

    With `k = 2 a / h` from the point to the face, eliminating the value on the face from `alpha u + a du/dn =
    g` leaves the inflow `k (g - alpha u) / (alpha + k)`; Dirichlet is its limit `k (g - u)`, Neumann `alpha =
    0`."""
    on_face = lambda data: jnp.broadcast_to(
        jnp.expand_dims(data, axis).astype(a.dtype) if data.ndim else data.astype(a.dtype), a.shape
    )
    k = 2 * a / h
    if isinstance(side, Dirichlet):
        return k / h, k * on_face(side.value) / h
    if isinstance(side, Neumann):
        return jnp.zeros_like(a), on_face(side.flux) / h
    assert isinstance(side, Robin)
    alpha = on_face(side.alpha)
    return k * alpha / (alpha + k) / h, k * on_face(side.value) / (alpha + k) / h


def _centred(u: Array) -> Array:
    return u - jnp.mean(u)


def _all_natural(boundary: tuple[Sides, ...]) -> bool:
    return all(isinstance(side, Neumann | Periodic) for pair in boundary for side in pair)


def _on_grid(name: str, value: ArrayLike, grid: Grid, dtype) -> Array:
    array = jnp.asarray(value, dtype)
    if array.ndim and array.shape != grid.shape:
        raise ValueError(
            f"`{name}` has shape {array.shape}; expected a number or {grid.shape}, one value a point without a channel "
            "axis. Batches go through `jax.vmap`."
        )
    return jnp.broadcast_to(array, grid.shape)


def _check_values(name: str, value: ArrayLike, holds, expected: str) -> None:
    if not isinstance(value, Tracer) and not np.all(holds(np.asarray(value))):
        v = np.asarray(value)
        raise ValueError(f"`{name}` has values between {v.min()} and {v.max()}; expected {expected}.")
