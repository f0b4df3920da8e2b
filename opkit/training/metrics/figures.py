"""The figures of a rollout: errors by step, spectra, pictures in space and time. Each returns a Matplotlib figure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float


def error_figure(errors: Mapping[str, Float[Any, "samples time"]], dt: float = 1.0) -> Any:
    """Error against time on a logarithmic axis, by name: the median over samples, and its quartiles as a band.

    Where an error is not finite a line ends."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5))
    for name, values in errors.items():
        values = np.where(np.isfinite(values), values, np.inf)
        time = dt * np.arange(1, values.shape[1] + 1)
        low, middle, high = (_finite(q) for q in np.quantile(values, (0.25, 0.5, 0.75), axis=0, method="nearest"))
        (line,) = axes.semilogy(time, middle, label=name)
        axes.fill_between(time, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="time", ylabel="relative error")
    axes.legend()
    return figure


def spectrum_figure(spectra: Mapping[str, Float[Any, " q"]]) -> Any:
    """Energy against wavenumber on logarithmic axes, by name; the mean, wavenumber 0, is left out."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5))
    for name, energy in spectra.items():
        axes.loglog(np.arange(1, len(energy)), np.asarray(energy)[1:], label=name)
    axes.set(xlabel="wavenumber", ylabel="energy")
    axes.legend()
    return figure


def space_time_figure(states: Mapping[str, Float[Any, "time n"]], dt: float = 1.0, extent: float = 1.0) -> Any:
    """One channel of 1-D rollouts, time to the right and space upwards, side by side under one scale of colours."""
    import matplotlib.pyplot as plt

    figure, rows = plt.subplots(len(states), 1, figsize=(6, 1.8 * len(states)), sharex=True, squeeze=False)
    limit = max(float(np.max(np.abs(u), where=np.isfinite(u), initial=0)) for u in states.values())
    look: dict[str, Any] = {"origin": "lower", "aspect": "auto", "cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    images = []
    for axes, (name, u) in zip(rows[:, 0], states.items(), strict=True):
        images.append(axes.imshow(np.asarray(u).T, extent=(0.0, dt * len(u), 0.0, extent), **look))
        axes.set(ylabel="space", title=name)
    rows[-1, 0].set(xlabel="time")
    figure.colorbar(images[0], ax=rows[:, 0].tolist())
    return figure


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)
