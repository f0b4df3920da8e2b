"""Generate the bench: D1 Burgers, D3 Kuramoto-Sivashinsky, D4 Navier-Stokes, D5 a family with random coefficients;
D2 Darcy flow, D7 Calderon's inverse problem, D8 regression on functions.

Claim: the first four together (D1 1200, D3 256, D4 200, D5 1000 trajectories, 0.2 GB) take less than five minutes on 2
cores, 2 min 49 s when nothing else runs, and the same seed gives the same bytes. D2 and D7 have 1200 samples, D8 4000.
Equations, initial states and sizes stand in `opkit.data.BENCH` and `SAMPLE_BENCH`, with what the sets are compared on;
solutions are float64, stored as float32.

    python experiments/generate_bench.py --out data --sets d1 d3

writes `data/d1.h5`, ...; `read_pairs("data/d1.h5", ndim=1)` reads D1's pairs, and D2's with `ndim=2`;
`read_trajectories("data/d3.h5")` and `WindowSource` what has an axis of time. One line a set: seconds, the hash of the
file, and of trajectories the largest part of the energy in the upper third of the stored wavenumbers.
"""

import dataclasses
import hashlib
import time
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from opkit.data import BENCH, SAMPLE_BENCH, Recipe, generate, read_trajectories

RECIPES = {**BENCH, **SAMPLE_BENCH}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to generate."""

    sets: tuple[str, ...] = tuple(sorted(RECIPES))
    """Names of sets."""
    out: Path = Path("data")
    """The folder for the files."""
    seed: int = 0
    quiet: bool = False
    """No progress bars."""
    smoke: bool = False
    """A few trajectories or samples of each."""


def unresolved(states: np.ndarray) -> float:
    """The largest part of a state's energy in the upper third of the wavenumbers, constants left out."""
    axes = tuple(range(3, states.ndim))
    energy = np.abs(np.fft.fftn(states.astype(float), axes=axes)) ** 2
    highest = np.zeros(())
    for n in states.shape[3:]:
        highest = np.maximum.outer(highest, np.abs(np.fft.fftfreq(n)))
    upper, varying = (np.sum(energy * mask, axis=axes) for mask in (highest >= 1 / 3, highest > 0))
    return float(np.max(upper / varying))


def main(config: Config) -> None:
    """Generate the sets and print a line for each."""
    config.out.mkdir(parents=True, exist_ok=True)
    for name in config.sets:
        if name not in RECIPES:
            raise ValueError(f"`sets` has {name!r}; expected some of {sorted(RECIPES)}.")
        recipe = RECIPES[name]
        if config.smoke:
            recipe = dataclasses.replace(recipe, train=3, test=1, batch=4)
            recipe = dataclasses.replace(recipe, frames=3) if isinstance(recipe, Recipe) else recipe
        start = time.perf_counter()
        with tqdm(total=recipe.train + recipe.test, desc=name, disable=config.quiet) as bar:
            path = generate(
                recipe, config.out / f"{name}.h5", seed=config.seed, progress=lambda done, _: bar.update(done - bar.n)
            )
        seconds = time.perf_counter() - start
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        line = f"{path}: {seconds:.1f} s, sha256 {digest}"
        if isinstance(recipe, Recipe):
            line += f", energy in the upper third {unresolved(read_trajectories(path, 'test').states):.1e}"
        print(line)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
