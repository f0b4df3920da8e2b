"""One training step, as a pure function."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from .state import TrainState, partition
from .terms import Loss, Objective, total


@runtime_checkable
class TrainStep(Protocol):
    """`step(state, batch, key=...)` is the next state and the step's metrics."""

    def __call__(self, state: TrainState, batch: Any, *, key: PRNGKeyArray) -> tuple[TrainState, dict[str, Array]]:
        """Take one step."""
        ...


def make_train_step(
    objective: Objective,
    optimiser: optax.GradientTransformation,
    *,
    trainable: Callable[[str], bool] | None = None,
) -> TrainStep:
    """The step that minimises `total(terms)`: pure and not compiled, good in `jit`, `scan` and one's own loop.

    Its metrics are scalars: `loss`, `grad_norm`, the value of each term before its weight as `term/NAME`, those of the
    objective, and `finite`: whether the loss and the model after the update are. The step never hides what is not: its
    state then holds it, and the caller decides.

    **Arguments:** `optimiser`: any of Optax's; those that ask for the value, the gradient and the function along a
    line (L-BFGS) get them, the function as a `Loss`, which has the terms. `trainable`: as in `partition`, and the same
    as the state's.

    **Raises:** `ValueError`, when traced, for a metric of the objective that is no scalar or has a name above.
    """
    update = optax.with_extra_args_support(optimiser).update

    def step(state: TrainState, batch: Any, *, key: PRNGKeyArray) -> tuple[TrainState, dict[str, Array]]:
        trained, rest = partition(state.model, trainable)
        prepare = getattr(objective, "prepare", None)
        prepared = state.carry if prepare is None else prepare(state.model, batch, key=key, carry=state.carry)

        def loss(trained):
            terms, metrics, carry = objective(eqx.combine(trained, rest), batch, key=key, carry=prepared)
            return total(terms), (terms, metrics, carry)

        (value, (terms, extra, carry)), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
        updates, opt_state = update(
            gradient,
            state.opt_state,
            trained,
            value=value,
            grad=gradient,
            value_fn=Loss(lambda p: loss(p)[1][0]),
        )
        trained = optax.apply_updates(trained, updates)
        healthy = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(trained)]
        metrics = {
            "loss": value,
            "grad_norm": optax.tree.norm(gradient),
            "finite": jnp.isfinite(value) & jnp.all(jnp.stack(healthy)),
            **{f"term/{name}": term.value for name, term in terms.items()},
        }
        _check_metrics(extra, metrics)
        return TrainState(eqx.combine(trained, rest), opt_state, carry, state.step + 1), metrics | dict(extra)

    return step


def _check_metrics(extra: Mapping[str, Array], own: Mapping[str, Array]) -> None:
    for name, metric in extra.items():
        if name in own:
            raise ValueError(f"`metrics` of the objective has {name!r}, which the step itself reports; rename it.")
        if jnp.ndim(metric):
            raise ValueError(
                f"`metrics` of the objective has {name!r} of shape {jnp.shape(metric)}; expected a scalar."
            )
