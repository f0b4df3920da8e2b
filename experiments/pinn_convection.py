"""Carry a wave fifty times as fast as a network likes: convection learnt along characteristics, and in space.

Claim: for `u_t + 50 u_x = 0` a Lagrangian network, which learns the characteristics and the solution along them, has a
relative L2 error of at most 2e-2, where an Eulerian one of as many parameters, trained for as many steps by the same
optimiser, stays above 0.5. Published: the same in words, with a million steps of Adam; Eulerian networks fail from a
speed of about 30 on.

On the circle of length 2 pi, to the time 1, `u(0, x) = sin x`; with `--diffusivity` also `nu u_xx`. Both know the
initial data and the period exactly: `u = sin x + t N(t, cos x, sin x)`, and `x = xi + t N_1`, `w = sin xi + t N_2` in
the label `xi`. The error is measured on 101 x 128 points, of the Lagrangian in `(t, xi)`: `w - u(t, x)`. Both are
trained by Adam, as published, and by a quasi-Newton method (`@broyden`). A seed takes five minutes on one core.

Mojgani, Balajewicz and Hassanzadeh (2023), Kolmogorov n-width and Lagrangian physics-informed neural networks,
arXiv:2205.02902; Krishnapriyan et al. (2021), Characterizing possible failure modes in physics-informed neural
networks, arXiv:2109.01050.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems.pinn import relative_error

from opkit.data import content_hash
from opkit.fields import MLP, Chain, PeriodicEmbedding
from opkit.physics import Box, Lagrangian, Strong
from opkit.training import Collocation, Run, launch, quasi_newton

REGION = Box((0.0, 0.0), (1.0, 2 * np.pi))


@dataclasses.dataclass(frozen=True)
class Config:
    """Train both networks by both optimisers. Defaults are those of the claim."""

    speed: float = 50.0
    diffusivity: float = 0.0
    width: int = 32
    depth: int = 3
    points: int = 2000
    steps: int = 10_000
    """Of Adam."""
    learning_rate: float = 1e-2
    """The peak, after a hundredth of the steps; to zero by a cosine."""
    iterations: int = 1000
    """Of the quasi-Newton method, with new points after each hundred."""


SMOKE = {"width": 6, "depth": 1, "points": 32, "steps": 20, "iterations": 4}


class Eulerian(eqx.Module):
    """`sin x + t N(t, cos x, sin x)`."""

    network: Chain

    def __call__(self, x: jax.Array) -> jax.Array:
        """At one point `(t, x)`."""
        return jnp.sin(x[1:]) + x[0] * self.network(x)


class Characteristics(eqx.Module):
    """`(xi + t N_1, sin xi + t N_2)`: the place of a label, and the solution there."""

    network: Chain

    def __call__(self, x: jax.Array) -> jax.Array:
        """At one point `(t, xi)`."""
        return jnp.concatenate([x[1:], jnp.sin(x[1:])]) + x[0] * self.network(x)


def main(config: Config, run: Run) -> dict[str, float]:
    """Train and measure each."""
    decay = config.diffusivity
    exact = lambda t, x: jnp.exp(-decay * t) * jnp.sin(x - config.speed * t)
    where = jnp.stack(
        jnp.meshgrid(jnp.linspace(0, 1, 101), jnp.linspace(0, 2 * jnp.pi, 128, endpoint=False), indexing="ij"), -1
    )
    run.record_data(content_hash(np.asarray(where)))

    def eulerian(u: Any, x: jax.Array) -> jax.Array:
        u_t, u_x, u_xx = u(0, 1, (1, 1))
        return u_t + config.speed * u_x - config.diffusivity * u_xx

    def network(outputs: int) -> Chain:
        embedding = PeriodicEmbedding((None, 2 * np.pi))
        mlp = MLP(embedding.size, outputs, width=config.width, depth=config.depth, key=run.key)
        return Chain(embedding, mlp)

    arms = {
        "eulerian": (Eulerian(network(1)), Strong(eulerian)),
        "lagrangian": (Characteristics(network(2)), Strong(Lagrangian(config.speed, config.diffusivity))),
    }
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.steps // 100 + 1, config.steps)
    inner = min(100, config.iterations)
    optimisers = {
        "": (optax.adam(schedule), config.steps),
        "@broyden": (quasi_newton(iterations=inner, logarithm=True), config.iterations // inner),
    }
    draw = lambda *_, key: REGION.sample(config.points, key=key)
    metrics, shown = {}, {}
    for name, (field, residual) in arms.items():
        for suffix, (optimiser, steps) in optimisers.items():
            objective = Collocation({"physics": (residual, draw)})
            state = run.fit(
                objective,
                field,
                None,
                optimiser,
                steps=steps,
                carry=objective.start(field, key=run.key),
                stage=name + suffix,
            )
            found = np.asarray(jax.jit(jax.vmap(jax.vmap(state.model)))(where))
            place = found[..., 0] if name == "lagrangian" else np.asarray(where[..., 1])
            truth = exact(where[..., 0], place)
            metrics[f"relative_l2/{name}{suffix}"] = float(relative_error(found[..., -1], truth))
            shown[name + suffix] = place, found[..., -1]
            run.print(name + suffix, metrics[f"relative_l2/{name}{suffix}"])
    run.save_figure(plot(where, shown))
    return metrics


def plot(where: jax.Array, shown: dict[str, Any]) -> Any:
    """Each solution over time and place."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(shown), figsize=(4 * len(shown), 3.5), layout="constrained", sharey=True)
    for axis, (name, (place, values)) in zip(axes, shown.items(), strict=True):
        axis.scatter(where[..., 0], place % (2 * np.pi), c=values, s=1, vmin=-1, vmax=1, cmap="coolwarm")
        axis.set(title=name, xlabel="t", ylabel="x")
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE, double=True)
