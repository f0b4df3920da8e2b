"""Weights of an objective's terms that follow their gradients."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .state import partition
from .terms import Objective, Term, Terms

Method = Literal["gradient_norm", "ntk"]


class BalancedCarry(eqx.Module):
    """`weights` by term, the number of `step`s, and the `inner` objective's carry."""

    weights: dict[str, Float[Array, ""]]
    step: Int[Array, ""]
    inner: PyTree


class Balanced(eqx.Module):
    """An objective whose terms are weighted so that none drowns the others: the term's own weight times `lambda`.

    Every `every` steps, `lambda <- momentum * lambda + (1 - momentum) * target`, with, for the terms `k`,

    - `"gradient_norm"`: `target_k = sum_j |grad L_j| / |grad L_k|`: all weighted gradients are of one length;
    - `"ntk"`: `target_k = sum_j tr K_j / tr K_k`, `K` the neural tangent kernel of the residuals over the root of their
      number: all terms fall at one rate. The trace is estimated by one random vector, `tr K = E |J^T v|^2`; terms
      must be residuals.

    That costs a backward pass a term, in `prepare`, before the step. A term without gradient keeps its weight. The
    weights are among the metrics, as `weight/NAME`. Its carry is made by `start`:

        objective = Balanced(objective, "ntk")
        fit(objective, model, ..., carry=objective.start(("physics", "boundary")))

    **Arguments:** `objective`: of several terms. `trainable`: as in `fit`, and the same.

    **Raises:** `ValueError` for another method, a momentum outside [0, 1), `every` below 1; when traced, for terms that
    are not those of the carry, and under `"ntk"` for one of losses.

    Wang, Sankaran, Wang and Perdikaris (2023), An expert's guide to training physics-informed neural networks,
    arXiv:2308.08468, algorithm 1; Wang, Yu and Perdikaris (2020), When and why PINNs fail to train, arXiv:2007.14527.
    """

    objective: Objective
    method: Method = eqx.field(static=True)
    every: int = eqx.field(static=True)
    momentum: float = eqx.field(static=True)
    trainable: Any = eqx.field(static=True)

    def __init__(
        self,
        objective: Objective,
        method: Method = "gradient_norm",
        *,
        every: int = 100,
        momentum: float = 0.9,
        trainable: Any = None,
    ):
        if method not in get_args(Method):
            raise ValueError(f"`method` is {method!r}; expected one of {get_args(Method)}.")
        if not 0 <= momentum < 1 or every < 1:
            raise ValueError(f"`momentum` is {momentum} and `every` {every}; expected 0 <= momentum < 1 and 1 or more.")
        self.objective, self.method, self.every = objective, method, every
        self.momentum, self.trainable = momentum, trainable

    def start(self, names: Sequence[str], inner: PyTree = None) -> BalancedCarry:
        """The first carry: weights of one for the terms `names`, and the objective's own, `inner`."""
        return BalancedCarry({name: jnp.ones(()) for name in names}, jnp.zeros((), jnp.int32), inner)

    def prepare(self, model: Any, batch: Any, *, key: PRNGKeyArray, carry: BalancedCarry) -> BalancedCarry:
        """The weights of this step: see `Objective`."""
        prepare = getattr(self.objective, "prepare", None)
        inner = carry.inner if prepare is None else prepare(model, batch, key=key, carry=carry.inner)
        trained, rest = partition(model, self.trainable)

        def terms(trained: PyTree) -> Terms:
            return self.objective(eqx.combine(trained, rest), batch, key=key, carry=inner)[0]

        names = set(jax.eval_shape(lambda p: {name: term.values for name, term in terms(p).items()}, trained))
        if names != set(carry.weights):
            raise ValueError(
                f"`terms` of the objective are {sorted(names)}, and the carry was started for {sorted(carry.weights)}."
            )
        updated = lambda weights: self._updated(terms, trained, weights, key)
        weights = lax.cond(carry.step % self.every == 0, updated, lambda weights: weights, carry.weights)
        return BalancedCarry(weights, carry.step + 1, inner)

    def __call__(
        self, model: Any, batch: Any, *, key: PRNGKeyArray, carry: BalancedCarry
    ) -> tuple[dict[str, Term], Mapping[str, Array], BalancedCarry]:
        """See `Objective`."""
        terms, metrics, inner = self.objective(model, batch, key=key, carry=carry.inner)
        weighted = {
            name: eqx.tree_at(lambda t: t.weight, term, term.weight * carry.weights[name].astype(term.weight.dtype))
            for name, term in terms.items()
        }
        reported = {f"weight/{name}": weight for name, weight in carry.weights.items()}
        return weighted, {**metrics, **reported}, BalancedCarry(carry.weights, carry.step, inner)

    def _updated(self, terms: Any, trained: PyTree, weights: dict[str, Array], key: PRNGKeyArray) -> dict[str, Array]:
        sizes = {}
        for i, name in enumerate(weights):
            if self.method == "gradient_norm":
                sizes[name] = optax.tree.norm(jax.grad(lambda p, n=name: terms(p)[n].value)(trained))
                continue
            residual, back = jax.vjp(lambda p, n=name: _scaled(n, terms(p)[n]), trained)
            signs = jax.random.rademacher(jax.random.fold_in(key, i), residual.shape, residual.dtype)
            sizes[name] = optax.tree.norm(back(signs)[0], squared=True)
        whole = sum(sizes.values())
        target = {name: jnp.where(size > 0, whole / jnp.where(size > 0, size, 1), 0) for name, size in sizes.items()}
        moved = lambda old, new: jnp.where(new > 0, self.momentum * old + (1 - self.momentum) * new, old)
        return {name: moved(weights[name], target[name]).astype(weights[name].dtype) for name in weights}


def _scaled(name: str, term: Term) -> Array:
    if term.kind != "residual":
        raise ValueError(f"`terms` has {name!r} as per-sample losses; the tangent kernel is that of residuals.")
    return term.residual / jnp.sqrt(jnp.where(term.count == 0, 1, term.count))
