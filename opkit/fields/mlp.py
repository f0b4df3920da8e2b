"""Multilayer perceptrons: plain, and with multiplicative gates."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from opkit.layers import check_sizes

from .chain import Map
from .dense import Dense, Hidden, Linear, MakeLinear


class MLP(eqx.Module):
    """`f(x) = W h_depth + b`, `h_l = sigma(W_l h_{l-1} + b_l)`, `h_0 = x`: `(in_size,)` to `(out_size,)`.

    **Arguments:** `width`: units of a hidden layer. `depth`: hidden layers. `activation`: any elementwise function; one
    with parameters (`Snake`, `Cauchy`) has its own in every layer. `linear`: makes the linear layers, as `Dense` and
    `FactorisedDense` do.

    **Call:** `x: (in_size,)`, one point, or the features of one; inputs of order one are taken best (see `Rescale`).
    **Raises:** `ValueError` for a size below one, or `x` of another shape.
    """

    layers: tuple[Hidden, ...]
    readout: Linear

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        width: int,
        depth: int,
        activation: Map = jnp.tanh,
        linear: MakeLinear = Dense,
        key: PRNGKeyArray,
    ):
        check_sizes(in_size=in_size, out_size=out_size, width=width, depth=depth)
        self.layers = _hidden(in_size, width, depth, activation, linear, key)
        self.readout = linear(width, out_size, key=jax.random.fold_in(key, depth))

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        """Evaluate at one point."""
        return self.readout(self.features(x))

    def features(self, x: Float[Array, " d"]) -> Float[Array, " width"]:
        """The last hidden layer, of which the field is an affine function."""
        for layer in self.layers:
            x = layer(x)
        return x


class ModifiedMLP(eqx.Module):
    """An MLP whose hidden layers mix two encodings of the input: `h_l = z * u + (1 - z) * v`, elementwise.

    `z = sigma(W_l h_{l-1} + b_l)`, `h_0 = x`, with `u = sigma(W_u x + b_u)` and `v = sigma(W_v x + b_v)`.

    **Arguments**, **call** and **errors:** as `MLP`.

    Wang, Teng and Perdikaris (2021), Understanding and mitigating gradient flow pathologies in physics-informed neural
    networks, arXiv:2001.04536; in the form of Wang, Sankaran, Wang and Perdikaris (2023), An expert's guide to training
    physics-informed neural networks, arXiv:2308.08468, which gates the first layer too and swaps `u` and `v`.
    """

    gates: tuple[Hidden, ...]
    layers: tuple[Hidden, ...]
    readout: Linear

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        width: int,
        depth: int,
        activation: Map = jnp.tanh,
        linear: MakeLinear = Dense,
        key: PRNGKeyArray,
    ):
        check_sizes(in_size=in_size, out_size=out_size, width=width, depth=depth)
        self.gates = make_gates(in_size, width, activation, linear, jax.random.fold_in(key, depth + 1))
        self.layers = _hidden(in_size, width, depth, activation, linear, key)
        self.readout = linear(width, out_size, key=jax.random.fold_in(key, depth))

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        """Evaluate at one point."""
        return self.readout(self.features(x))

    def features(self, x: Float[Array, " d"]) -> Float[Array, " width"]:
        """The last hidden layer, of which the field is an affine function."""
        u, v = (gate(x) for gate in self.gates)
        for layer in self.layers:
            x = gated(layer(x), u, v)
        return x


def gated(z: Float[Array, " n"], u: Float[Array, " n"], v: Float[Array, " n"]) -> Float[Array, " n"]:
    """`z * u + (1 - z) * v`."""
    return v + z * (u - v)


def make_gates(in_size: int, width: int, activation: Map, linear: MakeLinear, key: PRNGKeyArray) -> tuple[Hidden, ...]:
    """The two encodings of the input."""
    keys = (jax.random.fold_in(key, i) for i in range(2))
    return tuple(Hidden(in_size, width, activation=activation, linear=linear, key=k) for k in keys)


def _hidden(
    in_size: int, width: int, depth: int, activation: Map, linear: MakeLinear, key: PRNGKeyArray
) -> tuple[Hidden, ...]:
    make = lambda i, size: Hidden(size, width, activation=activation, linear=linear, key=jax.random.fold_in(key, i))
    return tuple(make(i, in_size if i == 0 else width) for i in range(depth))
