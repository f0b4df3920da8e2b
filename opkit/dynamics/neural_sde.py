"""Stochastic differential equations with learned drift and diffusion, and their fit to observed moments."""

from typing import Any, Literal, get_args

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers import VectorField

from .integrator import Integrator
from .penalties import Regulariser
from .regularise import Regularised

Noise = Literal["diagonal", "general"]
Time = float | Float[Array, ""]


class NeuralSDE(eqx.Module):
    """`dy = f(t, y, args) dt + g(t, y, args) dW`, one path a call, in the sense of Ito or of Stratonovich.

    **The solver decides the sense**: `diffrax.Euler` and `diffrax.ItoMilstein` converge to the Ito solution, Diffrax's
    other stochastic solvers (`Heun`, `SPaRK`, `ShARK`, ...) to the Stratonovich one; see `interpretation`. With `g`
    that does not depend on `y` they are the same; else the Ito equation of drift `f` is the Stratonovich one of drift
    `f - (dg/dy) g / 2`.

    `W` is a Brownian motion, fixed by `key` whatever the steps (a virtual Brownian tree): the same key gives the same
    path at every tolerance, and gradients are those of that path. Many paths: `jax.vmap` over keys, each path with
    steps of its own, or one state `(paths, d)` with `noise="diagonal"` and common steps, which is cheaper.

    **Arguments:**

    - `drift`, `diffusion`: `f` and `g`. With `noise="diagonal"` `g` is as `y`, any PyTree, and each entry has a
      Brownian motion of its own; with `"general"` `y` is `(d,)` and `g: (d, m)` for `m` of them.
    - `integrator`: an adaptive controller needs a solver that estimates an error (`SPaRK`; `ShARK` and `SRA1` if `g`
      does not depend on `y`; not `Euler`), and should come back to the times at which it rejected a step, else it picks
      the paths that are easy: `ClipStepSizeController(PIDController(..., pcoeff=0.1, icoeff=0.3),
      store_rejected_steps=100)`. Without, noise that does not commute leads to wrong solutions, and the error of other
      noise falls late, if at all, with the tolerance. Milstein's methods need diagonal noise, of which `g_i` depends on
      `y_i` alone: that is not checked.
    - `resolution`: the time below which the path is interpolated. Steps shorter than that see too little noise. By
      default half of the `dt0` of fixed steps, and a 1024th of the interval for others.

    **Raises:** `ValueError` for a solver that does not fit the noise, shapes that do not fit, `t1 <= t0`.

    Kidger (2022), On neural differential equations, arXiv:2202.02435, chapter 4; Jelincic, Foster and Kidger (2024),
    Single-seed generation of Brownian paths and integrals, arXiv:2405.06464.
    """

    drift: VectorField
    diffusion: VectorField
    integrator: Integrator
    noise: Noise = eqx.field(static=True)
    resolution: float | None = eqx.field(static=True)

    def __init__(
        self,
        drift: VectorField,
        diffusion: VectorField,
        integrator: Integrator,
        *,
        noise: Noise = "diagonal",
        resolution: float | None = None,
    ):
        if noise not in get_args(Noise):
            raise ValueError(f"`noise` is {noise!r}; expected one of {get_args(Noise)}.")
        if resolution is not None and not resolution > 0:
            raise ValueError(f"`resolution` is {resolution}; expected a positive time.")
        _check_solver(integrator, noise)
        self.drift, self.diffusion, self.integrator = drift, diffusion, integrator
        self.noise, self.resolution = noise, resolution

    @property
    def interpretation(self) -> Literal["Ito", "Stratonovich"]:
        """The sense in which the solver takes the equation."""
        return "Ito" if isinstance(self.integrator.solver, diffrax.AbstractItoSolver) else "Stratonovich"

    def __call__(
        self,
        y0: PyTree,
        t0: Time,
        t1: Time,
        args: PyTree = None,
        *,
        key: PRNGKeyArray,
        ts: Float[Array, " n"] | Float[np.ndarray, " n"] | None = None,
        regulariser: Regulariser | None = None,
        step: Any = 0,
    ) -> Regularised:
        """The path of `key` from `y0` at `t0` to `t1 > t0`.

        `ys` are the states at `ts` (increasing, within), `(n, ...)`, by default that at `t1`, `(1, ...)`; between steps
        the path is interpolated linearly. `regulariser`, `step`: see `regularised_solve`.
        """
        terms = self.terms(y0, t0, t1, args, key=jax.random.fold_in(key, 0))
        given = [] if ts is None or any(isinstance(t, Tracer) for t in (t0, ts, t1)) else [t0, *ts, t1]
        if not (np.diff(np.asarray(given, np.float64)) >= 0).all():
            raise ValueError(f"`ts` runs {np.asarray(ts)}; expected increasing times from `t0`, {t0}, to `t1`, {t1}.")
        real = jnp.finfo(jnp.result_type(*jax.tree.leaves(y0))).dtype
        return self.integrator(
            terms, t0, t1, y0, args,
            saveat=None if ts is None else diffrax.SaveAt(ts=jnp.asarray(ts, real)),
            regulariser=regulariser, step=step, key=jax.random.fold_in(key, 1),
        )  # fmt: skip

    def terms(self, y0: PyTree, t0: Time, t1: Time, args: PyTree = None, *, key: PRNGKeyArray) -> diffrax.MultiTerm:
        """What Diffrax integrates: the drift, and the diffusion with its Brownian motion."""
        if not any(isinstance(t, Tracer) for t in (t0, t1)) and not t0 < t1:
            raise ValueError(f"`t1` is {t1} and `t0` {t0}; noise needs `t0 < t1`.")
        real = jnp.finfo(jnp.result_type(*jax.tree.leaves(y0))).dtype
        t0, t1 = jnp.asarray(t0, real), jnp.asarray(t1, real)
        noise = self._check_diffusion(y0, t0, args)
        dt0 = self.integrator.dt0 if isinstance(self.integrator.controller, diffrax.ConstantStepSize) else None
        finest = self.resolution or (None if dt0 is None else dt0 / 2)
        finest = (t1 - t0) / 1024 if finest is None else jnp.asarray(finest, real)
        motion = diffrax.VirtualBrownianTree(t0, t1, finest, noise, key, _levy_area(self.integrator.solver))
        if self.noise == "general":
            return diffrax.MultiTerm(diffrax.ODETerm(self.drift), diffrax.ControlTerm(self.diffusion, motion))
        diagonal = lambda t, y, args: lineax.DiagonalLinearOperator(self.diffusion(t, y, args))
        return diffrax.MultiTerm(diffrax.ODETerm(self.drift), diffrax.ControlTerm(diagonal, motion))

    def _check_diffusion(self, y0: PyTree, t0: Array, args: PyTree) -> PyTree:
        """The shape of the Brownian motion."""
        g = jax.eval_shape(self.diffusion, t0, y0, args)
        shapes = lambda tree: jax.tree.map(lambda leaf: tuple(leaf.shape), tree)
        if self.noise == "general":
            rows = shapes(y0)
            if len(rows) != 1 or not isinstance(g, jax.ShapeDtypeStruct) or g.ndim != 2 or g.shape[:1] != rows:
                raise ValueError(
                    f"`diffusion` gives {shapes(g)} for a state of {rows}; noise='general' takes (d, m) for (d,). Map "
                    "over several paths with jax.vmap."
                )
            return jax.ShapeDtypeStruct(g.shape[1:], g.dtype)
        if shapes(g) != shapes(y0):
            raise ValueError(
                f"`diffusion` gives {shapes(g)} for a state of {shapes(y0)}; noise='diagonal' takes the same. For a "
                "matrix, take noise='general'."
            )
        solver = self.integrator.solver
        if isinstance(solver, diffrax.AbstractSRK) and solver.tableau.is_additive_noise():
            along = jax.tree.map(jnp.ones_like, y0)
            _, slope = eqx.filter_jvp(lambda y: self.diffusion(t0, y, args), (y0,), (along,))
            if jax.tree.leaves(slope):
                raise ValueError(
                    f"`solver` is {type(solver).__name__}, for noise that does not depend on the state, but "
                    "`diffusion` uses it. Take one for all noise: SPaRK, GeneralShARK, Heun."
                )
        return g


def moment_residuals(
    paths: Float[Array, "p t d"],
    mean: Float[Array, "t d"],
    variance: Float[Array, "t d"],
    *,
    weights: Literal["equal", "efficient"] = "equal",
) -> Float[Array, "2 t d"]:
    """Means and variances over paths, less those observed: `(m_hat - m) / a` and `(v_hat - v) / b`.

    The sum of their squares is what the method of moments minimises (a term of `kind="residual"`). With `"equal"`
    weights `a = b = 1`; with `"efficient"` ones `a = sqrt(v)` and `b = sqrt(2) v`, the standard deviations of the two
    for normal observations, but for the number of paths: the diagonal of the weights of the generalised method of
    moments. `v_hat` is unbiased (divided by `p - 1`).

    **Raises:** `ValueError` for fewer than two paths, or other weights.

    Hansen (1982), Large sample properties of generalized method of moments estimators, doi:10.2307/1912775.
    """
    if len(paths) < 2:
        raise ValueError(f"`paths` has {len(paths)} of them; a variance needs two or more.")
    if weights not in ("equal", "efficient"):
        raise ValueError(f"`weights` is {weights!r}; expected 'equal' or 'efficient'.")
    of_mean = jnp.mean(paths, 0) - mean
    of_variance = jnp.var(paths, 0, ddof=1) - variance
    if weights == "efficient":
        of_mean, of_variance = (
            of_mean / jnp.sqrt(variance),
            of_variance / (jnp.sqrt(2).astype(variance.dtype) * variance),
        )
    return jnp.stack([of_mean, of_variance])


def _check_solver(integrator: Integrator, noise: Noise) -> None:
    solver, name = integrator.solver, type(integrator.solver).__name__
    if not isinstance(solver, diffrax.AbstractItoSolver | diffrax.AbstractStratonovichSolver):
        raise ValueError(
            f"`solver` is {name}, for ordinary differential equations. Take a stochastic one: Euler or ItoMilstein "
            "(Ito), Heun, SPaRK or ShARK (Stratonovich)."
        )
    if noise == "general" and isinstance(solver, diffrax.ItoMilstein | diffrax.StratonovichMilstein):
        raise ValueError(
            f"`solver` is {name}, which needs noise='diagonal'. For general noise take SPaRK, Heun or Euler."
        )
    adaptive = isinstance(integrator.controller, diffrax.AbstractAdaptiveStepSizeController)
    if adaptive and not _estimates_error(solver):
        raise ValueError(
            f"`solver` is {name}, which has no error estimate for the noise; `controller` asks for one. Take SPaRK or "
            "Heun (for noise that does not depend on the state, ShARK or SRA1), or fixed steps."
        )


def _estimates_error(solver: Any) -> bool:
    if isinstance(solver, diffrax.Euler | diffrax.EulerHeun | diffrax.ItoMilstein | diffrax.StratonovichMilstein):
        return False
    return not isinstance(solver, diffrax.AbstractSRK) or solver.tableau.b_error is not None


def _levy_area(solver: Any) -> Any:
    """The least that the solver needs of the Brownian motion."""
    needed = getattr(solver, "minimal_levy_area", diffrax.AbstractBrownianIncrement)
    for kind in (diffrax.BrownianIncrement, diffrax.SpaceTimeLevyArea):
        if issubclass(kind, needed):
            return kind
    return diffrax.SpaceTimeTimeLevyArea
