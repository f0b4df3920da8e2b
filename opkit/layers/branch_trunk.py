"""A sum of trained basis functions, with coefficients that come from elsewhere."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from solvers import Field

from .wide import shifted


class BranchTrunkField(eqx.Module):
    """`f_c(x) = sum_l sum_k b_lk t_lk(x) + bias_c + mean_c(x)`, a field `(d,)` to `(c,)`: a `DeepONet`'s output.

    Over taps `l` and features `k`. Channels have features of their own, `b_lck t_lck`, or share those of the one that
    has fewer: `b_lck t_lk`, `b_lk t_lck`. **Raises:** `ValueError` for numbers of features that fit none of these.
    """

    trunk: Callable[[Array], Array]
    coefficients: Float[Array, "taps features"]
    bias: Float[Array, " c"]
    mean: Field | None

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        """Evaluate at one point."""
        b, taps, c = self.coefficients, len(self.coefficients), self.bias.size
        t = self.trunk(x).reshape(taps, -1).astype(b.dtype)
        shared_b, shared_t = (c > 1 and f.shape[1] * c == g.shape[1] for f, g in ((b, t), (t, b)))
        if not (shared_b or shared_t or (b.shape[1] == t.shape[1] and b.shape[1] % c == 0)):
            raise ValueError(
                f"`branch` gives {b.shape[1]} features and `trunk` {t.shape[1]} for {c} output channels; expected as "
                f"many, a multiple of {c}, or one of them {c} times as many as the other."
            )
        terms = f"{'lk' if shared_b else 'lck'},{'lk' if shared_t else 'lck'}->c"
        split = lambda f, shared: f if shared else f.reshape(taps, c, -1)
        value = shifted(jnp.einsum(terms, split(b, shared_b), split(t, shared_t)), self.bias)
        return value if self.mean is None else value + self.mean(x).astype(b.dtype)
