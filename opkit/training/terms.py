"""An objective's terms and the scalar derived from them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from solvers import Domain

from .keys import sample_keys

Terms = Mapping[str, "Term"]


class Samplewise(eqx.Module):
    """A term's values a sample at a time: `entries(sample)` is what it has of one of the `samples` (n, ...).

    `entries` belongs to the trace it was made in, and so is to be called there.
    """

    entries: Callable[[Any], Float[Array, "..."]] = eqx.field(static=True)
    samples: PyTree


class Term(eqx.Module):
    """One named contribution to an objective: an array, how it counts, and its weight.

    Its value is `sum / count`, with the sum over the entries that count of

    - `kind="losses"`: the entries themselves, per-sample losses as a rule;
    - `kind="residual"`: their squares, so that Gauss-Newton methods see the residual and the others its mean square.

    **Arguments:** `values`: any shape. `weight`: a scalar factor. `mask`: which entries count, over the leading axes
    of `values`. `count`: the divisor; by default the number of entries that count. Where a batch is split, parts that
    divide by the count of the *whole* batch have totals, and gradients, that add up to those of the batch, however
    uneven the split: `make_train_step` adds up the counts it finds, and leaves one given here as it is (`whole`). A
    term that does not depend on the batch gives none.
    `samplewise`: see `Term.of`, which gives it.

    **Raises:** `ValueError` for another kind, or a mask that is not over the leading axes.
    """

    values: Float[Array, "..."]
    kind: Literal["losses", "residual"] = eqx.field(static=True)
    weight: Float[Array, ""]
    mask: Bool[Array, "..."] | None
    count: Float[Array, ""]
    whole: bool = eqx.field(static=True)
    samplewise: Samplewise | None

    def __init__(
        self,
        values: Float[Array, "..."],
        kind: Literal["losses", "residual"],
        *,
        weight: ArrayLike = 1.0,
        mask: Bool[Array, "..."] | None = None,
        count: ArrayLike | None = None,
        samplewise: Samplewise | None = None,
    ):
        if kind not in ("losses", "residual"):
            raise ValueError(f"`kind` is {kind!r}; expected 'losses' or 'residual'.")
        if mask is not None and mask.shape != values.shape[: mask.ndim]:
            raise ValueError(
                f"`mask` has shape {mask.shape}; expected the leading axes of `values`, whose shape is {values.shape}."
            )
        self.whole = count is not None
        if count is None:
            count = values.size if mask is None else mask.sum() * (values.size // max(mask.size, 1))
        wide = np.promote_types(values.dtype, np.float32)  # sixteen bits neither count nor sum a batch
        self.values = values
        self.kind = kind
        self.weight = jnp.asarray(weight, wide)
        self.mask = mask
        self.count = jnp.asarray(count, wide)
        self.samplewise = samplewise

    @classmethod
    def of(
        cls,
        residual: Callable[[Any, Any], Float[Array, "..."]],
        model: Any,
        samples: PyTree,
        *,
        weight: ArrayLike = 1.0,
        mask: Bool[Array, "..."] | None = None,
        count: ArrayLike | None = None,
        chunk: int | Literal["auto"] | None = "auto",
    ) -> "Term":
        """The term of `residual(model, sample)` at each sample: values `(n, ...)` of `samples` `(n, ...)`.

        As `Term(jax.vmap(residual, (None, 0))(model, samples), "residual", ...)`, and it remembers the two: so
        Gauss-Newton methods form its Jacobian a sample at a time, where that of bare values costs their number times
        the batch. Samples are data: no gradient goes through them. Don't return such terms through `jax.jit`.

        **Arguments:** `chunk`: evaluate so many samples at a time, and once more in the backward pass, which then keeps
        the intermediate values of no more than these; `None` for all at once. By default 256 where JAX runs on CPUs:
        in their caches the derivatives of networks take half to two thirds of the time, the second evaluation included.

        **Raises:** `ValueError` for `chunk` below one.
        """
        samples = lax.stop_gradient(samples)
        entries = lambda sample: residual(model, sample)
        chunk = (256 if jax.default_backend() == "cpu" else None) if chunk == "auto" else chunk
        values = _in_chunks(entries, samples, chunk)
        samplewise = Samplewise(entries, samples)
        return cls(values, "residual", weight=weight, mask=mask, count=count, samplewise=samplewise)

    @property
    def kept(self) -> Bool[Array, "..."]:
        """Which of the values count: the mask, over all their axes."""
        if self.mask is None:
            return jnp.ones(self.values.shape, bool)
        mask = self.mask.reshape(self.mask.shape + (1,) * (self.values.ndim - self.mask.ndim))
        return jnp.broadcast_to(mask, self.values.shape)

    @property
    def residual(self) -> Float[Array, "..."]:
        """The values, zero where the mask excludes them (their gradient too, whatever they are)."""
        return self.values if self.mask is None else jnp.where(self.kept, self.values, 0)

    @property
    def value(self) -> Float[Array, ""]:
        """`sum / count`, before the weight; zero for no entries at all."""
        entries = self.residual if self.kind == "losses" else self.residual**2
        return jnp.sum(entries, dtype=self.count.dtype) / jnp.where(self.count == 0, 1, self.count)


@runtime_checkable
class Objective(Protocol):
    """What trains: the terms of a model on a batch, figures to report (scalars), and the next carry.

    `key` is a `StepKey`, for the functions `sample_keys`, `shared_key` and `fold_key`; an objective that is never given
    a part of a batch may draw from it directly.

    It may also have `prepare(model, batch, *, key, carry) -> carry`, which a step calls once before all else. What that
    chooses by the model, such as points or weights, stays as it is while an optimiser tries other parameters.
    """

    def __call__(self, model: Any, batch: Any, *, key: Any, carry: PyTree) -> tuple[Terms, Mapping[str, Array], PyTree]:
        """Evaluate once; pure."""
        ...


def total(terms: Terms) -> Float[Array, ""]:
    """The scalar a first-order optimiser minimises: the sum over terms of `weight * sum / count`."""
    if not terms:
        raise ValueError("`terms` is empty; an objective returns at least one term.")
    return jnp.sum(jnp.stack([term.weight * term.value for term in terms.values()]))


@dataclasses.dataclass(frozen=True)
class Loss:
    """`total(terms_fn(params))` as a function of the parameters; who has it has the terms too.

    The `value_fn` of an optimiser that needs them. (Optax's line searches refuse arguments they do not know, so that
    `terms_fn` cannot be one of its own.)
    """

    terms_fn: Callable[[PyTree], Terms]

    def __call__(self, params: PyTree) -> Float[Array, ""]:
        """Evaluate once."""
        return total(self.terms_fn(params))


def residual_vector(terms: Terms) -> Float[Array, " n"]:
    """All residuals in one vector whose squared norm is `total(terms)`: `sqrt(weight / count) * r`, term by term.

    What Gauss-Newton, Levenberg-Marquardt and natural gradients differentiate. **Raises:** `ValueError` for a term
    of losses.
    """
    for name, term in terms.items():
        if term.kind != "residual":
            raise ValueError(f"`terms` has {name!r} as per-sample losses; a least-squares method needs residuals.")
    return jnp.concatenate(
        [jnp.sqrt(t.weight / jnp.where(t.count == 0, 1, t.count)) * jnp.ravel(t.residual) for t in terms.values()]
    )


def supervised(loss: Callable[..., Float[Array, ""]], domain: Domain | None, query: Domain | None = None) -> Objective:
    """The objective of learning from pairs: the mean over the batch of `loss(model(x), y, where)`.

    A batch is `(x, y)`, `x: (batch, cin, *n)` on `domain`, `y: (batch, cout, *m)` on `query` (by default `domain`).
    The model is an operator, called as `model(x[i], domain, query, key=...)` with a key of its own for each sample,
    and `where` is the domain of its output. With `domain=None` the model is any function `model(x[i])`, and `where`
    is `None`.

    **Arguments:** `loss`: of one sample, such as `relative_l2` or `mse`.
    """
    where = domain if query is None else query

    def objective(model, batch, *, key, carry):
        x, y = batch

        def sample_loss(u, target, key):
            prediction = model(u) if domain is None else model(u, domain, query, key=key)
            return loss(prediction, target, where)

        losses = jax.vmap(sample_loss)(x, y, sample_keys(key, len(x)))
        return {"data": Term(losses, "losses")}, {}, carry

    return objective


def _in_chunks(entries: Callable[[Any], Array], samples: PyTree, chunk: int | None) -> Array:
    """`vmap(entries)(samples)`, at most `chunk` samples at a time."""
    if chunk is not None and chunk < 1:
        raise ValueError(f"`chunk` is {chunk}; expected 1 or more samples.")
    count = len(jax.tree.leaves(samples)[0])
    if chunk is None or count <= chunk:
        return jax.vmap(entries)(samples)
    number = -(-count // chunk)
    each = -(-count // number)
    order = jnp.minimum(jnp.arange(number * each), count - 1).reshape(number, each)
    values = lax.map(jax.checkpoint(jax.vmap(entries)), jax.tree.map(lambda a: a[order], samples))
    return values.reshape(number * each, *values.shape[2:])[:count]
