"""The arms of a comparison of recipes: what each trains, by which objective, and what it is rolled out as."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from opkit.operators import FNO, ResNet
from opkit.training import (
    Boosted,
    NonFiniteLoss,
    Objective,
    Refiner,
    Run,
    TendencyStep,
    all_to_all,
    curriculum,
    denoising,
    diverted,
    fit,
    label_free,
    lead_args,
    noisy,
    one_step,
    pushforward,
    tanh_share,
    tendency,
    unrolled,
)
from solvers import Domain

from .cells import Record, cached, optimiser
from .rollouts import Case, measure, roll

BUNDLE, FRAMES, UNROLLED, PUSHED = 4, 6, 4, 8
NOISE = 0.2
"""In units of a step's change."""
CHUNK = 20


class Bundle(eqx.Module):
    """`(u + d_1, u + 2 d_2, ...)`, the next states, of the slopes `d` that an operator gives for them."""

    op: Any
    change: float = eqx.field(static=True)

    def __call__(self, u: Array, domain: Domain, query: Domain | None = None, **keywords: Any) -> Array:
        """Apply to one sample."""
        slopes = self.op(u, domain, query, **keywords).reshape(-1, *u.shape)
        times = jnp.arange(1, len(slopes) + 1, dtype=u.dtype).reshape(-1, *(1,) * u.ndim)
        return (u + self.change * times * slopes).reshape(-1, *u.shape[1:])


class LeadStep(eqx.Module):
    """`u + t op(u; t)`, which at lead zero is the identity."""

    op: Any

    def __call__(self, u: Array, domain: Domain, query: Domain | None = None, *, args: Array, key: Any = None) -> Array:
        """Apply to one sample; the lead is in front of `args`."""
        return u + args[0] * self.op(u, domain, query, args=args, key=key)


class AtLead(eqx.Module):
    """An operator that takes the lead, at one of them."""

    op: Any
    lead: Any

    def __call__(self, u: Array, domain: Domain, query: Domain | None = None, *, args=None, key=None) -> Array:
        """Apply to one sample."""
        return self.op(u, domain, query, args=lead_args(jnp.asarray(self.lead, u.dtype), args), key=key)


Build = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Arm:
    """`build(case, width, key)` is trained by `objective(case, steps)` and rolled out as `step(case, trained)`."""

    build: Build
    objective: Callable[[Case, int], Objective]
    step: Callable[[Case, Any], Any] = lambda case, model: model
    bundle: int = 1
    then: Build | None = None
    """`then(case, trained, width, key)` is trained for the second half of the time."""
    fitted: bool = True
    """Whether its width is that of the budget of parameters; else that of the case."""


def fno(case: Case, width: int, key: Array, *, inputs: int = 1, outputs: int = 1, extra: int = 0) -> FNO:
    """From so many states to so many, with so many parameters more than the equation's."""
    return FNO(
        inputs * case.channels, outputs * case.channels, modes=(case.modes,) * case.grid.ndim, width=width,
        depth=case.depth, coordinates=False, conditioning=case.parameters + extra, key=key,
    )  # fmt: skip


def stepping(case: Case, width: int, key: Array) -> TendencyStep:
    """`u + change op(u)`."""
    return TendencyStep(fno(case, width, key), case.change, "euler")


def convolutional(case: Case, width: int, key: Array, *, inputs: int = 1, extra: int = 0) -> ResNet:
    """A residual network that sees 61 points, from so many states to one."""
    return ResNet(
        inputs * case.channels, case.channels, ndim=case.grid.ndim, width=width, depth=case.depth,
        dilations=(1, 2, 4, 8), conditioning=case.parameters + extra, key=key,
    )  # fmt: skip


def lead_step(case: Case, width: int, key: Array) -> LeadStep:
    """Of a network that is told the lead."""
    return LeadStep(fno(case, width, key, extra=1))


def boost(case: Case, first: Any, width: int, key: Array) -> Boosted:
    """A second network for what the first leaves over, of the size that has on some of the training set."""
    u, later = jnp.asarray(case.train[:64, 0]), jnp.asarray(case.train[:64, 1])
    args = None if case.train_args is None else jnp.asarray(case.train_args[:64])
    left = eqx.filter_jit(lambda op: later - jax.vmap(lambda u, a: op(u, case.grid, args=a))(u, args))(first)
    scale = float(jnp.sqrt(jnp.mean(left**2)))
    return Boosted(first, fno(case, width, key, inputs=2), scale=scale)


def residual(case: Case) -> Callable[[Array, Array, Any], Array]:
    """`v - u - dt rate((u + v) / 2)`, the implicit midpoint rule, in units of a step's change."""
    return lambda u, v, args: (v - u - case.dt * case.rate((u + v) / 2, args)) / case.change


def once(case: Case, steps: int) -> Objective:
    """One step from the data."""
    return one_step(case.loss, case.grid)


def after_one(case: Case) -> Objective:
    """One step from the data, of a network that is told the lead and sees no other."""
    inner = once(case, 1)
    return lambda model, batch, **keywords: inner(AtLead(model, case.change), batch, **keywords)


def fed_back(case: Case, steps: int, *, share: Callable[[int], Any]) -> Objective:
    """A window of which the first steps go on from the model's own states."""
    return curriculum(case.loss, case.grid, steps=UNROLLED, share=share(steps))


ARMS: dict[str, Arm] = {
    "next-state": Arm(fno, once),
    "one-step": Arm(stepping, once),
    "resnet": Arm(
        lambda case, width, key: TendencyStep(convolutional(case, width, key), case.change, "euler"), once, fitted=False
    ),
    "unrolled": Arm(stepping, lambda case, steps: unrolled(case.loss, case.grid, steps=UNROLLED)),
    "pushforward": Arm(stepping, lambda case, steps: pushforward(case.loss, case.grid, steps=PUSHED)),
    "bundled": Arm(
        lambda case, width, key: Bundle(fno(case, width, key, outputs=BUNDLE), case.change),
        lambda case, steps: one_step(case.loss, case.grid, bundle=BUNDLE),
        bundle=BUNDLE,
    ),
    "teacher-forced": Arm(stepping, partial(fed_back, share=lambda steps: lambda step: 0.0)),
    "curriculum": Arm(stepping, partial(fed_back, share=tanh_share)),
    "noise": Arm(stepping, lambda case, steps: noisy(once(case, steps), NOISE * case.change)),
    "pairs": Arm(
        lead_step,
        lambda case, steps: all_to_all(case.loss, case.grid, case.change, frames=FRAMES, pairs=2),
        lambda case, model: AtLead(model, case.change),
    ),
    "tendency": Arm(
        fno,
        lambda case, steps: tendency(
            lambda p, t, d: jnp.mean((p - t) ** 2), case.grid, case.change, differences="richardson"
        ),
        lambda case, model: TendencyStep(model, case.change, "rk4"),
    ),
    "refiner": Arm(
        lambda case, width, key: Refiner(fno(case, width, key, inputs=2, extra=1), steps=2, scale=case.change),
        lambda case, steps: denoising(case.grid),
    ),
    "boosted": Arm(stepping, once, then=boost),
    "label-free": Arm(stepping, lambda case, steps: label_free(residual(case), case.grid)),
    "diverted": Arm(
        stepping, lambda case, steps: diverted(case.loss, case.grid, case.solve, steps=2, cut_reference=True)
    ),
}

LEADS: dict[str, Arm] = {
    "pairs": Arm(
        lead_step,
        lambda case, steps: all_to_all(case.loss, case.grid, case.change, frames=case.train.shape[1], pairs=4),
    ),
    "single": Arm(lead_step, lambda case, steps: after_one(case)),
    "steps": Arm(stepping, once),
}
"""On few trajectories of long steps, to be asked for times between."""


def parameters(model: Any) -> int:
    """Trained numbers, of a model or of its shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(model) if jnp.issubdtype(leaf.dtype, jnp.inexact))


def size(arm: Arm, case: Case, width: int) -> int:
    """The parameters of an arm at a width, those of both networks where it has two."""
    model = eqx.filter_eval_shape(partial(arm.build, case, width, jax.random.key(0)))
    return parameters(model) * (1 if arm.then is None else 2)


def fitted_width(arm: Arm, case: Case, budget: int) -> int:
    """The width whose number of parameters is nearest to the budget, that of the case where it comes within 2 %."""
    if not arm.fitted or abs(size(arm, case, case.width) - budget) <= 0.02 * budget:
        return case.width
    low, high = 1, 4 * case.width
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(arm, case, middle) <= budget else (low, middle)
    return min((low, high), key=lambda width: abs(size(arm, case, width) - budget))


def clock() -> float:
    """Seconds: on CPUs those the process was given, which do not depend on what else runs there."""
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def train(
    model: Any, objective: Objective, case: Case, *, steps: int, seed: int, progress: bool = False
) -> tuple[Any, float]:
    """The trained model, and the seconds of a step. **Raises:** `NonFiniteLoss`."""
    stamps: list[float] = []
    state = fit(
        objective,
        model,
        case.data,
        optimiser(case.learning_rate, steps),
        steps=steps,
        batch_size=min(case.batch_size, len(case.train)),
        seed=seed,
        carry=0,
        chunk=min(CHUNK, steps),
        log=lambda step, figures: stamps.append(clock()),
        progress=progress,
    )
    return state.model, (stamps[-1] - stamps[0]) / max(1, steps - CHUNK)


def train_arm(arm: Arm, case: Case, width: int, steps: tuple[int, ...], seed: int, **options: Any) -> tuple[Any, float]:
    """The model of an arm, its two stages one after the other where it has two, and the seconds that took without
    compilation and the first steps. **Raises:** `NonFiniteLoss`."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    model, total = arm.build(case, width, keys[0]), 0.0
    for stage, number in enumerate(steps):
        model = arm.then(case, model, width, keys[1]) if stage and arm.then else model
        objective = arm.objective(case, number)
        model, seconds = train(model, objective, case, steps=number, seed=seed + stage, **options)
        total += number * seconds
    return model, total


def step_seconds(arm: Arm, case: Case, width: int) -> list[float]:
    """The time of a training step of each stage of an arm."""
    keys = jax.random.split(jax.random.key(0))
    model, seconds = arm.build(case, width, keys[0]), []
    for build in [None] if arm.then is None else [None, arm.then]:
        model = model if build is None else build(case, model, width, keys[1])
        objective = arm.objective(case, 3 * CHUNK)
        seconds.append(train(model, objective, case, steps=3 * CHUNK, seed=0)[1])
    return seconds


def trained(
    name: str,
    arm: Arm,
    case: Case,
    *,
    budget: int,
    evaluate: Callable[[Any], Record],
    seconds: float,
    steps: int,
    run: Run,
    code: str,
    data: str,
) -> Record:
    """An arm of `budget` parameters trained for so many seconds, or steps, and what `evaluate` says of its model, or
    of `None` where training failed; unless that is on disk."""
    folder = run.directory.parents[1] / "cells"
    width, stages = fitted_width(arm, case, budget), 1 if arm.then is None else 2
    identity: Record = {"case": case.name, "arm": name, "width": width, "smoke": run.smoke}
    numbers = (max(1, steps // stages),) * stages
    if not steps:
        timed = cached(folder, identity | {"timed": True}, lambda: {"step_seconds": step_seconds(arm, case, width)})
        each = timed["step_seconds"]
        numbers = tuple(CHUNK * max(1, int(seconds / stages / step / CHUNK)) for step in each)
        run.print(f"{name}: a step takes {' and '.join(f'{1e3 * step:.3g}' for step in each)} ms, {numbers} steps")

    def make() -> Record:
        model, spent = None, float("nan")
        try:
            model, spent = train_arm(arm, case, width, numbers, run.seed, progress=not run.quiet)
        except NonFiniteLoss as error:
            run.print(f"{name}: {error}")
        costs = {"train_seconds": spent, "steps": sum(numbers), "parameters": size(arm, case, width)}
        return {"code": code, **costs, **evaluate(model)}

    identity |= {"data": data, "steps": numbers, "batch_size": case.batch_size, "learning_rate": case.learning_rate}
    record = cached(folder, identity | {"seed": run.seed}, make)
    if record["code"] != code:
        run.print(f"the cell of {name} was made under other code ({record['code']})")
    return record


def follow(arm: Arm, case: Case, model: Any) -> Record:
    """The figures of a rollout as long as the tests; where training failed, those of one that is not finite."""
    if model is None:
        return measure(np.full_like(case.test[:, 1:], np.nan), case)
    return measure(roll(arm.step(case, model), case, case.test.shape[1] - 1, bundle=arm.bundle), case)
