"""What one training step, one inference and one short training of an FNO cost, beside two peers.

Shows: milliseconds a training step (AdamW on the mean relative L2 error) and an inference batch, first call apart (for
JAX, the compilation), for 1-D 1024, 2-D 16, 64 and 128, 3-D 32; then an epoch over 1000 samples of 16x16 in batches of
64, and 15 such epochs from nothing: building the model and every compilation included, imports not. All contestants
have the same batch, optimiser and number of parameters (printed: neuraloperator's mode counts keep exactly our modes,
pdequinox's width comes nearest), but for the rows named "example": there the model of `fno_darcy.py --preset peer`
meets that of neuraloperator's own Darcy example, which has more parameters and the larger error. Contestants take
turns within one run; printed are medians and our part of each peer's. The floor is the arithmetic of our step, counted
by hand: three forward passes' worth. Beside other load compare on one core, with `--cpu`
(`OMP_NUM_THREADS=1 taskset -c 0`): PyTorch's threads wait for one another.

Costs: minutes on 2 CPU cores, most of it the epochs; `--smoke` takes seconds.

    python experiments/benchmarks/fno_step.py --peer neuraloperator pdequinox --out fno_step.json
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log2, prod
from pathlib import Path
from statistics import median
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from opkit.operators import FNO
from solvers import Grid


@dataclass(frozen=True)
class Case:
    """A size of the problem: our modes per axis, the width and the batch."""

    shape: tuple[int, ...]
    modes: tuple[int, ...]
    width: int
    batch: int


CASES = (
    Case((1024,), (16,), 32, 32),
    Case((16, 16), (5, 5), 24, 64),
    Case((64, 64), (12, 12), 24, 8),
    Case((128, 128), (12, 12), 24, 4),
    Case((32, 32, 32), (6, 6, 6), 16, 2),
)
PRESET = Case((16, 16), (4, 5), 24, 64)  # of `experiments/fno_darcy.py --preset peer`
SMOKE = (Case((16, 16), (3, 3), 4, 4),)


@dataclass(frozen=True)
class Config:
    """Command line."""

    peer: tuple[Literal["neuraloperator", "pdequinox"], ...] = ()
    rounds: int = 7
    """Turns each contestant takes; the median is reported."""
    epochs: int = 15
    seed: int = 0
    cpu: bool = False
    """Count seconds of the processor, not of the clock: for one core (see above) beside other load."""
    smoke: bool = False
    out: Path | None = None


@dataclass
class Contestant:
    """What is timed. Each call returns when its result is there; the first one of a kind compiles it."""

    name: str
    parameters: int
    train: Callable[[], Any]
    infer: Callable[[], Any]
    epoch: Callable[[], Any]


def relative_l2(prediction: Any, target: Any) -> Any:
    """The mean over samples of `||prediction - target|| / ||target||`, for arrays of either library."""
    error, size = ((x**2).reshape(len(x), -1).sum(-1) ** 0.5 for x in (prediction - target, target))
    return (error / size).mean()


def jax_contestant(name: str, apply: Callable, model: Any, x: np.ndarray, y: np.ndarray, batch: int) -> Contestant:
    """A contestant from `apply(model, u) -> v`, one sample a call: all steps of an epoch in one scan."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    optimiser, inputs, targets = optax.adamw(1e-3), jnp.asarray(x), jnp.asarray(y)

    def predict(params, u):
        return jax.vmap(partial(apply, eqx.combine(params, static)))(u)

    def step(state, index):
        params, memory = state
        loss, gradient = jax.value_and_grad(lambda p: relative_l2(predict(p, inputs[index]), targets[index]))(params)
        update, memory = optimiser.update(gradient, memory, params)
        return (optax.apply_updates(params, update), memory), loss

    def epoch(state, key):
        order = jnp.resize(jax.random.permutation(key, len(x)), (-(-len(x) // batch), batch))
        return jax.lax.scan(step, state, order)

    state = jax.jit(lambda p: (jax.tree.map(jnp.array, p), optimiser.init(p)))(params)  # its own copy: it is donated
    index, key, first = jnp.arange(batch), jax.random.key(0), inputs[:batch]
    train, many, infer = jax.jit(step, donate_argnums=0), jax.jit(epoch, donate_argnums=0), jax.jit(predict)

    def advance(compiled, argument):
        nonlocal state
        state, loss = compiled(state, argument)
        jax.block_until_ready(loss)

    return Contestant(
        name,
        sum(leaf.size for leaf in jax.tree.leaves(params)),
        train=partial(advance, train, index),
        infer=lambda: jax.block_until_ready(infer(params, first)),
        epoch=partial(advance, many, key),
    )


def ours(case: Case, x: np.ndarray, y: np.ndarray, seed: int) -> Contestant:
    """This project's FNO."""
    model, grid = FNO(1, 1, modes=case.modes, width=case.width, key=jax.random.key(seed)), Grid(case.shape)
    return jax_contestant("opkit", lambda model, u: model(u, grid), model, x, y, case.batch)


def pdequinox(case: Case, x: np.ndarray, y: np.ndarray, seed: int) -> Contestant:
    """Its classic FNO (no channel MLPs), at the width nearest to our number of parameters."""
    import pdequinox as peer  # pyright: ignore[reportMissingImports]  # lives in its own environment

    d, m, key = len(case.shape), case.modes[0], jax.random.key(seed)
    build = lambda width: peer.arch.ClassicFNO(d, 1, 1, hidden_channels=width, num_modes=m, key=key)

    def count(build):
        return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter_eval_shape(build)) if hasattr(leaf, "size"))

    goal = count(lambda: FNO(1, 1, modes=case.modes, width=case.width, key=key))
    width = min(range(2, 2 * case.width), key=lambda w: abs(count(partial(build, w)) - goal))
    return jax_contestant("pdequinox", lambda model, u: model(u), build(width), x, y, case.batch)


def neuraloperator(
    case: Case, x: np.ndarray, y: np.ndarray, seed: int, modes: tuple[int, ...] | None = None
) -> Contestant:
    """Its FNO in eager PyTorch, as its examples run it, with exactly our modes or with `modes` as it counts them."""
    import torch  # pyright: ignore[reportMissingImports]  # lives in its own environment
    from neuralop.models import FNO as TorchFNO  # pyright: ignore[reportMissingImports]  # likewise

    torch.manual_seed(seed)
    modes = modes or (*(2 * m - 1 for m in case.modes[:-1]), 2 * case.modes[-1] - 2)
    model = TorchFNO(n_modes=modes, in_channels=1, out_channels=1, hidden_channels=case.width)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)

    def train(index):
        optimiser.zero_grad()
        relative_l2(model(inputs[index]), targets[index]).backward()
        optimiser.step()

    def epoch():
        for index in torch.randperm(len(x)).split(case.batch):
            train(index)

    return Contestant(
        "neuraloperator",
        sum(p.numel() * (1 + p.is_complex()) for p in model.parameters()),
        train=partial(train, slice(case.batch)),
        infer=torch.no_grad()(lambda: model(inputs[: case.batch])),
        epoch=epoch,
    )


BUILDERS = {"neuraloperator": neuraloperator, "pdequinox": pdequinox}


def forward_flops(case: Case) -> dict[str, float]:
    """Real operations of our forward pass for one sample, by part; `fft` instead of `matrix`."""
    points, width, depth = prod(case.shape), case.width, 4
    box = prod(2 * m - 1 for m in case.modes[:-1]) * case.modes[-1]
    ends = 2 * width * (1 + len(case.shape)) + 2 * width * width + 2 * width * width + 2 * width
    pointwise = 2 * points * (ends + depth * 2 * width * width)
    mixing = depth * box * 8 * width * width
    matrix, rest, kept = 4 * points * case.modes[-1], points // case.shape[-1], case.modes[-1]
    for n, m in zip(case.shape[-2::-1], case.modes[-2::-1], strict=True):
        matrix, rest, kept = matrix + 8 * rest * kept * (2 * m - 1), rest // n, kept * (2 * m - 1)
    both = 2 * depth * width  # transforms, there and back
    return {
        "pointwise": pointwise,
        "mixing": mixing,
        "matrix": both * matrix,
        "fft": both * 2.5 * points * log2(points),
    }


def timed(contestants: list[Contestant], what: str, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each, taking turns, and in `first ...` those of the first turn."""
    seconds: dict[str, list[float]] = {c.name: [] for c in contestants}
    for _ in range(rounds + 1):
        for contestant in contestants:
            start = clock()
            getattr(contestant, what)()
            seconds[contestant.name].append(clock() - start)
    return {name: median(s[1:]) for name, s in seconds.items()} | {f"first {name}": s[0] for name, s in seconds.items()}


def report(label: str, seconds: dict[str, float]) -> dict[str, float]:
    """Prints one line; returns the figures."""
    parts = [f"{name} {1e3 * value:.1f} ms" for name, value in seconds.items()]
    ratios = [f"{seconds['opkit'] / seconds[name]:.2f} of {name}" for name in BUILDERS if name in seconds]
    print(f"{label:22s}", ", ".join(parts + ratios), flush=True)
    return seconds


def main(config: Config) -> dict[str, Any]:
    """Runs every case."""
    rng, clock = np.random.default_rng(config.seed), time.process_time if config.cpu else time.perf_counter
    cases = SMOKE if config.smoke else CASES
    rounds, epochs, samples = (1, 2, 16) if config.smoke else (config.rounds, config.epochs, 1000)
    builders = [ours, *(BUILDERS[name] for name in config.peer)]
    results: dict[str, Any] = {}
    for case in cases:
        name = f"{len(case.shape)}-D {case.shape[0]}"
        x = rng.normal(size=(2 * case.batch, 1, *case.shape)).astype(np.float32)
        contestants = [build(case, x, np.roll(x, 1, -1), config.seed) for build in builders]
        print(f"{name} parameters:", ", ".join(f"{c.name} {c.parameters:,}" for c in contestants))
        result = {w: report(f"{name} {w}", timed(contestants, w, rounds, clock)) for w in ("train", "infer")}
        flops = {part: 3 * case.batch * value for part, value in forward_flops(case).items()}
        print("  floor of a step:", ", ".join(f"{part} {value / 1e9:.2f} GF" for part, value in flops.items()))
        results[name] = result | {"parameters": {c.name: c.parameters for c in contestants}, "flops": flops}
    duels = {"": (next(c for c in cases if c.shape == (16, 16)), builders)}
    if "neuraloperator" in config.peer:
        duels["example, "] = (PRESET, [ours, partial(neuraloperator, modes=(8, 8))])
    for label, (case, pair) in duels.items():
        x = rng.normal(size=(samples, 1, *case.shape)).astype(np.float32)
        whole, contestants = {}, []
        for build in pair:
            jax.clear_caches()  # the cases above have compiled the random generator
            start = clock()
            contestants.append(build(case, x, np.roll(x, 1, -1), config.seed))
            for _ in range(epochs):
                contestants[-1].epoch()
            whole[contestants[-1].name] = clock() - start
        print(f"{label}parameters:", ", ".join(f"{c.name} {c.parameters:,}" for c in contestants))
        seconds = timed(contestants, "epoch", rounds, clock)
        results[f"{label}epoch"] = report(f"{label}epoch of {samples}", seconds)
        results[f"{label}{epochs} epochs"] = report(f"{label}{epochs} epochs from nothing", whole)
    results["versions"] = {"jax": jax.__version__, "device": str(jax.devices()[0])}
    if config.out:
        config.out.write_text(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    main(tyro.cli(Config))
