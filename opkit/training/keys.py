"""The key an objective is given, for a whole batch or for a part of it."""

import equinox as eqx
import jax
from jax import lax
from jaxtyping import Array, Int, Key, PRNGKeyArray


class PartKey(eqx.Module):
    """The key of a step that splits its batch of `samples`, for the part that begins with the sample `first`.

    It is no key for `jax.random`: numbers drawn from that for a part would depend on the split.
    """

    key: PRNGKeyArray
    first: Int[Array, ""] | int
    samples: int = eqx.field(static=True)


StepKey = PRNGKeyArray | PartKey
"""What an `Objective` is given: a key, or where the step splits the batch (see `make_train_step`) a `PartKey`."""


def sample_keys(key: StepKey, samples: int) -> Key[Array, " samples"]:
    """A key for each of the samples at hand: those of `split(key, all samples)` that are theirs."""
    if not isinstance(key, PartKey):
        return jax.random.split(key, samples)
    return lax.dynamic_slice_in_dim(jax.random.split(key.key, key.samples), key.first, samples)


def shared_key(key: StepKey) -> PRNGKeyArray:
    """The key of the step, for what all samples share; the same in every part, so not for what differs by sample."""
    return key.key if isinstance(key, PartKey) else key


def fold_key(key: StepKey, number: int) -> StepKey:
    """`jax.random.fold_in`, of a `PartKey` too."""
    if isinstance(key, PartKey):
        return PartKey(jax.random.fold_in(key.key, number), key.first, key.samples)
    return jax.random.fold_in(key, number)
