"""Collocation points: space-filling, and where a residual is large. Pure functions of their keys."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .shapes import Box


def latin_hypercube(box: Box, n: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
    """`n` points of a Latin hypercube: along every axis one in each of `n` equal intervals, uniform in it.

    McKay, Beckman and Conover (1979), A comparison of three methods for selecting values of input variables,
    doi:10.1080/00401706.1979.10489755.
    """
    _check_number(n)
    order, where = jax.random.split(key)
    place = jax.vmap(lambda k: jax.random.permutation(k, n), out_axes=1)(jax.random.split(order, box.ndim))
    return _into(box, (place + jax.random.uniform(where, (n, box.ndim))) / n)


def sobol(box: Box, n: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
    """The first `n` points of a Sobol sequence, shifted digitally: each unbiased, together low in discrepancy.

    The key draws the shift: the bits of one number an axis are flipped in all points. Means over points are best for
    `n` a power of two.

    Sobol (1967), doi:10.1016/0041-5553(67)90144-9; the shift: Matousek (1998), doi:10.1006/jcom.1998.0489.
    """
    _check_number(n)
    bits = jnp.asarray(_sobol_bits(n, box.ndim)) ^ jax.random.bits(key, (box.ndim,), jnp.uint32)
    real = jnp.result_type(float)
    kept = min(32, jnp.finfo(real).nmant)  # so that no point is rounded up to the end
    return _into(box, (lax.shift_right_logical(bits, np.uint32(32 - kept)).astype(real) + 0.5) / 2.0**kept)


def residual_adaptive(
    candidates: Float[Array, "m d"],
    residual: Float[Array, " m"],
    n: int,
    *,
    power: float = 1.0,
    floor: float = 1.0,
    key: PRNGKeyArray,
) -> Float[Array, "n d"]:
    """`n` different ones of the candidates, drawn with probabilities `|r|^power / mean(|r|^power) + floor`: RAD.

    To keep points and add `n` of the largest residuals (RAR-D), append what `floor=0` and `power=2` draw.

    **Arguments:** `candidates`: uniform points, several times `n`. `residual`: its size at each. `power`, `floor`: 1
    and 1 are the authors' first choice; with `floor=0` points come from the residual alone. Residuals that are not
    finite count as zero.

    **Raises:** `ValueError` for more points than candidates, or shapes that differ.

    Wu, Zhu, Tan, Kartha and Lu (2023), A comprehensive study of non-adaptive and residual-based adaptive sampling for
    physics-informed neural networks, arXiv:2207.10289, equation 3.
    """
    if residual.shape != candidates.shape[:1]:
        raise ValueError(f"`residual` has shape {residual.shape}; expected {candidates.shape[:1]}, one a candidate.")
    if not 0 < n <= len(candidates):
        raise ValueError(f"`n` is {n}; expected 1 to the number of candidates, {len(candidates)}.")
    size = jnp.abs(jnp.where(jnp.isfinite(residual), residual, 0)) ** power
    mean = jnp.mean(size)
    density = size / jnp.where(mean > 0, mean, 1) + floor
    # the n largest of perturbed logarithms are n draws without repetition
    scores = jnp.log(density) + jax.random.gumbel(key, density.shape, density.dtype)
    return candidates[lax.top_k(scores, n)[1]]


def _check_number(n: int) -> None:
    if n < 1:
        raise ValueError(f"`n` is {n}; expected 1 or more points.")


def _into(box: Box, unit: Array) -> Array:
    lower, upper = (jnp.asarray(bound, unit.dtype) for bound in box.bounds)
    return lower + unit * (upper - lower)


@lru_cache(maxsize=8)
def _sobol_bits(n: int, d: int) -> np.ndarray:
    from scipy.stats import qmc  # takes half a second to import

    points = qmc.Sobol(d, scramble=False, bits=32).random_base2(max(n - 1, 1).bit_length())[:n]
    return np.asarray(points * 2.0**32, np.uint32)
