"""Computing in sixteen bits, with weights in thirty-two."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .state import partition


class MixedPrecision(eqx.Module):
    """`op` in the precision `dtype`, on weights that stay in theirs: they are rounded at each call.

    So the optimiser sees weights and gradients in float32, and layers compute in bfloat16; Fourier transforms and what
    is between them run in float32 all the same. It is an operator, or whatever function `op` is, and trains as one.
    Its result has the dtype of its input, in which losses are then computed.
    Our layers add biases and multiply by gates in float32, lest the gradients, sums over all points, lose most of their
    terms on CPUs; in layers of one's own `opkit.layers.shifted` and `scaled` do so.

    **Arguments:** `op`: an operator or another function of one array. `dtype`: bfloat16, whose range is that of
    float32, by default; losses are not scaled, as float16 would ask for. What `Frozen` holds is not rounded.

    Micikevicius et al. (2018), Mixed precision training, arXiv:1710.03740.
    """

    op: Callable[..., Any]
    dtype: Any = eqx.field(static=True, default=jnp.bfloat16)

    def __call__(self, u: Float[Array, "*n"], *domains: Any, **options: Any) -> Float[Array, "*m"]:
        """Apply to one sample; `domains` and `options` are those of `op`."""
        trained, rest = partition(self.op)
        op = eqx.combine(self._rounded(trained), rest)
        return op(self._rounded(u), *domains, **self._rounded(options)).astype(u.dtype)

    def _rounded(self, tree: PyTree) -> PyTree:
        floating = lambda leaf: eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.tree.map(lambda leaf: leaf.astype(self.dtype) if floating(leaf) else leaf, tree)
