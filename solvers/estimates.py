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
    forward_mode: bool = True,
) -> tuple[Float[Array, ""] | None, Float[Array, ""] | None]:
    """`(E, S)`: the error and the stiffness that `solver` estimates on one step from `(t, y)` to `t + h`.

    Outside any solve, so its gradient, in everything, is there whatever adjoint the solve has. What `track` does not
    ask for is `None`. Formulas, arguments and errors: see `Heuristics` and `HeuristicSolver`. An SDE needs `h > 0`.
    `forward_mode`: whether `jax.jvp` is to work, too; without, the gradient is a quarter cheaper.
    """
    if "stiffness" in track:
        require_stages(solver)
    solver = _standing_alone(solver, tolerances, forward_mode)
    y = jax.tree.map(jnp.asarray, y)
    t, h = (jnp.asarray(time, jnp.finfo(jnp.result_type(*jax.tree.leaves(y), 0.0)).dtype) for time in (t, h))
    state = solver.init(terms, t, t + h, y, args)
    y1, y_error, dense_info, _, _ = solver.step(terms, t, t + h, y, args, state, made_jump=False)
    error = scaled_error(solver, y_error, y, y1, tolerances) if "error" in track else None
    stiffness = stage_stiffness(solver, terms, t, t + h, args, dense_info) if "stiffness" in track else None
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


def stage_stiffness(
    solver: diffrax.AbstractSolver, terms: PyTree, t0: Any, t1: Any, args: PyTree, dense_info: dict[str, Any]
) -> Float[Array, ""]:
    """`S`: see `HeuristicSolver`. Zero where the two stages coincide, infinite where they are not finite."""
    tableaus, (last, other) = _tableaus(solver), _pair(solver)
    slopes = dense_info["k"] if len(tableaus) > 1 else (dense_info["k"],)

    def combined(rows: list[np.ndarray]) -> PyTree:
        parts = [
            jax.tree.map(lambda k, row=row: jnp.tensordot(jnp.asarray(row, k.dtype), k, 1), k)
            for row, k in zip(rows, slopes, strict=True)
        ]
        return jax.tree.map(lambda *each: sum(each), *parts)

    matrices = [_matrix(tableau) for tableau in tableaus]
    run = combined([a[last] - a[other] for a in matrices])
    if isinstance(innermost(solver), diffrax.AbstractImplicitSolver):
        stage = jax.tree.map(jnp.add, dense_info["y0"], combined([a[last] for a in matrices]))
        time, control = t0 + (t1 - t0) * float(_times(tableaus)[last]), terms.contr(t0, t1)
        _, rise = jax.jvp(lambda g: terms.vf_prod(time, g, args, control), (stage,), (run,))
    else:
        unit = np.eye(len(matrices[0]))
        rise = combined([unit[last] - unit[other]] * len(matrices))
    up, along = _guarded(optimistix.two_norm, rise), _guarded(optimistix.two_norm, run)
    usable = (along > 0) & jnp.isfinite(along)
    quotient = jnp.where(usable, up / jnp.where(usable, along, 1), jnp.where(along > 0, jnp.inf, 0))
    return quotient / jnp.abs(t1 - t0).astype(quotient.dtype)


def _guarded(norm: Norm, tree: PyTree) -> Float[Array, ""]:
    """The norm; infinite, and of gradient zero, where an entry is not finite (as on steps that will be rejected)."""
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
    value = norm(jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), tree))
    return jnp.where(finite, value, jnp.inf)


def require_stages(solver: diffrax.AbstractSolver) -> None:
    """Refuses the stiffness of solvers that do not show their stages."""
    if not isinstance(solver, diffrax.AbstractRungeKutta) or hasattr(solver, "solver"):
        raise ValueError(
            f"`track` asks for the stiffness, but {type(solver).__name__} shows no stages of which to estimate it. Use "
            "one of Diffrax's Runge-Kutta methods (Tsit5, Dopri5, Heun, KenCarp4, ...), or track the error alone."
        )


def _pair(solver: diffrax.AbstractSolver) -> tuple[int, int]:
    times = _times(_tableaus(solver))
    pairs = [(s, s - 1) for s in range(len(times) - 1, 0, -1)]
    return next((pair for pair in pairs if times[pair[0]] == times[pair[1]]), pairs[0])


def _tableaus(solver: Any) -> list[diffrax.ButcherTableau]:
    tableau = innermost(solver).tableau
    return [tableau] if isinstance(tableau, diffrax.ButcherTableau) else list(tableau.tableaus)


def _times(tableaus: list[diffrax.ButcherTableau]) -> np.ndarray:
    return np.concatenate([[tableaus[0].c1 or 0.0], tableaus[0].c])


def _matrix(tableau: diffrax.ButcherTableau) -> np.ndarray:
    a = np.zeros((tableau.num_stages,) * 2)
    for i, row in enumerate(tableau.a_lower, 1):
        a[i, :i] = row
    if tableau.a_diagonal is not None:
        a[np.diag_indices_from(a)] = tableau.a_diagonal
    return a


def _standing_alone(solver: Any, tolerances: Tolerances, forward_mode: bool) -> Any:
    """The solver, ready for a step outside a solve: its loop over stages differentiable both ways, and the tolerances
    of its root finder set, which a solve takes from its controller."""
    if hasattr(solver, "solver"):
        return eqx.tree_at(lambda s: s.solver, solver, _standing_alone(solver.solver, tolerances, forward_mode))
    if forward_mode and hasattr(solver, "scan_kind") and solver.scan_kind is None:
        kind = "lax" if isinstance(solver, diffrax.AbstractSRK) else "bounded"  # the former is a scan, not a loop
        solver = eqx.tree_at(lambda s: s.scan_kind, solver, kind, is_leaf=lambda x: x is None)
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
