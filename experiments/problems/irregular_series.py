"""Series observed at irregular times: oscillators, sines with gaps, and the carbon dioxide at Mauna Loa."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Series(NamedTuple):
    """Series on common times, each observed at some of them.

    `values`: with noise, as measured, zero where they were not. `truth`: what the error is measured against.
    `seen`: what an encoder may look at. `known`: where there are values, to train and to measure on.
    """

    values: Float[np.ndarray, "samples times 1"]
    truth: Float[np.ndarray, "samples times 1"]
    seen: Bool[np.ndarray, "samples times 1"]
    known: Bool[np.ndarray, "samples times 1"]


def draw_oscillators(
    samples: int, times: Float[np.ndarray, " times"], *, seen: float, noise: float, seed: int
) -> Series:
    """Damped oscillators driven at one frequency, `x'' + 2 z w x' + w^2 x = F cos t`, from the exact solution.

    Frequency `w`, damping `z`, force and start differ between series, uniform on [0.7, 1.4], [0.05, 0.25],
    [0, w^2 / 2], [-1.5, 1.5] and, of the speed, [-w, w]. Values are over their standard deviation, as is `noise`.
    """
    rng = np.random.default_rng(seed)
    w, z = rng.uniform(0.7, 1.4, samples), rng.uniform(0.05, 0.25, samples)
    force, x0, v0 = rng.uniform(0, w**2 / 2), rng.uniform(-1.5, 1.5, samples), rng.uniform(-w, w)
    steady = force / (w**2 - 1 + 2j * z * w)
    rate = w * (-z + 1j * np.sqrt(1 - z**2))
    x, v = x0 - steady.real, v0 - (1j * steady).real  # of the transient
    transient = x - 1j * (v - rate.real * x) / rate.imag
    at = times[:, None]
    truth = np.real(transient * np.exp(rate * at) + steady * np.exp(1j * at)).T[..., None]
    truth = truth / truth.std()
    values = truth + noise * rng.standard_normal(truth.shape)
    return Series(
        values.astype(np.float32), truth.astype(np.float32), rng.random(truth.shape) < seen, np.ones(truth.shape, bool)
    )


class Sines(NamedTuple):
    """Series with their class, and for each missing rate what is left of them.

    `holed`: for each rate the latest sample seen, whether it is of that time, and the gaps bridged linearly.
    """

    labels: Int[np.ndarray, " samples"]
    holed: list[tuple[Float[np.ndarray, "samples t"], Bool[np.ndarray, "samples t"], Float[np.ndarray, "samples t"]]]


def draw_sines(samples: int, points: int, *, classes: int, noise: float, rates: Sequence[float], seed: int) -> Sines:
    """Sines of 2, 3, ... periods, the class, with random phase, over `points` times from the first to the last.

    A sample that is missing at one rate is so at a higher one; the first never is.
    """
    rng = np.random.default_rng(seed)
    times, labels = np.linspace(0, 1, points), rng.integers(0, classes, samples).astype(np.int32)
    phase = rng.random((samples, 1)) * 2 * np.pi
    xs = np.sin(2 * np.pi * (2 + labels[:, None]) * times + phase) + noise * rng.standard_normal((samples, points))
    chance, holed = rng.random((samples, points)), []
    chance[:, 0] = 1
    for rate in rates:
        new = chance >= rate
        bridged = np.stack([np.interp(times, times[n], row[n]) for n, row in zip(new, xs, strict=True)])
        latest = np.take_along_axis(xs, np.maximum.accumulate(np.where(new, np.arange(points), 0), 1), 1)
        holed.append((latest, new, bridged))
    return Sines(labels, holed)


def read_co2(length: int, *, seen: float, seed: int) -> tuple[Series, Series]:
    """Windows of `length` fortnights of the weekly carbon dioxide at Mauna Loa, 1958 to 2001 (in statsmodels): those
    before 1990, and those after.

    The weeks that were not measured stay unknown. Values are less the mean of those seen in the window, over their
    standard deviation before 1990.
    """
    from statsmodels.datasets import co2

    data: Any = co2.load_pandas().data  # of pandas, which has types of its own
    record = data["co2"]
    rng = np.random.default_rng(seed)
    parts = [record[:"1989"].to_numpy(), record["1990":].to_numpy()]
    found, scale = [], 1.0
    for part in parts:
        starts = np.arange(0, len(part) - 2 * length, 4)
        windows = part[starts[:, None] + 2 * np.arange(length)][..., None]
        known = np.isfinite(windows)
        chosen = known & (rng.random(known.shape) < seen)
        few = chosen.sum((1, 2)) >= 2
        windows, known, chosen = windows[few], known[few], chosen[few]
        mean = np.where(chosen, windows, 0).sum(1, keepdims=True) / chosen.sum(1, keepdims=True)
        centred = np.where(known, windows - mean, 0)
        scale = centred[known].std() if not found else scale
        values = (centred / scale).astype(np.float32)
        found.append(Series(values, values, chosen, known))
    return found[0], found[1]
