"""Plain functions as modules."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax


class Function(eqx.Module):
    """A plain function as a module: static, so that the leaves of what holds it are arrays alone."""

    function: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, *arguments: Any) -> Any:
        """`function(*arguments)`."""
        return self.function(*arguments)


def as_module(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, wrapped unless it is a PyTree with an inside."""
    is_leaf = jax.tree_util.treedef_is_leaf(jax.tree.structure(function))
    return Function(function) if is_leaf else function
