"""Fit a model: compiled chunks of training steps, and what happens between them."""

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from opkit.data import Source, count_samples, index_stream

from .chunks import Program, Stopped
from .parallel.processes import from_first, is_first, many_processes, on_any
from .parallel.sharding import BATCH_AXIS, Devices, batch_mesh, check_divides, own_shards
from .state import TrainState, init_state
from .step import make_train_step
from .terms import Objective

_LONGEST_CHUNK = 100  # steps: by then the cost of a call is nothing beside theirs
_CHUNK_BYTES = 2**28  # of samples: what a streamed chunk may hold in memory, twice


@runtime_checkable
class CheckpointStore(Protocol):
    """Where `fit` keeps its states."""

    def restore(self, like: TrainState) -> TrainState | None:
        """The latest good state, with the structure of `like`; `None` if there is none."""
        ...

    def save(self, state: TrainState, metrics: dict[str, float], *, now: bool = False) -> None:
        """Take the state at the end of a chunk; it is finite, and its arrays lie as in training: on several devices,
        some in pieces. It may write later, and skip states unless it is to take this one `now`, but must have copied
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
    devices: Devices | None = None,
    micro_batches: int = 1,
    shard_optimiser: bool = False,
    chunk: int | None = None,
    validate: Callable[[TrainState], Mapping[str, float]] | None = None,
    validate_every: int | None = None,
    checkpoints: CheckpointStore | None = None,
    log: Callable[[int, dict[str, float]], None] | None = None,
    on_compile: Callable[[float], None] | None = None,
    stop: Callable[[], bool] | None = None,
    progress: bool = False,
) -> TrainState:
    """Train to `steps` completed steps.

    Step `s` has the key `fold_in(key(seed), s)` and the batch `index_stream(samples, batch_size, seed)(s, s + 1)`:
    numbers depend on nothing else. Steps run in chunks, each one compiled `scan`; chunks end at the multiples of
    `chunk` and at `steps`. At their ends, in this order: a check that all was finite; `validate`; `log`; `stop`;
    `checkpoints`. So a run resumed from a checkpoint executes the same programs as one never interrupted, and agrees
    bit for bit.

    **Arguments:**

    - `state`: a `TrainState` to go on from, or a model to begin with. Its arrays are copied.
    - `data`: a PyTree of arrays `(samples, ...)`, kept on the device; or a `Source`, from which the samples of a chunk
      are read while the one before is trained on (bit for bit the same); or `None`, for an objective that makes its
      own batches from `key`: it gets `None`.
    - `steps`: the total, those behind `state` included. `batch_size`: by default all samples.
    - `carry`: the objective's, for a model to begin with. `trainable`: as in `partition`.
    - `devices`: those that share each batch, in equal parts; all of `data` lies on each, of a `Source` only its part.
      By default those of all processes if there are many. Given one or none, nothing is split. `micro_batches`,
      `shard_optimiser`: as in `make_train_step`. The results are those of one device to rounding. The state is handed
      out on the first one.
    - `chunk`: steps a compiled call. By default at most 100, and no more than make 256 MiB of samples; with
      `validate_every`, a divisor of it.
    - `validate`: maps the state to figures, logged as `validate/NAME`: every `validate_every` steps, and at the end.
      Training goes on in the state's memory: copy what is to be kept.
    - `checkpoints`: where states are kept, and the run resumes from. It is closed at the end.
    - `log`: called with the number of completed steps and the figures: the step's metrics (see `make_train_step`),
      their mean over the chunk.
    - `on_compile`: called with the seconds each compilation took, which no other figure contains.
    - `stop`: asked at the end of each chunk; where it says so, the state is saved and `Stopped` raised.
    - `progress`: show a progress bar.

    **Many processes** (see `initialise_processes`) call `fit` together, each with the same arguments: `data` too, of
    which each puts on its devices what these need; of a `Source` it reads no more. `validate`, `log` and `progress` act
    on the first process alone, and what `validate` finds or raises there, all have; `stop` is heeded where any process
    says so. Every process gets the state, on the first of its devices.

    **Raises:** `NonFiniteLoss`, on every process; `Stopped`. `ValueError` for a configuration that does not fit
    together, or for data whose arrays differ in length.
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
    if devices is None and many_processes():
        devices = jax.devices()
    mesh = None if devices is None else batch_mesh(devices)
    shards = 1 if mesh is None else mesh.size
    if data is None and (shards > 1 or micro_batches > 1):
        raise ValueError(
            f"`data` is None with {shards} `devices` and {micro_batches} `micro_batches`; the objective makes its own "
            "batches, which are not split."
        )
    check_divides(size, shards)
    chunk = _chunk_length(chunk, validate_every, size, data)
    try:
        if checkpoints is not None:
            restored = checkpoints.restore(state)
            state = state if restored is None else restored
        axis = BATCH_AXIS if shards > 1 else None
        take = make_train_step(
            objective,
            optimiser,
            trainable=trainable,
            micro_batches=micro_batches,
            axis=axis,
            shard_optimiser=shard_optimiser and shards > 1,
        )
        pool = P(BATCH_AXIS) if isinstance(data, Source) else P()
        program = Program(take, state, seed, on_compile, mesh=mesh, pool=pool, shard_optimiser=shard_optimiser)
        start = int(state.step)
        own = [0] if mesh is None else own_shards(mesh)
        with (
            closing(_feed(data, program.put, indices, start, steps, chunk, shards, own)) as feed,
            _progress_bar(steps, start, progress and is_first()) as bar,
        ):
            for step, pool, chosen in feed:
                metrics = program.run(pool, chosen)
                figures = {name: float(np.mean(value, dtype=np.float64)) for name, value in metrics.items()}
                if validate is not None and (step == steps or (validate_every and step % validate_every == 0)):
                    figures |= from_first(partial(_validated, validate, program.state))
                if log is not None and is_first():
                    log(step, figures)
                stopping = on_any(stop is not None and stop())
                if checkpoints is not None:
                    checkpoints.save(program.spread_state, figures, now=stopping)
                if stopping:
                    raise Stopped(step)
                bar.set_postfix({"loss": f"{figures['loss']:.3g}"}, refresh=False)
                bar.update(len(chosen))
    finally:
        if checkpoints is not None:
            checkpoints.close()
    return program.state


def _feed(
    data: PyTree, put: Callable, indices: Callable, start: int, steps: int, chunk: int, shards: int, own: list[int]
) -> Generator[tuple, None, None]:
    """For each chunk: the steps completed after it, a pool of samples, and which of them each of its batches holds.

    A pool that is read has one part for each of the `shards`, and these number their own samples; read are those of
    this process's `own` shards.
    """
    inner = range((start // chunk + 1) * chunk, steps, chunk)
    spans = list(pairwise([start, *inner, steps])) if start < steps else []
    if not isinstance(data, Source):
        pool = put(data)
        for begin, end in spans:
            yield end, pool, indices(begin, end)
        return

    def read(begin: int, end: int) -> tuple:
        wanted = indices(begin, end).reshape(end - begin, shards, -1).swapaxes(0, 1)
        places = np.arange(wanted[0].size, dtype=np.int32).reshape(wanted.shape[1:])
        return end, put(data.take(wanted[own].reshape(-1))), np.tile(places, shards)

    with ThreadPoolExecutor(1) as reader:
        ahead = None
        for span in spans:
            ready, ahead = ahead, reader.submit(read, *span)
            if ready is not None:
                yield ready.result()
        if ahead is not None:
            yield ahead.result()


def _validated(validate: Callable[[TrainState], Mapping[str, float]], state: TrainState) -> dict[str, float]:
    return {f"validate/{name}": float(value) for name, value in validate(state).items()}


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


def _progress_bar(steps: int, start: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=steps, initial=start, unit="step", disable=not progress)
