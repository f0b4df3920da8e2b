"""Regions of space: what they give, and sampling by rejection."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

_ROUNDS = 1000  # of rejection: then a region holds less than about a thousandth of its box over the number of points


class BoundaryPoints(NamedTuple):
    """Points on a boundary: `points` and outward unit `normals`, `(n, d)`, and `pieces`, `(n,)`: the index of the piece
    of `Geometry.pieces` each lies on."""

    points: Float[Array, "n d"]
    normals: Float[Array, "n d"]
    pieces: Int[Array, " n"]


class Geometry(eqx.Module):
    """A bounded region of `d` dimensions, whose boundary consists of named pieces.

    Regions are combined by `union`, `difference` and `intersection`. Shapes are concrete: they are sampled inside
    `jit`, from a key, but not traced themselves.
    """

    @property
    @abc.abstractmethod
    def pieces(self) -> tuple[str, ...]:
        """The names of the pieces of the boundary."""

    @property
    @abc.abstractmethod
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lower and the upper corner of a box around the region, `(d,)` each."""

    @property
    @abc.abstractmethod
    def boundary_measure(self) -> float:
        """The number, length or area of the boundary."""

    @abc.abstractmethod
    def signed_distance(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """The distance of `x` to the boundary, negative inside. Of combined regions its sign is right and it is at most
        the distance."""

    @abc.abstractmethod
    def sample(self, n: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        """`n` points, uniform in the interior."""

    @abc.abstractmethod
    def sample_boundary(self, n: int, *, key: PRNGKeyArray) -> BoundaryPoints:
        """`n` points, uniform on the boundary."""

    @property
    def ndim(self) -> int:
        """`d`."""
        return len(self.bounds[0])

    def contains(self, x: Float[Array, " d"]) -> Array:
        """Whether `x` is in the region or on its boundary."""
        return self.signed_distance(x) <= 0


def rejected(draw: Callable[[PRNGKeyArray], Any], keep: Callable[[Any], Array], n: int, key: PRNGKeyArray) -> Any:
    """The first `n` kept of draws `(m, ...)`; those that `_ROUNDS` draws do not give are NaN, or piece -1."""
    blank = lambda shape: jnp.full((n, *shape.shape[1:]), jnp.nan if jnp.issubdtype(shape.dtype, jnp.floating) else -1)
    start = jax.tree.map(lambda shape: blank(shape).astype(shape.dtype), jax.eval_shape(draw, key))

    def more(taken: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
        rounds, count, kept = taken
        drawn = draw(jax.random.fold_in(key, rounds))
        good = jax.vmap(keep)(drawn)
        place = jnp.where(good, count + jnp.cumsum(good) - 1, n)
        kept = jax.tree.map(lambda old, new: old.at[place].set(new, mode="drop"), kept, drawn)
        return rounds + 1, count + jnp.sum(good), kept

    zero = jnp.zeros((), jnp.int32)
    going = lambda taken: (taken[0] < _ROUNDS) & (taken[1] < n)
    counted = lambda taken: (taken[0], taken[1].astype(jnp.int32), taken[2])
    return jax.lax.while_loop(going, lambda taken: counted(more(taken)), (zero, zero, start))[2]
