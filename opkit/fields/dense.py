"""Linear layers of one vector, and a linear layer with its activation."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from opkit.layers import check_sizes, initial, shifted
from solvers import as_module

from .arguments import check_point
from .chain import Map


@runtime_checkable
class Linear(Protocol):
    """`W x + b` of one vector, however `W` is held."""

    @property
    def bias(self) -> Float[Array, " out"] | None:
        """`b`."""
        ...

    def __call__(self, x: Float[Array, " in"], /) -> Float[Array, " out"]:
        """`W x + b`."""
        ...

    def with_weights(self, weight: Float[Array, "out in"], bias: Float[Array, " out"] | None, /) -> "Linear":
        """The same layer with these `W` and `b`."""
        ...


MakeLinear = Callable[..., Linear]


class Dense(eqx.Module):
    """`W x + b`, `(in,)` to `(out,)`, the weights cast to the input's dtype.

    At the start `W: (out, in)` is normal with variance `2 / (in + out)`, `b = 0`. **Raises:** `ValueError` for a size
    below one, or `x` of another shape.

    Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward neural networks, equation 12.
    """

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"] | None

    def __init__(self, in_size: int, out_size: int, *, use_bias: bool = True, key: PRNGKeyArray):
        check_sizes(in_size=in_size, out_size=out_size)
        self.weight = initial.normal(key, (out_size, in_size), (2 / (in_size + out_size)) ** 0.5)
        self.bias = jnp.zeros(out_size) if use_bias else None

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        """`W x + b`."""
        return _affine(self.weight, self.bias, x)

    def with_weights(self, weight: Float[Array, "out in"], bias: Float[Array, " out"] | None) -> "Dense":
        """The same layer with these `W` and `b`."""
        return eqx.tree_at(lambda d: (d.weight, d.bias), self, (weight, bias), is_leaf=lambda leaf: leaf is None)


class FactorisedDense(eqx.Module):
    """`Dense` with `W = diag(exp(s)) V`, `s: (out,)` and `V: (out, in)` trained: random weight factorisation.

    At the start `s` is normal with `mean` and `deviation`, and `W` is that of `Dense` with the same key. Wherever a
    `linear` layer is asked for, `FactorisedDense` or `partial(FactorisedDense, mean=1.0)` will do.

    **Arguments:** `mean`: 0.5 or 1 are the authors' choices. **Raises:** as `Dense`.

    Wang, Wang, Seidman and Perdikaris (2022), Random weight factorization improves the training of continuous neural
    representations, arXiv:2210.01274.
    """

    log_scale: Float[Array, " out"]
    direction: Float[Array, "out in"]
    bias: Float[Array, " out"] | None

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        use_bias: bool = True,
        mean: float = 0.5,
        deviation: float = 0.1,
        key: PRNGKeyArray,
    ):
        plain = Dense(in_size, out_size, use_bias=use_bias, key=key)
        self.log_scale = mean + initial.normal(jax.random.fold_in(key, 1), (out_size,), deviation)
        self.direction = plain.weight / jnp.exp(self.log_scale)[:, None]
        self.bias = plain.bias

    @property
    def weight(self) -> Float[Array, "out in"]:
        """`W`."""
        return jnp.exp(self.log_scale)[:, None] * self.direction

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        """`W x + b`."""
        return _affine(self.weight, self.bias, x)

    def with_weights(self, weight: Float[Array, "out in"], bias: Float[Array, " out"] | None) -> "FactorisedDense":
        """The same layer with these `W` and `b`; `s` stays."""
        direction = weight / jnp.exp(self.log_scale)[:, None]
        return eqx.tree_at(lambda d: (d.direction, d.bias), self, (direction, bias), is_leaf=lambda leaf: leaf is None)


class Hidden(eqx.Module):
    """`sigma(W x + b)`: a linear layer and its activation, `(in,)` to `(out,)`.

    **Arguments:** `activation`: any elementwise function; the parameters of one that has some are copied, so that every
    layer trains its own. `linear`: makes the linear layer, as `Dense` does.

    Residuals take derivatives of the activation, so it should be smooth. `jax.experimental.jet` (Taylor mode) goes
    through tanh, sin, sigmoid, SiLU, GELU, `Snake` and `Cauchy`; it fails on JAX's ReLU, softplus, Mish and arctan.
    """

    linear: Linear
    activation: Map

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        activation: Map = jnp.tanh,
        linear: MakeLinear = Dense,
        key: PRNGKeyArray,
    ):
        self.linear = linear(in_size, out_size, key=key)
        copied = jax.tree.map(lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, as_module(activation))
        self.activation = copied

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        """`sigma(W x + b)`."""
        return self.activation(self.linear(x))


def _affine(weight: Array, bias: Array | None, x: Array) -> Array:
    check_point(x, weight.shape[1])
    y = lax.dot_general(weight.astype(x.dtype), x, (((1,), (0,)), ((), ())))
    return y if bias is None else shifted(y, bias)
