"""Learn the solution operator of Darcy flow, coefficient to pressure, and use it at resolutions it never saw.

Claim: on neuraloperator's bundled Darcy data (`--data darcy16.npz`, 1000 samples of 16 x 16) a Fourier neural operator
with the symmetries of the square (trained on all eight images, averaged over them) has a relative L2 error of at most
0.080 at 16 x 16 and, zero-shot, 0.105 at 32 x 32, with at most 400,000 parameters; neuraloperator's own example
reaches 0.131 and 0.155 with 192,000 (`--preset peer`: its budget), its gallery 0.101 and 0.126 with 341,000.

With `--preset informed` the operator sees the classical solver's solution on the same grid too, and learns what that
lacks: at most 0.070 and 0.095, in at most 3 minutes.

Without `--data` it draws its own problem: -div(a grad u) = 1 on the unit square, u = 0 on the boundary, `a` two-valued
by thresholding a Gaussian random field, solved on the finest grid by `solvers`. Tests are at the training resolution
and at twice and four times that. A file holds `x_train, y_train, x_test, y_test` and further `x_testN, y_testN`.

Beside the operator stand a residual network with as many parameters, trained for as many seconds; the mean solution;
the solution of the nearest training coefficient; and the classical solver on the test's own grid, the two values of the
coefficient fitted to training samples. Figures are means over the test samples of the relative error. What was tuned
was tuned on `--holdout`, a part of the training set. One seed takes about four minutes on 2 cores; on a GPU it would
be seconds, and a minute of compilation.

Li et al. (2021), Fourier neural operator for parametric partial differential equations, arXiv:2010.08895.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems.darcy import (
    Problem,
    SolutionCorrection,
    draw_darcy,
    fit_classical,
    interpolated,
    plot_darcy,
    read_darcy,
    with_solutions,
)

from opkit.data import Normalised, Normaliser, content_hash, fit_normaliser
from opkit.operators import FNO, ResNet, Symmetrised
from opkit.training import (
    Run,
    by_path,
    evaluate,
    launch,
    partition,
    relative_h1,
    relative_l2,
    supervised,
)
from solvers import Edge, Grid, Placement, symmetries


@dataclasses.dataclass(frozen=True)
class Arm:
    """A network and its training."""

    width: int
    depth: int
    epochs: float
    """Passes over the training samples, each time in one of their images."""
    learning_rate: float
    """The peak, after a linear warm-up over a tenth of the steps; from there to zero by a cosine."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Learn Darcy flow. Defaults are the recipe of the claim."""

    data: Path | None = None
    """An .npz or .h5 file to learn from; by default the problem is drawn."""
    placement: Placement = "left"
    """Where the file's points lie; `left`: at i / n, the right boundary excluded."""
    resolution: int = 16
    """Points per axis to draw the training set on."""
    samples: int = 1000
    """Training samples to draw; a twentieth as many are drawn to test."""
    holdout: int = 0
    """For tuning: test on this many of the training samples, and leave the tests alone."""

    fno: Arm = Arm(width=32, depth=4, epochs=60, learning_rate=1e-2)
    modes: tuple[int, int] = (5, 5)
    mlp_ratio: float = 0.0
    resnet: Arm = Arm(width=51, depth=8, epochs=4, learning_rate=1e-3)
    """As many parameters as the FNO, and as many epochs as take its time."""
    symmetric: bool = True
    """Train on all images under the square's symmetries, and average over them."""
    batch_size: int = 25
    weight_decay: float = 0.1
    """Of weights, not of biases."""
    informed: bool = False
    """Give the networks the classical solver's solution on the same grid, its two constants fitted to 100 training
    samples, as a second channel, and let them learn the difference."""
    l2_weight: float = 1.0
    h1_weight: float = 0.5
    """The loss is the mean over samples of the relative L2 and the relative H1 error, so weighted."""


PEER = Config(
    fno=Arm(width=24, depth=4, epochs=15, learning_rate=1e-2),
    modes=(4, 5),
    mlp_ratio=0.5,
    resnet=Arm(width=34, depth=8, epochs=1, learning_rate=2e-3),
    symmetric=False,
    batch_size=64,
    weight_decay=1e-4,
)
INFORMED = Config(
    informed=True,
    fno=Arm(width=16, depth=4, epochs=40, learning_rate=1e-2),
    modes=(8, 8),
    resnet=Arm(width=42, depth=8, epochs=1, learning_rate=1e-3),
)
SMOKE = {
    "resolution": 4,
    "samples": 60,
    "batch_size": 8,
    "fno": Arm(width=8, depth=2, epochs=2, learning_rate=1e-2),
    "resnet": Arm(width=8, depth=2, epochs=2, learning_rate=2e-3),
}
COEFFICIENT_EDGE: Edge = "nearest"
PRESSURE_EDGE: Edge = "zero"
"""What is known of the coefficient and of the pressure on the right boundary, which a `left` grid lacks."""


def build(
    kind: str,
    width: int,
    depth: int,
    modes: tuple[int, int],
    mlp_ratio: float,
    informed: bool = False,
    *,
    key: jax.Array | None = None,
) -> Normalised | SolutionCorrection:
    """The operator of one arm, before its statistics are known; what `load_model` needs beside the file."""
    key, channels = jax.random.key(0) if key is None else key, 1 + informed
    if kind == "fno":
        op = FNO(channels, 1, modes=modes, width=width, depth=depth, mlp_ratio=mlp_ratio, key=key)
    else:
        op = ResNet(channels, 1, ndim=2, width=width, depth=depth, boundary="zero", groups=1, key=key)
    units = [Normaliser(np.zeros(n, np.float32), np.ones(n, np.float32)) for n in (channels, 1)]
    return SolutionCorrection(Normalised(op, *units)) if informed else Normalised(op, *units)


def train(kind: str, config: Config, problem: Problem, run: Run) -> tuple[eqx.Module, dict[str, float]]:
    """Train one arm; the operator to evaluate, and what it cost."""
    x, y = problem.train
    grid = problem.grids[problem.trained_at]
    arm = getattr(config, kind)
    group = symmetries(grid) if config.symmetric else symmetries(grid)[:1]

    def images(fields: np.ndarray, edges: tuple[Edge, ...]) -> np.ndarray:
        return np.concatenate([jax.vmap(lambda u, g=g: g(u, grid, edge=edges))(fields) for g in group])

    edges = (COEFFICIENT_EDGE, PRESSURE_EDGE)[: x.shape[1]]
    data = images(x, edges), images(y, (PRESSURE_EDGE,))
    steps = int(arm.epochs * len(x)) // config.batch_size
    schedule = optax.warmup_cosine_decay_schedule(0.0, arm.learning_rate, steps // 10, steps)
    weights = by_path(lambda path: not path.endswith("bias"))
    decaying = optax.adamw(schedule, weight_decay=config.weight_decay, mask=weights)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), decaying)

    def loss(prediction: jax.Array, target: jax.Array, domain: Grid) -> jax.Array:
        h1 = relative_h1(prediction, target, domain, derivative="differences") if config.h1_weight else 0.0
        return config.l2_weight * relative_l2(prediction, target, domain) + config.h1_weight * h1

    shape = {"kind": kind, "width": arm.width, "depth": arm.depth}
    shape |= {"modes": config.modes, "mlp_ratio": config.mlp_ratio, "informed": config.informed}
    skeleton = build(**shape, key=jax.random.fold_in(run.key, ("fno", "resnet").index(kind) + 1))
    if isinstance(skeleton, SolutionCorrection):
        model = SolutionCorrection(Normalised(skeleton.op.op, fit_normaliser(x), fit_normaliser(y - x[:, 1:])))
    else:
        model = Normalised(skeleton.op, fit_normaliser(x), fit_normaliser(y))
    began = time.perf_counter()
    state = run.fit(
        supervised(loss, grid), model, data, optimiser, steps=steps, batch_size=config.batch_size, stage=kind
    )
    cost = {
        f"parameters/{kind}": sum(leaf.size for leaf in jax.tree.leaves(partition(model)[0])),
        f"train_seconds/{kind}": time.perf_counter() - began,
    }
    run.save_model(state.model, shape, name=kind)
    if config.symmetric:
        return Symmetrised(state.model, edge_in=edges, edge_out=PRESSURE_EDGE), cost
    return state.model, cost


def nearest(problem: Problem, x: np.ndarray, grid: Grid) -> np.ndarray:
    """For each coefficient `x` on `grid`, the solution of the training coefficient nearest in the mean square."""
    coarse = problem.grids[problem.trained_at]
    tests, known = (fields.reshape(len(fields), -1) for fields in (interpolated(x, grid, coarse), problem.train[0]))
    distance = (tests**2).sum(1)[:, None] - 2 * tests @ known.T + (known**2).sum(1)
    return interpolated(problem.train[1][distance.argmin(1)], coarse, grid)


def main(config: Config, run: Run) -> dict[str, float]:
    """Train both arms on one problem and measure them and the baselines at every resolution."""
    if config.data is None:
        problem = draw_darcy(config.resolution, config.samples, config.samples // 20, run)
    else:
        problem = read_darcy(config.data, config.placement)
    if config.holdout:
        (x, y), n = problem.train, len(problem.train[0]) - config.holdout
        order = np.random.default_rng(0).permutation(len(x))
        x, y = x[order], y[order]
        problem = problem._replace(train=(x[:n], y[:n]), test={problem.trained_at: (x[n:], y[n:])})
    run.record_data(content_hash((problem.train, dict(problem.test))))
    solver = fit_classical(problem, run)
    if config.informed:
        if solver is None:
            raise ValueError("`informed` asks for the classical solver, which takes a coefficient of two values.")
        began = time.perf_counter()
        problem = with_solutions(problem, solver)
        run.print(f"the classical solver took {time.perf_counter() - began:.1f} s for all samples")

    arms, metrics = {}, {}
    for kind in ("fno", "resnet"):
        arms[kind], cost = train(kind, config, problem, run)
        metrics |= cost
    scores = {}
    h1 = partial(relative_h1, derivative="differences")
    for kind, op in arms.items():
        kinds = {f"relative_l2/{kind}": relative_l2, f"relative_h1/{kind}": h1}
        scores |= evaluate(op, problem.test, kinds, problem.grids)
    for label, (x, y) in problem.test.items():
        grid, trained = problem.grids[label], problem.grids[problem.trained_at]
        mean = interpolated(problem.train[1].mean(0, keepdims=True), trained, grid)
        guesses = {"nearest": nearest(problem, x, grid), "mean": np.broadcast_to(mean, y.shape)}
        guesses |= {"classical": solver(x[:, :1], grid)} if solver else {}
        for name, guess in guesses.items():
            scores[f"relative_l2/{name}@{label}"] = np.asarray(
                jax.vmap(partial(relative_l2, domain=grid))(jnp.asarray(guess), jnp.asarray(y))
            )

    shown = {}
    errors = scores[f"relative_l2/fno@{problem.trained_at}"]
    sample = int(np.argsort(errors)[len(errors) // 2])  # neither the best nor the worst: the median at the first
    for label, (x, y) in problem.test.items():
        prediction = eqx.filter_jit(arms["fno"])(x[sample], problem.grids[label])
        shown[label] = (x[sample, 0], y[sample, 0], np.asarray(prediction)[0])
    title = f"FNO trained at {problem.trained_at}: the test sample of median error there, at every resolution"
    run.save_figure(plot_darcy(shown, title))
    return {name: float(np.mean(values)) for name, values in scores.items()} | metrics


if __name__ == "__main__":
    launch(main, Config, presets={"peer": PEER, "informed": INFORMED}, smoke=SMOKE)
