"""The problems operators are compared on: their data, where it lives, and how an error is measured."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import jax.numpy as jnp
import numpy as np

from opkit.data import Identity, Normalisation, Pair, fit_normaliser, read_pairs, read_trajectories
from opkit.training import relative_l2
from solvers import ETDRK, Domain, Grid, Placement, Points
from solvers.equations import Burgers


@dataclasses.dataclass(frozen=True)
class Problem:
    """Pairs to learn from and to test on, by label; `states` to roll out, `(samples, time, channels, *n)`.

    The first `outputs` of the `inputs` channels are what a stepper moves on, the others are parameters that stay.
    """

    name: str
    kind: str
    """`pairs`, `steps`, `set` (of measurements) or `function` (to a number)."""
    train: Pair
    test: Mapping[str, Pair]
    domains: Mapping[str, Domain]
    trained_at: str
    periodic: bool
    loss: Callable[..., Any]
    input: Normalisation
    output: Normalisation
    parameters: int
    batch_size: int
    states: np.ndarray | None = None
    classical: Mapping[str, Callable[[Any], Any]] = dataclasses.field(default_factory=dict)
    """Steps of the classical solver on the same grid, `(channels, *n)` to itself, by what they are called."""

    @property
    def domain(self) -> Any:
        """Where it is trained."""
        return self.domains[self.trained_at]

    @property
    def inputs(self) -> int:
        """Channels in."""
        return self.train[0].shape[1]

    @property
    def outputs(self) -> int:
        """Channels out."""
        return self.train[1].shape[1]

    def split(self, part: int) -> "Problem":
        """Trained on all but the last `1 / part` of the training samples and tested there; the tests are let alone."""
        (x, y), held = self.train, max(1, len(self.train[0]) // part)
        test = {self.trained_at: (x[-held:], y[-held:])}
        return dataclasses.replace(self, train=(x[:-held], y[:-held]), test=test, states=None)


PAIRS: dict[str, tuple[str, int, Placement]] = {
    "d1": ("d1.h5", 1, "left"),
    "d2": ("d2.h5", 2, "nodes"),
    "darcy16": ("darcy16.npz", 2, "left"),
}
STEPS = {  # points along an axis (None: all that the file has), states of a rollout
    "d1-rollout": ("d1.h5", None, 10),
    "d3": ("d3.h5", None, 20),
    "d4": ("d4.h5", None, 10),
    "d4-coarse": ("d4.h5", 32, 10),
    "d5": ("d5.h5", 64, 20),
    "d5-irregular": ("d5.h5", 64, 20),
    "burgers16": ("burgers16.npz", None, 16),
}
NAMES = (*PAIRS, *STEPS, "d7", "d8")
EXTENT = {"d3": 64.0}
PARAMETERS = {"d2": 150_000, "d4": 250_000, "d4-coarse": 250_000, "darcy16": 380_000, "d8": 20_000, "d7": 150_000}
BATCH = {"d2": 16, "d4": 8, "d4-coarse": 8, "d7": 16, "d8": 64}


def read_problem(name: str, folder: Path, *, samples: int = 0, smoke: bool = False) -> Problem:
    """A problem by its name, from the files of `generate_bench.py` or the reference data in `folder`.

    **Arguments:** `samples`: train on the first so many pairs; 0 for all. `smoke`: random numbers of the right shapes.

    **Raises:** `ValueError` for a name or a file that is not there.
    """
    if name not in NAMES:
        raise ValueError(f"`problem` has {name!r}; expected some of {NAMES}.")
    make = {"d7": _calderon, "d8": _regression}.get(name, _pairs if name in PAIRS else _steps)
    problem = make(name, folder, smoke)
    x, y = problem.train
    return dataclasses.replace(problem, train=(x[:samples], y[:samples])) if samples else problem


def _path(folder: Path, file: str) -> Path:
    path = folder / file
    if not path.exists():
        made = file.endswith(".h5")
        raise ValueError(
            f"`data` is {folder}, where {file} is missing: "
            + (
                f"make it by `python experiments/generate_bench.py --out {folder} --sets {path.stem}`."
                if made
                else "it is example data that neuraloperator ships; give the folder that has it."
            )
        )
    return path


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def _problem(name: str, kind: str, train: Pair, test: Mapping[str, Pair], domains: Any, **rest: Any) -> Problem:
    defaults: dict[str, Any] = {
        "loss": relative_l2,
        "input": fit_normaliser(train[0]),
        "output": fit_normaliser(train[1]),
    }
    sizes = {"parameters": PARAMETERS.get(name, 100_000), "batch_size": BATCH.get(name, 32)}
    return Problem(name, kind, train, test, domains, trained_at=next(iter(domains)), **{**defaults, **sizes, **rest})


def _pairs(name: str, folder: Path, smoke: bool) -> Problem:
    file, ndim, placement = PAIRS[name]
    if smoke:
        make = lambda samples, n: (_random(samples, 1, *(n,) * ndim), _random(samples + 1, 1, *(n,) * ndim)[1:])
        odd = placement == "nodes"
        train, test = make(24, 16 + odd), {str(n): make(4, n) for n in (16 + odd, 32 + odd)}
    else:
        train, test = read_pairs(_path(folder, file), ndim=ndim, dtype=np.float32)
    labels = sorted(test, key=int)
    domains = {label: Grid(test[label][0].shape[2:], placement=placement) for label in labels}
    return _problem(name, "pairs", train, test, domains, periodic=name == "d1")


def _steps(name: str, folder: Path, smoke: bool) -> Problem:
    file, points, horizon = STEPS[name]
    if smoke:
        n = (16, 16) if name.startswith("d4") else (32,) if points else (16,)
        points = 16 if points else None
        train, test = _random(4, 7, 1, *n), _random(3, 4, 1, *n)
        parameters = [_random(4, 4), _random(3, 4)] if name.startswith("d5") else None
    elif file.endswith(".npz"):
        with np.load(_path(folder, file)) as arrays:
            train, test = (arrays[f"y_{part}"][:, :, None].astype(np.float32) for part in ("train", "test"))
        parameters = None
    else:
        sets = [read_trajectories(_path(folder, file), part) for part in ("train", "test")]
        train, test = (s.states for s in sets)
        vary = [k for k, v in sorted(sets[0].parameters.items()) if v.ndim and np.ptp(v)]
        parameters = [np.stack([s.parameters[k] for k in vary], 1) for s in sets] if vary else None
    extent, full = EXTENT.get(name, 1.0), train.shape[3]
    strides: dict[str, Any] = {str(points or full): slice(None, None, full // (points or full))}
    domains: dict[str, Any] = {}
    if name == "d5-irregular":
        kept = np.sort(np.random.default_rng(0).choice(full, points or full, replace=False))
        x = kept[:, None] / full
        weights = np.diff(x[:, 0], append=x[0, 0] + 1)
        domains["irregular"] = Points(
            jnp.asarray(x, jnp.float32), jnp.asarray((weights + np.roll(weights, 1)) / 2, jnp.float32)
        )
        strides = {"irregular": kept}
    elif points:
        strides[str(full)] = slice(None)
    at = {
        label: [states[(..., *(where,) * (states.ndim - 3))] for states in (train, test)]
        for label, where in strides.items()
    }
    domains |= {label: Grid(s.shape[3:], upper=extent) for label, (s, _) in at.items() if label not in domains}
    if parameters is not None:
        at = {label: [_with(s, p) for s, p in zip(both, parameters, strict=True)] for label, both in at.items()}
    label = next(iter(strides))
    one_step = {key: _windows(states) for key, (_, states) in at.items()}
    rest: dict[str, Any] = {"states": at[label][1][:, : horizon + 1], "periodic": True}
    if name == "burgers16":
        rest["classical"] = {}
        for parts in (1, 2, 8):
            part = ETDRK(Burgers(0.01), domains[label], 1 / (train.shape[1] - 1) / parts)
            rest["classical"][f"ETDRK4 of {parts}"] = lambda u, part=part, parts=parts: _repeat(part, u, parts)
    problem = _problem(name, "steps", _windows(at[label][0]), one_step, domains, **rest)
    x = fit_normaliser(problem.train[0])
    y = type(x)(x.mean.value[:1], x.std.value[:1])  # one scale for the state, before and after a step
    return dataclasses.replace(problem, input=x, output=y)


def _repeat(step: Callable[[Any], Any], u: Any, times: int) -> Any:
    for _ in range(times):
        u = step(u)
    return u


def _with(states: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Parameters as channels that are constant in space and time."""
    shape = (len(states), 1, parameters.shape[1], *(1,) * (states.ndim - 3))
    constant = np.broadcast_to(
        parameters.reshape(shape).astype(np.float32), (*states.shape[:2], parameters.shape[1], *states.shape[3:])
    )
    return np.concatenate([states, constant], 2)


def _windows(states: np.ndarray) -> Pair:
    """All pairs of a state with its parameters, and the next state."""
    flat = lambda a: a.reshape(-1, *a.shape[2:])
    return flat(states[:, :-1]), flat(states[:, 1:, :1])


def _calderon(name: str, folder: Path, smoke: bool) -> Problem:
    """Measurements `(20, 2, 128)`: potential and current, each of unit deviation over the training set."""
    if smoke:
        g, parts = _random(20, 32), [(_random(n, 20, 32), _random(n, 1, 8, 8)) for n in (24, 4)]
    else:
        with h5py.File(_path(folder, "d7.h5")) as file:
            g, *rest = (np.asarray(file[key], np.float32) for key in (
                "potentials", "currents_train", "conductivity_train", "currents_test", "conductivity_test",
            ))  # fmt: skip
        parts = [(rest[0], rest[1]), (rest[2], rest[3])]
    scale = parts[0][0].std()
    stack = lambda currents: np.stack([np.broadcast_to(g / g.std(), currents.shape), currents / scale], 2)
    train, test = ((stack(currents), a) for currents, a in parts)
    label = str(train[1].shape[-1])
    grid = Grid(train[1].shape[2:], placement="cells")
    return _problem(name, "set", train, {label: test}, {label: grid}, periodic=False, input=Identity())


def _regression(name: str, folder: Path, smoke: bool) -> Problem:
    """The loss is the squared error over the variance of `Y` in the training set."""
    if smoke:
        parts = {part: (_random(n, 1, 51), _random(n, 1)) for part, n in (("train", 80), ("test", 8))}
    else:
        with h5py.File(_path(folder, "d8.h5")) as file:
            parts = {p: (np.asarray(file[f"x_{p}"]), np.asarray(file[f"y_{p}"])) for p in ("train", "test")}
    variance = float(parts["train"][1].var())
    loss = lambda prediction, target, domain: jnp.mean((prediction - target) ** 2) / variance
    points = parts["train"][0].shape[-1]
    grid = Grid(points, placement="nodes")
    test = {str(points): parts["test"]}
    return _problem(name, "function", parts["train"], test, {str(points): grid}, periodic=False, loss=loss)
