"""Maps one after another: an embedding and then a network is a field again."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from solvers import as_module

Map = Callable[[Array], Array]


class Chain(eqx.Module):
    """`f = f_n ∘ ... ∘ f_1`: any callables, in the order in which they act.

        embedding = Chain(Rescale((0.0, -1.0), (1.0, 1.0)), PeriodicEmbedding((None, 2.0)))
        field = Chain(embedding, MLP(3, 1, width=64, depth=4, key=key))

    A plain function may stand between, and is not trained. A chain has the `features` and the `readout` of its last
    map, where that has them, so that `fit_readout` takes it. **Raises:** `ValueError` for no map.
    """

    maps: tuple[Map, ...]

    def __init__(self, *maps: Map):
        if not maps:
            raise ValueError("`maps` is empty; expected at least one callable, as in Chain(embedding, MLP(...)).")
        self.maps = tuple(as_module(f) for f in maps)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        """Evaluate at one point."""
        return self.maps[-1](self._before_last(x))

    def features(self, x: Float[Array, " d"]) -> Float[Array, " m"]:
        """What the last map's readout sees."""
        last: Any = self.maps[-1]
        return last.features(self._before_last(x))

    @property
    def readout(self) -> Any:
        """The last map's."""
        last: Any = self.maps[-1]
        return last.readout

    def _before_last(self, x: Array) -> Array:
        for f in self.maps[:-1]:
            x = f(x)
        return x
