"""Normalise fields channel by channel, and an operator that carries its own normalisation."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers import Domain, Frozen


class Normalisation(eqx.Module):
    """An invertible map of a field `(c, *n)` to one that is easier to learn from."""

    @abstractmethod
    def encode(self, u: Float[Array, "c *n"]) -> Float[Array, "c *n"]:
        """From physical to normalised values."""

    @abstractmethod
    def decode(self, u: Float[Array, "c *n"]) -> Float[Array, "c *n"]:
        """From normalised to physical values."""


class Identity(Normalisation):
    """No normalisation."""

    def encode(self, u: Float[Array, "c *n"]) -> Float[Array, "c *n"]:
        """`u`."""
        return u

    def decode(self, u: Float[Array, "c *n"]) -> Float[Array, "c *n"]:
        """`u`."""
        return u


class Normaliser(Normalisation):
    """`(u - mean) / std` per channel, at any resolution; the statistics are not trained.

    **Arguments:** `mean`, `std`: `(c,)`; `fit_normaliser` measures them.

    **Raises:** `ValueError` for shapes that differ, or, on concrete values, a standard deviation that is not positive.
    """

    mean: Frozen[Float[Array, " c"]]
    std: Frozen[Float[Array, " c"]]

    def __init__(self, mean: Float[Array | np.ndarray, "_"], std: Float[Array | np.ndarray, "_"]):
        if mean.ndim != 1 or mean.shape != std.shape:
            raise ValueError(f"`mean`, `std` have shapes {mean.shape}, {std.shape}; expected (channels,) for both.")
        if not isinstance(std, Tracer) and not np.all(np.asarray(std) > 0):
            raise ValueError(f"`std` is {np.asarray(std)}; expected positive numbers (1 for a constant channel).")
        self.mean = Frozen(jnp.asarray(mean))
        self.std = Frozen(jnp.asarray(std))

    def encode(self, u: Float[Array, "c *n"]) -> Float[Array, "c *n"]:
        """From physical to normalised values."""
        return (u - _per_channel(self.mean, u)) / _per_channel(self.std, u)

    def decode(self, u: Float[Array, "c *n"]) -> Float[Array, "c *n"]:
        """From normalised to physical values."""
        return u * _per_channel(self.std, u) + _per_channel(self.mean, u)


def fit_normaliser(samples: Any, *, block: int = 256) -> Normaliser:
    """The mean and the standard deviation of each channel over samples and space, `std**2 = mean((u - mean)**2)`.

    Blocks of samples are read, summed in float64 about their own means, and joined (Chan, Golub and LeVeque 1983,
    doi:10.1080/00031305.1983.10483115), so that a large mean costs no digits. A channel that does not vary beyond
    rounding gets `std = 1`: it becomes zero.

    **Arguments:** `samples`: floats `(samples, channels, *n)`: an array, or anything sliced like one (an h5py dataset).
    The statistics have its dtype. `block`: the number of samples in memory at once.

    **Raises:** `ValueError` for too few axes, no samples, booleans or integers, or values that are not finite.
    """
    dtype = jnp.dtype(samples.dtype)
    if len(samples.shape) < 2 or not len(samples) or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"`samples` are {dtype} {tuple(samples.shape)}; expected floats (samples, channels, *n).")
    count, mean, squares, largest = 0, 0.0, 0.0, 0.0
    for start in range(0, len(samples), block):
        part = np.asarray(samples[start : start + block], np.float64)
        part = np.moveaxis(part, 1, 0).reshape(part.shape[1], -1)
        size, part_mean = part.shape[1], part.mean(1)
        difference = part_mean - mean
        squares += ((part - part_mean[:, None]) ** 2).sum(1) + difference**2 * (count * size / (count + size))
        mean += difference * (size / (count + size))
        count += size
        largest = np.maximum(largest, np.abs(part).max(1))
    std = np.sqrt(squares / count)
    if not np.all(np.isfinite(std)):
        raise ValueError(f"`samples` have NaN or infinity in channels {np.flatnonzero(~np.isfinite(std)).tolist()}.")
    constant = std <= 4 * float(jnp.finfo(dtype).eps) * largest
    return Normaliser(np.asarray(mean).astype(dtype), np.where(constant, 1.0, std).astype(dtype))


class Normalised(eqx.Module):
    """The operator `output.decode(op(input.encode(u), ...))`: physical fields in and out, whatever `op` was trained on.

    It is what one trains, deploys and saves: the statistics travel with the weights.
    """

    op: Callable[..., Any]
    input: Normalisation
    output: Normalisation

    def __call__(
        self,
        u: Float[Array, "cin *n"],
        domain: Domain,
        query: Domain | None = None,
        *,
        args: PyTree = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "cout *m"]:
        """Apply to one sample."""
        return self.output.decode(self.op(self.input.encode(u), domain, query, args=args, key=key))


def _per_channel(statistic: Frozen[Array], u: Array) -> Array:
    value = statistic.value
    if value.shape[0] != u.shape[0]:
        raise ValueError(
            f"`u` has {u.shape[0]} channels, the normaliser {value.shape[0]}; are those of input and output swapped?"
        )
    return value.astype(u.dtype).reshape(-1, *(1,) * (u.ndim - 1))
