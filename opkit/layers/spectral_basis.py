"""Series of orthonormal functions per axis: the low coefficients of features and back, by one small matrix an axis."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from jaxtyping import Array, Float

from solvers import Placement

from .fourier import contract

SpectralBasis = Literal["fourier", "cosine", "sine", "chebyshev"]

PLACEMENTS: dict[str, tuple[Placement, ...]] = {
    "fourier": ("left", "cells"),
    "cosine": ("nodes", "cells"),
    "sine": ("nodes", "cells"),
    "chebyshev": ("chebyshev",),
}


Axis = tuple[SpectralBasis, Placement, int]  # the basis of an axis, how its points lie, and its modes


def series_coefficients(x: Float[Array, "*n c"], axes: Sequence[Axis], *, first_axis: int = 0) -> Float[Array, "*k c"]:
    """The first coefficients of `x` in the basis of each axis; zero for those that its points do not resolve.

    With `s` in [0, 1] across the box, the functions of an axis of `m` modes are

    - `"fourier"`: `1, sqrt(2) cos(2 pi q s), sqrt(2) sin(2 pi q s)` by rising `q < m`: `2 m - 1` of them, on `left` or
      `cells`;
    - `"cosine"`: `1, sqrt(2) cos(pi q s)`, `q < m`, of zero slope on both walls, on `nodes` (DCT-I) or `cells`
      (DCT-II);
    - `"sine"`: `sqrt(2) sin(pi q s)`, `1 <= q <= m`, zero on both walls, on `nodes` (DST-I) or `cells` (DST-II);
    - `"chebyshev"`: `1, sqrt(2) T_q(2 s - 1)`, `q < m`, on `chebyshev` (DCT-I).

    They are orthonormal in the mean over the box (Chebyshev: in its own weight), and a coefficient is that mean by
    the quadrature of the grid: so it approximates a number of the function, whatever the points. The transform is exact
    for the functions that the points resolve: `q < n / 2` of Fourier, as many as there are points of the others (sines
    on `nodes` are two fewer).

    **Raises:** `ValueError` for a placement that does not go with the basis.
    """
    for axis, (basis, placement, modes) in reversed([*enumerate(axes, start=first_axis)]):
        x = contract(_tables(basis, placement, x.shape[axis], modes)[0], x, axis)
    return x


def series_values(
    a: Float[Array, "*k c"], axes: Sequence[Axis], shape: Sequence[int], *, first_axis: int = 0
) -> Float[Array, "*n c"]:
    """The sum of the series on a grid of `shape`; coefficients that its points do not resolve are left out."""
    for axis, ((basis, placement, modes), n) in enumerate(zip(axes, shape, strict=True), start=first_axis):
        a = contract(_tables(basis, placement, n, modes)[1], a, axis)
    return a


def basis_per_axis(basis: SpectralBasis | Sequence[SpectralBasis], ndim: int) -> tuple[SpectralBasis, ...]:
    """One basis an axis, checked."""
    names = (basis,) * ndim if isinstance(basis, str) else tuple(basis)
    if len(names) != ndim or any(name not in get_args(SpectralBasis) for name in names):
        raise ValueError(
            f"`basis` is {basis!r}; expected one of {get_args(SpectralBasis)}, or one for each of {ndim} axes."
        )
    return names


def checked_modes(modes: Sequence[int]) -> tuple[int, ...]:
    """`modes` as integers, one to three positive ones."""
    checked = tuple(int(m) for m in modes)
    if not 1 <= len(checked) <= 3 or min(checked) < 1:
        raise ValueError(f"`modes` is {modes}; expected one to three positive integers, one an axis, as in (12, 12).")
    return checked


def series_shape(basis: Sequence[SpectralBasis], modes: Sequence[int]) -> tuple[int, ...]:
    """The number of functions of each axis."""
    return tuple(2 * m - 1 if name == "fourier" else m for name, m in zip(basis, modes, strict=True))


@lru_cache(maxsize=256)
def _tables(basis: SpectralBasis, placement: Placement, n: int, modes: int) -> tuple[np.ndarray, np.ndarray]:
    """Values to coefficients `(k, n)`, coefficients to values `(n, k)`; in float64, to be cast."""
    if placement not in PLACEMENTS[basis]:
        raise ValueError(
            f"`placement` of an axis is {placement!r}; its basis {basis!r} needs "
            f"{' or '.join(map(repr, PLACEMENTS[basis]))}."
        )
    index = np.arange(*series_shape([basis], [modes]))
    q = {"fourier": (index + 1) // 2, "sine": index + 1}.get(basis, index)
    odd = (index % 2 == 0) & (index > 0) if basis == "fourier" else np.full(index.shape, basis == "sine")
    # points at the angles pi p / r in [0, pi], or [0, 2 pi] for Fourier, in integers: exact for large q n
    p, r = {
        "left": (np.arange(n), n),
        "cells": (2 * np.arange(n) + 1, 2 * n),
        "nodes": (np.arange(n), n - 1),
        "chebyshev": (n - 1 - np.arange(n), n - 1),  # T_q(cos t) = cos(q t)
    }[placement]
    angles = np.pi * (np.outer(q, p * (1 + (basis == "fourier"))) % (2 * r)) / r
    last = {"fourier": (n - 1) // 2, "sine": n - 2 if placement == "nodes" else n}.get(basis, n - 1)
    wave = np.where(odd[:, None], np.sin(angles), np.cos(angles)) * np.where(q > 0, 2**0.5, 1)[:, None]
    wave *= (q <= last)[:, None]
    weights = np.full(n, 1 / n)
    if placement in ("nodes", "chebyshev"):
        weights = np.full(n, 1 / (n - 1))
        weights[[0, -1]] /= 2
    norms = np.sum(weights * wave**2, axis=1)  # 1, but 2 for an alternating wave
    return wave * weights / np.where(norms > 0, norms, 1)[:, None], wave.T
