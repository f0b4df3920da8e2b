"""Fit a model: compiled chunks of training steps, and what happens between them."""

import math
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from opkit.data import Source, count_samples, index_stream

from .state import TrainState, init_state
from .step import TrainStep, make_train_step
from .terms import Objective

_LONGEST_CHUNK = 100  # steps: by then the cost of a call is nothing beside theirs
_CHUNK_BYTES = 2**28  # of samples: what a streamed chunk may hold in memory, twice


class NonFiniteLoss(FloatingPointError):
    """The loss, or the model after the update, stopped being finite at `step` (from 0), where the terms had the values
    `terms`, and the objective's metric `unsolved`, if it has one, that number; the latest checkpoint is from before."""

    step: int
    terms: dict[str, float]
    unsolved: int

    def __init__(self, step: int, terms: Mapping[str, float], unsolved: int = 0):
        self.step, self.terms, self.unsolved = step, dict(terms), unsolved
        values = ", ".join(f"{name} {value:.3g}" for name, value in self.terms.items())
        values += f" ({unsolved} unsolved)" if unsolved else ""
        what = "the update made the model" if all(map(math.isfinite, self.terms.values())) else "the loss is"
        super().__init__(
            f"{what} not finite at step {step}: {values}. Try a lower learning rate, warm-up or clipped gradients;"
            " checkpoints written before hold finite states."
        )


@runtime_checkable
class CheckpointStore(Protocol):
    """Where `fit` keeps its states."""

    def restore(self, like: TrainState) -> TrainState | None:
        """The latest good state, with the structure of `like`; `None` if there is none."""
        ...

    def save(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Take the state at the end of a chunk; it is finite. It may skip states and write later, but must have copied
        the arrays by the time it returns: training goes on in their memory."""
        ...

    def close(self) -> None:
        """Wait until all that was taken is safe; `fit` calls it at its end, after an error too."""
        ...


def fit(
    objective: Objective,
    state: PyTree,
    data: PyTree,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int | None = None,
    seed: int,
    carry: PyTree = None,
    trainable: Callable[[str], bool] | None = None,
    chunk: int | None = None,
    validate: Callable[[TrainState], Mapping[str, float]] | None = None,
    validate_every: int | None = None,
    checkpoints: CheckpointStore | None = None,
    log: Callable[[int, dict[str, float]], None] | None = None,
    on_compile: Callable[[float], None] | None = None,
    progress: bool = False,
) -> TrainState:
    """Train to `steps` completed steps.

    Step `s` has the key `fold_in(key(seed), s)` and the batch `index_stream(samples, batch_size, seed)(s, s + 1)`:
    numbers depend on nothing else. Steps run in chunks, each one compiled `scan`; chunks end at the multiples of
    `chunk` and at `steps`. At their ends, in this order: a check that all was finite; `validate`; `log`; `checkpoints`.
    So a run resumed from a checkpoint executes the same programs as one never interrupted, and agrees bit for bit.

    **Arguments:**

    - `state`: a `TrainState` to go on from, or a model to begin with. Its arrays are copied.
    - `data`: a PyTree of arrays `(samples, ...)`, kept on the device; or a `Source`, from which the samples of a chunk
      are read while the one before is trained on (bit for bit the same); or `None`, for an objective that makes its
      own batches from `key`: it gets `None`.
    - `steps`: the total, those behind `state` included. `batch_size`: by default all samples.
    - `carry`: the objective's, for a model to begin with. `trainable`: as in `partition`.
    - `chunk`: steps a compiled call. By default at most 100, and no more than make 256 MiB of samples; with
      `validate_every`, a divisor of it.
    - `validate`: maps the state to figures, logged as `validate/NAME`: every `validate_every` steps, and at the end.
      Training goes on in the state's memory: copy what is to be kept.
    - `checkpoints`: where states are kept, and the run resumes from. It is closed at the end.
    - `log`: called with the number of completed steps and the figures: the step's metrics (see `make_train_step`),
      their mean over the chunk.
    - `on_compile`: called with the seconds each compilation took, which no other figure contains.
    - `progress`: show a progress bar.

    **Raises:** `NonFiniteLoss`. `ValueError` for a configuration that does not fit together, or for data whose arrays
    differ in length.
    """
    if not isinstance(state, TrainState):
        state = init_state(state, optimiser, carry=carry, trainable=trainable)
    elif carry is not None:
        raise ValueError("`carry` is for a model to begin with; this `state` is a `TrainState`, which has its own.")
    samples = 0 if data is None else len(data) if isinstance(data, Source) else count_samples(data)
    if data is None and batch_size is not None:
        raise ValueError(f"`batch_size` is {batch_size}, but `data` is None: the objective makes its own batches.")
    size = samples if batch_size is None else batch_size
    indices = _no_indices if data is None else index_stream(samples, size, seed)
    if validate_every is not None and (validate is None or validate_every < 1):
        raise ValueError(
            f"`validate_every` is {validate_every}, `validate` {validate}; expected a number of steps and a function."
        )
    chunk = _chunk_length(chunk, validate_every, size, data)
    try:
        if checkpoints is not None:
            restored = checkpoints.restore(state)
            state = state if restored is None else restored
        program = _Program(make_train_step(objective, optimiser, trainable=trainable), state, seed, on_compile)
        start = int(state.step)
        with closing(_feed(data, indices, start, steps, chunk)) as feed, _progress_bar(steps, start, progress) as bar:
            for step, pool, chosen in feed:
                metrics = program.run(pool, chosen)
                figures = {name: float(np.mean(value, dtype=np.float64)) for name, value in metrics.items()}
                if validate is not None and (step == steps or (validate_every and step % validate_every == 0)):
                    figures |= {f"validate/{name}": float(v) for name, v in validate(program.state).items()}
                if log is not None:
                    log(step, figures)
                if checkpoints is not None:
                    checkpoints.save(program.state, figures)
                bar.set_postfix({"loss": f"{figures['loss']:.3g}"}, refresh=False)
                bar.update(len(chosen))
    finally:
        if checkpoints is not None:
            checkpoints.close()
    return program.state


class _Program:
    """The state, and the compiled chunks that move it on in its own memory."""

    def __init__(self, step: TrainStep, state: TrainState, seed: int, on_compile: Callable[[float], None] | None):
        arrays, self._static = eqx.partition(state, eqx.is_array)
        self._arrays = jax.tree.map(_copy, arrays)  # donated: neither the caller's, nor one buffer at two places
        self._step, self._key = step, jax.random.key(seed)
        self._compiled: dict[int, Callable] = {}
        self._on_compile = on_compile

    @property
    def state(self) -> TrainState:
        return eqx.combine(self._arrays, self._static)

    def run(self, pool: PyTree, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Take the steps whose batches are `pool[chosen[i]]`; their metrics, `finite` apart, which raises."""
        pool = jax.tree.map(jnp.asarray, pool)
        if len(chosen) not in self._compiled:
            began = time.perf_counter()
            lowered = jax.jit(self._chunk, donate_argnums=0).lower(self._arrays, pool, chosen, self._key)
            self._compiled[len(chosen)] = lowered.compile()
            if self._on_compile is not None:
                self._on_compile(time.perf_counter() - began)
        first = int(self._arrays.step)
        self._arrays, metrics = self._compiled[len(chosen)](self._arrays, pool, chosen, self._key)
        metrics = jax.device_get(metrics)
        finite = metrics.pop("finite")
        if not finite.all():
            bad = int(np.argmin(finite))
            terms = {name: float(value[bad]) for name, value in metrics.items() if name.startswith("term/")}
            unsolved = int(metrics["unsolved"][bad]) if "unsolved" in metrics else 0
            terms = {name.removeprefix("term/"): value for name, value in terms.items()}
            raise NonFiniteLoss(first + bad, terms, unsolved)
        return metrics

    def _chunk(self, arrays, pool, chosen, key):
        def body(arrays, batch_indices):
            state = eqx.combine(arrays, self._static)
            batch = jax.tree.map(lambda array: array[batch_indices], pool)
            state, metrics = self._step(state, batch, key=jax.random.fold_in(key, state.step))
            return eqx.filter(state, eqx.is_array), metrics

        return jax.lax.scan(body, arrays, chosen)


def _feed(data: PyTree, indices: Callable, start: int, steps: int, chunk: int) -> Generator[tuple, None, None]:
    """For each chunk: the steps completed after it, a pool of samples, and which of them each of its batches holds."""
    inner = range((start // chunk + 1) * chunk, steps, chunk)
    spans = list(pairwise([start, *inner, steps])) if start < steps else []
    if not isinstance(data, Source):
        pool = jax.tree.map(jnp.asarray, data)
        for begin, end in spans:
            yield end, pool, indices(begin, end)
        return

    def read(begin: int, end: int) -> tuple:
        wanted = indices(begin, end)
        return end, data.take(wanted.reshape(-1)), np.arange(wanted.size, dtype=np.int32).reshape(wanted.shape)

    with ThreadPoolExecutor(1) as reader:
        ahead = None
        for span in spans:
            ready, ahead = ahead, reader.submit(read, *span)
            if ready is not None:
                yield ready.result()
        if ahead is not None:
            yield ahead.result()


def _chunk_length(chunk: int | None, validate_every: int | None, batch_size: int, data: PyTree) -> int:
    if chunk is None:
        one = data.take(np.arange(1)) if isinstance(data, Source) else jax.tree.map(lambda array: array[:1], data)
        batch_bytes = batch_size * sum(array.nbytes for array in jax.tree.leaves(one))
        longest = max(1, min(_LONGEST_CHUNK, _CHUNK_BYTES // max(1, batch_bytes)))
        return max(n for n in range(1, longest + 1) if (validate_every or 0) % n == 0)
    if chunk < 1:
        raise ValueError(f"`chunk` is {chunk}; expected at least one step.")
    if validate_every is not None and validate_every % chunk:
        raise ValueError(
            f"`validate_every` is {validate_every} steps, not a multiple of `chunk`, {chunk}; chunks are not cut short."
        )
    return chunk


def _no_indices(start: int, stop: int) -> np.ndarray:
    return np.zeros((stop - start, 0), np.int32)


def _copy(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return jnp.copy(leaf)
    return jnp.array(leaf, leaf.dtype, copy=True)  # of strong type, as it will be after the first chunk


def _progress_bar(steps: int, start: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=steps, initial=start, unit="step", disable=not progress)
