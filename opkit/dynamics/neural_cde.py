"""Neural controlled differential equations: models of irregular series that read their data as a path."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers import VectorField

from .integrator import Integrator
from .penalties import Regulariser
from .regularise import Regularised
from .series import check_times, in_precision

Interpolation = Literal["cubic", "linear", "rectilinear"]
Path = diffrax.CubicInterpolation | diffrax.LinearInterpolation


def control_path(
    ts: Float[Array, " times"],
    values: Float[Array, "times c"],
    interpolation: Interpolation = "cubic",
    *,
    intensity: bool = False,
) -> Path:
    """The path `X` through one series, time its first channel. Compute it once, outside of training; `jax.vmap` gives
    a batch of paths, over which the model is mapped, too.

    - `"cubic"`: Hermite splines whose slopes are backward differences: smooth but for the knots, where their curvature
      jumps, and the fastest to solve with. At coarse tolerances an error may hide there; a controller
      `diffrax.ClipStepSizeController(controller, step_ts=ts)` steps from knot to knot.
    - `"linear"`: from observation to observation. Both look ahead where a value is missing.
    - `"rectilinear"`: time advances while the values stay, then they change while time stands still: at no time has the
      path seen what comes later (online prediction). It is parametrised by `0, ..., 2 times - 2`; the observation `k`
      is at `2 k`.

    **Arguments:** `values`: NaN where missing: interpolated linearly (by `"rectilinear"`: held), and held after the
    last; a channel's first value, if missing, is zero. `intensity`: append to each channel how often it has been
    observed so far, over the number of times: when one looks may say what one sees.

    **Raises:** `ValueError` for another interpolation, for lengths that differ, or for fewer than two times or times
    that do not strictly increase (if concrete; at run time if not).

    Kidger, Morrill, Foster and Lyons (2020), Neural controlled differential equations for irregular time series,
    arXiv:2005.08926; Morrill et al. (2021), Neural controlled differential equations for online prediction tasks,
    arXiv:2106.11028.
    """
    if interpolation not in get_args(Interpolation):
        raise ValueError(f"`interpolation` is {interpolation!r}; expected one of {get_args(Interpolation)}.")
    if len(values) != len(ts) or len(ts) < 2:
        raise ValueError(f"`ts` has {len(ts)} times, `values` {len(values)}; expected as many, and at least two.")
    check_times("ts", ts, strictly=True)
    ts, missing = ts.astype(values.dtype), jnp.isnan(values)
    values = values.at[0].set(jnp.where(missing[0], 0, values[0]))
    if intensity:
        counts = jnp.cumsum(~missing, 0, dtype=values.dtype) / len(ts)
        values = jnp.concatenate([values, counts], 1)
    if interpolation == "rectilinear":
        times, values = diffrax.rectilinear_interpolation(ts, values)
        knots = jnp.arange(len(times), dtype=values.dtype)
        return diffrax.LinearInterpolation(knots, jnp.concatenate([times[:, None], values], 1))
    # Filled before splines are laid, as Diffrax's own across missing values have slopes that jump where a gap ends.
    values = diffrax.linear_interpolation(ts, values, fill_forward_nans_at_end=True)
    data = jnp.concatenate([ts[:, None], values], 1)
    if interpolation == "linear":
        return diffrax.LinearInterpolation(ts, data)
    return diffrax.CubicInterpolation(ts, diffrax.backward_hermite_coefficients(ts, data))


class ControlledField(eqx.Module):
    """`f(t, z, args) = tanh(MLP(z))`, a matrix `(hidden, channels)`: bounded, as products with `dX` may grow fast.

    **Arguments:** `channels`: of the path, time included. `width`, `depth`: of the network, with softplus.
    """

    mlp: eqx.nn.MLP
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(self, hidden: int, channels: int, *, width: int, depth: int = 1, key: PRNGKeyArray):
        self.mlp = eqx.nn.MLP(hidden, hidden * channels, width, depth, jax.nn.softplus, jnp.tanh, key=key)
        self.shape = (hidden, channels)

    def __call__(self, t: Any, z: Float[Array, " hidden"], args: PyTree) -> Float[Array, "hidden channels"]:
        """The matrix at one state."""
        return in_precision(self.mlp, z.dtype)(z).reshape(self.shape)


class NeuralCDE(eqx.Module):
    """A neural controlled differential equation: `z(t_0) = initial(X(t_0))`, `dz = f(t, z, args) dX`, `y = readout(z)`.

    It is solved as the ODE `dz/dt = f(t, z, args) dX/dt`. Where `X` is linear in pieces its slope jumps at the knots:
    an adaptive controller is told of them, and steps from one to the next. `z` depends on the path, not on how fast it
    is traversed nor how finely it was sampled.

        paths = jax.vmap(lambda ts, values: control_path(ts, values))(ts, values)
        logits = jax.vmap(lambda path: model(path).ys[-1])(paths)

    **Arguments:** `vector_field`: `(hidden,)` to `(hidden, channels)`, `ControlledField` or another. `initial`:
    `(channels,)` to `(hidden,)`; without it nothing but increments would be seen. `readout`: of one hidden state.
    `integrator`.

    Kidger, Morrill, Foster and Lyons (2020), Neural controlled differential equations for irregular time series,
    arXiv:2005.08926.
    """

    vector_field: VectorField
    initial: Callable[[Array], Array]
    readout: Callable[[Array], Array]
    integrator: Integrator

    def __call__(
        self,
        path: Path,
        query: Float[Array, " q"] | None = None,
        args: PyTree = None,
        *,
        regulariser: Regulariser | None = None,
        step: Any = 0,
        key: PRNGKeyArray | None = None,
    ) -> Regularised:
        """Read one path, and give `ys = readout(z(query))`, `(q, outputs)`, NaN where the solve did not come.

        **Arguments:** `path`: see `control_path`, whose data give the precision. `query`: parameters of the path in
        increasing order, by default its end; it is read up to the last. `regulariser`, `step`, `key`: see
        `regularised_solve`; uniform local penalties may step over a knot, and then see its jump.

        **Raises:** `ValueError` for a vector field that gives no matrix `(hidden, channels)`; for concrete times that
        are out of order or before the path's start.
        """
        x0 = path.evaluate(path.t0)
        field, initial, readout = in_precision((self.vector_field, self.initial, self.readout), x0.dtype)

        def slope(t: Any, z: Array, args: PyTree) -> Array:
            matrix = field(t, z, args)
            if matrix.shape != (*z.shape, *x0.shape):
                raise ValueError(
                    f"`vector_field` gave shape {matrix.shape}; expected (hidden, channels) = {(*z.shape, *x0.shape)}. "
                    "Time is the path's first channel."
                )
            return matrix @ path.derivative(t)

        if query is None:
            query = path.t1[None]
        else:
            check_times("query", query, after=path.t0)
        query = query.astype(x0.dtype)
        out = _told_of_knots(self.integrator, path)(
            diffrax.ODETerm(slope), path.t0, query[-1], initial(x0), args,
            saveat=diffrax.SaveAt(ts=query), regulariser=regulariser, step=step, key=key,
        )  # fmt: skip
        reached = jnp.isfinite(out.ys).all(-1, keepdims=True)
        read = jnp.where(reached, jax.vmap(readout)(out.ys), jnp.nan)
        return eqx.tree_at(lambda o: o.solution.ys, out, read)


def _told_of_knots(integrator: Integrator, path: Path) -> Integrator:
    controller = integrator.controller
    linear = isinstance(path, diffrax.LinearInterpolation)
    if not linear or not isinstance(controller, diffrax.AbstractAdaptiveStepSizeController):
        return integrator
    told = diffrax.ClipStepSizeController(controller, jump_ts=path.ts[1:-1])
    return eqx.tree_at(lambda i: i.controller, integrator, told)
