"""Classify the nodes of a stochastic block model by graph diffusion and by graph convolution, from depth 1 to 64.

Claim: graph neural diffusion (GRAND), whose depth is the time of an ODE, keeps its accuracy to time 64, where a graph
convolutional network (GCN) of the same width oversmooths.

Four communities of equal size; nodes are linked with one probability inside and with a smaller one across, and carry
noisy features of their community. Ten nodes of each are labelled, a fifth of the rest validates, the others test. Every
arm at every depth is trained at the same learning rates, as long, and the one best on the validation nodes is tested.
A network that sees the features alone, and the share of the largest class, stand beside. Evaluations are those of the
vector field; a layer of the GCN is one. Seeds draw graph, features, labels and weights. A seed takes 80 seconds on one
core.

Chamberlain et al. (2021), GRAND, arXiv:2106.10934; Kipf and Welling (2017), Semi-supervised classification with graph
convolutional networks, arXiv:1609.02907; oversmoothing: Li, Han and Wu (2018), arXiv:1801.07606.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems.regularisation import evaluations

from opkit.data import content_hash
from opkit.dynamics import DiffusionKind, Graph, GraphDiffusion, Integrator
from opkit.layers import Pointwise
from opkit.training import Run, Term, init_state, launch, make_train_step
from solvers import Frozen


@dataclasses.dataclass(frozen=True)
class Config:
    """Classify nodes. Defaults are those of the claim."""

    nodes: int = 200
    classes: int = 4
    inside: float = 0.08
    across: float = 0.01
    """Probabilities of an edge."""
    features: int = 8
    signal: float = 0.5
    """The distance of the communities' mean features from zero, over the noise of each feature."""
    labelled: int = 10
    """Nodes of each class."""
    depths: tuple[int, ...] = (1, 4, 16, 64)
    width: int = 16
    steps: int = 100
    learning_rates: tuple[float, ...] = (3e-3, 2e-2)
    weight_decay: float = 5e-4
    tolerance: float = 1e-3


SMOKE = {"nodes": 60, "labelled": 4, "depths": (1, 2), "width": 4, "steps": 2, "learning_rates": (1e-2,)}


class GCN(eqx.Module):
    """`x <- relu(D^-1/2 A D^-1/2 x W)`, `depth` times, between a linear encoder and decoder; `A` has self loops."""

    encoder: Pointwise
    weights: jax.Array
    decoder: Pointwise

    def __init__(self, config: Config, depth: int, key: jax.Array):
        first, second, third = jax.random.split(key, 3)
        w = config.width
        self.encoder = Pointwise(config.features, w, key=first)
        self.weights = jax.random.normal(second, (depth, w, w)) * (2 / w) ** 0.5
        self.decoder = Pointwise(w, config.classes, key=third)

    def __call__(self, u: jax.Array, graph: Graph) -> tuple[jax.Array, jax.Array]:
        """The logits of every node, and the number of layers."""
        total = lambda values: jax.ops.segment_sum(values, graph.receivers, graph.nodes)
        degree = total(jnp.where(graph.mask, 1.0, 0.0))
        scale = jnp.where(graph.mask, (degree[graph.senders] * degree[graph.receivers]) ** -0.5, 0)
        layer = lambda x, w: (jax.nn.relu(total(scale[:, None] * x[graph.senders]) @ w), None)
        x, _ = jax.lax.scan(layer, self.encoder.channels_last(u), self.weights)
        return self.decoder.channels_last(x), jnp.asarray(float(len(self.weights)))


class Diffusion(eqx.Module):
    """GRAND for a given time."""

    model: GraphDiffusion
    time: Frozen[jax.Array]

    def __init__(self, config: Config, kind: DiffusionKind, time: int, key: jax.Array):
        controller = diffrax.PIDController(rtol=config.tolerance, atol=config.tolerance)
        integrator = Integrator(diffrax.Tsit5(), controller, max_steps=512)
        sizes = (config.features, config.width, config.classes)
        self.model, self.time = (
            GraphDiffusion(*sizes, kind=kind, integrator=integrator, key=key),
            Frozen(jnp.asarray(float(time))),
        )

    def __call__(self, u: jax.Array, graph: Graph) -> tuple[jax.Array, jax.Array]:
        """The logits of every node, and the evaluations."""
        logits, out = self.model(u, graph, self.time.value)
        return logits, evaluations(self.model.integrator.solver, out.solution).astype(float)


def draw(config: Config, seed: int) -> tuple[Graph, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Graph, features `(nodes, features)`, classes `(nodes,)`, and which nodes train, validate and test."""
    rng = np.random.default_rng(seed)
    label = np.arange(config.nodes) % config.classes
    chance = np.where(label[:, None] == label, config.inside, config.across)
    linked = np.triu(rng.random(chance.shape) < chance, 1)
    means = rng.normal(size=(config.classes, config.features))
    means *= config.signal * (config.features / np.sum(means**2, 1, keepdims=True)) ** 0.5
    features = (means[label] + rng.normal(size=(config.nodes, config.features))).astype(np.float32)
    order = rng.permutation(config.nodes)
    rank = np.empty(config.nodes, int)  # of a node among those of its class
    for c in range(config.classes):
        rank[order[label[order] == c]] = np.arange((label == c).sum())
    last = config.labelled + (config.nodes // config.classes - config.labelled) // 5
    parts = {"train": rank < config.labelled, "test": rank >= last}
    parts["validation"] = ~parts["train"] & ~parts["test"]
    return Graph.of(np.argwhere(linked | linked.T).T, config.nodes), features, label, parts


def main(config: Config, run: Run) -> dict[str, float]:
    """Train every arm at every depth and rate."""
    graph, features, label, parts = draw(config, run.seed)
    run.record_data(content_hash((np.asarray(graph.senders), features, label, *parts.values())))

    def objective(model: Any, batch: Any, *, key: jax.Array, carry: Any) -> tuple[dict[str, Term], dict, Any]:
        losses = optax.softmax_cross_entropy_with_integer_labels(model(features, graph)[0], label)
        return {"data": Term(losses, "losses", mask=jnp.asarray(parts["train"]))}, {}, carry

    @eqx.filter_jit
    def trained(model: Any, rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        optimiser = optax.adamw(rate, weight_decay=config.weight_decay)
        arrays, static = eqx.partition(init_state(model, optimiser), eqx.is_array)
        step = make_train_step(objective, optimiser)

        def body(arrays: Any, _: Any) -> tuple[Any, None]:
            state, _ = step(eqx.combine(arrays, static), None, key=run.key)
            return eqx.filter(state, eqx.is_array), None

        arrays, _ = jax.lax.scan(body, arrays, length=config.steps)
        return eqx.combine(arrays, static).model(features, graph)

    def best(model: Any) -> tuple[float, float]:
        """The accuracy on the test nodes, of the rate best on the validation nodes, and the evaluations."""
        tried = []
        for rate in config.learning_rates:
            logits, count = jax.device_get(trained(model, jnp.asarray(rate)))
            right = logits.argmax(1) == label
            tried.append((right[parts["validation"]].mean(), right[parts["test"]].mean(), float(count)))
        return max(tried, key=lambda figures: figures[0])[1:]

    arms: dict[str, Callable[[int], Any]] = {
        "gcn": lambda depth: GCN(config, depth, jax.random.fold_in(run.key, 0)),
        "linear": lambda depth: Diffusion(config, "linear", depth, jax.random.fold_in(run.key, 1)),
        "nonlinear": lambda depth: Diffusion(config, "nonlinear", depth, jax.random.fold_in(run.key, 2)),
    }
    metrics = {"accuracy/features": best(GCN(config, 0, run.key))[0], "accuracy/largest": 1 / config.classes}
    for name, build in arms.items():
        for depth in config.depths:
            accuracy, count = best(build(depth))
            metrics |= {f"accuracy/{name}@{depth}": accuracy, f"nfe/{name}@{depth}": count}
            run.log(depth, {"accuracy": accuracy, "nfe": count}, stage=name)
    run.save_figure(plot(config, tuple(arms), metrics))
    return metrics


def plot(config: Config, names: tuple[str, ...], metrics: dict[str, float]) -> Any:
    """Accuracy against depth."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for name in names:
        axis.semilogx(config.depths, [metrics[f"accuracy/{name}@{d}"] for d in config.depths], "o-", base=2, label=name)
    axis.axhline(metrics["accuracy/features"], color="grey", linestyle=":", label="features alone")
    axis.set(xlabel="layers, or time", ylabel="test accuracy", ylim=(0, 1))
    axis.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
