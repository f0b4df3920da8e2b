"""How to train a step so that many of them hold: objectives over windows of trajectories.

Batches and models are those of `windows`. All recipes average `loss(prediction, target, domain)`, a function of one
state such as `relative_l2`, over the batch and the states predicted, as the term `data`. A recipe changes what a step
gets for its input and how far the gradient goes:

| recipe | input of a step | gradient |
|---|---|---|
| `one_step` | the data | of the step |
| `unrolled` | the model's own states | through all steps, or pieces of them |
| `pushforward` | the model's own state after a random number of steps | of the last step |
| `curriculum` | the data, then more and more of the model's own | as `unrolled` |

Their models may take several states, `frames`, and give several at a time, `bundle` (temporal bundling: fewer steps to
the same time). They compose: `noisy` and `weighted` wrap any of them, and models may be wrapped too: `TendencyStep`,
`Boosted`, `Corrected`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers import Domain

from ..keys import StepKey, fold_key, shared_key
from ..terms import Objective, Term
from .windows import Before, advance, call, check_same, per_window, unroll

SampleLoss = Callable[[Any, Any, Any], Float[Array, ""]]
"""`loss(prediction, target, domain)` of one state."""
Schedule = Callable[[Any], Any]
"""Of the number of training steps behind, as Optax's: `schedule(step)`."""


def one_step(loss: SampleLoss, domain: Domain | None, *, frames: int = 1, bundle: int = 1) -> Objective:
    """Each step from the data: `unrolled` with one step."""
    return unrolled(loss, domain, steps=1, frames=frames, bundle=bundle)


def unrolled(
    loss: SampleLoss,
    domain: Domain | None,
    *,
    steps: int,
    cut_every: int | None = None,
    frames: int = 1,
    bundle: int = 1,
    remat: bool = False,
) -> Objective:
    """`steps` steps from the first `frames` states of a window, every state on the way counted.

    **Arguments:** `cut_every`: let the gradient through so many steps and not beyond: what enters steps `cut_every`,
    `2 cut_every`, ... is a constant. 1 trains each step on the model's own states without a gradient through time.
    `remat`: see `unroll`.

    **Raises:** `ValueError` for numbers below 1; when traced, for windows of fewer than `frames + steps bundle` states.
    """
    _check(steps=steps, frames=frames, bundle=bundle, cut_every=1 if cut_every is None else cut_every)

    def objective(model, batch, *, key, carry):
        def one(window, args, key):
            states = unroll(
                model, window[:frames], domain,
                steps=steps, bundle=bundle, before=_cut(cut_every), remat=remat, args=args, key=key,
            )  # fmt: skip
            return _losses(loss, states, window[frames:], domain)

        return _data(per_window(one, batch, length=frames + steps * bundle, key=key)), {}, carry

    return objective


def curriculum(
    loss: SampleLoss,
    domain: Domain | None,
    *,
    steps: int,
    share: Schedule,
    cut_every: int | None = None,
    frames: int = 1,
    bundle: int = 1,
    remat: bool = False,
) -> Objective:
    """As `unrolled`, but of the `steps` only the first `share(step) steps` go on from the model's own states.

    The others get the data. 0 is teacher forcing (each step from the data), 1 is `unrolled`. The carry counts training
    steps: `fit(..., carry=0)`.

    **Arguments:** `share`: such as `tanh_share(training_steps)`. The others as for `unrolled`.

    **Raises:** as `unrolled`; when traced, for a carry that is `None`.

    Takamoto, Alesiani and Niepert (2023), Learning neural PDE solvers with parameter-guided channel attention,
    arXiv:2304.14118, section 3.3.
    """
    _check(steps=steps, frames=frames, bundle=bundle, cut_every=1 if cut_every is None else cut_every)
    cut = _cut(cut_every)
    places = bundle * np.arange(steps)[:, None] + np.arange(frames)

    def objective(model, batch, *, key, carry):
        own = jnp.ceil(jnp.asarray(share(_count(carry)) * steps)).astype(jnp.int32)

        def one(window, args, key):
            truth = window[places]
            before = lambda history, i: jnp.where(i < own, cut(history, i), truth[i])
            states = unroll(
                model, window[:frames], domain,
                steps=steps, bundle=bundle, before=before, remat=remat, args=args, key=key,
            )  # fmt: skip
            return _losses(loss, states, window[frames:], domain)

        return _data(per_window(one, batch, length=frames + steps * bundle, key=key)), {}, carry + 1

    return objective


def tanh_share(over: int, *, centre: float = 0.5, width: float = 0.2) -> Schedule:
    """`(1 + tanh((e - centre) / width)) / 2` with `e = step / over`: from 0 to 1 around the middle of training.

    **Raises:** `ValueError` for `over` below 1 or `width` not positive.
    """
    if over < 1 or not width > 0:
        raise ValueError(f"`over` is {over}, `width` {width}; expected the training steps, and a share of them.")
    return lambda step: 0.5 * (1 + jnp.tanh((step / over - centre) / width))


def pushforward(
    loss: SampleLoss,
    domain: Domain | None,
    *,
    steps: int,
    draw: Literal["batch", "sample"] = "batch",
    cap: Schedule | None = None,
    frames: int = 1,
    bundle: int = 1,
) -> Objective:
    """One step from where the model itself has got in `n` steps without gradient, `n` uniform in `0, ..., steps`.

    So the model learns to lead back from its own errors, at the memory of one step. With `steps=0` it is `one_step`.

    **Arguments:**

    - `draw`: one `n` for the `"batch"`, or one for each `"sample"`: then all take the time of the longest.
    - `cap`: a schedule of integers, the largest `n` so far, itself at most `steps`; the carry then counts training
      steps: `fit(..., carry=0)`. Brandstetter's rises by one an epoch: `lambda step: step // steps_an_epoch`.

    **Raises:** `ValueError` for numbers below 1 (`steps`: below 0) or another `draw`; when traced, for windows of fewer
    than `frames + (steps + 1) bundle` states, or a carry that is `None` under a `cap`.

    Brandstetter, Worrall and Welling (2022), Message passing neural PDE solvers, arXiv:2202.03376, section 3.1.
    """
    if steps < 0:
        raise ValueError(f"`steps` is {steps}; expected 0 or more steps without gradient.")
    _check(frames=frames, bundle=bundle)
    if draw not in ("batch", "sample"):
        raise ValueError(f"`draw` is {draw!r}; expected 'batch' or 'sample'.")

    def objective(model, batch, *, key, carry):
        most = steps if cap is None else jnp.clip(jnp.asarray(cap(_count(carry)), jnp.int32), 0, steps)
        lengths, key = jax.random.fold_in(shared_key(key), 1), fold_key(key, 0)
        constant = jax.tree.map(lambda leaf: lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, model)

        def one(window, args, key):
            own, key = jax.random.split(key)
            n = jax.random.randint(lengths if draw == "batch" else own, (), 0, most + 1)
            go = lambda model, history, i: advance(model, history, domain, i, bundle=bundle, args=args, key=key)
            push = lambda i, history: jnp.concatenate([history, go(constant, history, i)])[-frames:]
            history = lax.fori_loop(0, n, push, window[:frames])
            target = lax.dynamic_slice_in_dim(window, frames + n * bundle, bundle)
            return _losses(loss, go(model, lax.stop_gradient(history), n), target, domain)

        losses = per_window(one, batch, length=frames + (steps + 1) * bundle, key=key)
        return _data(losses), {}, carry if cap is None else carry + 1

    return objective


class Noisy(eqx.Module):
    """`model(u + scale z)`, `z` standard normal and new at each call: see `noisy`."""

    model: Callable[..., Any]
    scale: float = eqx.field(static=True)

    def __call__(
        self,
        u: Float[Array, "cin *n"],
        domain: Domain | None = None,
        query: Domain | None = None,
        *,
        args: PyTree = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "cout *n"]:
        """Apply to one sample."""
        check_same(query, domain)
        if key is None:
            raise ValueError("`key` is missing; noise needs one, which recipes give to operators: with a `domain`.")
        noise, key = jax.random.split(key)
        scale = jnp.asarray(self.scale, u.dtype)
        return call(self.model, u + scale * jax.random.normal(noise, u.shape, u.dtype), domain, args=args, key=key)


def noisy(objective: Objective, scale: float) -> Objective:
    """The same objective with Gaussian noise of deviation `scale` on whatever enters the model; targets stay clean.

    In units of the model's input, so relative where data is normalised. Along an unrolled window it adds up as it does
    over a rollout.

    **Raises:** `ValueError` for a negative scale; when traced, for a recipe with `domain=None`, which gives no keys.

    Sanchez-Gonzalez et al. (2020), Learning to simulate complex physics with graph networks, arXiv:2002.09405.
    """
    if not scale >= 0:
        raise ValueError(f"`scale` is {scale}; expected the deviation of the noise, 0 or more.")
    return lambda model, batch, *, key, carry: objective(Noisy(model, scale), batch, key=key, carry=carry)


def weighted(parts: Mapping[str, tuple[float, Objective]]) -> Objective:
    """The sum of objectives on the same batch, each with a weight: `{name: (weight, objective)}`.

    Terms and metrics are called `name/term`. The carry is a dictionary by name, or `None` where no part has any.

    **Raises:** `ValueError` for no part.
    """
    if not parts:
        raise ValueError("`parts` is empty; expected {name: (weight, objective)}.")
    own = lambda carry: dict.fromkeys(parts) if carry is None else dict(carry)

    def objective(model, batch, *, key, carry):
        terms, metrics, carries = {}, {}, own(carry)
        for i, (name, (weight, part)) in enumerate(parts.items()):
            found, figures, carries[name] = part(model, batch, key=fold_key(key, i), carry=carries[name])
            heavy = {k: eqx.tree_at(lambda t: t.weight, term, weight * term.weight) for k, term in found.items()}
            terms |= {f"{name}/{k}": term for k, term in heavy.items()}
            metrics |= {f"{name}/{k}": figure for k, figure in figures.items()}
        return terms, metrics, None if carry is None else carries

    def prepare(model, batch, *, key, carry):
        carries = own(carry)
        for i, (name, (_, part)) in enumerate(parts.items()):
            prepare = getattr(part, "prepare", None)
            if prepare is not None:
                carries[name] = prepare(model, batch, key=fold_key(key, i), carry=carries[name])
        return carries

    if any(getattr(part, "prepare", None) is not None for _, part in parts.values()):
        return _Prepared(objective, prepare)
    return objective


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """An objective that has a `prepare`."""

    objective: Callable[..., Any]
    prepare: Callable[..., PyTree]

    def __call__(self, model: Any, batch: Any, *, key: StepKey, carry: PyTree) -> Any:
        return self.objective(model, batch, key=key, carry=carry)


def _losses(loss: SampleLoss, states: Array, targets: Array, domain: Domain | None) -> Float[Array, " time"]:
    return jax.vmap(lambda prediction, target: loss(prediction, target, domain))(states, targets)


def _data(losses: Array) -> dict[str, Term]:
    return {"data": Term(losses, "losses")}


def _cut(every: int | None) -> Before:
    if every is None:
        return lambda history, i: history
    return lambda history, i: jnp.where((i > 0) & (i % every == 0), lax.stop_gradient(history), history)


def _count(carry: Any) -> Any:
    if carry is None:
        raise ValueError("`carry` is None; a recipe with a schedule counts training steps: pass `carry=0` to `fit`.")
    return carry


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"`{name}` is {number}; expected 1 or more.")
