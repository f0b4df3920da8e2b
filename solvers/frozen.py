"""A wrapper for arrays that belong to a module but are not trained."""

from typing import Generic, TypeVar

import equinox as eqx
import jax

T = TypeVar("T")


class Frozen(eqx.Module, Generic[T]):
    """Arrays a module holds but never trains: precomputed tables, statistics of the data, fixed features.

    `frozen.value` is the wrapped PyTree behind `jax.lax.stop_gradient`, so no gradient reaches it; a partition that
    treats `Frozen` as one leaf (`opkit.training.partition`) also keeps it from the optimiser, whose weight decay would
    move any array, gradient or not. Casting, saving and moving to a device still see the arrays inside.
    """

    tree: T

    @property
    def value(self) -> T:
        """The wrapped PyTree, its gradient cut."""
        return jax.tree.map(jax.lax.stop_gradient, self.tree)
