"""Neural ordinary differential equations: the model, and the vector fields it is built of."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.layers import Pointwise
from solvers import VectorField

from .integrator import Integrator
from .penalties import Regulariser
from .regularise import Regularised


class NeuralODE(eqx.Module):
    """`y0` to the solution of `y' = f(t, y, args)`.

    The state is an array or a PyTree of them; a batch is `jax.vmap` of the model, or one state `(batch, d)` of which
    all samples take the same steps: on a CPU far faster. `augment` zeros are appended to the last axis of `y0`, and cut
    off what is saved: an ODE's flow is a homeomorphism, and in more dimensions can do what it cannot do in `d`.

    **Arguments:** `vector_field`: any callable; what arrays it holds are trained. `integrator`. `augment`.

    Chen, Rubanova, Bettencourt and Duvenaud (2018), Neural ordinary differential equations, arXiv:1806.07366; Dupont,
    Doucet and Teh (2019), Augmented neural ODEs, arXiv:1904.01681.
    """

    vector_field: VectorField
    integrator: Integrator
    augment: int = eqx.field(static=True)

    def __init__(self, vector_field: VectorField, integrator: Integrator | None = None, *, augment: int = 0):
        if augment < 0:
            raise ValueError(f"`augment` is {augment}; expected the number of zeros to append.")
        self.vector_field, self.augment = vector_field, augment
        self.integrator = Integrator() if integrator is None else integrator

    def __call__(
        self,
        y0: PyTree[Float[Array, "..."]],
        t0: Float[Array, ""] | float,
        t1: Float[Array, ""] | float,
        args: PyTree = None,
        *,
        ts: Float[Array, " n"] | Float[np.ndarray, " n"] | None = None,
        regulariser: Regulariser | None = None,
        step: Any = 0,
        key: PRNGKeyArray | None = None,
    ) -> Regularised:
        """Integrate from `t0` to `t1`; `ys` are the states at `ts`, `(n, ...)`, by default that at `t1`, `(1, ...)`.

        Times are cast to the state's dtype. `t1` may be before `t0`; `ts` run the same way. `regulariser`, `step` and
        `key`: see `regularised_solve`.

        **Raises:** as these. `ValueError` for `ts` that do not run from `t0` to `t1`, where their values are known.
        """
        real = jnp.finfo(jnp.result_type(*jax.tree.leaves(y0))).dtype
        if ts is not None:
            _check_times(t0, t1, ts)
        saveat = diffrax.SaveAt(t1=True) if ts is None else diffrax.SaveAt(ts=jnp.asarray(ts, real))
        appended = jax.tree.map(lambda y: jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, self.augment)]), y0)
        out = self.integrator(
            diffrax.ODETerm(self.vector_field), t0, t1, appended, args,
            saveat=saveat, regulariser=regulariser, step=step, key=key,
        )  # fmt: skip
        cut = jax.tree.map(lambda y, ys: ys[..., : y.shape[-1]], y0, out.ys) if self.augment else out.ys
        return eqx.tree_at(lambda o: o.solution.ys, out, cut)


class MLPField(eqx.Module):
    """`f(t, y, args) = MLP([y, t, args])`: `depth` hidden layers of `width`, and a linear one.

    It acts on the last axis, whatever axes are before it: on one sample as on a batch. Of a PyTree `y` the leaves are
    concatenated there. `time`: whether `t` is an input. `args_size`: the length of `args`, if it is an input.
    `out_size`: by default `size`. The activation should be smooth: a solver of order `p` needs `p` derivatives.

    **Raises:** `ValueError` for a state or `args` of another size.
    """

    layers: tuple[Pointwise, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)
    size: int = eqx.field(static=True)
    args_size: int = eqx.field(static=True)
    time: bool = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        width: int,
        depth: int,
        *,
        out_size: int | None = None,
        time: bool = False,
        args_size: int = 0,
        activation: Callable[[Array], Array] = jnp.tanh,
        key: PRNGKeyArray,
    ):
        sizes = [size + time + args_size, *[width] * depth, size if out_size is None else out_size]
        keys = jax.random.split(key, depth + 1)
        self.layers = tuple(Pointwise(a, b, key=k) for a, b, k in zip(sizes, sizes[1:], keys, strict=False))
        self.activation, self.size, self.args_size, self.time = activation, size, args_size, time

    def __call__(
        self, t: Any, y: PyTree[Float[Array, "..."]], args: Float[Array, "..."] | None = None
    ) -> Float[Array, "..."]:
        """The time derivative, `(*batch, out_size)`."""
        y = jnp.concatenate(jax.tree.leaves(y), axis=-1)
        if y.shape[-1] != self.size:
            raise ValueError(f"`y` has {y.shape[-1]} entries on its last axis; expected {self.size}.")
        inputs = [y]
        if self.time:
            inputs.append(jnp.broadcast_to(jnp.asarray(t, y.dtype), (*y.shape[:-1], 1)))
        if self.args_size:
            given = 0 if args is None else jnp.shape(args)[-1]
            if args is None or given != self.args_size:
                raise ValueError(f"`args` has {given} entries on its last axis; expected {self.args_size}.")
            inputs.append(jnp.broadcast_to(jnp.asarray(args, y.dtype), (*y.shape[:-1], given)))
        x = jnp.concatenate(inputs, axis=-1)
        for layer in self.layers[:-1]:
            x = self.activation(layer.channels_last(x))
        return self.layers[-1].channels_last(x)


class SecondOrder(eqx.Module):
    """`y'' = a(t, (y, y'), args)`, as a vector field on the state `(y, y')`.

    **Arguments:** `acceleration`: any callable.

    Norcliffe, Bodnar, Day, Simidjievski and Lio (2020), On second order behaviour in augmented neural ODEs,
    arXiv:2006.07220.
    """

    acceleration: VectorField

    def __call__(self, t: Any, state: tuple[PyTree, PyTree], args: PyTree = None) -> tuple[PyTree, PyTree]:
        """`(y', y'')`."""
        return state[1], self.acceleration(t, state, args)


class Hamiltonian(eqx.Module):
    """`q' = dH/dp`, `p' = -dH/dq`, as a vector field on the state `(q, p)`, both of one shape.

    Where `H` does not depend on time it is constant along exact solutions.

    **Arguments:** `energy`: any callable `H(t, (q, p), args)`. What it returns is summed, so that of a batch as one
    state every sample moves in its own energy.

    Greydanus, Dzamba and Yosinski (2019), Hamiltonian neural networks, arXiv:1906.01563.
    """

    energy: Callable[[Any, tuple[Array, Array], PyTree], Array]

    def __call__(
        self, t: Any, state: tuple[Float[Array, "*n"], Float[Array, "*n"]], args: PyTree = None
    ) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """`(q', p')`."""
        by_q, by_p = jax.grad(lambda state: jnp.sum(self.energy(t, state, args)))(state)
        return by_p, -by_q


class Jointly(eqx.Module):
    """A vector field of one sample on a whole batch as one state, `(batch, ...)`; `t` and `args` are shared."""

    vector_field: VectorField

    def __call__(self, t: Any, y: PyTree[Float[Array, "b ..."]], args: PyTree = None) -> PyTree[Float[Array, "b ..."]]:
        """The slopes of all samples."""
        return jax.vmap(lambda y: self.vector_field(t, y, args))(y)


def _check_times(t0: Any, t1: Any, ts: Any) -> None:
    if any(isinstance(time, Tracer) for time in (t0, t1, ts)):
        return
    times = np.asarray([t0, *np.asarray(ts), t1], np.float64)
    jumps = np.diff(times if t0 <= t1 else -times)
    if not (jumps[1:-1] > 0).all() or not (jumps >= 0).all():
        raise ValueError(f"`ts` runs {np.asarray(ts)}; expected increasing times between `t0` and `t1`, {t0} to {t1}.")
