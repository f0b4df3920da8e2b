"""One training step, as a pure function."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree

from .parallel.optimiser_shards import check_elementwise, gathered, norm, own_pieces
from .parallel.parts import evaluate_in_parts, evaluate_whole
from .state import TrainState, partition
from .terms import Loss, Objective, Terms


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
    micro_batches: int = 1,
    axis: str | None = None,
    shard_optimiser: bool = False,
) -> TrainStep:
    """The step that minimises `total(terms)`: pure and not compiled, good in `jit`, `scan` and one's own loop.

    Its metrics are scalars: `loss`, `grad_norm`, the value of each term before its weight as `term/NAME`, those of the
    objective, and `finite`: whether the loss and the model after the update are. The step never hides what is not: its
    state then holds it, and the caller decides.

    **A batch in parts.** With `axis`, the step is one device's in a `jax.shard_map` or `jax.pmap` that gives each its
    equal part of the batch (see `data_parallel`): one reduction adds up gradients, terms and metrics, and all devices
    take the same update. With `micro_batches`, the part is taken in so many pieces one after another, in the memory of
    one. To rounding the numbers are those of the whole batch, uneven masks, noise and dropout included, if the
    objective draws by `sample_keys`: it gets a `PartKey`. Its counts (integers, and the metric `unsolved`) are added
    up, its other metrics are averaged over the parts, and so is what is inexact in its carry; the rest of that must not
    depend on the batch. A mask that depends on the model is computed twice in micro-batches. Within a sample, memory is
    saved by computing blocks again in the backward pass:

        fno = eqx.tree_at(lambda m: m.blocks, fno, tuple(map(eqx.filter_checkpoint, fno.blocks)))

    **An optimiser's state in parts.** With `shard_optimiser` each device of `axis` has one part of its arrays, cut
    along the longest axis that the number of devices divides (where there is none, the whole). The gradient is summed
    part by part, each device updates its part of the parameters, and these are gathered; batches still are not. The
    optimiser must be elementwise, as Adam is.

    **Arguments:** `optimiser`: any of Optax's; those that ask for the value, the gradient and the function along a
    line (L-BFGS) get them, the function as a `Loss`, which has the terms. `trainable`: as in `partition`, and the same
    as the state's. `micro_batches`: a divisor of the samples at hand.

    **Raises:** `ValueError` for `micro_batches` below one, `shard_optimiser` without an `axis`, and where a batch in
    parts meets an objective with `prepare`; when traced, for a metric of the objective that is no scalar or has a name
    above, for samples that `micro_batches` does not divide, where a batch in parts meets an optimiser that asks for the
    function, and for `shard_optimiser` with one that is not elementwise.

    Rajbhandari et al. (2020), ZeRO: memory optimizations toward training trillion parameter models, arXiv:1910.02054,
    its first stage.
    """
    update = optax.with_extra_args_support(optimiser).update
    prepare = getattr(objective, "prepare", None)
    in_parts = axis is not None or micro_batches != 1
    if micro_batches < 1:
        raise ValueError(f"`micro_batches` is {micro_batches}; expected 1 or more.")
    if shard_optimiser and axis is None:
        raise ValueError("`shard_optimiser` is True without an `axis`; name the one of the devices that share it.")
    if in_parts and prepare is not None:
        raise ValueError(
            f"`objective` is a {type(objective).__name__}, whose `prepare` sees a whole batch; train it on one device "
            "and without micro-batches."
        )

    def step(state: TrainState, batch: Any, *, key: PRNGKeyArray) -> tuple[TrainState, dict[str, Array]]:
        trained, rest = partition(state.model, trainable)
        prepared = state.carry if prepare is None else prepare(state.model, batch, key=key, carry=state.carry)

        def evaluate(trained: PyTree, batch: Any, key: Any) -> tuple[Terms, Mapping[str, Array], PyTree]:
            terms, metrics, carry = objective(eqx.combine(trained, rest), batch, key=key, carry=prepared)
            _check_metrics(metrics, terms)
            return terms, metrics, carry

        if in_parts:
            found = evaluate_in_parts(
                evaluate, trained, batch, key, micro_batches=micro_batches, axis=axis, scatter=shard_optimiser
            )
        else:
            found = evaluate_whole(evaluate, trained, batch, key)
        value_fn = Loss(_refused if in_parts else lambda p: evaluate(p, batch, key)[0])

        def updated(gradient: PyTree, opt_state: Any, params: PyTree, value: Array) -> tuple[PyTree, Any]:
            new, opt_state = update(gradient, opt_state, params, value=value, grad=gradient, value_fn=value_fn)
            return optax.apply_updates(params, new), opt_state

        if shard_optimiser and axis is not None:
            pieces = own_pieces(trained, axis)
            check_elementwise(updated, found.gradient, state.opt_state, pieces, found.value)
            grad_norm = norm(found.gradient, trained, axis)
            pieces, opt_state = updated(found.gradient, state.opt_state, pieces, found.value)
            trained = gathered(pieces, trained, axis)
        else:
            grad_norm = optax.tree.norm(found.gradient)
            trained, opt_state = updated(found.gradient, state.opt_state, trained, found.value)
        healthy = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(trained)]
        metrics = {
            "loss": found.value,
            "grad_norm": grad_norm,
            "finite": jnp.isfinite(found.value) & jnp.all(jnp.stack(healthy)),
            **{f"term/{name}": value for name, value in found.terms.items()},
            **found.metrics,
        }
        return TrainState(eqx.combine(trained, rest), opt_state, found.carry, state.step + 1), metrics

    return step


def _refused(params: PyTree) -> Terms:
    raise ValueError(
        "`optimiser` asks for the loss as a function of the parameters, which a batch in parts does not give; train on "
        "one device and without micro-batches, or take a first-order optimiser."
    )


def _check_metrics(metrics: Mapping[str, Array], terms: Terms) -> None:
    own = {"loss", "grad_norm", "finite", *(f"term/{name}" for name in terms)}
    for name, metric in metrics.items():
        if name in own:
            raise ValueError(f"`metrics` of the objective has {name!r}, which the step itself reports; rename it.")
        if jnp.ndim(metric):
            raise ValueError(
                f"`metrics` of the objective has {name!r} of shape {jnp.shape(metric)}; expected a scalar."
            )
