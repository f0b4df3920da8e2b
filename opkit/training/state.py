"""What training remembers between steps, and which part of a model is trained."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from solvers import Frozen


class TrainState(eqx.Module):
    """Everything a training run needs to go on: a PyTree, checkpointed whole.

    `model`: any PyTree with arrays. `opt_state`: the optimiser's state over the trained part of the model. `carry`:
    what the objective remembers (adaptive weights, a sampler's points), `None` for most. `step`: completed steps.
    """

    model: PyTree
    opt_state: PyTree
    carry: PyTree
    step: Int[Array, ""]


def init_state(
    model: PyTree,
    optimiser: optax.GradientTransformation,
    *,
    carry: PyTree = None,
    trainable: Callable[[str], bool] | None = None,
) -> TrainState:
    """The state before the first step; `trainable` as in `partition`, and the same as the step's.

    Numbers and NumPy arrays in `carry` become arrays, so that they may change.
    """
    trained, _ = partition(model, trainable)
    carry = jax.tree.map(lambda leaf: jnp.asarray(leaf) if eqx.is_array_like(leaf) else leaf, carry)
    # compiled as one program: Optax would compile zeros for every shape
    return TrainState(model, eqx.filter_jit(optimiser.init)(trained), carry, jnp.zeros((), jnp.int32))


def partition(model: PyTree, trainable: Callable[[str], bool] | None = None) -> tuple[Any, Any]:
    """Split a model into its trained part and the rest; `eqx.combine` puts them together again.

    Trained are the inexact JAX arrays outside `solvers.Frozen`; NumPy arrays and Python numbers are not. With
    `trainable`, only those whose path it accepts: paths read `layers/0/weight`, as in

        partition(model, trainable=lambda path: path.startswith("layers/2/"))

    **Returns:** two PyTrees of the model's structure, each with `None` where the other holds the leaf.

    **Raises:** `ValueError` if nothing would be trained.
    """
    accept = trainable or (lambda _: True)
    is_trained = _map_with_path(
        lambda path, leaf: eqx.is_inexact_array(leaf) and accept(path), model, is_leaf=_is_frozen
    )
    if not any(jax.tree.leaves(is_trained)):
        arrays = _map_with_path(lambda path, leaf: path if eqx.is_inexact_array(leaf) else None, model, _is_frozen)
        raise ValueError(
            f"`trainable` accepts none of the model's arrays; their paths are {jax.tree.leaves(arrays)[:8]}."
            if trainable
            else "`model` holds no inexact array outside `Frozen`, so nothing would be trained."
        )
    return eqx.partition(model, is_trained)


def by_path(rule: Callable[[str], Any]) -> Callable[[PyTree], PyTree]:
    """A function from parameters to the PyTree of `rule(path)`: Optax's labels and masks, by name.

        groups = optax.partition({"slow": optax.sgd(1e-3), "fast": optax.adam(1e-2)},
                                 by_path(lambda path: "slow" if path.startswith("lift") else "fast"))
        optimiser = optax.adamw(1e-3, mask=by_path(lambda path: not path.endswith("bias")))

    Paths read `layers/0/weight`.
    """
    return lambda parameters: _map_with_path(lambda path, _: rule(path), parameters)


def _map_with_path(function: Callable[[str, Any], Any], tree: PyTree, is_leaf: Callable | None = None) -> PyTree:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf),
        tree,
        is_leaf=is_leaf,
    )


def _is_frozen(node: Any) -> bool:
    return isinstance(node, Frozen)
