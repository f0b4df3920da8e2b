"""The block of Fourier neural operators: spectral and local convolutions, what goes around them, a channel MLP."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from solvers import Grid, Piece

from .conditioning import FiLM, make_film
from .differential import DifferenceBoundary, FDConv
from .local import Boundary
from .local_integral import LocalIntegral
from .norms import GroupNorm
from .pointwise import ChannelMLP, Identity, Pointwise, Skip, SoftGating, make_skip
from .spectral import SpectralConv, Transform
from .spectral_basis import SpectralBasis, basis_per_axis
from .spectral_weights import Factorisation, Rank


class FNOBlock(eqx.Module):
    """`h = act(FiLM(norm(K v) + S v))`, then `act(M h + G v)`, on features `(*n, c)`.

    `K` is the spectral convolution, or its sum with the local ones (differential and integral kernels), `M` the channel
    MLP, `S` and `G` are the skips.

    **Arguments:** as for `FNO`. **Call:** `block(v, args, activation, grid)`; an operator's last block gets the
    identity for `activation`. **Raises:** `ValueError` for local kernels in the Chebyshev basis, and what its parts
    raise.
    """

    spectral: SpectralConv
    local: tuple[FDConv | LocalIntegral, ...]
    spectral_skip: Pointwise | SoftGating | Identity
    norm: GroupNorm | None
    film: FiLM | None
    mlp: ChannelMLP | None
    mlp_skip: Pointwise | SoftGating | Identity | None

    def __init__(
        self,
        width: int,
        modes: Sequence[int],
        *,
        mlp_ratio: int | float,
        spectral_skip: Skip,
        mlp_skip: Skip,
        groups: int | None,
        conditioning: int,
        activation: Callable[[Array], Array],
        transform: Transform,
        basis: SpectralBasis | Sequence[SpectralBasis],
        factorisation: Factorisation | None,
        rank: Rank,
        difference_length: float | None,
        integral_radius: float | None,
        key: PRNGKeyArray,
    ):
        keys = [jax.random.fold_in(key, i) for i in range(7)]
        names = basis_per_axis(basis, len(modes))
        self.spectral = SpectralConv(
            width,
            width,
            modes,
            transform=transform,
            basis=names,
            factorisation=factorisation,
            rank=rank,
            key=keys[0],
        )
        local = []
        if difference_length is not None:
            over: list[DifferenceBoundary] = ["periodic" if name == "fourier" else "extrapolate" for name in names]
            kernel = (3,) * len(names)
            local.append(FDConv(width, width, kernel, length=difference_length, boundary=over, key=keys[5]))
        if integral_radius is not None:
            within: list[Boundary] = ["periodic" if name == "fourier" else "zero" for name in names]
            local.append(LocalIntegral(width, width, len(names), radius=integral_radius, boundary=within, key=keys[6]))
        if local and "chebyshev" in names:
            raise ValueError(f"`basis` is {basis!r}; local kernels need even spacing: take 'cosine' or 'sine'.")
        self.local = tuple(local)
        self.spectral_skip = make_skip(spectral_skip, width, key=keys[1])
        self.norm = None if groups is None else GroupNorm(groups, width)
        self.film = make_film(conditioning, width, activation=activation, key=keys[4])
        self.mlp = self.mlp_skip = None
        if mlp_ratio:
            hidden = max(1, int(mlp_ratio * width))
            self.mlp = ChannelMLP(width, hidden, width, activation=activation, key=keys[2])
            self.mlp_skip = make_skip(mlp_skip, width, key=keys[3])

    def __call__(
        self,
        v: Float[Array, "*n c"],
        args: Float[Array, " p"] | None,
        activation: Callable[[Array], Array],
        grid: Grid | Piece,
    ) -> Float[Array, "*n c"]:
        """Apply to the features of one sample."""
        h = self.spectral.channels_last(v, grid.placement, grid.axis_names)
        for local in self.local:
            h = h + local.channels_last(v, grid)
        if self.norm is not None:
            h = self.norm.channels_last(h, grid.axis_names)
        h = h + self.spectral_skip.channels_last(v)
        if self.film is not None and args is not None:
            h = self.film.channels_last(h, args)
        h = activation(h)
        if self.mlp is None or self.mlp_skip is None:
            return h
        return activation(self.mlp.channels_last(h) + self.mlp_skip.channels_last(v))
