"""What the experiments on physics-informed networks share: points by residual, training followed by its error, and the
figure."""

import time
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float

from opkit.physics import Box, residual_adaptive, sobol
from opkit.training import Collocation, Run, Sampler, TrainState


def adaptive(box: Box, points: int, candidates: int, *, power: float = 1.0, floor: float = 1.0) -> Sampler:
    """Draws `points` of evenly spread `candidates`, with probability by residual (RAD)."""
    beside = Box((*box.lower, 0.0), (*box.upper, 1.0))

    def draw(size: Any, *_: Any, key: Any) -> Array:
        drawn = sobol(beside, candidates, key=key)
        where, chances = drawn[:, :-1], drawn[:, -1]
        return residual_adaptive(where, size(where), points, power=power, floor=floor, chances=chances)

    return draw


def relative_error(found: ArrayLike, truth: ArrayLike) -> Float[Array, ""]:
    """`|found - truth| / |truth|`."""
    return jnp.linalg.norm(jnp.ravel(jnp.asarray(found) - truth)) / jnp.linalg.norm(jnp.ravel(truth))


def follow(
    run: Run,
    objective: Collocation,
    field: Any,
    optimiser: optax.GradientTransformation,
    where: Float[Array, "*n d"],
    references: Mapping[str, np.ndarray],
    *,
    rounds: int,
    every: int = 1,
    component: Any = 0,
    stage: str = "train",
    before: Mapping[str, list[float]] | None = None,
) -> tuple[TrainState, dict[str, list[float]]]:
    """Train for `rounds` steps, and after each `every` write down `seconds` (of training, without compilation) and
    `relative_l2NAME` at the points `where`, against each of `references`.

    `component`: of the field, which is compared; an integer, or one a point. `before`: what was written down of the
    stage before, which this one goes on.

    The seconds of a resumed run are those since.
    """
    truths = {name: jnp.asarray(truth) for name, truth in references.items()}

    @eqx.filter_jit
    def errors(field: Any) -> dict[str, Array]:
        points = where.reshape(-1, where.shape[-1]), jnp.broadcast_to(component, where.shape[:-1]).reshape(-1)
        found = jax.lax.map(lambda point: field(point[0])[point[1]], points, batch_size=4096).reshape(where.shape[:-1])
        return {f"relative_l2{name}": relative_error(found, truth) for name, truth in truths.items()}

    history = {name: list(rows) for name, rows in (before or {}).items()}
    earlier = history["seconds"][-1] if history else 0.0
    carry = objective.start(field, key=run.key)
    began, compiled, measuring = time.perf_counter(), run.compile_seconds, 0.0

    def measure(state: TrainState) -> dict[str, float]:
        nonlocal measuring
        now = time.perf_counter()
        figures = {"seconds": earlier + now - began - measuring - (run.compile_seconds - compiled)}
        figures |= {name: float(error) for name, error in errors(state.model).items()}
        for name, value in figures.items():
            history.setdefault(name, []).append(value)
        run.print(int(state.step), {name: f"{value:.3g}" for name, value in figures.items()})
        measuring += time.perf_counter() - now
        return figures

    state = run.fit(
        objective, field, None, optimiser, steps=rounds, carry=carry, chunk=every, stage=stage,
        validate=measure, validate_every=every,
    )  # fmt: skip
    return state, history


def plot_solution(
    field: Any,
    where: Float[Array, "n m d"],
    truth: Float[np.ndarray, "n m"],
    history: Mapping[str, list[float]],
    *,
    component: int = 0,
    labels: tuple[str, str] = ("t", "x"),
) -> Any:
    """The solution, its error, and the error against the seconds of training."""
    import matplotlib.pyplot as plt

    found = np.asarray(jax.jit(jax.vmap(jax.vmap(lambda x: field(x)[component])))(where))
    axes = np.asarray(where[..., -2]), np.asarray(where[..., -1])
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 3.6), layout="constrained")
    for panel, values, title in ((left, found, "solution"), (middle, np.abs(found - truth), "error")):
        figure.colorbar(panel.pcolormesh(*axes, values, shading="auto"), ax=panel)
        panel.set(xlabel=labels[0], ylabel=labels[1], title=title)
    for name, values in history.items():
        if name != "seconds":
            right.loglog(history["seconds"], values, "o-", label=name)
    right.set(xlabel="seconds of training", ylabel="relative L2 error")
    right.legend(fontsize=8)
    return figure
