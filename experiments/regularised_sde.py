"""Neural SDEs that their solver finds easy: a spiral by its moments, and digits.

Claim: for SDEs the solver's own error estimate, as a penalty, is a trade-off: the curve of loss against steps over the
weights, and on it a point of at most 0.8 of the plain model's steps at a moment loss of at most 1.1 times its own. Of
the spiral that point is not borne out: see the table of claims. Published (MNIST): 0.6 to 0.8 of the prediction time.

`--data spiral`: `dz1 = (-0.1 z1^3 + 2 z2^3) dt + 0.2 z1 dW1`, `dz2 = (-2 z1^3 - 0.1 z2^3) dt + 0.2 z2 dW2` (Ito) from
(2, 0), whose means and variances at 30 times, over 10,000 paths of small steps, a neural SDE is to match; the loss is
the mean square of `moment_residuals`, over 64 paths to train and 1024 others to test, each with steps of its own.
`--data digits`: a neural SDE takes 32 features of scikit-learn's 1797 images (a fifth of them to test) from time 0 to
1, and a linear map reads off the class; one path a sample, and a batch is one state. The solver is SPaRK
(Stratonovich, adaptive).

Beside vanilla stand the three regularisers that SPaRK has: it shows no stages, of which to estimate a stiffness, and
the competitors (kinetic energy, Jacobian, Taylor) are for ODEs. The weights, which fall tenfold during training, are
chosen with `--tune`, of four candidates each: for digits on seeds 0 to 2 and a part of the training set, for the spiral
on seed 0. `curve` are further weights of the best, for the figure. A seed takes three minutes on one core, of the
spiral ten.

Pal, Ma, Shah and Rackauckas (2021), Opening the blackbox, arXiv:2105.03918; Pal, Edelman and Rackauckas (2023), Locally
regularized neural differential equations, arXiv:2303.02262.
"""

import dataclasses
from typing import Any, Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems.regularisation import Loss, Outcome, arms, compare, evaluations, pareto, ratios, tuning

from opkit.data import content_hash
from opkit.dynamics import Integrator, MLPField, NeuralSDE, Regularised, moment_residuals
from opkit.layers import Pointwise
from opkit.training import Run, launch

BEST = "global error"
REGULARISERS: tuple[str, ...] = ("global error", "local uniform", "local accepted")
CANDIDATES: dict[str, dict[str, Any]] = {
    "spiral": dict.fromkeys(REGULARISERS, (0.01, 0.03, 0.1, 0.3)),
    "digits": dict.fromkeys(REGULARISERS, (0.03, 0.1, 0.3, 1.0)),
}
WEIGHTS: dict[str, dict[str, Any]] = {
    "spiral": dict.fromkeys(REGULARISERS, 0.03),
    "digits": {"global error": 0.1, "local uniform": 0.3, "local accepted": 0.1},
}
CURVE = {"spiral": (0.1, 0.2, 0.3), "digits": (0.03, 0.3, 1.0)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a neural SDE with every regulariser. Defaults are those of the claim."""

    data: Literal["spiral", "digits"] = "spiral"
    paths: int = 64
    """To train on, each step others; of digits, the batch."""
    steps: int = 500
    learning_rate: float = 1e-2
    """The peak, after a tenth of the steps; to zero by a cosine."""
    tolerance: float = 1e-2
    """Of SPaRK, relative and absolute."""
    decay: float = 0.1
    """What remains of a penalty's weight at the end."""
    weights: dict[str, float] | None = None
    """By default `WEIGHTS`."""
    curve: tuple[float, ...] | None = None
    """By default `CURVE`."""
    tune: bool = False
    """Train with every candidate weight."""


SMOKE = {"steps": 8, "paths": 16, "tolerance": 3e-2, "weights": {"global error": 0.1}, "curve": ()}


class Classifier(eqx.Module):
    """A linear map to features, a neural SDE from time 0 to 1, and a linear map to the logits."""

    embed: Pointwise
    sde: NeuralSDE
    readout: Pointwise

    def __call__(self, x: jax.Array, **options: Any) -> tuple[jax.Array, Regularised]:
        """The logits `(batch, classes)` of a batch `(batch, d)`, and the solve."""
        out = self.sde(self.embed.channels_last(x), 0.0, 1.0, **options)
        return self.readout.channels_last(out.ys[0]), out


class Cubed(eqx.Module):
    """`f(t, y^3)`."""

    field: MLPField

    def __call__(self, t: Any, y: jax.Array, args: Any) -> jax.Array:
        """The drift of the spiral."""
        return self.field(t, y**3, args)


def spiral_moments(times: np.ndarray, paths: int = 10_000, substeps: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances `(t, 2)` over paths of Milstein's method, `substeps` of them between two times."""
    rng = np.random.default_rng(0)
    z, moments = np.tile([2.0, 0.0], (paths, 1)), []
    for h in np.diff(times, prepend=0.0) / substeps:
        for _ in range(substeps):
            w = np.sqrt(h) * rng.standard_normal(z.shape)
            z = z + h * z**3 @ np.array([[-0.1, -2.0], [2.0, -0.1]]) + 0.2 * z * w + 0.02 * z * (w**2 - h)
        moments.append((z.mean(0), z.var(0, ddof=1)))
    mean, variance = np.swapaxes(np.asarray(moments, np.float32), 0, 1)
    return mean, variance


def spiral(config: Config, run: Run, integrator: Integrator) -> tuple[Any, Any, Loss, Any]:
    """The model, the data, the loss and the test of the spiral."""
    ts = np.linspace(0.0, 1.0, 31)[1:]
    moments = spiral_moments(ts)
    run.record_data(content_hash(moments))
    keys = jax.random.split(run.key, 3)
    model = NeuralSDE(Cubed(MLPField(2, 50, 1, key=keys[0])), MLPField(2, 0, 0, key=keys[1]), integrator)
    moments = tuple(map(jnp.asarray, moments))

    def paths(model: NeuralSDE, count: int, key: Any, **options: Any) -> Regularised:
        one = lambda key: model(jnp.array([2.0, 0.0]), 0.0, 1.0, ts=ts, key=key, **options)
        return jax.vmap(one)(jax.random.split(key, count))

    def loss(model: NeuralSDE, batch: Any, regulariser: Any, step: Any, key: Any) -> tuple[Any, Any]:
        out = paths(model, config.paths, key, regulariser=regulariser, step=step)
        return jnp.mean(moment_residuals(out.ys, *moments) ** 2), out.penalty

    def predict(model: NeuralSDE) -> tuple[Any, Any]:
        out = paths(model, 1024, keys[2])
        return jnp.mean(moment_residuals(out.ys, *moments) ** 2), jnp.mean(evaluations(integrator.solver, out.solution))

    return model, None, loss, predict


def digits(config: Config, run: Run, integrator: Integrator) -> tuple[Any, Any, Loss, Any]:
    """The model, the data, the loss and the test of the digits."""
    from sklearn.datasets import load_digits

    images, labels = map(np.asarray, load_digits(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(images))
    x, y, tests = (images[order] / 16).astype(np.float32), labels[order].astype(np.int32), len(order) // 5
    if config.tune:
        x, y = x[:-tests], y[:-tests]
    train, test = (x[:-tests], y[:-tests]), (jnp.asarray(x[-tests:]), jnp.asarray(y[-tests:]))
    run.record_data(content_hash((*train, *map(np.asarray, test))))
    keys = jax.random.split(run.key, 5)
    sde = NeuralSDE(MLPField(32, 64, 1, key=keys[0]), MLPField(32, 0, 0, key=keys[1]), integrator)
    model = Classifier(Pointwise(64, 32, key=keys[2]), sde, Pointwise(32, 10, key=keys[3]))

    def loss(model: Classifier, batch: Any, regulariser: Any, step: Any, key: Any) -> tuple[Any, Any]:
        logits, out = model(batch[0], key=key, regulariser=regulariser, step=step)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]), out.penalty

    def predict(model: Classifier) -> tuple[Any, Any]:
        logits, out = model(test[0], key=keys[4])
        return jnp.mean(jnp.argmax(logits, -1) != test[1]), evaluations(integrator.solver, out.solution)

    return model, train, loss, predict


def main(config: Config, run: Run) -> dict[str, float]:
    """Train all variants in turns and measure them."""
    controller = diffrax.PIDController(rtol=config.tolerance, atol=config.tolerance)
    integrator = Integrator(diffrax.SPaRK(), controller, dt0=0.05, max_steps=512)
    problem = spiral if config.data == "spiral" else digits
    model, data, loss, predict = problem(config, run, integrator)
    weights = WEIGHTS[config.data] if config.weights is None else config.weights
    options = {"decay": config.decay, "steps": config.steps}
    objectives = arms(loss, CANDIDATES[config.data] if config.tune else weights, **options)
    if not config.tune:
        curve = CURVE[config.data] if config.curve is None else config.curve
        objectives |= arms(loss, {BEST: curve}, **options)
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.steps // 10, config.steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    outcomes = compare(
        objectives, model, data, optimiser, steps=config.steps, seed=run.seed, predict=predict,
        batch_size=None if data is None else config.paths, repeats=1 if config.tune else 15,
    )  # fmt: skip
    if config.tune:
        return tuning(outcomes)
    run.save_figure(plot(outcomes, "moment loss" if config.data == "spiral" else "test error"))
    return ratios(outcomes, BEST)


def plot(outcomes: dict[str, Outcome], error: str) -> Any:
    """Error against evaluations."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    pareto(outcomes, axis, error)
    if error == "moment loss":
        axis.set_yscale("log")
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
