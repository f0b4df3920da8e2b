"""An objective and its gradient, on a batch at once or in parts: on several devices, and in micro-batches."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.data import count_samples

from ..keys import PartKey
from ..terms import Term, Terms, total
from .optimiser_shards import scattered_sum

Evaluate = Callable[[PyTree, Any, Any], tuple[Terms, Mapping[str, Array], PyTree]]
"""`evaluate(params, batch, key)`: an objective's terms, metrics and next carry."""


class Evaluation(NamedTuple):
    """`value`: the total. `terms`: the value of each before its weight. `gradient`: of the total."""

    value: Float[Array, ""]
    terms: dict[str, Float[Array, ""]]
    metrics: Mapping[str, Array]
    carry: PyTree
    gradient: PyTree


def evaluate_whole(evaluate: Evaluate, params: PyTree, batch: Any, key: Any) -> Evaluation:
    """On the batch at once."""

    def loss(params: PyTree) -> tuple[Array, tuple]:
        terms, metrics, carry = evaluate(params, batch, key)
        return total(terms), ({name: term.value for name, term in terms.items()}, metrics, carry)

    (value, (terms, metrics, carry)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return Evaluation(value, terms, metrics, carry, gradient)


def evaluate_in_parts(
    evaluate: Evaluate,
    params: PyTree,
    batch: Any,
    key: PRNGKeyArray,
    *,
    micro_batches: int,
    axis: str | None,
    scatter: bool,
) -> Evaluation:
    """The same numbers to rounding, from so many micro-batches one after another, and from the other devices of `axis`.

    The divisors of terms are counted over all parts; what is counted or summed is added up, and metrics and the carry
    are averaged, as `make_train_step` says. With `scatter` the gradient comes as `scattered_sum`.
    """
    size = count_samples(batch)
    if size % micro_batches:
        raise ValueError(
            f"`micro_batches` is {micro_batches} for {size} samples{'' if axis is None else ' a device'}; expected a "
            "divisor."
        )
    shards = 1 if axis is None else lax.axis_size(axis)
    parts = micro_batches * shards
    here = 0 if axis is None else lax.axis_index(axis)
    piece_size = size // micro_batches
    firsts = here * size + piece_size * jnp.arange(micro_batches)
    pieces = (jax.tree.map(lambda a: a.reshape(micro_batches, piece_size, *a.shape[1:]), batch), firsts)

    def at(params: PyTree, batch: Any, first: Array) -> tuple[Terms, Mapping[str, Array], PyTree]:
        return evaluate(params, batch, PartKey(key, first, shards * size))

    def added(tree: PyTree) -> PyTree:
        return tree if axis is None else lax.psum(tree, axis)

    def summed(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: jnp.sum(a, 0), tree)

    def masked(piece: Any) -> dict[str, Array]:
        terms = at(params, *piece)[0]
        return {name: term.count for name, term in terms.items() if term.mask is not None and not term.whole}

    # all but the masks is dead code here
    counts = {} if micro_batches == 1 else added(summed(lax.map(masked, pieces)))

    def of_all(name: str, term: Term) -> Term:
        if term.whole:
            return term
        if term.mask is None:
            return eqx.tree_at(lambda t: t.count, term, parts * term.count)
        return eqx.tree_at(lambda t: t.count, term, counts[name] if counts else added(term.count))

    def counted(params: PyTree, batch: Any, first: Array) -> tuple[Terms, Mapping[str, Array], PyTree]:
        terms, metrics, carry = at(params, batch, first)
        return {name: of_all(name, term) for name, term in terms.items()}, metrics, carry

    def onwards(gradient: PyTree, piece: Any) -> tuple[PyTree, Evaluation]:
        found = evaluate_whole(counted, params, *piece)
        return jax.tree.map(jnp.add, gradient, found.gradient), found._replace(gradient=None)

    if micro_batches == 1:
        found = evaluate_whole(counted, params, *jax.tree.map(lambda a: a[0], pieces))
        gradient, found = found.gradient, jax.tree.map(lambda a: jnp.asarray(a)[None], found._replace(gradient=None))
    else:
        wide = jax.tree.map(lambda p: jnp.zeros(p.shape, np.promote_types(p.dtype, np.float32)), params)
        gradient, found = lax.scan(onwards, wide, pieces)
        gradient = jax.tree.map(lambda g, p: g.astype(p.dtype), gradient, params)
    mean, rest = eqx.partition(found.carry, eqx.is_inexact_array)
    scalars = summed((found.value, found.terms, found.metrics, mean))
    if scatter and axis is not None:
        gradient = scattered_sum(gradient, axis)
        value, terms, metrics, mean = added(scalars)
    else:
        (value, terms, metrics, mean), gradient = added((scalars, gradient))
    metrics = {name: m if _is_count(name, m) else m / parts for name, m in metrics.items()}
    carry = eqx.combine(jax.tree.map(lambda a: a / parts, mean), jax.tree.map(lambda a: a[-1], rest))
    return Evaluation(value, terms, metrics, carry, gradient)


def _is_count(name: str, metric: Array) -> bool:
    return name == "unsolved" or jnp.issubdtype(metric.dtype, jnp.integer)
