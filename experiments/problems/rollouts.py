"""Equations that steppers are learned for: their trajectories, their classical solvers, and what a rollout is worth."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from opkit.data import BENCH, generate, read_trajectories
from opkit.training import (
    band_errors,
    correlation_by_step,
    correlation_time,
    error_by_step,
    error_spectrum,
    finite_by_step,
    geometric_mean,
    unroll,
)
from solvers import ETDRK, Grid, repeat, vector_field
from solvers.equations import BurgersFisher, Equation

from .cells import Record

THRESHOLD = 0.8
PARAMETERS = ("advection", "convection", "viscosity", "growth")
RECIPES = {
    "d3": BENCH["d3"],
    "d3-long": dataclasses.replace(BENCH["d3"], name="d3-long", train=1, test=31, frames=501),
    "d4": BENCH["d4"],
    "d5-fine": dataclasses.replace(
        BENCH["d5"], name="d5-fine", points=64, warm_up=40, every=8, frames=101, train=256, test=64
    ),
}
"""Beside the bench's own: long rollouts on D3's attractor (seed 1), and D5 at a fifth of its step, from its first step
on, when 64 points show the states."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Trajectories `(samples, time, c, *n)`, `dt` apart, in units of `std` around `mean`, and how to learn from them.

    `change` is the size of a step's change in these units. Parameters `(samples, p)`, where there are any, have mean
    zero and deviation one; `equation` takes those before that.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    grid: Grid
    dt: float
    mean: float
    std: float
    change: float
    equation: Callable[[Array], Equation]
    train_args: np.ndarray | None
    test_args: np.ndarray | None
    args_mean: np.ndarray | None
    args_std: np.ndarray | None
    parts: int
    """Steps of the classical solver in `dt`."""
    modes: int
    width: int
    depth: int
    batch_size: int
    learning_rate: float

    @property
    def channels(self) -> int:
        """Of a state."""
        return self.train.shape[2]

    @property
    def parameters(self) -> int:
        """Numbers that the equation varies by."""
        return 0 if self.train_args is None else self.train_args.shape[1]

    @property
    def data(self) -> Any:
        """What the recipes train on."""
        return self.train if self.train_args is None else (self.train, self.train_args)

    def loss(self, prediction: Array, target: Array, domain: Grid) -> Array:
        """The mean square error, in units of a step's change."""
        return jnp.mean((prediction - target) ** 2) / self.change**2

    def equation_of(self, args: Any) -> Equation:
        """The equation of standardised parameters."""
        physical = jnp.zeros(0) if args is None else self.args_mean + self.args_std * args
        return self.equation(physical)

    def solve(self, u: Array, args: Any = None) -> Array:
        """The classical solver's step, on the same grid."""
        stepper = ETDRK(self.equation_of(args), self.grid, self.dt / self.parts)
        return (repeat(stepper, self.parts)(self.mean + self.std * u) - self.mean) / self.std

    def rate(self, u: Array, args: Any = None) -> Array:
        """`du/dt` of the equation."""
        return vector_field(self.equation_of(args), self.grid)(0.0, self.mean + self.std * u, None) / self.std


# in one dimension nearly all modes: `u + op(u)` cannot damp those that it mixes only point by point
SETTINGS: dict[str, dict[str, Any]] = {
    "ks": {"parts": 1, "modes": 32, "width": 24, "depth": 4, "batch_size": 32, "learning_rate": 3e-3},
    "burgers": {"parts": 1, "modes": 32, "width": 24, "depth": 4, "batch_size": 32, "learning_rate": 3e-3},
    "navier_stokes": {"parts": 8, "modes": 8, "width": 16, "depth": 4, "batch_size": 8, "learning_rate": 3e-3},
}


def _read(name: str, folder: Path, seed: int = 0) -> Any:
    """Both parts of a set, generated first if it is not there."""
    path = folder / f"{name}.h5"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        generate(RECIPES[name], path, seed=seed)
    return read_trajectories(path, "train"), read_trajectories(path, "test")


def read_case(name: str, folder: Path, *, smoke: bool = False) -> Case:
    """`ks` (D3, tested over 500 steps), `burgers` (D5 on 64 points, 100 steps) or `navier_stokes`
    (D4 on 32 x 32 points). What `folder` lacks is generated there.

    **Arguments:** `smoke`: random numbers in place of files.

    **Raises:** `ValueError` for another name.
    """
    if name not in SETTINGS:
        raise ValueError(f"`case` is {name!r}; expected one of {sorted(SETTINGS)}.")
    settings, args = dict(SETTINGS[name]), None
    if smoke:
        n = {"ks": (32,), "burgers": (32,), "navier_stokes": (16, 16)}[name]
        draw = lambda i, *shape: np.random.default_rng(i).uniform(size=shape).astype(np.float32)
        train, test = draw(0, 4, 31, 1, *n), draw(1, 3, 31, 1, *n)
        args = [draw(2, 4, 4), draw(3, 3, 4)] if name == "burgers" else None
        settings |= {"modes": 4, "width": 4, "depth": 1, "batch_size": 2}
    elif name == "ks":
        train, test = _read("d3", folder)[0].states, _read("d3-long", folder, seed=1)[1].states
    elif name == "burgers":
        parts = _read("d5-fine", folder)
        train, test = (part.states for part in parts)
        args = [np.stack([part.parameters[p] for p in PARAMETERS], 1).astype(np.float32) for part in parts]
    else:
        train, test = (part.states[..., ::2, ::2] for part in _read("d4", folder))
    recipe = {"ks": RECIPES["d3"], "burgers": RECIPES["d5-fine"], "navier_stokes": RECIPES["d4"]}[name]
    grid = Grid(train.shape[3:], upper=recipe.grid.upper)
    mean, std = float(train.mean()), float(train.std())
    train, test = ((u - mean) / std for u in (train, test))
    equation: Callable[[Array], Equation] = lambda p: recipe.draw(jax.random.key(0), grid)[1]
    if args is not None:
        equation, args_mean, args_std = lambda p: BurgersFisher(*p), args[0].mean(0), args[0].std(0)
        settings |= {"args_mean": args_mean, "args_std": args_std}
        settings |= dict(zip(("train_args", "test_args"), ((a - args_mean) / args_std for a in args), strict=True))
    else:
        settings |= dict.fromkeys(("train_args", "test_args", "args_mean", "args_std"))
    change = float(np.sqrt(np.mean(np.diff(train, axis=1) ** 2)))
    return Case(name, train, test, grid, recipe.dt * recipe.every, mean, std, change, equation, **settings)


def roll(step: Callable[..., Any], case: Case, steps: int, *, bundle: int = 1) -> np.ndarray:
    """The states `(samples, steps, c, *n)` after the first ones of the test, by an operator."""
    return np.asarray(_roll(step, case.test[:, 0], case.test_args, case.grid, steps, bundle))


@eqx.filter_jit
def _roll(step: Any, initial: Any, args: Any, grid: Grid, steps: int, bundle: int) -> Array:
    def one(sample: Any) -> Array:
        u, args, number = sample
        key = jax.random.fold_in(jax.random.key(0), number)
        return unroll(step, u[None], grid, steps=-(-steps // bundle), bundle=bundle, args=args, key=key)[:steps]

    return jax.lax.map(one, (initial, args, jnp.arange(len(initial))), batch_size=16)


def measure(path: np.ndarray, case: Case) -> Record:
    """What a rollout of the test is worth: see the head of `rollout_recipes.py`."""
    steps = path.shape[1]
    there, truth = (case.mean + case.std * u for u in (path, case.test[:, 1 : steps + 1]))
    errors, correlations = _by_step(there, truth, case.grid)
    times = jax.vmap(partial(correlation_time, dt=case.dt, threshold=THRESHOLD))(correlations)
    first, last = (np.where(np.isfinite(u), u, 0.0) for u in (there[:, 0], there[:, -1]))
    spectrum = error_spectrum(first - truth[:, 0], truth[:, 0], case.grid, periodic=True)
    tail = band_errors(error_spectrum(last, truth[:, -1], case.grid, periodic=True))["high"]
    return {
        "correlation_time": float(jnp.mean(times)),
        "error": float(jnp.median(geometric_mean(errors))),
        "first": float(jnp.median(errors[:, 0])),
        "last": float(jnp.median(errors[:, -1])),
        "finite": float(finite_by_step(jnp.asarray(path))[-1]),
        "high": band_errors(spectrum)["high"],
        "tail": tail,
        "errors": np.median(errors, 0).tolist(),
        "correlations": np.mean(correlations, 0).tolist(),
        "spectrum": spectrum.tolist(),
    }


@eqx.filter_jit
def _by_step(path: Any, truth: Any, grid: Grid) -> tuple[Array, Array]:
    return tuple(jax.vmap(lambda p, t, f=f: f(p, t, grid))(path, truth) for f in (error_by_step, correlation_by_step))


def baselines(case: Case) -> dict[str, Record]:
    """The initial state kept, and the classical solver on the same grid in single precision."""
    still = np.broadcast_to(case.test[:, :1], case.test[:, 1:].shape)
    solver = lambda u, domain, *, args, key: case.solve(u, args)
    return {"persistence": measure(still, case), "solver": measure(roll(solver, case, still.shape[1]), case)}


def plot(records: dict[str, Record], case: Case) -> Any:
    """Correlations and errors by time, the error of the first step by wavenumber."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
    for i, (name, record) in enumerate(records.items()):
        time = case.dt * np.arange(1, len(record["errors"]) + 1)
        look: dict[str, Any] = {"label": name, "color": f"C{i % 10}", "linestyle": ("-", "--", ":")[i // 10]}
        axes[0].plot(time, record["correlations"], **look)
        axes[1].semilogy(time, record["errors"], **look)
        axes[2].semilogy(np.sqrt(record["spectrum"]), **look)
    axes[0].set(xlabel="time", title="correlation with the truth", ylim=(0, 1))
    axes[1].set(xlabel="time", title="relative error, median", ylim=(None, 3))
    axes[2].set(xlabel="wavenumber", title="relative error of the first step")
    axes[0].legend(fontsize=7)
    return figure
