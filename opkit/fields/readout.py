"""The last, linear layer of a field by least squares."""

from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .dense import Linear


@runtime_checkable
class LinearReadout(Protocol):
    """A field `readout(features(x))` with a linear layer last."""

    @property
    def readout(self) -> Linear:
        """The last layer."""
        ...

    def features(self, x: Float[Array, " d"], /) -> Float[Array, " m"]:
        """What it sees."""
        ...


F = TypeVar("F", bound=LinearReadout)


def fit_readout(field: F, points: Float[Array, "n d"], values: Float[Array, "n c"]) -> F:
    """The field whose last layer fits `values` at `points` best, in the mean square; the other layers stay.

    `min |H W' + 1 b' - values|^2` over `W` and `b`, `H: (n, m)` the features; the smallest `W` and `b` among several.
    Singular values below the machine precision times `max(n, m)`, relative to the largest, count as zero. For the
    initial values of a `PirateNet`, or to project a function onto any field's features.

    **Arguments:** `field`: an `MLP`, `ModifiedMLP`, `PirateNet`, `SIREN`, `GaussianFeatures`, a `Chain` that ends in
    one, or your own with `features` and a `readout`. **Raises:** `ValueError` for a field without them, or shapes that
    do not agree.
    """
    layer: Any = getattr(field, "readout", None)
    if layer is None or not hasattr(field, "features"):
        raise ValueError(f"`field` is {type(field).__name__}, without `features` and `readout`, which an MLP has.")
    features = jax.vmap(field.features)(points)
    fitting = eqx.filter_eval_shape(jax.vmap(layer), features).shape
    if values.shape != fitting:
        raise ValueError(f"`values` has shape {values.shape}; expected {fitting}, those of `field` at `points`.")
    if layer.bias is None:
        fitted = layer.with_weights(jnp.linalg.lstsq(features, values)[0].T, None)
    else:
        features = jnp.append(features, jnp.ones_like(features[:, :1]), 1)
        solution = jnp.linalg.lstsq(features, values)[0]
        fitted = layer.with_weights(solution[:-1].T, solution[-1])
    return eqx.tree_at(lambda f: f.readout, field, fitted)
