"""A picture of what was recovered of a flow."""

from typing import Any

import jax
import numpy as np


def plot_vorticity(
    fields: dict[str, tuple[jax.Array, jax.Array]], sensors: jax.Array, wavenumber: np.ndarray, limit: float
) -> Any:
    """A row a time: truth and sensors, estimate, difference, and the spectra of truth and difference.

    **Arguments:** `fields`: by the name of the time `(truth, estimate)`, `(n, n)` each on `(2 pi)^2`. `sensors`: places
    in the flattened field. `wavenumber`: `|k|` in the layout of `fft2`. `limit`: that of the observable ones.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(13, 6), layout="constrained")
    shells = np.rint(wavenumber).astype(int).ravel()
    shown = np.arange(1, wavenumber.shape[0] // 3)
    for line, (name, (truth, found)) in zip(axes, fields.items(), strict=True):
        most, off = float(np.abs(truth).max()), float(np.abs(found - truth).max())
        panels = (f"{name} vorticity", truth, most), ("recovered", found, most), ("difference", found - truth, off)
        for axis, (title, field, bound) in zip(line, panels, strict=False):
            box = (0, 2 * np.pi) * 2
            image = axis.imshow(field.T, origin="lower", extent=box, cmap="RdBu_r", vmin=-bound, vmax=bound)
            axis.set(title=title, xticks=[], yticks=[])
            figure.colorbar(image, ax=axis, shrink=0.8)
        rows, columns = np.divmod(np.asarray(sensors), len(truth))
        line[0].plot(*(2 * np.pi * np.stack([rows, columns]) / len(truth)), "k.", markersize=2)
        for label, field in (("truth", truth), ("difference", found - truth)):
            power = np.abs(np.fft.fft2(field) / field.size).ravel() ** 2
            line[3].semilogy(shown, np.bincount(shells, power)[shown], label=label)
        line[3].axvline(limit, color="grey", linestyle=":", label="observable below")
        line[3].set(title="enstrophy by $|k|$", xlabel="$|k|$", ylim=(1e-6, None))
        line[3].legend(fontsize=8)
    return figure
