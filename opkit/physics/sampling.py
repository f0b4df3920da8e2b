"""Collocation points: space-filling, and where a residual is large. Pure functions of their keys."""

from functools import lru_cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

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
    key: PRNGKeyArray | None = None,
    chances: Float[Array, " m"] | None = None,
) -> Float[Array, "n d"]:
    """`n` different ones of the candidates, drawn with probabilities `|r|^power / mean(|r|^power) + floor`: RAD.

    All points are drawn anew; to keep those there are and add some (RAR-D): `CollocationPoints`.

    **Arguments:** `candidates`: uniform points, several times `n`. `residual`: its size at each. `power`, `floor`: 1
    and 1 are the authors' first choice; with `floor=0` points come from the residual alone. Residuals that are not
    finite count as zero. `chances`: in place of a key, numbers uniform in (0, 1), one a candidate. As the last
    coordinate of a Sobol sequence, whose others are the candidate, they make the points low in discrepancy as well:

        drawn = sobol(Box((*box.lower, 0.0), (*box.upper, 1.0)), 2**15, key=key)
        points = residual_adaptive(drawn[:, :-1], residual(drawn[:, :-1]), 5000, chances=drawn[:, -1])

    **Raises:** `ValueError` for more points than candidates, shapes that differ, not one of `key` and `chances`.

    Wu, Zhu, Tan, Kartha and Lu (2023), A comprehensive study of non-adaptive and residual-based adaptive sampling for
    physics-informed neural networks, arXiv:2207.10289, equation 3.
    """
    if residual.shape != candidates.shape[:1]:
        raise ValueError(f"`residual` has shape {residual.shape}; expected {candidates.shape[:1]}, one a candidate.")
    if not 0 < n <= len(candidates):
        raise ValueError(f"`n` is {n}; expected 1 to the number of candidates, {len(candidates)}.")
    if (key is None) == (chances is None):
        raise ValueError("`key` and `chances`: expected one of them.")
    if chances is not None and chances.shape != residual.shape:
        raise ValueError(f"`chances` has shape {chances.shape}; expected {residual.shape}, one a candidate.")
    size = jnp.abs(jnp.where(jnp.isfinite(residual), residual, 0)) ** power
    mean = jnp.mean(size)
    density = size / jnp.where(mean > 0, mean, 1) + floor
    # the n largest of logarithms perturbed by Gumbel's distribution are n draws without repetition
    if chances is None:
        noise = jax.random.gumbel(jnp.asarray(key), density.shape, density.dtype)
    else:
        noise = -jnp.log(-jnp.log(chances))
    scores = jnp.log(density) + noise
    return candidates[lax.top_k(scores, n)[1]]


class CollocationPoints(eqx.Module):
    """Points that grow where the residual is large, in arrays of fixed size: RAR-D.

    The first points stay. What `add` draws fills the room beside them; once it is full, the oldest added ones give
    way. A pure state, for an objective's carry: evaluate the residual at all of `points`, and give the term the `mask`
    of those that count (the others are copies, so that they are safe to evaluate).

        carry = CollocationPoints(sobol(box, 1000, key=key), room=2000)
        carry = lax.cond(step % 500 == 0, lambda c: c.add(candidates, r, 50, key=key), lambda c: c, carry)
        Term(jax.vmap(residual, (None, 0))(field, carry.points), "residual", mask=carry.mask)

    RAD (`residual_adaptive`) replaces all points, which costs nothing more in a step and follows the residual; RAR-D
    forgets nothing, at the price of more points.

    **Arguments:** `start`: the first points, `(n, d)`. `room`: for how many more.

    **Raises:** `ValueError` for no room.
    """

    points: Float[Array, "capacity d"]
    added: Int[Array, ""]
    kept: int = eqx.field(static=True)

    def __init__(self, start: Float[Array, "n d"], room: int):
        if room < 1:
            raise ValueError(f"`room` is {room}; expected at least 1 point more.")
        self.points = jnp.concatenate([start, start[jnp.arange(room) % len(start)]])
        self.added = jnp.zeros((), jnp.int32)
        self.kept = len(start)

    @property
    def mask(self) -> Bool[Array, " capacity"]:
        """Which points count."""
        return jnp.arange(len(self.points)) < self.kept + self.added

    def add(
        self,
        candidates: Float[Array, "m d"],
        residual: Float[Array, " m"],
        n: int,
        *,
        power: float = 2.0,
        floor: float = 0.0,
        key: PRNGKeyArray,
    ) -> "CollocationPoints":
        """With `n` more points, drawn from the candidates as by `residual_adaptive`.

        **Arguments:** `power`, `floor`: 2 and 0 are the authors' choice here; a large power adds the worst points
        (RAR-G).

        **Raises:** `ValueError` for more points than there is room, or as `residual_adaptive` does.

        Wu et al. (2023), arXiv:2207.10289.
        """
        room = len(self.points) - self.kept
        if n > room:
            raise ValueError(f"`n` is {n}; expected at most the room of {room} points.")
        drawn = residual_adaptive(candidates, residual, n, power=power, floor=floor, key=key)
        # The count goes round from `room` to `2 room`, where all are full, lest it overflow.
        place = self.kept + (self.added + jnp.arange(n)) % room
        added = self.added + n
        added = jnp.where(added >= 2 * room, added - room, added)
        points = self.points.at[place].set(drawn.astype(self.points.dtype))
        return eqx.tree_at(lambda state: (state.points, state.added), self, (points, added))


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
