"""The operators that are compared, each as a function of its width, and the width that meets a budget."""

import dataclasses
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from opkit.data import Normalised
from opkit.fields import SIREN, ModulatedSIREN
from opkit.layers import KernelIntegral, LowRankIntegral, Nearest, PointwiseMLP, TappedMLP
from opkit.operators import (
    CORAL,
    FNO,
    GNO,
    LSM,
    NIO,
    AdaFNN,
    DeepONet,
    MessagePassingSolver,
    MgNO,
    PhysGTO,
    ResNet,
    TransformOnce,
    UNet,
    pod,
)
from solvers import Domain, Frozen, Grid

from .bench import Problem

Build = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Contestant:
    """How to build an operator: `build(problem, width, depth, key=key)`."""

    build: Build
    depth: int = 4
    multiple: int = 1
    """Of which its width is one."""
    kinds: tuple[str, ...] = ("pairs", "steps")
    points: bool = False
    """Whether it takes scattered points."""
    fixed: bool = False
    """Whether it takes the resolution of the training alone."""
    increments: bool = True
    """Whether as a stepper it learns the change of the state; else it sees to that itself."""
    like: str = ""
    """Whose width it takes, whatever its parameters are then."""


class Increment(eqx.Module):
    """`u + op(u)` for the channels that move."""

    op: Any
    moving: int = eqx.field(static=True)

    def __call__(self, u: Array, domain: Domain, query: Domain | None = None, **keywords: Any) -> Array:
        """Apply to one sample."""
        return u[: self.moving] + self.op(u, domain, query, **keywords)


class ParametersFromChannels(eqx.Module):
    """An operator that takes as `args` what comes as constant channels behind the first `moving`."""

    op: Any
    moving: int = eqx.field(static=True)

    def __call__(self, u: Array, domain: Domain, query: Domain | None = None, *, args=None, key=None) -> Array:
        """Apply to one sample."""
        rest = u[self.moving :].reshape(-1, u[0].size)[:, 0] if len(u) > self.moving else None
        return self.op(u[: self.moving], domain, query, args=rest, key=key)


class FromBoundary(eqx.Module):
    """An operator on measurements along a boundary, whose answer is asked for on the domain it is called with."""

    op: Any
    sensors: Grid = eqx.field(static=True)

    def __call__(self, u: Array, domain: Domain, query: Domain | None = None, *, args=None, key=None) -> Array:
        """Apply to one set."""
        return self.op(u, self.sensors, domain, key=key)


class BoundaryImages(eqx.Module):
    """A convolutional network on an image of every current and side, constant along the inward normal."""

    op: Any

    def __call__(self, u: Array, domain: Domain, query: Domain | None = None, *, args=None, key=None) -> Array:
        """Apply to one set `(l, 2, 4 n)`: counter-clockwise from the corner of the least coordinates."""
        low, right, top, left = jnp.split(u[:, 1], 4, axis=-1)
        n = low.shape[-1]
        along = [jnp.broadcast_to(side[:, :, None], (len(u), n, n)) for side in (low, top[:, ::-1])]
        across = [jnp.broadcast_to(side[:, None, :], (len(u), n, n)) for side in (right, left[:, ::-1])]
        return self.op(jnp.concatenate(along + across), domain, key=key)


class OnSamples(eqx.Module):
    """A network on the values at the points, or on their scores along fixed directions `(n, scores)`."""

    network: Any
    directions: Frozen | None = None

    def __call__(self, u: Array, domain: Domain, query: Domain | None = None, *, args=None, key=None) -> Array:
        """Apply to one function."""
        values = u.reshape(-1)
        return self.network(values if self.directions is None else values @ self.directions.value)


class OnFunction(eqx.Module):
    """An operator from a function to numbers, which knows no `query`."""

    op: Any

    def __call__(self, u: Array, domain: Domain, query: Domain | None = None, *, args=None, key=None) -> Array:
        """Apply to one function."""
        return self.op(u, domain)


def modes(p: Problem) -> tuple[int, ...]:
    """16 wavenumbers in one dimension, 8 in two, no more than the grid shows."""
    return tuple(min(16 if p.domain.ndim == 1 else 8, n // 2) for n in p.domain.shape)


def fno(p: Problem, width: int, depth: int, *, key: Array, **options: Any) -> FNO:
    """With padding where both ends are points, and coordinates where it is not periodic."""
    between = "nodes" in p.domain.placement
    ends: dict[str, Any] = {"coordinates": not p.periodic, "padding": 0.25 if between else 0.0}
    return FNO(p.inputs, p.outputs, modes=modes(p), width=width, depth=depth, key=key, **(ends | options))


def local_fno(p: Problem, width: int, depth: int, *, key: Array, integral: bool = True) -> FNO:
    """Kernels of the length of the training grid's spacing; between walls in the cosine basis."""
    h = min(p.domain.spacing)
    walls = "left" not in p.domain.placement
    options: dict[str, Any] = {"basis": "cosine"} if walls else {"coordinates": False}
    options |= {"integral_radius": 3 * h} if integral else {}
    return fno(p, width, depth, key=key, padding=0.0, difference_length=h, **options)


def transform_once(p: Problem, width: int, depth: int, *, key: Array) -> TransformOnce:
    """In cosines between walls."""
    basis = "fourier" if "left" in p.domain.placement else "cosine"
    return TransformOnce(p.inputs, p.outputs, modes=modes(p), width=width, depth=depth, basis=basis, key=key)


def stencils(kind: Any, p: Problem, width: int, depth: int, *, key: Array, **options: Any) -> Any:
    """A network of convolutions that knows the boundary; `depth` counts what the class calls so, or levels."""
    size = "levels" if kind in (UNet, LSM) else "depth"
    given = {"boundary": "periodic" if p.periodic else "zero", size: depth, **options}
    return kind(p.inputs, p.outputs, ndim=p.domain.ndim, width=width, key=key, **given)


def deeponet(p: Problem, width: int, depth: int, *, key: Array, taps: int = 1) -> DeepONet:
    """Branch and trunk of equal shape; with several taps MultiONet."""
    keys, taps = jax.random.split(key), min(taps, depth)
    sizes: dict[str, Any] = {"width": width, "depth": depth, "taps": taps}
    branch = TappedMLP(p.inputs * prod(p.domain.shape), key=keys[0], **sizes)
    trunk = TappedMLP(p.domain.ndim, key=keys[1], **sizes)
    sensors = p.domain if isinstance(p.domain, Grid) else p.domain.shape[0]
    return DeepONet(branch, trunk, p.inputs, p.outputs, sensors=sensors, taps=taps)


def pod_deeponet(p: Problem, width: int, depth: int, *, key: Array) -> DeepONet:
    """On the 32 leading modes of the training outputs."""
    outputs = jnp.asarray(jax.vmap(p.output.encode)(jnp.asarray(p.train[1][:1000])))
    features = min(32, len(outputs), outputs[0].size)
    trunk, mean = pod(outputs, p.domain, features)
    inputs = p.inputs * prod(p.domain.shape)
    branch = PointwiseMLP((inputs, *(width,) * (depth - 1), features), key=key)
    return DeepONet(branch, trunk, p.inputs, p.outputs, sensors=p.domain, mean=mean)


def neighbours(p: Problem) -> Nearest:
    """Three points to either side, in two dimensions the eight around."""
    extent = p.domain.extent if isinstance(p.domain, Grid) else (1.0,) * p.domain.ndim
    return Nearest(6 if p.domain.ndim == 1 else 8, period=extent if p.periodic else None)


def gno(p: Problem, width: int, depth: int, *, key: Array, low_rank: bool = False) -> GNO:
    """Kernels of neighbours, or of low rank over all points."""
    near = partial(KernelIntegral, neighbourhood=neighbours(p), hidden=(width, width), kind="diagonal")
    integral = partial(LowRankIntegral, rank=8, hidden=(width,)) if low_rank else near
    return GNO(p.inputs, p.outputs, ndim=p.domain.ndim, width=width, depth=depth, integral=integral, key=key)


def message_passing(p: Problem, width: int, depth: int, *, key: Array) -> ParametersFromChannels:
    """One state in, one out."""
    sizes: dict[str, Any] = {
        "ndim": p.domain.ndim,
        "width": width,
        "depth": depth,
        "conditioning": p.inputs - p.outputs,
    }
    op = MessagePassingSolver(p.outputs, frames=1, bundle=1, dt=1.0, neighbourhood=neighbours(p), key=key, **sizes)
    return ParametersFromChannels(op, p.outputs)


def phys_gto(p: Problem, width: int, depth: int, *, key: Array) -> PhysGTO:
    """On the same neighbours, with 32 tokens."""
    sizes: dict[str, Any] = {"ndim": p.domain.ndim, "width": width, "depth": depth, "tokens": 32, "heads": 4}
    return PhysGTO(p.inputs, p.outputs, neighbourhood=neighbours(p), coordinates=not p.periodic, key=key, **sizes)


def coral(p: Problem, width: int, depth: int, *, key: Array) -> CORAL:
    """Codes of 32 numbers."""
    keys = jax.random.split(key, 3)
    sizes: dict[str, Any] = {"code_size": 32, "width": width, "depth": depth, "omega": 10.0, "hidden_omega": 10.0}
    fields = [
        ModulatedSIREN(p.domain.ndim, c, key=k, **sizes) for c, k in zip((p.inputs, p.outputs), keys, strict=False)
    ]
    latent = PointwiseMLP((32, width, width, 32), key=keys[2])
    return CORAL(fields[0], latent, fields[1], in_channels=p.inputs, ndim=p.domain.ndim, code_size=32)


def nio(p: Problem, width: int, depth: int, *, key: Array) -> FromBoundary:
    """Eight fields of a DeepONet, averaged over the measurements, and an FNO."""
    keys, points = jax.random.split(key, 3), p.train[0].shape[-1]
    sensors = Grid(points, upper=4.0, placement="cells")
    branch = TappedMLP(2 * points, width=width, depth=3, key=keys[0])
    trunk = TappedMLP(2, width=width, depth=3, key=keys[1])
    op = FNO(
        8,
        p.outputs,
        modes=tuple(min(8, n // 2) for n in p.domain.shape),
        width=max(1, width // 4),
        depth=depth,
        key=keys[2],
    )
    return FromBoundary(NIO(DeepONet(branch, trunk, 2, 8, sensors=sensors), op), sensors)


def fcnn(p: Problem, width: int, depth: int, *, key: Array) -> BoundaryImages:
    """A residual network on the images of the currents."""
    count = 4 * p.train[0].shape[1]
    return BoundaryImages(
        ResNet(count, p.outputs, ndim=2, width=width, depth=depth, boundary="zero", coordinates=True, key=key)
    )


def adafnn(p: Problem, width: int, depth: int, *, key: Array, bases: int = 2) -> OnFunction:
    """Two bases, and a head of two layers of 64."""
    keys = jax.random.split(key, bases + 1)
    fields = [SIREN(1, 1, width=width, depth=depth, omega=10.0, hidden_omega=10.0, key=k) for k in keys[1:]]
    return OnFunction(AdaFNN(fields, PointwiseMLP((bases, 64, 64, 1), key=keys[0])))


def on_samples(p: Problem, width: int, depth: int, *, key: Array, components: int = 0) -> OnSamples:
    """On raw samples, or on their leading principal components."""
    samples = p.train[0].reshape(len(p.train[0]), -1)
    directions = None
    if components:
        directions = Frozen(principal(samples / samples.std())[:, :components])
    size = components or samples.shape[1]
    return OnSamples(PointwiseMLP((size, *(width,) * (depth - 1), 1), key=key), directions)


def principal(samples: Float[np.ndarray, "samples n"]) -> Float[Array, "n n"]:
    """Directions of the greatest variance, scaled so that scores have about unit variance."""
    values, vectors = np.linalg.eigh(np.cov(samples.T))
    return jnp.asarray((vectors / np.sqrt(np.maximum(values, 1e-6)))[:, ::-1], jnp.float32)


CONTESTANTS = {
    "fno": Contestant(fno),
    "tfno": Contestant(partial(fno, factorisation="tucker", rank=0.1), like="fno"),
    "local-fno": Contestant(local_fno),
    "fd-fno": Contestant(partial(local_fno, integral=False)),
    "t1": Contestant(transform_once),
    "resnet": Contestant(partial(stencils, ResNet), depth=6),
    "mgno": Contestant(partial(stencils, MgNO, levels=4)),
    "unet": Contestant(partial(stencils, UNet)),
    "sinenet": Contestant(partial(stencils, UNet, waves=4, multiplier=1.4)),
    "sinenet-zero": Contestant(partial(stencils, UNet, waves=4, multiplier=1.4, boundary="zero")),
    "lsm": Contestant(partial(stencils, LSM), depth=3, multiple=8),
    "deeponet": Contestant(deeponet, fixed=True),
    "multionet": Contestant(partial(deeponet, taps=4), fixed=True),
    "pod-deeponet": Contestant(pod_deeponet, depth=3, fixed=True),
    "gno": Contestant(gno, points=True),
    "gno-low-rank": Contestant(partial(gno, low_rank=True), points=True),
    "mp": Contestant(message_passing, points=True, increments=False),
    "phys-gto": Contestant(phys_gto, depth=3, multiple=4, points=True),
    "coral": Contestant(coral, depth=3, points=True),
    "nio": Contestant(nio, multiple=8, kinds=("set",)),
    "fcnn": Contestant(fcnn, depth=6, kinds=("set",)),
    "adafnn": Contestant(adafnn, depth=3, kinds=("function",)),
    "mlp": Contestant(on_samples, depth=4, kinds=("function",)),
    "fpca": Contestant(partial(on_samples, components=2), depth=4, kinds=("function",)),
    "fpca-10": Contestant(partial(on_samples, components=10), depth=4, kinds=("function",)),
}
BEST = {
    "d1": ("fd-fno",),
    "d1-rollout": ("sinenet",),
    "d2": ("t1",),
    "d3": ("resnet",),
    "d4": ("fno",),
    "d4-coarse": ("fno",),
    "d5": ("resnet",),
    "d5-irregular": ("mp",),
    "darcy16": ("fno",),
    "burgers16": ("unet",),
    "d7": ("nio",),
    "d8": ("adafnn",),
}
"""The first of those in our tables by the same seconds; of d3 and d7 the cards' choice, not yet compared."""


def assemble(contestant: Contestant, problem: Problem, width: int, depth: int, *, key: Array) -> Normalised:
    """The model: an operator on normalised fields, of physical fields."""
    op = contestant.build(problem, width, depth, key=key)
    if problem.kind == "steps" and contestant.increments:
        op = Increment(op, problem.outputs)
    return Normalised(op, problem.input, problem.output)


def count(model: Any) -> int:
    """Trained numbers, of a model or of its shapes."""
    leaves = jax.tree.leaves(model, is_leaf=lambda leaf: isinstance(leaf, Frozen))
    return sum(leaf.size for leaf in leaves if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact))


def sizes(name: str, problem: Problem, budget: int) -> tuple[int, int]:
    """The width and depth whose number of parameters is nearest to the budget: the contestant's own depth, or one
    near it where widths alone do not come within 2 %."""
    contestant = CONTESTANTS[name]
    if contestant.like:
        return sizes(contestant.like, problem, budget)
    step, best = contestant.multiple, (1.0, 0, 0)
    key = jax.random.key(0)

    def parameters(turns: int, depth: int) -> int:
        return count(eqx.filter_eval_shape(partial(assemble, contestant, problem, turns * step, depth, key=key)))

    for depth in (contestant.depth, contestant.depth + 1, contestant.depth - 1):
        low, high = 1, 2
        while parameters(high, depth) < budget:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if parameters(middle, depth) < budget else (low, middle)
        for turns in (low, high):
            best = min(best, (abs(parameters(turns, depth) / budget - 1), turns * step, depth))
        if best[0] <= 0.02:
            break
    if not best[1]:
        raise ValueError(f"`parameters` is {budget}; no width of {name} comes near.")
    return best[1], best[2]
