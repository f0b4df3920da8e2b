"""A wrapper for arrays that belong to a module but are not trained."""

from typing import Generic, TypeVar

import equinox as eqx
import jax
from jax.core import Tracer

T = TypeVar("T")


class Frozen(eqx.Module, Generic[T]):
    """Arrays a module holds but never trains: precomputed tables, statistics of the data, fixed features.

    `frozen.value` is the wrapped PyTree behind `jax.lax.stop_gradient`, so no gradient reaches it; a partition that
    treats `Frozen` as one leaf (`opkit.training.partition`) also keeps it from the optimiser, whose weight decay would
    move any array, gradient or not. Casting, saving and moving to a device still see the arrays inside.

    `cut=False` lets gradients through: for what is computed inside a loss from what is being differentiated (see
    `frozen_unless_traced`).
    """

    tree: T
    cut: bool = eqx.field(static=True, default=True)

    @property
    def value(self) -> T:
        """The wrapped PyTree, its gradient cut."""
        if not self.cut:
            return self.tree
        return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, self.tree)


def frozen_unless_traced(tree: T) -> Frozen[T]:
    """`Frozen`, its gradient cut unless something in `tree` is being traced.

    So tables built once, outside, are constants, and the same tables built inside a loss carry its gradient.
    """
    return Frozen(tree, cut=not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)))
