"""One small field of every kind, from two coordinates to one value."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from opkit.fields import (
    MLP,
    SIREN,
    Cauchy,
    Chain,
    FactorisedDense,
    FourierFeatures,
    GaussianFeatures,
    ModifiedMLP,
    ModulatedSIREN,
    PeriodicEmbedding,
    PirateNet,
    Rescale,
    Separable,
    Snake,
)

KEY = jax.random.key(0)
SMALL = {"width": 6, "depth": 2, "key": KEY}


def deepened(net: PirateNet, alpha: float = 0.3) -> PirateNet:
    """A PirateNet as training leaves it, its blocks at work."""
    return eqx.tree_at(lambda n: [b.alpha for b in n.blocks], net, [jnp.array(alpha)] * len(net.blocks))


def _embedded_mlp():
    embedding = Chain(Rescale((0.0, -1.0), (1.0, 1.0)), FourierFeatures(2, 3, scale=(1.0, 2.0), key=KEY))
    return Chain(embedding, MLP(6, 1, linear=partial(FactorisedDense, mean=1.0), **SMALL))


def _pirate():
    embedding = PeriodicEmbedding((None, 2.0))
    return Chain(embedding, deepened(PirateNet(embedding.size, 1, linear=FactorisedDense, **SMALL)))


FIELDS = {
    "mlp": lambda: MLP(2, 1, **SMALL),
    "cauchy": lambda: MLP(2, 1, activation=Cauchy(), **SMALL),
    "modified": lambda: ModifiedMLP(2, 1, **SMALL),
    "embedded": _embedded_mlp,
    "pirate": _pirate,
    "siren": lambda: SIREN(2, 1, omega=(2.0, 3.0), **SMALL),
    "modulated": lambda: eqx.Partial(
        ModulatedSIREN(2, 1, code_size=3, omega=2.0, **SMALL), code=jnp.array([0.3, -1.0, 0.5])
    ),
    "gaussians": lambda: GaussianFeatures(2, 1, gaussians=7, width=0.5, key=KEY),
    "separable": lambda: Separable([MLP(1, 4, activation=Snake(2.0), **SMALL), SIREN(1, 4, omega=2.0, **SMALL)]),
}
