"""The least-squares problem behind an objective of residuals: its Jacobian, its normal equations, its products.

All are of `r(p) = residual_vector(terms_fn(p))`, whose squared norm is the objective, in the order of
`jax.flatten_util.ravel_pytree(p)`. Weights, masks and counts are taken as constant.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from ..terms import Term, Terms, residual_vector

TermsFn = Callable[[PyTree], Terms]

_CHUNK_BYTES = 2**26  # of rows of the Jacobian at a time
_LEAST_HALVED = 256  # columns, below which products are no longer cheaper by halves


class _Chunks(NamedTuple):
    """A term's rows, some at a time; `None` for samples where they come all at once."""

    samples: PyTree
    kept: Bool[Array, "chunks rows"]
    residual: Float[Array, "chunks rows"]


class _Block(NamedTuple):
    """Of one term: the Jacobian of a chunk, its rows already scaled, the chunks, and how many rows count."""

    rows: Callable[[_Chunks], Float[Array, "rows n"]]
    chunks: _Chunks
    size: int


def residual_jacobian(
    terms_fn: TermsFn, params: PyTree[Float[Array, "..."]], *, chunk: int | None = None
) -> Float[Array, "rows n"]:
    """The Jacobian of the residual vector.

    A term made by `Term.of` is differentiated a sample at a time, `chunk` samples in one go (by default as many as
    have 64 MiB of rows); any other as a whole, which costs as many passes over the batch as the term has values or the
    model parameters, whichever are fewer.

    **Raises:** `ValueError` for a term of losses, or `chunk` below one.
    """
    flat, _ = ravel_pytree(params)
    blocks = _blocks(terms_fn, params, chunk)
    rows = [lax.map(block.rows, block.chunks).reshape(-1, flat.size)[: block.size] for block in blocks]
    return jnp.concatenate([jnp.zeros((0, flat.size), flat.dtype), *rows])


def normal_equations(
    terms_fn: TermsFn, params: PyTree[Float[Array, "..."]], *, chunk: int | None = None
) -> tuple[Float[Array, "n n"], Float[Array, " n"]]:
    """`J^T J` and `J^T r`, without ever holding more of `J` than a chunk.

    Arguments and errors are those of `residual_jacobian`.
    """
    flat, _ = ravel_pytree(params)
    sums = jnp.zeros((flat.size, flat.size), flat.dtype), jnp.zeros_like(flat)
    for block in _blocks(terms_fn, params, chunk):

        def add(sums: tuple[Array, Array], chunk: _Chunks, rows: Any = block.rows) -> tuple[tuple[Array, Array], None]:
            jacobian = rows(chunk)
            return (sums[0] + _gram(jacobian), sums[1] + jacobian.T @ chunk.residual), None

        sums, _ = lax.scan(add, sums, block.chunks)
    return sums


def _gram(rows: Float[Array, "rows n"]) -> Float[Array, "n n"]:
    """`rows^T rows`, by halves, of which the one off the diagonal counts twice: 9/16 of the operations."""
    size = rows.shape[1]
    if size < _LEAST_HALVED:
        return rows.T @ rows
    left, right = rows[:, : size // 2], rows[:, size // 2 :]
    corner = left.T @ right
    return jnp.block([[_gram(left), corner], [corner.T, _gram(right)]])


def residual_products(
    terms_fn: TermsFn, params: PyTree[Float[Array, "..."]]
) -> tuple[Float[Array, " rows"], Callable[[Array], Array], Callable[[Array], Array]]:
    """`r`, and the functions `v -> J v` and `w -> J^T w` of vectors: a forward and a backward pass over the batch each.

    **Raises:** `ValueError` for a term of losses.
    """
    flat, unravel = ravel_pytree(params)
    residual, push = jax.linearize(lambda p: residual_vector(terms_fn(unravel(p))), flat)
    transposed = jax.linear_transpose(push, flat)
    return residual, push, lambda vector: transposed(vector)[0]


def _blocks(terms_fn: TermsFn, params: PyTree, chunk: int | None) -> list[_Block]:
    if chunk is not None and chunk < 1:
        raise ValueError(f"`chunk` is {chunk}; expected 1 or more samples.")
    terms = terms_fn(params)
    residual_vector(terms)  # has the error for losses; JAX drops the rest
    return [_block(terms_fn, params, name, term, chunk) for name, term in terms.items() if term.values.size]


def _block(terms_fn: TermsFn, params: PyTree, name: str, term: Term, chunk: int | None) -> _Block:
    start, unravel = ravel_pytree(params)

    def again(flat: Array) -> Any:
        return terms_fn(unravel(flat))[name]

    count = 1 if term.samplewise is None else len(term.values)
    width = term.values.size // count
    each = min(count, chunk or max(1, _CHUNK_BYTES // (width * start.size * start.dtype.itemsize)))
    number = -(-count // each)
    each = -(-count // number)
    # the last chunk is filled up with the last sample, which does not count again
    order = jnp.minimum(jnp.arange(number * each), count - 1).reshape(number, each)
    fresh = (jnp.arange(number * each) < count).reshape(number, each, 1)
    root = jnp.sqrt(term.weight / jnp.where(term.count == 0, 1, term.count))
    differentiate = jax.jacrev if width < start.size else jax.jacfwd

    def rows(chunk: _Chunks) -> Array:
        if term.samplewise is None:
            jacobian = differentiate(lambda flat: jnp.ravel(again(flat).residual))(start)
        else:
            # entries of the trace in which the parameters are differentiated, whatever they close over
            entry = lambda flat, sample: jnp.ravel(again(flat).samplewise.entries(sample))
            jacobian = jax.vmap(differentiate(entry), (None, 0))(start, chunk.samples)
        return jnp.where(chunk.kept[:, None], root * jacobian.reshape(-1, start.size), 0)

    samples = jax.tree.map(lambda a: a[order], term.samplewise.samples) if term.samplewise else None
    arranged = lambda a: jnp.where(fresh, a.reshape(count, width)[order], jnp.zeros((), a.dtype)).reshape(number, -1)
    chunks = _Chunks(samples, arranged(term.kept), root * arranged(term.residual))
    return _Block(rows, chunks, term.values.size)
