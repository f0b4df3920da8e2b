"""Continuous normalising flows: densities that an ODE carries from a simple one."""

from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from solvers import VectorField

from .integrator import Integrator
from .penalties import PathPenalty, Regulariser
from .regularise import Regularised

Trace = Literal["exact", "rademacher", "gaussian"]


@runtime_checkable
class Distribution(Protocol):
    """A distribution over points `(d,)`, of which one can draw and whose density is known."""

    def log_density(self, y: Float[Array, " d"], /) -> Float[Array, ""]:
        """The logarithm of the density at one point."""
        ...

    def sample(self, *, key: PRNGKeyArray, dtype: DTypeLike = float) -> Float[Array, " d"]:
        """Draw one point."""
        ...


class StandardNormal(eqx.Module):
    """The normal distribution over `(size,)` of mean zero and covariance one."""

    size: int = eqx.field(static=True)

    def log_density(self, y: Float[Array, " d"]) -> Float[Array, ""]:
        """`-(|y|^2 + d log 2 pi) / 2`."""
        return -(jnp.sum(y**2) + y.size * jnp.log(2 * jnp.pi).astype(y.dtype)) / 2

    def sample(self, *, key: PRNGKeyArray, dtype: DTypeLike = float) -> Float[Array, " d"]:
        """Draw one point."""
        return jax.random.normal(key, (self.size,), dtype)


class Transported(eqx.Module):
    """Points carried from one end of a flow to the other.

    `points`: where they arrived. `solve`: the solution, and the penalty to add to the loss.
    """

    points: Float[Array, "*batch d"]
    solve: Regularised
    _log_density: Float[Array, "*batch"] | None

    @property
    def log_density(self) -> Float[Array, "*batch"]:
        """That of the flow, not of its base, at the end of the data. **Raises:** `ValueError` if not asked for."""
        if self._log_density is None:
            raise ValueError("`log_density` was not solved for; ask for it by `density=True`.")
        return self._log_density

    @property
    def penalty(self) -> Float[Array, ""]:
        """The regulariser's, its weight included."""
        return self.solve.penalty

    @property
    def solved(self) -> Bool[Array, ""]:
        """Whether the solve succeeded; if not, `solve.solution.result` says why."""
        return self.solve.solved


class ContinuousFlow(eqx.Module):
    """A continuous normalising flow: `dy/dt = f(t, y, args)` carries the base at `t = 0` to the data at `t = 1`.

    Along a trajectory the density changes by `d log p / dt = -tr(df/dy)`, and so

        log p(x) = log p_base(y(0)) - int_0^1 tr(df/dy)(t, y(t)) dt,    y(1) = x.

    The integral is solved for beside `y`, and the state is the pair. **Its error counts**: the controller's norm is
    over both parts, as the log-density is what one wants to the tolerance. To let `y` alone choose the steps give the
    controller the norm `lambda state: optimistix.rms_norm(state[0])`; penalties follow it.

    **Batches.** Points are `(*batch, d)`. Those of one call are one state and share their steps, which are short
    enough for their root mean square error; under `jax.vmap` each point has steps of its own. On a CPU the first is
    much faster. `args` is the same for all points by default; with `args_axes=0` its arrays lead with the axes
    `*batch`: a conditional density (as `in_axes` of `jax.vmap`, once for each of them).

    **Arguments:** `vector_field`: of one point, `f(t, y: (d,), args) -> (d,)`. `integrator`. `base`: a `Distribution`,
    as `StandardNormal(d)` is. `trace`: `"exact"`, by `d` directional derivatives; or Hutchinson's estimate from one,
    `e . (df/dy) e` with `E[e e^T] = 1`, `"rademacher"` (entries +-1, the least variance) or `"gaussian"`: unbiased for
    `log p`, one `e` a point and solve, so that the integrand stays smooth.

    Chen et al. (2018), Neural ordinary differential equations, arXiv:1806.07366; Grathwohl et al. (2019), FFJORD,
    arXiv:1810.01367.
    """

    vector_field: VectorField
    integrator: Integrator
    base: Distribution
    trace: Trace = eqx.field(static=True)

    def __init__(
        self, vector_field: VectorField, integrator: Integrator, base: Distribution, *, trace: Trace = "exact"
    ):
        if trace not in get_args(Trace):
            raise ValueError(f"`trace` is {trace!r}; expected one of {get_args(Trace)}.")
        self.vector_field, self.integrator, self.base, self.trace = vector_field, integrator, base, trace

    def log_density(
        self,
        x: Float[Array, "*batch d"],
        args: PyTree = None,
        *,
        args_axes: Any = None,
        regulariser: Regulariser | None = None,
        step: Any = 0,
        key: PRNGKeyArray | None = None,
    ) -> Transported:
        """`log p(x)`, and the points of the base that `x` come from: backwards, from `t = 1` to 0.

        **Arguments:** `regulariser`, `step`: as `regularised_solve`; a `PathPenalty` is of the path of the points, not
        of the log-density. `key`: for an estimated trace and for local
        penalties; another one at each call.

        **Raises:** `ValueError` for a missing key, a vector field whose value has not the shape of `y`, and as
        `regularised_solve`.
        """
        return self._transport(x, args, args_axes, True, (1.0, 0.0), regulariser, step, key)

    def push(
        self,
        z: Float[Array, "*batch d"],
        args: PyTree = None,
        *,
        density: bool = False,
        args_axes: Any = None,
        regulariser: Regulariser | None = None,
        step: Any = 0,
        key: PRNGKeyArray | None = None,
    ) -> Transported:
        """The data that points `z` of the base become; with their log-density on demand. See `log_density`."""
        return self._transport(z, args, args_axes, density, (0.0, 1.0), regulariser, step, key)

    def sample(
        self,
        shape: tuple[int, ...] = (),
        args: PyTree = None,
        *,
        density: bool = False,
        args_axes: Any = None,
        key: PRNGKeyArray,
        dtype: DTypeLike = float,
    ) -> Transported:
        """`push` of points drawn from the base, as many as `shape` says."""
        draw, push = jax.random.split(key)
        points = _mapped(lambda k: self.base.sample(key=k, dtype=dtype), len(shape))(jax.random.split(draw, shape))
        return self.push(points, args, density=density, args_axes=args_axes, key=push)

    def _transport(self, y, args, args_axes, density, interval, regulariser, step, key) -> Transported:
        batch = y.shape[:-1]
        noise_key, penalty_key = (None, None) if key is None else jax.random.split(key)
        if density and self.trace != "exact" and noise_key is None:
            raise ValueError(f"`key` is missing; the trace is estimated ({self.trace!r}) and needs noise.")
        value = jax.eval_shape(self._velocity(args_axes, batch), jnp.zeros((), y.dtype), y, args)
        if value.shape != y.shape:
            raise ValueError(f"`vector_field` gives {value.shape} for points {y.shape}; expected the same shape.")
        start = jnp.zeros(batch, y.dtype) if density else None
        noise = self._noise(y, noise_key) if density else None
        field, state, given = self._augmented(args_axes, batch), (y, start), (args, noise)
        t0, t1 = interval
        rate = None
        if isinstance(regulariser, PathPenalty):  # of the points: the log-density is no part of their path
            speed = regulariser.rate(self._velocity(args_axes, batch), y, key=penalty_key)
            rate = lambda t, state, given: speed(t, state[0], given[0])
        out = self.integrator(
            diffrax.ODETerm(field), t0, t1, state, given, regulariser=regulariser, rate=rate, step=step,
            key=penalty_key,
        )  # fmt: skip
        end, gained = jax.tree.map(lambda leaf: leaf[-1], out.ys)
        if not density:
            return Transported(end, out, None)
        at_base = y if t0 == 0 else end
        change = -gained if t0 == 0 else gained
        return Transported(end, out, _mapped(self.base.log_density, len(batch))(at_base) + change)

    def _velocity(self, args_axes: Any, batch: tuple[int, ...]) -> Callable[..., Array]:
        return _mapped(self.vector_field, len(batch), (None, 0, args_axes))

    def _noise(self, y: Array, key: PRNGKeyArray | None) -> Array | None:
        if self.trace == "exact" or key is None:
            return None
        draw = jax.random.rademacher if self.trace == "rademacher" else jax.random.normal
        return draw(key, y.shape, y.dtype)

    def _augmented(self, args_axes: Any, batch: tuple[int, ...]) -> VectorField:
        """`(f, tr df/dy)` of the pair; the first alone where the second part of the state is `None`."""
        velocity = self._velocity(args_axes, batch)

        def field(t: Any, state: tuple[Array, Array | None], args: tuple[PyTree, Array | None]):
            (y, gained), (args, noise) = state, args
            f = lambda y: velocity(t, y, args)
            if gained is None:
                return f(y), None
            if noise is not None:
                dy, along = jax.jvp(f, (y,), (noise,))
                return dy, jnp.sum(noise * along, -1)
            # Points do not see each other: one directional derivative serves them all.
            basis = jnp.broadcast_to(jnp.eye(y.shape[-1], dtype=y.dtype).reshape(-1, *(1,) * len(batch), y.shape[-1]),
                                     (y.shape[-1], *y.shape))  # fmt: skip
            dy, along = jax.vmap(lambda e: jax.jvp(f, (y,), (e,)), out_axes=(None, 0))(basis)
            return dy, jnp.einsum("i...i", along)

        return field


def _mapped(f: Callable, times: int, axes: Any = 0) -> Callable:
    for _ in range(times):
        f = jax.vmap(f, in_axes=axes)
    return f
