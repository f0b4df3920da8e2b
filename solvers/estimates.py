"""What a solver's embedded formulas say of one step: its error and the stiffness, differentiable."""

from collections.abc import Callable
from typing import Any, Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, Float, PyTree

Quantity = Literal["error", "stiffness", "step"]
Norm = Callable[[PyTree], Any]


class Tolerances(eqx.Module):
    """What errors are measured in: `norm(y_error / (atol + rtol max(|y_0|, |y_1|)))`, as step size controllers do."""

    rtol: Float[Array, "..."]
    atol: Float[Array, "..."]
    norm: Norm = eqx.field(static=True)

    def __init__(self, rtol: Any, atol: Any, norm: Norm = optimistix.rms_norm):
        self.rtol, self.atol, self.norm = jnp.asarray(rtol), jnp.asarray(atol), norm

    @staticmethod
    def of(controller: diffrax.AbstractStepSizeController) -> "Tolerances":
        """Those of an adaptive controller; of one with given steps, `rtol=0` and `atol=1`: the error as it is."""
        if isinstance(controller, diffrax.AbstractAdaptiveStepSizeController):
            return Tolerances(controller.rtol, controller.atol, controller.norm)
        return Tolerances(0.0, 1.0)


def local_heuristics(
    terms: PyTree,
    solver: diffrax.AbstractSolver,
    t: Any,
    h: Any,
    y: PyTree,
    args: PyTree = None,
    *,
    track: tuple[Quantity, ...] = ("error",),
    tolerances: Tolerances,
) -> tuple[Float[Array, ""] | None, Float[Array, ""] | None]:
    """`(E, S)`: the error and the stiffness that `solver` estimates on one step from `(t, y)` to `t + h`.

    Outside any solve, so its gradient, in everything, is there whatever adjoint the solve has. What `track` does not
    ask for is `None`. Formulas, arguments and errors: see `Heuristics` and `HeuristicSolver`. An SDE needs `h > 0`.
    """
    if "stiffness" in track:
        stages(solver)
    solver = _standing_alone(solver, tolerances)
    state = solver.init(terms, t, t + h, y, args)
    y1, y_error, dense_info, _, _ = solver.step(terms, t, t + h, y, args, state, made_jump=False)
    error = scaled_error(solver, y_error, y, y1, tolerances) if "error" in track else None
    stiffness = stage_stiffness(solver, dense_info, jnp.abs(jnp.asarray(h))) if "stiffness" in track else None
    return error, stiffness


def scaled_error(
    solver: diffrax.AbstractSolver, y_error: PyTree, y0: PyTree, y1: PyTree, tolerances: Tolerances
) -> Float[Array, ""]:
    """`E`: see `Heuristics`. Infinite, with gradient zero, where an entry is not finite."""
    if y_error is None:
        raise ValueError(
            f"`solver` is {type(innermost(solver)).__name__}, which estimates no error. Use one that does (Tsit5, "
            "Kvaerno5, SPaRK, ...), or wrap it: diffrax.HalfSolver(solver)."
        )

    def scaled(error: Array, a: Array, b: Array) -> Array:
        size = jnp.maximum(jnp.abs(a), jnp.abs(b))
        rtol, atol = (jnp.asarray(tol).astype(size.dtype) for tol in (tolerances.rtol, tolerances.atol))
        return error / (atol + rtol * size)

    ratio = jax.tree.map(scaled, y_error, y0, y1)
    return _guarded(tolerances.norm, ratio)


def stage_stiffness(solver: diffrax.AbstractSolver, dense_info: dict[str, Any], h: Array) -> Float[Array, ""]:
    """`S`: see `HeuristicSolver`. Zero where the two stages coincide."""
    rows, (last, other) = stages(solver)
    slopes = dense_info["k"] if len(rows) > 1 else (dense_info["k"],)
    rises = [jax.tree.map(lambda k: k[last] - k[other], k) for k in slopes]
    runs = [
        jax.tree.map(lambda k, row=row: jnp.tensordot(jnp.asarray(row, k.dtype), k, 1), k)
        for row, k in zip(rows, slopes, strict=True)
    ]
    rise, run = (
        _guarded(optimistix.two_norm, jax.tree.map(lambda *parts: sum(parts), *each)) for each in (rises, runs)
    )
    moved = run > 0
    return jnp.where(moved, rise / jnp.where(moved, run, 1), 0) / h.astype(rise.dtype)


def _guarded(norm: Norm, tree: PyTree) -> Float[Array, ""]:
    """The norm; infinite, and of gradient zero, where an entry is not finite (as on steps that will be rejected)."""
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
    value = norm(jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), tree))
    return jnp.where(finite, value, jnp.inf)


def stages(solver: diffrax.AbstractSolver) -> tuple[list[np.ndarray], tuple[int, int]]:
    """For each of the solver's tableaus `a_s - a_r`, and the two stages `(s, r)`."""
    if not isinstance(solver, diffrax.AbstractRungeKutta) or hasattr(solver, "solver"):
        raise ValueError(
            f"`track` asks for the stiffness, but {type(solver).__name__} shows no stages of which to estimate it. Use "
            "one of Diffrax's Runge-Kutta methods (Tsit5, Dopri5, Heun, KenCarp4, ...), or track the error alone."
        )
    tableau = solver.tableau
    tableaus = [tableau] if isinstance(tableau, diffrax.ButcherTableau) else list(tableau.tableaus)
    times = np.concatenate([[tableaus[0].c1 or 0.0], tableaus[0].c])
    pairs = [(s, s - 1) for s in range(len(times) - 1, 0, -1)]
    last, other = next((pair for pair in pairs if times[pair[0]] == times[pair[1]]), pairs[0])
    matrices = [_matrix(tableau) for tableau in tableaus]
    return [a[last] - a[other] for a in matrices], (last, other)


def _matrix(tableau: diffrax.ButcherTableau) -> np.ndarray:
    a = np.zeros((tableau.num_stages,) * 2)
    for i, row in enumerate(tableau.a_lower, 1):
        a[i, :i] = row
    if tableau.a_diagonal is not None:
        a[np.diag_indices_from(a)] = tableau.a_diagonal
    return a


def _standing_alone(solver: Any, tolerances: Tolerances) -> Any:
    """The solver, ready for a step outside a solve: its loop over stages differentiable both ways, and the tolerances
    of its root finder set, which a solve takes from its controller."""
    if hasattr(solver, "solver"):
        return eqx.tree_at(lambda s: s.solver, solver, _standing_alone(solver.solver, tolerances))
    if hasattr(solver, "scan_kind") and solver.scan_kind is None:
        solver = eqx.tree_at(lambda s: s.scan_kind, solver, "bounded", is_leaf=lambda x: x is None)
    if isinstance(solver, diffrax.AbstractImplicitSolver):
        for name in ("rtol", "atol", "norm"):
            now = getattr(solver.root_finder, name)
            is_set = callable(now) if name == "norm" else eqx.is_array_like(now)
            if not is_set:
                solver = eqx.tree_at(
                    lambda s, name=name: getattr(s.root_finder, name), solver, getattr(tolerances, name),
                    is_leaf=lambda x, now=now: x is now,
                )  # fmt: skip
    return solver


def innermost(solver: Any) -> Any:
    """What wrappers such as `diffrax.HalfSolver` wrap."""
    while hasattr(solver, "solver"):
        solver = solver.solver
    return solver
