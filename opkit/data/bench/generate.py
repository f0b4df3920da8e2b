"""Make a data set from a recipe and a seed, batch by batch, into one HDF5 file."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, UInt

from solvers import ETDRK, rollout

from .samples import SAMPLE_BENCH, SampleRecipe
from .trajectories import BENCH, Recipe


class BlowUpError(FloatingPointError):
    """A simulation of a data set did not stay finite, or found no solution."""


def generate(
    recipe: Recipe | SampleRecipe | str,
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Solve and write a data set. The same recipe, seed, versions and machine give the same bytes.

    Trajectory `i` has the key `fold_in(key(seed), i)`; the first `recipe.train` are for training. They are computed
    `recipe.batch` at a time, a last batch filled up, so that a longer set begins with the shorter one; one batch is in
    memory. The file holds

    - `u_train`, `u_test`: `(samples, time, c, *n)`, float32; `t`: `(time,)`; `x`, `y`, `z`: coordinates `(n,)`;
    - `parameters_train/NAME`, `parameters_test/NAME`: `(samples,)`, the equation's coefficients;
    - with `recipe.pairs`, first and last states as `read_pairs` has them: `x_train, y_train` at the first number of
      points, `x_test, y_test` there and `x_testN, y_testN` at the others;
    - attributes: what it is and was made with.

    Of a `SampleRecipe` it holds the arrays that the recipe names, `(samples, ...)` in float32, the constants and the
    attributes. All with checksums. It appears at `path`, replacing what was there, when it is complete.

    **Arguments:** `recipe`: or its name in `BENCH` or `SAMPLE_BENCH`. `progress`: called with the number of
    trajectories or samples done and of all.

    **Raises:** `ValueError` for an unknown name. `BlowUpError`. `OSError` where the file cannot be written. Then
    nothing is left behind.
    """
    if isinstance(recipe, str):
        known = {**BENCH, **SAMPLE_BENCH}
        if recipe not in known:
            raise ValueError(f"`recipe` is {recipe!r}; expected a Recipe or one of {sorted(known)}.")
        return generate(known[recipe], path, seed=seed, progress=progress)
    path, total = Path(path), recipe.train + recipe.test
    with _whole(path) as file, jax.enable_x64(True):  # bytes that do not depend on the caller's flag
        file.attrs.update(_description(recipe, seed))
        for name, values in _constants(recipe).items():
            file[name] = values
        solve = jax.jit(partial(_batch, recipe, seed))
        for start in range(0, total, recipe.batch):
            numbers = np.arange(start, start + recipe.batch, dtype=np.uint32)
            fields, failure = jax.device_get(solve(numbers))
            kept = numbers < total
            if np.any(failure[kept] >= 0):
                bad = numbers[kept & (failure >= 0)]
                what = (
                    f"trajectories {bad.tolist()} have NaN or infinity from step {failure[bad - start].tolist()} on;"
                    " take a smaller `dt`."
                    if isinstance(recipe, Recipe)
                    else f"samples {bad.tolist()} have NaN or infinity: their solve failed."
                )
                raise BlowUpError(f"`recipe` {recipe.name!r}, seed {seed}: {what} Nothing was written.")
            for name, values in fields.items():
                _write(file, name, values, start, recipe)
            if progress is not None:
                progress(min(start + recipe.batch, total), total)
    return path


def _batch(
    recipe: Recipe | SampleRecipe, seed: int, numbers: UInt[Array, " batch"]
) -> tuple[dict[str, Array], Int[Array, " batch"]]:
    """The samples of those numbers, and where each failed, -1 where it did not."""
    key = lambda number: jax.random.fold_in(jax.random.key(seed), number)
    if isinstance(recipe, Recipe):
        return jax.vmap(lambda number: _trajectory(recipe, key(number)))(numbers)
    draw = recipe.draw
    fields = jax.lax.map(lambda number: dict(draw(key(number))), numbers)  # a solve of one fits the caches
    finite = [jnp.isfinite(values).reshape(len(values), -1).all(1) for values in fields.values()]
    small = {name: values.astype("float32") for name, values in fields.items()}
    return small, jnp.where(jnp.stack(finite).all(0), -1, 0)


def _constants(recipe: Recipe | SampleRecipe) -> dict[str, Any]:
    """The arrays that no sample has to itself."""
    if isinstance(recipe, SampleRecipe):
        return {name: np.asarray(values) for name, values in recipe.constants().items()}
    axes = zip("xyz", recipe.grid.axes(), recipe.grid.shape, strict=False)
    times = {"t": recipe.dt * (recipe.warm_up + recipe.every * np.arange(recipe.frames))}
    return times | {name: np.asarray(axis)[:: n // recipe.points] for name, axis, n in axes}


def _trajectory(recipe: Recipe, key: PRNGKeyArray) -> tuple[dict[str, Array], Int[Array, ""]]:
    """One trajectory: arrays by their place in the file, `{}` standing for the part, and when it blew up."""
    u, equation = recipe.draw(key, recipe.grid)
    steps = (recipe.frames - 1) * recipe.every
    stepper = ETDRK(equation, recipe.grid, recipe.dt)
    run = rollout(stepper, steps, every=recipe.every, include_initial=True, warm_up=recipe.warm_up)(u)

    def restricted(states: Array, points: int) -> Array:
        strides = (slice(None, None, n // points) for n in recipe.grid.shape)
        return states[(..., *strides)].astype("float32")

    fields = {"u_{}": restricted(run.states, recipe.points)}
    for points in recipe.pairs:
        label = "" if points == recipe.pairs[0] else str(points)
        fields["x_{}" + label] = restricted(run.states[0], points)
        fields["y_{}" + label] = restricted(run.states[-1], points)
    for field in dataclasses.fields(equation):
        value = getattr(equation, field.name)
        if eqx.is_inexact_array(value) and not value.ndim:
            fields["parameters_{}/" + field.name] = value
    return fields, run.blow_up


def _write(file: Any, name: str, values: np.ndarray, start: int, recipe: Recipe | SampleRecipe) -> None:
    """Put trajectories `start, start + 1, ...` where they belong in the training and test parts of an array."""
    for part, first, last in (("train", 0, recipe.train), ("test", recipe.train, recipe.train + recipe.test)):
        place, shape = name.format(part), (last - first, *values.shape[1:])
        if name[-1].isdigit() and part == "train":
            continue
        if place not in file:
            rows = max(1, min(shape[0], 2**20 // max(1, values[0].nbytes)))
            file.create_dataset(place, shape, values.dtype, chunks=(rows, *shape[1:]), fletcher32=True)
        low, high = max(start, first), min(start + len(values), last)
        if low < high:
            file[place][low - first : high - first] = values[low - start : high - start]


def _description(recipe: Recipe | SampleRecipe, seed: int) -> dict[str, Any]:
    found = {}
    for name in ("opkit", "jax", "jaxlib", "numpy", "h5py"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a copy of the source that was never installed
            found[name] = "unknown"
    about = {
        "recipe": recipe.name,
        "title": recipe.title,
        "units": "none: dimensionless",
        "seed": seed,
        "versions": json.dumps(found),
    }
    if isinstance(recipe, SampleRecipe):
        return about | {"solver": recipe.solver}
    grid = recipe.grid
    return about | {
        "solver": "ETDRK4, Galerkin (2/3 rule for products of two), float64; stored float32",
        "solver_grid": grid.shape,
        "lower": grid.lower,
        "upper": grid.upper,
        "boundary": ["periodic"] * grid.ndim,
        "dt": recipe.dt,
        "steps_between_frames": recipe.every,
        "warm_up_steps": recipe.warm_up,
    }


@contextmanager
def _whole(path: Path) -> Iterator[Any]:
    """An HDF5 file to write, which is renamed to `path` once it is complete and on disk, and otherwise removed."""
    import h5py

    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    unfinished.open("xb").close()  # Python's own error for a folder that is missing or not ours
    try:
        with h5py.File(unfinished, "w") as file:
            yield file
            file.flush()
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise OSError(f"{path} could not be written: {error}. Nothing was left there; is the disk full?") from error
    finally:
        unfinished.unlink(missing_ok=True)
