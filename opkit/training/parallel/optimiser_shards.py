"""An optimiser's state in pieces on the devices that share a batch."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree

# An array is cut along one axis, the same one wherever an array of that shape comes.


def specs(tree: PyTree, shards: int, axis: str) -> PyTree:
    """How each array lies on the devices."""

    def spec(leaf: Any) -> P:
        cut = _cut(leaf.shape, shards)
        return P() if cut is None else P(*(None,) * cut, axis)

    return jax.tree.map(spec, tree)


def scattered_sum(tree: PyTree, axis: str) -> PyTree:
    """This device's pieces of the sum over all; all of an array that is not cut."""

    def add(leaf: Array) -> Array:
        cut = _cut(leaf.shape, lax.axis_size(axis))
        if cut is None:
            return lax.psum(leaf, axis)
        return lax.psum_scatter(leaf, axis, scatter_dimension=cut, tiled=True)

    return jax.tree.map(add, tree)


def own_pieces(tree: PyTree, axis: str) -> PyTree:
    """This device's pieces of arrays that it has whole."""

    def piece(leaf: Array) -> Array:
        shards = lax.axis_size(axis)
        cut = _cut(leaf.shape, shards)
        if cut is None:
            return leaf
        size = leaf.shape[cut] // shards
        return lax.dynamic_slice_in_dim(leaf, lax.axis_index(axis) * size, size, cut)

    return jax.tree.map(piece, tree)


def gathered(pieces: PyTree, like: PyTree, axis: str) -> PyTree:
    """The arrays whole again, of the shapes in `like`."""

    def join(piece: Array, whole: Array) -> Array:
        cut = _cut(whole.shape, lax.axis_size(axis))
        return piece if cut is None else lax.all_gather(piece, axis, axis=cut, tiled=True)

    return jax.tree.map(join, pieces, like)


def norm(pieces: PyTree, like: PyTree, axis: str) -> Float[Array, ""]:
    """The norm of the arrays that the devices have in pieces, of the shapes in `like`."""
    shards = lax.axis_size(axis)

    def square(piece: Array, whole: Array) -> Array:
        return jnp.sum(piece**2) / (1 if _cut(whole.shape, shards) is not None else shards)

    return jnp.sqrt(lax.psum(sum(jax.tree.leaves(jax.tree.map(square, pieces, like))), axis))


def check_elementwise(update: Callable[..., Any], *args: PyTree) -> None:
    """`ValueError` where an optimiser's `update` mixes the entries of an array, of which a piece would be too few."""
    found = sorted(set(_mixing(jax.make_jaxpr(update)(*args).jaxpr)))
    if found:
        raise ValueError(
            f"`optimiser` is not elementwise ({', '.join(found)}), as its state in pieces asks for: clip by value "
            "(optax.clip) instead of by norm, or leave `shard_optimiser` out."
        )


def _cut(shape: tuple[int, ...], shards: int) -> int | None:
    """The longest axis that `shards` divides."""
    axes = [axis for axis, size in enumerate(shape) if size and size % shards == 0]
    return max(axes, key=lambda axis: shape[axis]) if axes else None


def _mixing(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        mixes = name.startswith(("reduce_", "arg", "cum", "dot_", "conv_", "sort")) and name != "reduce_precision"
        if mixes and any(getattr(variable.aval, "ndim", 0) for variable in equation.invars):
            yield name
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                yield from _mixing(getattr(value, "jaxpr", value))


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")
