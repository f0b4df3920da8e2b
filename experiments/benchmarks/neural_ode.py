"""What a training step and a prediction of a neural ODE cost: ours, Diffrax's, torchdiffeq's; and what recording adds.

Shows: milliseconds a training step (Adam on the mean square of the end point) and a prediction of `y' = MLP(y)`,
2-64-64-2 with tanh, a batch of 256 as one state, Dopri5 at 1e-5 from 0 to 5, float32: `opkit` (`NeuralODE`), `diffrax`
(`diffeqsolve` written out) and torchdiffeq (`odeint`, through which it differentiates as we do); then ours with what
the regularisers need, at weight zero: the global error penalty, the local one at a uniform time and at an accepted
step, and recording whose value is reported and not differentiated. All begin with the same weights and data, and no
penalty changes them, so ours and Diffrax's take the same steps; a solve's evaluations are printed. Contestants take
turns within one run; medians of each turn's mean; compile time apart. Beside other load compare on one core, with
`--cpu`.

Costs: a minute; `--smoke` takes seconds.

    taskset -c 0 python experiments/benchmarks/neural_ode.py --peer torchdiffeq --out neural_ode.json
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, cast

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from opkit.dynamics import GlobalPenalty, Integrator, LocalPenalty, NeuralODE, Regulariser

SETTINGS = {"dt0": None, "max_steps": 256}
TARGETS = {"global error": 1.05, "local uniform": 1.15, "local accepted": 1.15, "recorded": 1.02}


@dataclass(frozen=True)
class Config:
    """Command line."""

    peer: tuple[Literal["torchdiffeq"], ...] = ()
    width: int = 64
    batch: int = 256
    gain: float = 10.0
    """Of the last layer's initial weights: with `until`, a field that takes the steps of a trained classifier's."""
    until: float = 5.0
    rounds: int = 15
    """Turns each contestant takes; the median is reported."""
    calls: int = 20
    """A turn."""
    seed: int = 0
    cpu: bool = False
    """Count seconds of the processor, not of the clock: for one core beside other load."""
    smoke: bool = False
    out: Path | None = None


@dataclass
class Contestant:
    """What is timed: each call returns when its result is there, the first one compiles. `evaluations`: of a solve."""

    name: str
    train: Callable[[], Any]
    predict: Callable[[], Any]
    evaluations: Callable[[], int]


def initial(config: Config) -> tuple[eqx.nn.MLP, np.ndarray, np.ndarray]:
    """The network, start points and targets."""
    mlp = eqx.nn.MLP(2, 2, config.width, 2, jnp.tanh, dtype=jnp.float32, key=jax.random.key(config.seed))
    mlp = eqx.tree_at(lambda m: m.layers[-1].weight, mlp, replace_fn=lambda w: config.gain * w)
    x = np.random.default_rng(config.seed).normal(size=(config.batch, 2)).astype(np.float32)
    return mlp, x, x[:, ::-1].copy()


class Field(eqx.Module):
    """`f(t, y, args)` of a batch."""

    mlp: eqx.nn.MLP

    def __call__(self, t: Any, y: jax.Array, args: Any) -> jax.Array:
        """Layer by layer, as matrix products over the batch."""
        (w1, b1), (w2, b2), (w3, b3) = (cast(tuple, (layer.weight.T, layer.bias)) for layer in self.mlp.layers)
        return jnp.tanh(jnp.tanh(y @ w1 + b1) @ w2 + b2) @ w3 + b3


# A contestant's solve: the field, the start, the end of time, the penalty's weight and a key give the end state, the
# penalty, what to report and the solve's statistics.
Solve = Callable[..., tuple[jax.Array, Any, Any, dict[str, Any]]]


def opkit(field: Field, y0: jax.Array, until: float, weight: Any, key: Any, penalty: str | None = None) -> Any:
    """Ours; `recorded` has its value reported and not added."""
    kinds: dict[str, Callable[[], Regulariser]] = {
        "global error": lambda: GlobalPenalty("error", weight),
        "local uniform": lambda: LocalPenalty("error", weight, at="uniform"),
        "local accepted": lambda: LocalPenalty("error", weight, at="accepted"),
        "recorded": lambda: GlobalPenalty("error", weight),
    }
    integrator = Integrator(diffrax.Dopri5(), diffrax.PIDController(rtol=1e-5, atol=1e-5), **SETTINGS)
    model = NeuralODE(field, integrator)
    out = model(y0, 0.0, until, regulariser=None if penalty is None else kinds[penalty](), key=key)
    added = 0.0 if penalty == "recorded" else out.penalty
    return out.ys[-1], added, jax.lax.stop_gradient(out.value), out.solution.stats


def plain(field: Field, y0: jax.Array, until: float, weight: Any, key: Any) -> Any:
    """Diffrax, written out."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field), diffrax.Dopri5(), jnp.float32(0), jnp.float32(until), None, y0,
        stepsize_controller=diffrax.PIDController(rtol=1e-5, atol=1e-5), max_steps=SETTINGS["max_steps"], throw=False,
    )  # fmt: skip
    return solution.ys[-1], 0.0, 0.0, solution.stats  # pyright: ignore[reportOptionalSubscript]  # saved at t1


def jax_contestant(name: str, solve: Solve, config: Config) -> Contestant:
    """A contestant of this process, its state donated."""
    mlp, x, y = initial(config)
    optimiser = optax.adam(1e-4)
    params, static = eqx.partition(Field(mlp), eqx.is_inexact_array)

    def step(state, weight, key):
        params, memory = state

        def loss(params):
            end, penalty, value, _ = solve(eqx.combine(params, static), jnp.asarray(x), config.until, weight, key)
            return jnp.mean((end - y) ** 2) + penalty, value

        (value, reported), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        update, memory = optimiser.update(gradient, memory, params)
        return (optax.apply_updates(params, update), memory), (value, reported)

    def predict(params, weight, key):
        end, penalty, value, stats = solve(eqx.combine(params, static), jnp.asarray(x), config.until, weight, key)
        return end, penalty, value, stats

    state = jax.jit(lambda p: (jax.tree.map(jnp.array, p), optimiser.init(p)))(params)
    train, infer = jax.jit(step, donate_argnums=0), jax.jit(predict)
    weight, key = jnp.float32(0), jax.random.key(config.seed)

    def advance():
        nonlocal state
        state, loss = train(state, weight, key)
        jax.block_until_ready(loss)

    return Contestant(
        name,
        train=advance,
        predict=lambda: jax.block_until_ready(infer(params, weight, key)),
        evaluations=lambda: 6 * int(infer(params, weight, key)[-1]["num_steps"]) + 1,
    )


def torchdiffeq(config: Config) -> Contestant:
    """Its `odeint` in eager PyTorch, with the same weights."""
    import torch  # pyright: ignore[reportMissingImports]  # lives in its own environment
    from torchdiffeq import odeint  # pyright: ignore[reportMissingImports]  # likewise

    mlp, x, y = initial(config)
    linear = [torch.nn.Linear(layer.in_features, layer.out_features) for layer in mlp.layers]
    with torch.no_grad():
        for theirs, ours in zip(linear, mlp.layers, strict=True):
            theirs.weight.copy_(torch.from_numpy(np.array(ours.weight)))
            theirs.bias.copy_(torch.from_numpy(np.array(ours.bias)))
    network = torch.nn.Sequential(linear[0], torch.nn.Tanh(), linear[1], torch.nn.Tanh(), linear[2])
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    start, target, times = torch.from_numpy(x), torch.from_numpy(y), torch.tensor([0.0, config.until])
    calls = 0

    def field(t, state):
        nonlocal calls
        calls += 1
        return network(state)

    solve = partial(odeint, field, start, times, rtol=1e-5, atol=1e-5, method="dopri5")

    def train():
        optimiser.zero_grad()
        ((solve()[-1] - target) ** 2).mean().backward()
        optimiser.step()

    def evaluations():
        nonlocal calls
        calls = 0
        predict()
        return calls

    predict = torch.no_grad()(lambda: solve()[-1])
    return Contestant("torchdiffeq", train, predict, evaluations)


def timed(contestants: list[Contestant], what: str, config: Config) -> dict[str, float]:
    """Median seconds a call of each, taking turns, and in `first ...` those of the first call."""
    clock = time.process_time if config.cpu else time.perf_counter
    seconds: dict[str, list[float]] = {}
    for contestant in contestants:
        start = clock()
        getattr(contestant, what)()
        seconds[f"first {contestant.name}"] = [clock() - start]
    for turn in range(config.rounds):
        for contestant in contestants if turn % 2 else contestants[::-1]:
            start = clock()
            for _ in range(config.calls):
                getattr(contestant, what)()
            seconds.setdefault(contestant.name, []).append((clock() - start) / config.calls)
    return {name: median(values) for name, values in seconds.items()}


def main(config: Config) -> dict[str, Any]:
    """Runs all; `ratios` are ours over Diffrax's and torchdiffeq's, and with recording over without."""
    if config.smoke:
        config = Config(peer=config.peer, width=8, batch=4, rounds=1, calls=1, smoke=True, out=config.out)
    contestants = [jax_contestant("opkit", opkit, config), jax_contestant("diffrax", plain, config)]
    contestants += [jax_contestant(name, partial(opkit, penalty=name), config) for name in TARGETS]
    contestants += [torchdiffeq(config)] if config.peer else []
    results: dict[str, Any] = {"evaluations": {c.name: c.evaluations() for c in contestants}, "ratios": {}}
    print("evaluations:", results["evaluations"])
    for what in ("train", "predict"):
        seconds = results[what] = timed(contestants, what, config)
        for contestant in contestants:
            print(f"{what:8s} {contestant.name:16s} {1e3 * seconds[contestant.name]:8.2f} ms", flush=True)
        for name in ("diffrax", *config.peer):
            results["ratios"][f"{what}: opkit / {name}"] = seconds["opkit"] / seconds[name]
        for name in TARGETS:
            results["ratios"][f"{what}: {name} / opkit"] = seconds[name] / seconds["opkit"]
    for name, ratio in results["ratios"].items():
        print(f"{name:32s} {ratio:.3f}")
    results["targets"] = TARGETS | {"diffrax": 1.0, "torchdiffeq": 0.5}
    results["versions"] = {"jax": jax.__version__, "diffrax": diffrax.__version__, "device": str(jax.devices()[0])}
    if config.out:
        config.out.write_text(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    main(tyro.cli(Config))
