"""Solve the lid-driven cavity at Re = 100 by a physics-informed network.

Claim: without data, with the velocity exact on all walls, the velocity on the two lines through the centre is within
1e-2 (relative L2 over the table) of Ghia's.

Steady Navier-Stokes on the unit square; the lid at the top moves with the velocity 1, the other walls rest. Lid and
walls disagree in the upper corners, where the flow is singular: its second derivatives grow like `1 / r^2` with the
distance to the corner, and the residual is multiplied by the square of that distance. Levenberg-Marquardt on points
uniform in the square.

Ghia, Ghia and Shin (1982), High-Re solutions for incompressible flow using the Navier-Stokes equations and a multigrid
method, doi:10.1016/0021-9991(82)90058-4, tables I and II.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from problems.pinn import follow

from opkit.data import content_hash
from opkit.fields import MLP, Chain, Rescale
from opkit.physics import BoundaryConditions, Box, DirichletData, HardConditions, NavierStokes, Strong
from opkit.training import Collocation, Run, gauss_newton, launch

REGION = Box((0.0, 0.0), (1.0, 1.0))
# u at (1/2, y) and v at (x, 1/2)
U_AT_Y = (
    (0.0547, -0.03717), (0.0625, -0.04192), (0.0703, -0.04775), (0.1016, -0.06434), (0.1719, -0.10150),
    (0.2813, -0.15662), (0.4531, -0.21090), (0.5000, -0.20581), (0.6172, -0.13641), (0.7344, 0.00332),
    (0.8516, 0.23151), (0.9531, 0.68717), (0.9609, 0.73722), (0.9688, 0.78871), (0.9766, 0.84123),
)  # fmt: skip
V_AT_X = (
    (0.0625, 0.09233), (0.0703, 0.10091), (0.0781, 0.10890), (0.0938, 0.12317), (0.1563, 0.16077),
    (0.2266, 0.17507), (0.2344, 0.17527), (0.5000, 0.05454), (0.8047, -0.24533), (0.8594, -0.22445),
    (0.9063, -0.16914), (0.9453, -0.10313), (0.9531, -0.08864), (0.9609, -0.07391), (0.9688, -0.05906),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Train one network. Defaults are those of the claim."""

    reynolds: float = 100.0
    width: int = 30
    depth: int = 3
    points: int = 2000
    rounds: int = 20
    iterations: int = 10
    """Of the optimiser on the points of one round."""


SMOKE = {"width": 6, "depth": 1, "points": 64, "rounds": 2, "iterations": 2}


def main(config: Config, run: Run) -> dict[str, float]:
    """Train, and measure on the way."""
    tables = np.asarray(U_AT_Y), np.asarray(V_AT_X)
    run.record_data(content_hash(tables))
    lines = [np.stack([np.full(len(table), 0.5), table[:, 0]], -1) for table in tables]
    lines[1] = lines[1][:, ::-1]
    walls = dict.fromkeys(("x0-", "x0+", "x1-"), DirichletData(0.0)) | {"x1+": DirichletData(jnp.array([1.0, 0.0]))}
    conditions = BoundaryConditions(REGION, walls, components=(0, 1))
    network = Chain(Rescale(REGION.lower, REGION.upper), MLP(2, 3, width=config.width, depth=config.depth, key=run.key))
    physics = Strong(NavierStokes(1 / config.reynolds))

    def weighted(field: Any, x: jax.Array) -> jax.Array:
        corners = jnp.asarray([[0.0, 1.0], [1.0, 1.0]])
        return physics(field, x) * jnp.prod(jnp.sum((x - corners) ** 2, -1))

    draw = lambda *_, key: REGION.sample(config.points, key=key)
    objective = Collocation({"physics": (weighted, draw)})
    # u on the first line and v on the second, as one field of one component each
    where = jnp.asarray(np.concatenate(lines))
    along = jnp.repeat(jnp.arange(2), len(U_AT_Y))
    state, history = follow(
        run, objective, HardConditions(network, conditions), gauss_newton(iterations=config.iterations), where,
        {"": np.concatenate([table[:, 1] for table in tables])}, component=along, rounds=config.rounds,
    )  # fmt: skip
    run.save_figure(plot(state.model, tables, history))
    return {name: rows[-1] for name, rows in history.items()}


def plot(field: Any, tables: Any, history: dict[str, list[float]]) -> Any:
    """The flow, the velocity on both lines with the table, and the error against the seconds of training."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    line = jnp.linspace(0.0, 1.0, 81)
    x, y = jnp.meshgrid(line, line)
    flow = np.asarray(jax.jit(jax.vmap(jax.vmap(field)))(jnp.stack([x, y], -1)))
    left.streamplot(np.asarray(x), np.asarray(y), flow[..., 0], flow[..., 1], density=1.4, linewidth=0.7)
    left.set(aspect="equal", title="streamlines")
    for i, (table, label) in enumerate(zip(tables, ("u(1/2, y)", "v(x, 1/2)"), strict=True)):
        middle.plot(line, flow[:, 40, 0] if i == 0 else flow[40, :, 1], label=label)
        middle.plot(*table.T, "k.")
    middle.legend()
    right.loglog(history["seconds"], history["relative_l2"], "o-")
    right.set(xlabel="seconds of training", ylabel="relative L2 to the table")
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE, double=True)
