"""SIREN: sines all the way, with an initialisation that keeps their arguments standard normal."""

from collections.abc import Sequence
from math import e, pi

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from opkit.layers import check_sizes, initial
from solvers import Frozen

from .arguments import check_point, per_axis
from .dense import Dense


class SIREN(eqx.Module):
    """`f(x) = W h_depth + b`, with `h_1 = sin(W_1 (omega * x) + b_1)` and `h_l = sin(w (W_l h_{l-1} + b_l))`.

    `omega` sets the frequencies of the start, axis by axis: `W_1` is uniform on `+-1 / in_size`. It suits inputs on
    `[-1, 1]`; 30 is the published choice, for images, and solutions of differential equations mostly want 1 to 10. The
    scalar `w`, `hidden_omega`, leaves the function of the start as it is and multiplies the gradient of later weights.

    At the start the arguments of the sines from the second layer on have mean zero and variance one, whatever `omega`.
    Weights have the published distribution (`W_l` uniform on `+-sqrt(6 / width) / w`), biases have not: `b_1` is
    uniform on `+-pi`, so that `h_1` has variance 1/2 exactly. Since the sine of a standard normal variable has only
    `(1 - exp(-2)) / 2`, the variance `exp(-2)` that is missing from the third layer on comes from `w b_l`, uniform.
    `b_2 = b = 0`.

    **Arguments:** `width`, `depth`: units and number of the sine layers. `omega`: one for all axes, or one each.

    **Call:** `x: (in_size,)`, one point. **Raises:** `ValueError` for a size below one, an `omega` that is not
    positive, or `x` of another shape.

    Sitzmann, Martel, Bergman, Lindell and Wetzstein (2020), Implicit neural representations with periodic activation
    functions, arXiv:2006.09661, section 3.2.
    """

    layers: tuple[Dense, ...]
    readout: Dense
    omega: Frozen[Float[Array, " d"]]
    hidden_omega: float = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        width: int,
        depth: int,
        omega: float | Sequence[float] = 30.0,
        hidden_omega: float = 30.0,
        key: PRNGKeyArray,
    ):
        check_sizes(in_size=in_size, out_size=out_size, width=width, depth=depth)
        self.omega = Frozen(jnp.array(per_axis("omega", omega, in_size)))
        (self.hidden_omega,) = per_axis("hidden_omega", hidden_omega, 1)
        bound = (6 / width) ** 0.5 / self.hidden_omega
        missing = 3**0.5 / e / self.hidden_omega
        keys = [jax.random.fold_in(key, i) for i in range(depth + 1)]
        first = _uniform(in_size, width, 1 / in_size, pi, keys[0])
        others = (_uniform(width, width, bound, missing if i > 1 else 0.0, keys[i]) for i in range(1, depth))
        self.layers = (first, *others)
        self.readout = _uniform(width, out_size, bound, 0.0, keys[depth])

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        """Evaluate at one point."""
        return self.readout(self.features(x))

    def features(self, x: Float[Array, " d"]) -> Float[Array, " width"]:
        """The last sines, of which the field is an affine function."""
        omega = self.omega.value.astype(x.dtype)
        check_point(x, omega.size)
        first, *others = self.layers
        x = jnp.sin(first(omega * x))
        for layer in others:
            x = jnp.sin(self.hidden_omega * layer(x))
        return x


def _uniform(in_size: int, out_size: int, weight_bound: float, bias_bound: float, key: PRNGKeyArray) -> Dense:
    weight = initial.uniform(jax.random.fold_in(key, 0), (out_size, in_size), weight_bound)
    bias = initial.uniform(jax.random.fold_in(key, 1), (out_size,), bias_bound)
    return Dense(in_size, out_size, key=key).with_weights(weight, bias)
