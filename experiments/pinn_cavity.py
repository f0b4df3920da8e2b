"""Solve the lid-driven cavity at Re = 100 by a physics-informed network.

Claim: without data, with no divergence and the velocity exact on all walls, the velocity on the two lines through the
centre, where Ghia's table has it, is within 1e-2 (relative L2) of the solution. The table itself is 1.3e-2 off it,
which is also how near to the table (`/ghia`) one can come.

Steady Navier-Stokes on the unit square; the lid at the top moves with the velocity 1, the other walls rest. Lid and
walls disagree in the upper corners, where the flow is singular: there it is Taylor's, of a plate that scrapes fluid off
a wall, in closed form. The candidate is a stream function, Taylor's by the corners and a network times what vanishes
twice on all walls,

    psi = psi_T + b N,    psi_T = -h(y) (w(x) r f(theta) + w(1 - x) r' f(theta')),    p = p_T + N_p,

`(r, theta)` from the upper left corner, down from the lid, `(r', theta')` from the right one, `h` and `w` smooth steps.
(A candidate in velocities, whose residual must be told not to weigh the corners, lets fluid in at one and out at the
other: it stays at 7e-2.) The residual of momentum is weighted by the distances to both corners. Levenberg-Marquardt on
points uniform in the square. The solution is extrapolated from central differences on 128 and 256 cells.
A seed takes four minutes on one core.

Taylor (1962), On scraping viscous fluid from a plane surface, in: Miszellaneen der angewandten Mechanik;
Ghia, Ghia and Shin (1982), High-Re solutions for incompressible flow using the Navier-Stokes equations and a multigrid
method, doi:10.1016/0021-9991(82)90058-4, tables I and II.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from problems.cavity import U_AT_Y, V_AT_X, centre_lines
from problems.pinn import follow

from opkit.data import content_hash
from opkit.fields import MLP
from opkit.physics import Box, DivergenceFree, NavierStokes, Strong
from opkit.training import Collocation, Run, gauss_newton, launch

REGION = Box((0.0, 0.0), (1.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Config:
    """Train one network. Defaults are those of the claim."""

    reynolds: float = 100.0
    width: int = 30
    depth: int = 3
    points: int = 2000
    rounds: int = 12
    iterations: int = 10
    """Of the optimiser on the points of one round."""


SMOKE = {"width": 6, "depth": 1, "points": 64, "rounds": 2, "iterations": 2}


def scraped(x: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Taylor's stream function and pressure over the viscosity, `x` from the wall and `s` below the lid."""
    d = 1 / (1 - np.pi**2 / 4)
    a, c = 1 - d, np.pi / 2 * d
    angle = jnp.arctan2(s, x)
    return -(a * s + angle * (c * s + d * x)), 2 * (d * x + c * s) / (x**2 + s**2)


class StreamFunction(eqx.Module):
    """The stream function and the pressure, as above."""

    network: MLP
    viscosity: float

    def __call__(self, point: jax.Array) -> jax.Array:
        """At one point inside, `(2,)`."""
        x, y = point
        s, z = 1 - y, 1 - x
        left, right = scraped(x, s), scraped(z, s)
        weight = 1 - x**3 * (10 - 15 * x + 6 * x**2)
        height = y**2 * (3 - 2 * y)
        taylor = height * (weight * left[0] + (1 - weight) * right[0])
        pressure = height * (weight * left[1] - (1 - weight) * right[1])
        walls = (x * y * z * s) ** 2 / ((x**2 + s**2) * (z**2 + s**2))
        found = self.network(2 * point - 1)
        return jnp.stack([taylor + walls * found[0], self.viscosity * pressure + found[1]])


def main(config: Config, run: Run) -> dict[str, float]:
    """Train, and measure on the way."""
    tables = np.asarray(U_AT_Y), np.asarray(V_AT_X)
    coarse, fine = (centre_lines(config.reynolds, cells) for cells in ((16, 32) if run.smoke else (128, 256)))
    solution = np.concatenate([
        (4 * f[::2] - c)[np.rint(table[:, 0] * (len(c) - 1)).astype(int)] / 3
        for c, f, table in zip(coarse, fine, tables, strict=True)
    ])  # fmt: skip
    references = {"": solution, "/ghia": np.concatenate([table[:, 1] for table in tables])}
    run.record_data(content_hash(references))
    lines = [np.stack([np.full(len(table), 0.5), table[:, 0]], -1) for table in tables]
    lines[1] = lines[1][:, ::-1]
    viscosity = 1 / config.reynolds
    network = MLP(2, 2, width=config.width, depth=config.depth, key=run.key)
    field = DivergenceFree(StreamFunction(network, viscosity))
    physics = Strong(NavierStokes(viscosity))

    def momentum(field: Any, x: jax.Array) -> jax.Array:
        corners = jnp.asarray([[0.0, 1.0], [1.0, 1.0]])
        return physics(field, x)[:2] * jnp.prod(jnp.linalg.norm(x - corners, axis=-1))

    draw = lambda *_, key: REGION.sample(config.points, key=key)
    objective = Collocation({"momentum": (momentum, draw)})
    # u on the first line and v on the second, as one field of one component each
    where = jnp.asarray(np.concatenate(lines))
    along = jnp.repeat(jnp.arange(2), len(U_AT_Y))
    state, history = follow(
        run, objective, field, gauss_newton(iterations=config.iterations), where,
        references, component=along, rounds=config.rounds,
    )  # fmt: skip
    run.save_figure(plot(state.model, tables, history))
    return {name: rows[-1] for name, rows in history.items()}


def plot(field: Any, tables: Any, history: dict[str, list[float]]) -> Any:
    """The flow, the velocity on both lines with the table, and the error against the seconds of training."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    line = (jnp.arange(81) + 0.5) / 81
    x, y = jnp.meshgrid(line, line)
    flow = np.asarray(jax.jit(jax.vmap(jax.vmap(field)))(jnp.stack([x, y], -1)))
    left.streamplot(np.asarray(x), np.asarray(y), flow[..., 0], flow[..., 1], density=1.4, linewidth=0.7)
    left.set(aspect="equal", title="streamlines")
    for i, (table, label) in enumerate(zip(tables, ("u(1/2, y)", "v(x, 1/2)"), strict=True)):
        middle.plot(line, flow[:, 40, 0] if i == 0 else flow[40, :, 1], label=label)
        middle.plot(*table.T, "k.")
    middle.legend()
    right.loglog(history["seconds"], history["relative_l2"], "o-")
    right.set(xlabel="seconds of training", ylabel="relative L2 error")
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE, double=True)
