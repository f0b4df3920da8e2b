"""NeuralStagger: interleaved coarse fields of a periodic field, and successive states, each by its own network."""

from collections.abc import Sequence
from math import prod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.layers import stagger, unstagger
from solvers import Domain, Grid, Operator, spectral

from .inputs import checked_grid


class Staggered(eqx.Module):
    """Space-time decomposition: every `factor`-th point of an axis goes to one operator, which makes those points.

    With `u_j` the points `j + factor Z` of the grid, `v_j = op_j(u_j)`, the answer is `v = unstagger(v_j)`. Every part
    lies on a grid `factor` times as coarse and needs nothing of the others, not in a rollout either: each may live on
    a device of its own, which takes the time of one small operator. With several `frames` the channels are those of as
    many successive states, the earliest first, and each again has its own operators: that of state `i` makes state
    `i + frames`, a step `frames` times as long (train it by recipes with `frames=frames, bundle=frames`).

    The parts share aliasing, so that a residual has to see `v`. **No consistency between grids is claimed**, whatever
    the operators claim: which of them answers at a place depends on the number of the point there. Axes whose points
    `factor` does not divide are answered on the next number that it does, by trigonometric interpolation.

    **Arguments:** `ops`: of one structure and shape, `frames * prod(factor)` of them, the parts in the order of
    `stagger`, those of the first state first. They are kept as one, whose arrays have the part for their first axis:
    shard that axis over devices. `factor`: one an axis. `frames`: states at a time.

    **Call:** `u: (frames * cin, *n)` on a periodic grid, to `(frames * cout, *n)`, or on another `query` of the box.
    `args` is given to each operator, and of `key` each its own. Each sees the coarse grid as if its points began at
    `domain.lower`.

    **Raises:** `ValueError` when built for another number of operators, or operators that differ in more than values;
    when traced, for a grid that is not periodic, or channels that `frames` does not divide.

    Huang, Shi, Meng, Wang, Gao, Zhang and Liu (2023), NeuralStagger: accelerating physics-constrained neural PDE solver
    with spatial-temporal decomposition, arXiv:2302.10255.
    """

    ops: Operator
    factor: tuple[int, ...] = eqx.field(static=True)
    frames: int = eqx.field(static=True)

    def __init__(self, ops: Sequence[Operator], *, factor: Sequence[int], frames: int = 1):
        self.factor, self.frames = tuple(factor), frames
        if min(*self.factor, frames) < 1 or len(ops) != frames * prod(self.factor):
            raise ValueError(
                f"`ops` are {len(ops)} with `factor` {self.factor} and `frames` {frames}; expected one for each part "
                "of each state, their product."
            )
        arrays, statics = zip(*(eqx.partition(op, eqx.is_array) for op in ops), strict=True)
        shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in arrays]
        if not eqx.tree_equal(*zip(shapes, statics, strict=True)):
            raise ValueError("`ops` differ in more than the values of their arrays; build them alike.")
        self.ops = eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), statics[0])

    def part(self, index: int) -> Operator:
        """The operator of one part: what a device of its own would hold."""
        return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, self.ops)

    def __call__(
        self,
        u: Float[Array, "cin *n"],
        domain: Domain,
        query: Domain | None = None,
        *,
        args: PyTree = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "cout *m"]:
        """Apply to one sample."""
        if len(u) % self.frames:
            raise ValueError(f"`u` has {len(u)} channels; expected those of {self.frames} states, one after another.")
        grid = checked_grid(u, domain, query, in_channels=len(u), ndim=len(self.factor), periodic=True)
        if set(grid.placement) != {"left"}:
            raise ValueError(f"`domain` has placement {grid.placement}; expected a periodic grid, 'left'.")
        coarse = grid.resized([-(-n // s) for n, s in zip(grid.shape, self.factor, strict=True)])
        even = coarse.resized([n * s for n, s in zip(coarse.shape, self.factor, strict=True)])
        u = _resampled(u, grid, even)
        states = u.reshape(self.frames, -1, *even.shape)
        parts = jax.vmap(lambda state: stagger(state, self.factor))(states)
        keys = None if key is None else jax.random.split(key, len(parts) * parts.shape[1])
        one = lambda op, part, key: op(part, coarse, args=args, key=key)
        made = eqx.filter_vmap(one)(self.ops, parts.reshape(-1, *parts.shape[2:]), keys)
        made = made.reshape(*parts.shape[:2], *made.shape[1:])
        v = jax.vmap(lambda state: unstagger(state, self.factor))(made).reshape(-1, *even.shape)
        return _resampled(v, even, query if isinstance(query, Grid) else grid)


def _resampled(u: Array, grid: Grid, new_grid: Grid) -> Array:
    """At the points of another grid; transforms of 16-bit numbers run in float32."""
    if new_grid == grid:
        return u
    wide = jnp.promote_types(u.dtype, jnp.float32)
    return spectral.resample(u.astype(wide), grid, new_grid).astype(u.dtype)
