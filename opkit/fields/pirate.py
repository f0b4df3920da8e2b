"""PirateNet: residual blocks that start as the identity and deepen as they train."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from opkit.layers import check_sizes

from .chain import Map
from .dense import Dense, Hidden, Linear, MakeLinear
from .mlp import gated, make_gates


class PirateBlock(eqx.Module):
    """`(1 - alpha) x + alpha h`, with a trained scalar `alpha = 0` at the start: the identity.

    `h = sigma(W_3 z_2 + b_3)`, where `z_1 = f * u + (1 - f) * v` with `f = sigma(W_1 x + b_1)`, and
    `z_2 = g * u + (1 - g) * v` with `g = sigma(W_2 z_1 + b_2)`; the gates `u, v: (width,)` are given.

    **Arguments:** `size`: of `x`. The others as for `MLP`.
    """

    layers: tuple[Hidden, ...]
    alpha: Float[Array, ""]

    def __init__(
        self,
        size: int,
        *,
        width: int,
        activation: Map = jnp.tanh,
        linear: MakeLinear = Dense,
        key: PRNGKeyArray,
    ):
        shapes = ((size, width), (width, width), (width, size))
        keys = (jax.random.fold_in(key, i) for i in range(3))
        self.layers = tuple(
            Hidden(*shape, activation=activation, linear=linear, key=k) for shape, k in zip(shapes, keys, strict=True)
        )
        self.alpha = jnp.zeros(())

    def __call__(
        self, x: Float[Array, " m"], u: Float[Array, " width"], v: Float[Array, " width"]
    ) -> Float[Array, " m"]:
        """Apply under the gates `u` and `v`."""
        first, second, third = self.layers
        h = third(gated(second(gated(first(x), u, v)), u, v))
        return x + self.alpha.astype(x.dtype) * (h - x)


class PirateNet(eqx.Module):
    """`f(x) = W x_depth + b` after `depth` blocks `x_l = PirateBlock(x_{l-1}, u, v)`, `x_0 = x`.

    All blocks share the gates `u = sigma(W_u x + b_u)` and `v = sigma(W_v x + b_v)`. Every `alpha` starts at zero, so
    that the field starts as a linear function of its input: put an embedding before it, in a `Chain`, and let
    `fit_readout` set `W` and `b` from data.

    **Arguments:** `in_size`: of the embedding, and so of every block's in- and output. `width`: units inside the
    blocks. `depth`: blocks, of three layers each. The others, **call** and **errors:** as `MLP`; an activation with one
    parameter a unit needs `width = in_size`.

    Wang, Li, Chen and Perdikaris (2024), PirateNets: physics-informed deep learning with residual adaptive networks,
    arXiv:2402.00326, section 4; `b` is the authors' code's, not the paper's.
    """

    gates: tuple[Hidden, ...]
    blocks: tuple[PirateBlock, ...]
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
        make = lambda k: PirateBlock(in_size, width=width, activation=activation, linear=linear, key=k)
        self.blocks = tuple(make(jax.random.fold_in(key, i)) for i in range(depth))
        self.readout = linear(in_size, out_size, key=jax.random.fold_in(key, depth))
        self.gates = make_gates(in_size, width, activation, linear, jax.random.fold_in(key, depth + 1))

    def __call__(self, x: Float[Array, " m"]) -> Float[Array, " c"]:
        """Evaluate at one point, given by its embedding."""
        return self.readout(self.features(x))

    def features(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """The last block's output, of which the field is an affine function."""
        u, v = (gate(x) for gate in self.gates)
        for block in self.blocks:
            x = block(x, u, v)
        return x
