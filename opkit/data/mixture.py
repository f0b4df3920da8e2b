"""Data of several difficulties: how many samples of each, and what they cost."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    """`counts`: samples by difficulty. `spent`: what these cost, by difficulty. `cost`: in all."""

    counts: dict[str, int]
    spent: dict[str, float]
    cost: float


def mixture(
    costs: Mapping[str, int | float],
    fractions: Mapping[str, int | float],
    *,
    samples: int | None = None,
    budget: int | float | None = None,
) -> Mixture:
    """So many `samples` in the given proportions, or as many as a `budget` pays for.

    Counts are whole, the nearest to the proportions: each is rounded down, and what is left goes to the largest
    remainders. With a budget `B` there are `B / sum_i fraction_i cost_i` samples, or as many fewer as rounding asks
    for: `cost` is at most `B`, and one more would exceed it.

    **Arguments:** `costs`: of one sample, by difficulty, such as the mean number of steps of an adaptive solver.
    `fractions`: the share of the samples, not of the cost, by difficulty; those not named have none. They are divided
    by their sum.

    **Raises:** `ValueError` for no fraction, negative ones, a difficulty without a positive cost, both or none of
    `samples` and `budget`, or less than one sample.

    Choudhary, Singh, Talwalkar, Boffi, Khodak and Marwah (2025), Pre-generating multi-difficulty PDE data for few-shot
    neural PDE solvers, arXiv:2512.00564.
    """
    total = sum(fractions.values())
    unknown = [name for name in fractions if not costs.get(name, 0.0) > 0]
    if unknown:
        raise ValueError(f"`costs` has no positive cost of {unknown}; it is {dict(costs)}.")
    if not total > 0 or min(fractions.values()) < 0:
        raise ValueError(f"`fractions` are {dict(fractions)}; expected shares, none negative and one positive.")
    if (samples is None) == (budget is None):
        raise ValueError(f"`samples` is {samples}, `budget` {budget}; give one of them.")
    shares = {name: fraction / total for name, fraction in fractions.items()}
    if budget is not None:
        mean = sum(share * costs[name] for name, share in shares.items())
        samples = int(budget / mean) + len(shares)  # rounding may make them cheaper than the mean
        while samples > 0 and _mixed(costs, shares, samples).cost > budget:
            samples -= 1
    if samples is None or samples < 1:
        raise ValueError(
            f"`samples` is {samples}, `budget` {budget}; expected enough for one sample, of {dict(costs)}."
        )
    return _mixed(costs, shares, samples)


def _mixed(costs: Mapping[str, int | float], shares: Mapping[str, float], samples: int) -> Mixture:
    exact = np.array([share * samples for share in shares.values()])
    counts = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: samples - counts.sum()]] += 1
    by_name = dict(zip(shares, counts.tolist(), strict=True))
    spent = {name: count * float(costs[name]) for name, count in by_name.items()}
    return Mixture(by_name, spent, sum(spent.values()))
