"""One U-Net on features: down through coarser grids and up again."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .conditioning import FiLM, make_film
from .local import Boundary, Conv
from .norms import GroupNorm
from .sampling import average_pool, interpolate

Process = Callable[[int, Array], Array]


class ConvBlock(eqx.Module):
    """`act(FiLM(norm(conv)))`, twice; the second without FiLM."""

    first: Conv
    second: Conv
    norms: tuple[GroupNorm, GroupNorm] | None
    film: FiLM | None
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        ndim: int,
        boundary: Boundary | Sequence[Boundary],
        groups: int | None,
        conditioning: int,
        activation: Callable[[Array], Array],
        key: PRNGKeyArray,
    ):
        keys = [jax.random.fold_in(key, i) for i in range(3)]
        self.first = Conv(in_channels, out_channels, (3,) * ndim, boundary=boundary, key=keys[0])
        self.second = Conv(out_channels, out_channels, (3,) * ndim, boundary=boundary, key=keys[1])
        self.norms = None if groups is None else (GroupNorm(groups, out_channels), GroupNorm(groups, out_channels))
        self.film = make_film(conditioning, out_channels, activation=activation, key=keys[2])
        self.activation = activation

    def __call__(self, v: Float[Array, "*n cin"], args: Float[Array, " p"] | None) -> Float[Array, "*n cout"]:
        """Apply to the features of one sample."""
        h = self.first.channels_last(v)
        if self.norms is not None:
            h = self.norms[0].channels_last(h)
        if self.film is not None and args is not None:
            h = self.film.channels_last(h, args)
        h = self.second.channels_last(self.activation(h))
        return self.activation(h if self.norms is None else self.norms[1].channels_last(h))


class Wave(eqx.Module):
    """One U-Net on features `(*n, channels[0])`, which it keeps: down by average pooling, up by linear interpolation.

    **Arguments:** `channels`: per level, the finest first (see `level_channels`). `input_copies`: every coarser
    level also sees the wave's input, pooled as often. The rest as for `UNet`.

    **Call:** `wave(v, args, process)`: `process(level, features)` acts on what a level hands on to the way up, as LSM's
    blocks do.
    """

    down: tuple[ConvBlock, ...]
    up: tuple[ConvBlock, ...]
    input_copies: bool = eqx.field(static=True)

    def __init__(self, channels: Sequence[int], *, input_copies: bool, key: PRNGKeyArray, **block):
        def make(index: int, ins: int, outs: int) -> ConvBlock:
            return ConvBlock(ins, outs, key=jax.random.fold_in(key, index), **block)

        copied = channels[0] * input_copies
        self.down = tuple(
            make(i, channels[max(i - 1, 0)] + copied * (i > 0), channels[i]) for i in range(len(channels))
        )
        self.up = tuple(
            make(len(channels) + i, channels[i] + channels[i + 1], channels[i]) for i in range(len(channels) - 1)
        )
        self.input_copies = input_copies

    def __call__(
        self, v: Float[Array, "*n c"], args: Float[Array, " p"] | None, process: Process = lambda level, h: h
    ) -> Float[Array, "*n c"]:
        """Apply to the features of one sample."""
        boundary = self.down[0].first.boundary
        copy, h = v, self.down[0](v, args)
        skips = [h]
        for block in self.down[1:]:
            h = average_pool(h, boundary)
            if self.input_copies:
                copy = average_pool(copy, boundary)
                h = jnp.concatenate([h, copy], -1)
            h = block(h, args)
            skips.append(h)
        h = process(len(skips) - 1, h)
        for level in reversed(range(len(self.up))):
            skip = process(level, skips[level])
            h = interpolate(h, skip.shape[:-1], boundary)
            h = self.up[level](jnp.concatenate([skip, h], -1), args)
        return h


def level_channels(width: int, multiplier: float, levels: int, groups: int | None) -> tuple[int, ...]:
    """`width * multiplier^level`, rounded to a multiple of `groups`."""
    unit = groups or 1
    return tuple(max(1, round(width * multiplier**level / unit)) * unit for level in range(levels))
