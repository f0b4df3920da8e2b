"""Neural stochastic differential equations of three forms that keep solutions from blowing up."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from solvers import VectorField

from .integrator import Integrator
from .neural_sde import NeuralSDE, Time
from .penalties import Regulariser
from .regularise import Regularised

Form = Literal["langevin", "linear", "geometric"]


class Controlled(eqx.Module):
    """`f(t, y, path) = field(t, y, X(t))`: a vector field that sees a data path `X`, given as `args`.

    `X` is any `diffrax.AbstractPath`; for samples `xs: (t, c)` at `ts`, missing ones NaN,
    `diffrax.CubicInterpolation(ts, diffrax.backward_hermite_coefficients(ts, xs))`, a cubic Hermite spline. Fill in
    the first and the last sample of each channel yourself, where they are missing.
    """

    field: VectorField

    def __call__(self, t: Any, y: Any, args: Any) -> Any:
        """At time `t`, in state `y`, along the path `args`."""
        return self.field(t, y, args.evaluate(t))


class StableSDE(eqx.Module):
    """A neural stochastic differential equation of one of three forms, in the sense of Ito, with diagonal noise:

    - `"langevin"`: `dz = f(t, z) dt + s(t) dW`. Noise is additive.
    - `"linear"`: `dz = f(t, z) dt + s(t) z dW`.
    - `"geometric"`: `dz / z = f(t, z) dt + s(t) dW`. `z` stays positive: `x = log z` is what is integrated,
      `dx = (f - s^2 / 2) dt + s dW`, with additive noise, so every step keeps it, as long as `e^x` neither under- nor
      overflows. Entries shrink to zero where `f < s^2 / 2`.

    Solutions exist, are unique and stay finite for `f` Lipschitz and of linear growth (geometric: `f` Lipschitz and
    bounded): end its network in a bounded function, such as tanh. **The law is that of the Ito equation, whatever the
    solver**: for Stratonovich solvers the drift of the linear form is corrected to `f - s^2 z / 2`; the other two need
    no correction.

    The published code departs from these equations: it scales and squashes drift and diffusion of all forms (tanh, a
    learnt sigmoid), feeds times as sine and cosine, and multiplies the geometric drift by tanh(z), integrated in `z`.
    Here the forms are as written, and the drift may squash what it likes.

    **Arguments:** `drift(t, z, args)`: `f`; `Controlled(...)` sees a data path. `diffusion(t)`: `s`, as `z` or
    broadcast to it. `integrator`: see `NeuralSDE`; the additive forms also take ShARK and SRA1.

    **Call:** as `NeuralSDE`; `z0` positive for the geometric form, whose penalties measure the error in `log z`.

    **Raises:** `ValueError` as `NeuralSDE`; for another form; for a start that is not positive.

    Oh, Lim and Kim (2024), Stable neural stochastic differential equations in analyzing irregular time series data,
    arXiv:2402.14989, section 3.
    """

    drift: VectorField
    diffusion: Callable[[Any], Array]
    integrator: Integrator
    form: Form = eqx.field(static=True)

    def __init__(self, form: Form, drift: VectorField, diffusion: Callable[[Any], Array], integrator: Integrator):
        if form not in get_args(Form):
            raise ValueError(f"`form` is {form!r}; expected one of {get_args(Form)}.")
        self.form, self.drift, self.diffusion, self.integrator = form, drift, diffusion, integrator

    def __call__(
        self,
        z0: Float[Array, "*d"],
        t0: Time,
        t1: Time,
        args: Any = None,
        *,
        key: PRNGKeyArray,
        ts: Float[Array, " n"] | Float[np.ndarray, " n"] | None = None,
        regulariser: Regulariser | None = None,
        step: Any = 0,
    ) -> Regularised:
        """The path of `key`; `ys` holds `z`."""
        geometric = self.form == "geometric"
        if geometric and not isinstance(z0, Tracer) and not bool(np.all(np.asarray(z0) > 0)):
            raise ValueError("`z0` has entries that are not positive; the geometric form starts from positive ones.")
        sde, start = self.sde, jnp.log(z0) if geometric else z0
        out = sde(start, t0, t1, args, key=key, ts=ts, regulariser=regulariser, step=step)
        return eqx.tree_at(lambda o: o.solution.ys, out, jax.tree.map(jnp.exp, out.ys)) if geometric else out

    @property
    def sde(self) -> NeuralSDE:
        """The equation that is integrated: of `log z` for the geometric form, of `z` for the others."""

        def deviation(t: Any, z: Array) -> Array:
            return jnp.broadcast_to(jnp.asarray(self.diffusion(t), z.dtype), z.shape)

        if self.form == "langevin":
            return NeuralSDE(self.drift, lambda t, z, args: deviation(t, z), self.integrator)
        if self.form == "geometric":
            rate = lambda t, x, args: self.drift(t, jnp.exp(x), args) - deviation(t, x) ** 2 / 2
            return NeuralSDE(rate, lambda t, x, args: deviation(t, x), self.integrator)
        ito = isinstance(self.integrator.solver, diffrax.AbstractItoSolver)
        corrected = lambda t, z, args: self.drift(t, z, args) - deviation(t, z) ** 2 * z / 2
        return NeuralSDE(self.drift if ito else corrected, lambda t, z, args: deviation(t, z) * z, self.integrator)
