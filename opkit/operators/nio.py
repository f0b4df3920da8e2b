"""From an unknown operator, seen through measurements, to a function: inverse problems."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from solvers import Domain, Operator

from .deeponet import DeepONet


class NIO(eqx.Module):
    """The neural inverse operator: `FNO(1/L sum_l DeepONet(measurement_l))`.

    A measurement is a function on the sensors, as the pair of a current and a voltage along a boundary. A `DeepONet`
    takes each to a function on `query`; their mean over the set goes through an operator there. So the output does not
    depend on the order of the measurements, and any number of them is taken. The mean is taken of the DeepONet's
    coefficients, in which it is affine: the trunk is evaluated once.

    **Arguments:** `set_operator`: its output channels are the inputs of `operator`, which may append the coordinates.

    **Call:** `nio(measurements, domain, query, args=, key=, mask=)`: `measurements: (L, cin, *n)` on the sensors
    `domain`; `query`: where the unknown lives, and in `operator`'s claim; `mask: (L,)`, `False` for what is not there,
    at least one being `True`. `args`, `key`: for `operator`. Returns `(cout, *m)`. **Raises:** what its parts raise;
    `ValueError` for a mask of another length.

    Molinaro, Yang, Engquist and Mishra (2023), Neural inverse operators for solving PDE inverse problems,
    arXiv:2301.11167.
    """

    set_operator: DeepONet
    operator: Operator

    def __call__(
        self,
        measurements: Float[Array, "l cin *n"],
        domain: Domain,
        query: Domain,
        *,
        args: PyTree = None,
        key: PRNGKeyArray | None = None,
        mask: Bool[Array, " l"] | None = None,
    ) -> Float[Array, "cout *m"]:
        """Apply to one set."""
        count = len(measurements)
        if mask is not None and mask.shape != (count,):
            raise ValueError(f"`mask` has shape {mask.shape}; expected ({count},), one entry a measurement.")
        each = jax.vmap(lambda u: self.set_operator.coefficients(u, domain))(measurements)
        there = jnp.ones(count, each.dtype) if mask is None else mask.astype(each.dtype)
        mean = jnp.tensordot(there / there.sum(), each, 1)
        return self.operator(self.set_operator.evaluate(mean, query), query, args=args, key=key)


def bag(
    measurements: Float[Array, "l cin *n"], *, least: int = 2, key: PRNGKeyArray
) -> tuple[Float[Array, "l cin *n"], Bool[Array, " l"]]:
    """A random number from `least` to `L` of measurements, drawn with replacement, for training.

    So a trained `NIO` accepts other numbers of measurements. Shapes are kept: the rest is masked.

    **Returns:** measurements and mask, as `NIO` takes them. **Raises:** `ValueError` for `least` not from 1 to `L`.
    """
    count = len(measurements)
    if not 1 <= least <= count:
        raise ValueError(f"`least` is {least}; expected from 1 to the {count} measurements.")
    number = jax.random.randint(jax.random.fold_in(key, 0), (), least, count + 1)
    drawn = jax.random.randint(jax.random.fold_in(key, 1), (count,), 0, count)
    return measurements[drawn], jnp.arange(count) < number
