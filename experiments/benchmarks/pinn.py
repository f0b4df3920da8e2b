"""What a step of a physics-informed network costs, and how far it comes in a time: ours and DeepXDE's.

Shows, for Burgers' equation through its shock (`pinn_burgers.py`):

- milliseconds a step of Adam at equal work: the network 2-20-20-20-1 with tanh, float32, 2,540 points inside, 80 on the
  boundary and 160 at the start, conditions in the loss, as in DeepXDE's own example. Contestants take turns; medians.
- with `--seconds N`, the relative L2 error against the seconds of training, N each: DeepXDE as its example trains
  (Adam, then L-BFGS), ours as `pinn_burgers.py` does. Compile time apart, but printed.

Costs: a minute, and with `--seconds` twice as many.

    python experiments/benchmarks/pinn.py --peer deepxde --seconds 240 --out pinn.json
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))  # the experiment whose training is measured

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from pinn_burgers import REGION, VISCOSITY, Candidate, exact
from problems.pinn import adaptive, relative_error

from opkit.fields import MLP
from opkit.physics import BoundaryConditions, Box, DirichletData, SpaceTime, Strong, StrongForm
from opkit.training import Collocation, init_state, make_train_step, quasi_newton
from solvers.equations import Burgers

INSIDE, BOUNDARY, INITIAL = 2540, 80, 160


@dataclass(frozen=True)
class Config:
    """Command line."""

    peer: tuple[Literal["deepxde"], ...] = ()
    seconds: float = 0.0
    """Of training, for the errors; zero for none."""
    rounds: int = 9
    """Turns each contestant takes."""
    calls: int = 100
    """Steps a turn."""
    seed: int = 0
    smoke: bool = False
    out: Path | None = None


def steps_of_ours(config: Config) -> Callable[[], Any]:
    """`calls` steps, the first time compiled."""
    region = SpaceTime(Box(-1.0, 1.0), 0.0, 1.0)
    start = DirichletData(lambda x: -jnp.sin(jnp.pi * x[1]))
    wall = DirichletData(0.0)
    conditions = BoundaryConditions(region, {"start": start, "x0-": wall, "x0+": wall})
    keys = jax.random.split(jax.random.key(config.seed), 3)
    inside = region.sample(INSIDE, key=keys[0])
    around = region.sample_boundary(BOUNDARY + INITIAL, key=keys[1])
    objective = Collocation(
        {
            "physics": (Strong(StrongForm(Burgers(VISCOSITY))), lambda *_, key: inside),
            "conditions": (lambda field, sample: conditions(field, *sample), lambda *_, key: around),
        },
        every=10**6,
    )
    field = MLP(2, 1, width=20, depth=3, key=keys[2])
    optimiser = optax.adam(1e-3)
    step = make_train_step(objective, optimiser)
    state = init_state(field, optimiser, carry=objective.start(field, key=keys[0]))
    arrays, static = eqx.partition(state, eqx.is_array)

    @jax.jit
    def many(arrays: Any) -> Any:
        def body(arrays: Any, i: Any) -> Any:
            state, metrics = step(eqx.combine(arrays, static), None, key=jax.random.fold_in(keys[0], i))
            return eqx.filter(state, eqx.is_array), metrics["loss"]

        return jax.lax.scan(body, arrays, jnp.arange(config.calls))

    def advance() -> None:
        nonlocal arrays
        arrays, _ = jax.block_until_ready(many(arrays))

    return advance


def deepxde_model(config: Config) -> Any:
    """Its example of Burgers' equation, written with its public interface."""
    os.environ["DDE_BACKEND"] = "pytorch"
    import deepxde as dde  # pyright: ignore[reportMissingImports]  # lives in its own environment

    dde.config.set_random_seed(config.seed)
    domain = dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 0.99))

    def equation(x: Any, u: Any) -> Any:
        first = lambda j: dde.grad.jacobian(u, x, i=0, j=j)
        return first(1) + u * first(0) - VISCOSITY * dde.grad.hessian(u, x, i=0, j=0)

    wall = dde.icbc.DirichletBC(domain, lambda x: 0, lambda _, on: on)
    start = dde.icbc.IC(domain, lambda x: -np.sin(np.pi * x[:, 0:1]), lambda _, on: on)
    data = dde.data.TimePDE(
        domain, equation, [wall, start], num_domain=INSIDE, num_boundary=BOUNDARY, num_initial=INITIAL
    )
    return dde.Model(data, dde.nn.FNN([2, 20, 20, 20, 1], "tanh", "Glorot normal"))


def steps_of_deepxde(config: Config) -> Callable[[], Any]:
    """`calls` steps."""
    model = deepxde_model(config)
    model.compile("adam", lr=1e-3, verbose=0)
    return lambda: model.train(iterations=config.calls, display_every=10**9, verbose=0)


def grid() -> tuple[np.ndarray, np.ndarray]:
    """The points `(n, 2)`, `(t, x)`, and the solution there."""
    t, x = np.linspace(0, 0.99, 100), np.linspace(-1, 1, 256)
    return np.stack(np.meshgrid(t, x, indexing="ij"), -1).reshape(-1, 2), exact(t, x).reshape(-1)


def errors_of_ours(config: Config) -> Iterator[tuple[float, float]]:
    """Seconds and errors, as `pinn_burgers.py` trains; compile time is printed."""
    where, truth = grid()
    with jax.enable_x64(True):
        field = Candidate(MLP(2, 1, width=24, depth=3, key=jax.random.key(config.seed)))
        sampler = adaptive(REGION, 6000, 30000)
        objective = Collocation({"physics": (Strong(StrongForm(Burgers(VISCOSITY))), sampler)})
        optimiser = quasi_newton("self_scaled_broyden", iterations=50, logarithm=True)
        step = make_train_step(objective, optimiser)
        key = jax.random.key(config.seed)
        state = init_state(field, optimiser, carry=objective.start(field, key=key))
        began = time.perf_counter()
        jitted: Any = eqx.filter_jit(step)
        advance = jitted.lower(state, None, key=key).compile()
        print(f"compiling took {time.perf_counter() - began:.1f} s")
        spent, i = 0.0, 0
        while spent < config.seconds:
            began = time.perf_counter()
            state, _ = jax.block_until_ready(advance(state, None, key=jax.random.fold_in(key, i)))
            spent, i = spent + time.perf_counter() - began, i + 1
            found = jax.vmap(state.model)(jnp.asarray(where))[:, 0]
            yield spent, float(relative_error(found, jnp.asarray(truth)))


def errors_of_deepxde(config: Config) -> Iterator[tuple[float, float]]:
    """Seconds and errors: 15,000 steps of Adam, then L-BFGS, as its example trains."""
    where, truth = grid()
    model = deepxde_model(config)
    error = lambda: float(np.linalg.norm(model.predict(where[:, ::-1])[:, 0] - truth) / np.linalg.norm(truth))
    spent = 0.0
    model.compile("adam", lr=1e-3, verbose=0)
    for _ in range(15):
        began = time.perf_counter()
        model.train(iterations=1000, display_every=10**9, verbose=0)
        spent += time.perf_counter() - began
        yield spent, error()
        if spent > config.seconds:
            return
    began = time.perf_counter()
    model.compile("L-BFGS", verbose=0)
    model.train(display_every=10**9, verbose=0)
    yield spent + time.perf_counter() - began, error()


def main(config: Config) -> dict[str, Any]:
    """Run all; `ratios` are ours over DeepXDE's."""
    if config.smoke:
        config = Config(peer=config.peer, rounds=1, calls=2, out=config.out)
    contestants = {"opkit": steps_of_ours(config)}
    if config.peer:
        contestants["deepxde"] = steps_of_deepxde(config)
    seconds: dict[str, list[float]] = {}
    for advance in contestants.values():
        advance()
    for _ in range(config.rounds):
        for name, advance in contestants.items():
            began = time.perf_counter()
            advance()
            seconds.setdefault(name, []).append((time.perf_counter() - began) / config.calls)
    results: dict[str, Any] = {"step": {name: median(values) for name, values in seconds.items()}}
    for name, value in results["step"].items():
        print(f"{name:8s} {1e3 * value:7.3f} ms a step", flush=True)
    if config.peer:
        results["ratios"] = {"step": results["step"]["opkit"] / results["step"]["deepxde"]}
        print("opkit / deepxde", results["ratios"]["step"])
    if config.seconds:
        curves = {"opkit": errors_of_ours} | ({"deepxde": errors_of_deepxde} if config.peer else {})
        for name, curve in curves.items():
            results[f"errors/{name}"] = []
            for spent, error in curve(config):
                results[f"errors/{name}"].append((spent, error))
                print(f"{name:8s} {spent:7.1f} s  {error:.2e}", flush=True)
    if config.out:
        config.out.write_text(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    main(tyro.cli(Config))
