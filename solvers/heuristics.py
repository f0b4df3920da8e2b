"""What a Diffrax solver thinks of the problem while solving it: its error and stiffness estimates, differentiable."""

from typing import Any, get_args

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .estimates import Quantity, Tolerances, innermost, require_stages, scaled_error, stage_stiffness

_CARRYING = (diffrax.RecursiveCheckpointAdjoint, diffrax.DirectAdjoint, diffrax.ForwardMode)


class DrawnStep(eqx.Module):
    """One step of a solve, drawn uniformly from those accepted: where it started, its (signed) length, the state."""

    t: Float[Array, ""]
    h: Float[Array, ""]
    y: PyTree


class Heuristics(eqx.Module):
    """What a solver found out on the steps `j` that it accepted, from `t_j`, of length `h_j`.

    - `error`: `sum_j E_j |h_j|` and `error_squared`: `sum_j E_j^2 |h_j|`, with `E_j = norm(error estimate / scale)`
      (see `Tolerances`): what the controller keeps below one.
    - `stiffness`: `sum_j S_j`, and `max_stiffness`: `max_j S_j`, with `S_j = |f(g_s) - f(g_r)| / |g_s - g_r|` over two
      stages `s` and `r` of the step (see `HeuristicSolver`), in the inverse unit of time: `|lambda|` for
      `y' = lambda y`.
    - `drawn`: one accepted step, each as probable as the others.
    - `accepted`, `rejected`: numbers of steps. `evaluations`: of the vector field (of SDEs, of the drift): exact, but
      that a method whose last stage is the next one's first takes one more for every step rejected before the first is
      accepted. `None` for methods whose evaluations Diffrax does not tell: implicit ones, which iterate.

    What was not asked for is `None`. Gradients flow through all floating-point ones.
    """

    error: Float[Array, ""] | None
    error_squared: Float[Array, ""] | None
    stiffness: Float[Array, ""] | None
    max_stiffness: Float[Array, ""] | None
    drawn: DrawnStep | None
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    evaluations: Int[Array, ""] | None


class Record(eqx.Module):
    """The running sums, carried where Diffrax carries a solver's state, and so restored where a step is rejected."""

    steps: Int[Array, ""]
    error: tuple[Array, Array] | None
    stiffness: tuple[Array, Array] | None
    drawn: DrawnStep | None


class HeuristicSolver(diffrax.AbstractWrappedSolver):
    """A solver that does what another does, to the bit, and records the heuristics of the steps accepted.

    It keeps them in the solver's state, `(state of the solver, Record)`, and goes wherever the solver does: `jit`,
    `vmap`, any `SaveAt`, Ito and Stratonovich solvers as what they are, also inside `diffrax.HalfSolver`.
    `solve_with_heuristics` wraps and reads it.

    **Stiffness.** `k_i = h f(g_i)` are the stages' slopes, and `g_s - g_r = sum_i (a_si - a_ri) k_i` is computed so,
    without the cancellation of a difference of states. `s` and `r` are the last two stages at the same time (the last
    two if no two are): Shampine's estimate of the Lipschitz constant in the direction in which errors grow. Where their
    times differ (`Bosh3`, `Heun`), `S` contains the vector field's dependence on time. Of several terms (IMEX) it is
    the sum's.

    The stages of an implicit method solve their equations to the root finder's tolerance only, and two at the same time
    may be no further apart than that: `k_s - k_r` is then noise. So there the numerator is `h |J (g_s - g_r)|`, with
    the Jacobian `J` at `g_s`. Such a method damps fast modes: off the transients `S` reads the slow ones, far below the
    largest eigenvalue that an explicit method meets.

    **Arguments:** `solver`: any with an embedded error estimate, for `"error"`; a Runge-Kutta method of Diffrax's for
    `"stiffness"`. `track`: what to record, of `"error"`, `"stiffness"` and `"step"`. `tolerances`: for the error.
    `key`: for `"step"`: the draw.

    **Raises:** `ValueError` for a solver without what `track` asks for, or a missing key.

    Pal, Ma, Shah and Rackauckas (2021), Opening the blackbox, arXiv:2105.03918; Shampine (1977), Stiffness and nonstiff
    differential equation solvers, doi:10.1145/355719.355722.
    """

    recorded: diffrax.AbstractSolver
    tolerances: Tolerances
    track: tuple[Quantity, ...] = eqx.field(static=True)
    key: PRNGKeyArray | None

    def __init__(
        self,
        solver: diffrax.AbstractSolver,
        *,
        track: tuple[Quantity, ...] = ("error",),
        tolerances: Tolerances | None = None,
        key: PRNGKeyArray | None = None,
    ):
        for quantity in track:
            if quantity not in get_args(Quantity):
                raise ValueError(f"`track` has {quantity!r}; expected some of {get_args(Quantity)}.")
        if "step" in track and key is None:
            raise ValueError("`key` is missing; drawing a step needs one.")
        if "stiffness" in track:
            require_stages(solver)
        self.recorded, self.track, self.key = solver, track, key
        self.tolerances = Tolerances(0.0, 1.0) if tolerances is None else tolerances

    # Diffrax declares these as class variables to type checkers, and as fields or properties at run time.
    @property
    def solver(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What Diffrax asks whether it is of Ito's kind, implicit, and so on; it looks through one wrapper only."""
        return innermost(self.recorded)

    @property
    def term_structure(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        """The solver's."""
        return self.recorded.term_structure

    @property
    def interpolation_cls(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        """The solver's."""
        return self.recorded.interpolation_cls

    @property
    def term_compatible_contr_kwargs(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        """The solver's."""
        return self.recorded.term_compatible_contr_kwargs

    @property
    def root_finder(self) -> Any:
        """The solver's, if it is implicit."""
        return self.solver.root_finder

    @property
    def root_find_max_steps(self) -> Any:
        """The solver's, if it is implicit."""
        return self.solver.root_find_max_steps

    @property
    def scan_kind(self) -> Any:
        """The solver's, if it has stages: how it loops over them, which adjoints set."""
        return self.solver.scan_kind

    def order(self, terms: PyTree) -> int | None:
        """The solver's."""
        return self.recorded.order(terms)

    def strong_order(self, terms: PyTree) -> Any:
        """The solver's."""
        return self.recorded.strong_order(terms)

    def error_order(self, terms: PyTree) -> Any:
        """The solver's."""
        return self.recorded.error_order(terms)

    def func(self, terms: PyTree, t0: Any, y0: PyTree, args: PyTree) -> PyTree:
        """The solver's."""
        return self.recorded.func(terms, t0, y0, args)

    def init(self, terms: PyTree, t0: Any, t1: Any, y0: PyTree, args: PyTree) -> tuple[Any, Record]:
        """The solver's state, and an empty record."""
        return self.recorded.init(terms, t0, t1, y0, args), self.empty(t0, y0)

    def empty(self, t0: Any, y0: PyTree) -> Record:
        """The record before the first step."""
        zero = jnp.zeros((), _real_dtype(y0))
        t = jnp.asarray(t0, jnp.result_type(t0, 0.0))
        return Record(
            steps=jnp.zeros((), jnp.int32),
            error=(zero, zero) if "error" in self.track else None,
            stiffness=(zero, zero) if "stiffness" in self.track else None,
            drawn=DrawnStep(t, jnp.zeros_like(t), y0) if "step" in self.track else None,
        )

    def step(self, terms: Any, t0: Any, t1: Any, y0: PyTree, args: PyTree, solver_state: Any, made_jump: Any) -> Any:
        """The solver's step, recorded."""
        inner, record = solver_state
        y1, y_error, dense_info, inner, result = self.recorded.step(terms, t0, t1, y0, args, inner, made_jump)
        h = jnp.asarray(t1 - t0)
        error, stiffness, drawn = record.error, record.stiffness, record.drawn
        if error is not None:
            e = scaled_error(self.recorded, y_error, y0, y1, self.tolerances)
            length = h.astype(e.dtype)
            error = (error[0] + e * length, error[1] + e**2 * length)
        if stiffness is not None:
            s = stage_stiffness(self.recorded, terms, t0, t1, args, dense_info)
            stiffness = (stiffness[0] + s, jnp.maximum(stiffness[1], s))
        if drawn is not None and self.key is not None:
            # Reservoir sampling: the n-th step replaces what is held with probability 1/n.
            replace = jax.random.uniform(jax.random.fold_in(self.key, record.steps)) * (record.steps + 1) < 1
            here = DrawnStep(jnp.asarray(t0, drawn.t.dtype), h.astype(drawn.h.dtype), y0)
            drawn = jax.tree.map(lambda new, old: jnp.where(replace, new, old), here, drawn)
        return y1, y_error, dense_info, (inner, Record(record.steps + 1, error, stiffness, drawn)), result


def solve_with_heuristics(
    terms: PyTree,
    solver: diffrax.AbstractSolver,
    t0: Any,
    t1: Any,
    dt0: Any,
    y0: PyTree,
    args: PyTree = None,
    *,
    track: tuple[Quantity, ...] = ("error",),
    tolerances: Tolerances | None = None,
    key: PRNGKeyArray | None = None,
    saveat: diffrax.SaveAt = diffrax.SaveAt(t1=True),  # noqa: B008  # immutable; Diffrax's own default
    stepsize_controller: diffrax.AbstractStepSizeController = diffrax.ConstantStepSize(),  # noqa: B008
    adjoint: diffrax.AbstractAdjoint = diffrax.RecursiveCheckpointAdjoint(),  # noqa: B008
    solver_state: PyTree = None,
    throw: bool = False,
    **options: Any,
) -> tuple[diffrax.Solution, Heuristics]:
    """`diffrax.diffeqsolve`, and the heuristics of its steps.

    The solution is that of the plain solve, bit for bit. The heuristics' gradient is that on *fixed steps*: controllers
    do not differentiate the lengths they choose, so finite differences that let the steps move give another number.

    **Arguments:** those of `diffrax.diffeqsolve` (but `throw` is `False` by default: look at `solution.result`; and
    `t0`, `t1` and `dt0` given as Python's numbers are taken in the state's precision), and `track`, `tolerances` and
    `key` of `HeuristicSolver`; the tolerances are the controller's by default (see `Tolerances.of`). A step that an
    event cuts short counts whole.

    **Raises:** as `HeuristicSolver`. `ValueError` for an adjoint that would drop the gradient of the heuristics in
    silence: `BacksolveAdjoint` and `ImplicitAdjoint`, and all but the three that differentiate the steps themselves.
    """
    if not isinstance(adjoint, _CARRYING):
        raise ValueError(
            f"`adjoint` is {type(adjoint).__name__}, which has no gradient of what is recorded on the way: it would be "
            "zero, silently. Use RecursiveCheckpointAdjoint, DirectAdjoint or ForwardMode, or, with this adjoint, a "
            "local penalty (`local_heuristics`), which takes one step outside the solve."
        )
    return _record(
        terms, solver, t0, t1, dt0, y0, args, track, tolerances, key, saveat, stepsize_controller, adjoint,
        solver_state, {"throw": throw, **options},
    )  # fmt: skip


def draw_step(
    terms: PyTree,
    solver: diffrax.AbstractSolver,
    t0: Any,
    t1: Any,
    dt0: Any,
    y0: PyTree,
    args: PyTree = None,
    *,
    key: PRNGKeyArray,
    saveat: diffrax.SaveAt = diffrax.SaveAt(t1=True),  # noqa: B008
    stepsize_controller: diffrax.AbstractStepSizeController = diffrax.ConstantStepSize(),  # noqa: B008
    adjoint: diffrax.AbstractAdjoint = diffrax.RecursiveCheckpointAdjoint(),  # noqa: B008
    throw: bool = False,
    **options: Any,
) -> tuple[diffrax.Solution, Heuristics]:
    """`diffrax.diffeqsolve`, and one of its accepted steps, drawn uniformly: `heuristics.drawn`.

    With any adjoint. Under `BacksolveAdjoint` and `ImplicitAdjoint` no gradient reaches the solve through the drawn
    state. Memory does not grow with the number of steps. **Arguments:** as `solve_with_heuristics`.
    """
    if isinstance(adjoint, diffrax.BacksolveAdjoint):  # backwards, nothing is to be recorded
        adjoint = diffrax.BacksolveAdjoint(**{"solver": solver, **adjoint.kwargs})
    return _record(
        terms, solver, t0, t1, dt0, y0, args, ("step",), None, key, saveat, stepsize_controller, adjoint, None,
        {"throw": throw, **options},
    )  # fmt: skip


def _record(
    terms, solver, t0, t1, dt0, y0, args, track, tolerances, key, saveat, controller, adjoint, solver_state, options
) -> tuple[diffrax.Solution, Heuristics]:
    tolerances = Tolerances.of(controller) if tolerances is None else tolerances
    t0, t1 = (t if eqx.is_array(t) else jnp.asarray(t, _real_dtype(y0)) for t in (t0, t1))
    dt0 = dt0 if dt0 is None or eqx.is_array(dt0) else jnp.asarray(dt0, _real_dtype(y0))
    recording = HeuristicSolver(solver, track=tuple(track), tolerances=tolerances, key=key)
    given = None if solver_state is None else (solver_state, recording.empty(t0, y0))
    solution = diffrax.diffeqsolve(
        terms, recording, t0, t1, dt0, y0, args,
        saveat=eqx.tree_at(lambda s: s.solver_state, saveat, True), stepsize_controller=controller, adjoint=adjoint,
        solver_state=given, **options,
    )  # fmt: skip
    assert solution.solver_state is not None
    inner, record = solution.solver_state
    solution = eqx.tree_at(
        lambda s: s.solver_state, solution, inner if saveat.solver_state else None, is_leaf=lambda x: x is None
    )
    accepted, rejected = (solution.stats[f"num_{kind}_steps"] for kind in ("accepted", "rejected"))
    (error, squared), (stiffness, largest) = record.error or (None, None), record.stiffness or (None, None)
    drawn = record.drawn
    if drawn is not None:
        # Diffrax turns time round where it runs backwards.
        direction = jnp.where(jnp.asarray(t0) < jnp.asarray(t1), 1, -1).astype(drawn.t.dtype)
        drawn = DrawnStep(direction * drawn.t, direction * drawn.h, drawn.y)
    evaluations = _evaluations(solver, accepted + rejected)
    return solution, Heuristics(error, squared, stiffness, largest, drawn, accepted, rejected, evaluations)


def _evaluations(solver: Any, steps: Array) -> Array | None:
    """As counted: per step, and what the first step has more."""
    if isinstance(solver, diffrax.AbstractImplicitSolver):
        return None
    halves = type(solver) is diffrax.HalfSolver
    solver = solver.solver if halves else solver
    if type(solver) is diffrax.Euler:
        each, first = 1, 0
    elif hasattr(solver, "solver"):
        return None
    elif isinstance(solver, diffrax.AbstractERK) and isinstance(solver.tableau, diffrax.ButcherTableau):
        each, first = solver.tableau.num_stages - solver.tableau.fsal, int(solver.tableau.fsal)
    elif isinstance(solver, diffrax.AbstractSRK):
        skipped = solver.tableau.ignore_stage_f
        each, first = len(solver.tableau.b_sol) - (0 if skipped is None else int(np.sum(skipped))), 0
    else:
        return None
    # One whole step and two halves; the whole one and the first half start with the same evaluation.
    return steps * 3 * each + 2 * first if halves else steps * each + first


def _real_dtype(tree: PyTree) -> np.dtype:
    return np.finfo(jnp.result_type(*jax.tree.leaves(tree), 0.0)).dtype
