"""Residuals at points that are drawn anew while training."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .terms import Term

Residual = Callable[[Any, Any], Float[Array, "..."]]
"""`residual(model, sample)`, at one point."""


@runtime_checkable
class Sampler(Protocol):
    """`sampler(size, step, previous, key=...)` gives samples `(n, ...)`, an array or a PyTree of them: a pure function.

    `size(samples)` is the length of the residual at each of `(m, ...)` samples under the model as it is, `(m,)`. `step`
    counts the draws, from 0. `previous` are the samples before, the first time `None`.
    """

    def __call__(
        self, size: Callable[[Any], Array], step: Int[Array, ""], previous: Any, /, *, key: PRNGKeyArray
    ) -> Any:
        """Draw."""
        ...


class CollocationCarry(eqx.Module):
    """The `samples` in use, by term, and the number of the training `step`."""

    samples: dict[str, PyTree]
    step: Int[Array, ""]


class Collocation(eqx.Module):
    """The objective `sum_k weight_k mean_i |r_k(model, x_i)|^2`, each residual at samples of its own.

        draw = lambda *_, key: box.sample(4000, key=key)
        objective = Collocation({"physics": (Strong(burgers), draw), "data": (misfit, lambda *_, key: pairs)})
        fit(objective, field, None, optimiser, carry=objective.start(field, key=key), ...)

    Samples are drawn before a step, every `every` steps, and stay as they are while an optimiser searches along a line
    or takes several iterations (`quasi_newton(iterations=500)` so has new points every 500). A Gauss-Newton method
    sees them point by point.

    **Arguments:** `terms`: by name the residual of one sample, and the `Sampler`. `weights`: of some or all of them.
    `chunk`: as of `Term.of`.

    **Raises:** `ValueError` for no term, a weight of no term, `every` below one.
    """

    residuals: dict[str, Residual]
    weights: dict[str, Array]
    samplers: tuple[Sampler, ...] = eqx.field(static=True)
    every: int = eqx.field(static=True)
    chunk: int | Literal["auto"] | None = eqx.field(static=True)

    def __init__(
        self,
        terms: Mapping[str, tuple[Residual, Sampler]],
        *,
        weights: Mapping[str, float] | None = None,
        every: int = 1,
        chunk: int | Literal["auto"] | None = "auto",
    ):
        given = dict(weights or {})
        if not terms or not set(given) <= set(terms):
            raise ValueError(f"`weights` are of {sorted(given)}; expected some of the `terms`, {sorted(terms)}.")
        if every < 1:
            raise ValueError(f"`every` is {every}; expected 1 or more steps.")
        self.residuals = {name: residual for name, (residual, _) in sorted(terms.items())}
        self.samplers = tuple(sampler for _, (_, sampler) in sorted(terms.items()))
        self.weights = {name: jnp.asarray(given.get(name, 1.0), jnp.result_type(float)) for name in self.residuals}
        self.every, self.chunk = every, chunk

    def start(self, model: Any, *, key: PRNGKeyArray) -> CollocationCarry:
        """The first carry, with the first samples."""
        zero = jnp.zeros((), jnp.int32)
        nothing = dict.fromkeys(self.residuals)
        return CollocationCarry(self._draw(model, zero, nothing, key), zero)

    def prepare(self, model: Any, batch: Any, *, key: PRNGKeyArray, carry: CollocationCarry) -> CollocationCarry:
        """New samples, where it is time for them: see `Objective`."""
        draw = lambda: self._draw(model, carry.step // self.every, carry.samples, key)
        due = (carry.step > 0) & (carry.step % self.every == 0)
        samples = jax.lax.cond(due, draw, lambda: carry.samples)
        return CollocationCarry(samples, carry.step + 1)

    def __call__(
        self, model: Any, batch: Any, *, key: PRNGKeyArray, carry: CollocationCarry
    ) -> tuple[dict[str, Term], dict[str, Array], CollocationCarry]:
        """See `Objective`."""
        terms = {
            name: Term.of(residual, model, carry.samples[name], weight=self.weights[name], chunk=self.chunk)
            for name, residual in self.residuals.items()
        }
        return terms, {}, carry

    def _draw(self, model: Any, step: Array, previous: Any, key: PRNGKeyArray) -> dict[str, PyTree]:
        drawn = {}
        for i, (name, sampler) in enumerate(zip(self.residuals, self.samplers, strict=True)):
            size = lambda samples, name=name: jax.vmap(lambda x: _length(self.residuals[name](model, x)))(samples)
            drawn[name] = sampler(size, step, previous[name], key=jax.random.fold_in(key, i))
        return drawn


def _length(residual: Array) -> Array:
    return jnp.sqrt(jnp.sum(residual**2))
