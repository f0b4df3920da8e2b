"""Where in the spectrum an error lies: on the host, for any evenly spaced grid."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.fft
from jaxtyping import Float

from solvers import Grid


def error_spectrum(
    error: Float[Any, "samples c *n"], target: Float[Any, "samples c *n"], grid: Grid, *, periodic: bool
) -> Float[np.ndarray, " q"]:
    """Energy of the error by wavenumber, as part of the target's whole; means over samples.

    Wavenumber `q = 0, 1, ...` is the rounded norm of the number of periods in the box, up to the largest along an axis
    (what is in the corners beyond is left out). Fourier coefficients, or where not `periodic` those of the cosine
    series, which count half periods.
    """
    error, target = np.asarray(error), np.asarray(target)
    axes = tuple(range(2, error.ndim))
    if periodic:
        transform = lambda u: np.asarray(scipy.fft.fftn(u, axes=axes, norm="ortho"))
        numbers = [np.abs(np.fft.fftfreq(n, 1 / n)) for n in grid.shape]
    else:
        kind = 1 if grid.placement[0] == "nodes" else 2
        transform = lambda u: np.asarray(scipy.fft.dctn(u, axes=axes, norm="ortho", type=kind))
        numbers = [np.arange(n) for n in grid.shape]
    radius = np.rint(np.sqrt(sum(k**2 for k in np.meshgrid(*numbers, indexing="ij")))).astype(int)
    energy = (np.abs(transform(error.astype(float))) ** 2).sum(1)
    whole = (np.abs(transform(target.astype(float))) ** 2).sum(axis=tuple(range(1, target.ndim)))
    part = (energy / whole.reshape(-1, *(1,) * grid.ndim)).mean(0)
    shells = np.bincount(radius.ravel(), part.ravel())
    return shells[: int(max(k.max() for k in numbers)) + 1]


def band_errors(
    shells: Float[np.ndarray, " q"] | Sequence[float], names: Sequence[str] = ("low", "middle", "high")
) -> dict[str, float]:
    """The relative error in equal bands of the wavenumbers of `error_spectrum`, by name; their squares add up."""
    parts = np.array_split(np.asarray(shells), len(names))
    return {name: float(np.sqrt(part.sum())) for name, part in zip(names, parts, strict=True)}
