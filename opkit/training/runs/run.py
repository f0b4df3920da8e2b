"""One seed of an experiment: its key, its folder, and what an experiment writes there."""

import io
import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax
from jaxtyping import PRNGKeyArray, PyTree

from ..chunks import NonFiniteLoss, Stopped
from ..fit import fit
from ..parallel.processes import from_first, is_first
from ..state import TrainState
from ..terms import Objective
from .atomic import write_json, write_whole
from .checkpoint import Checkpoints
from .model_file import save_model
from .termination import Terminated, Termination


class RunError(RuntimeError):
    """What stops a run; the message says which seed, where its files are and how to go on."""


class Diverged(RunError):
    """The loss, or the model an update gave, stopped being finite."""


class SolveFailed(RunError):
    """A numerical solve reported by its result code that it did not succeed."""


class Run:
    """What `main(config, run)` is given beside its configuration.

    `seed`, and `key = jax.random.key(seed)`; `directory`, this seed's folder; `quiet`; `smoke`, true when shrunk to
    seconds. A run that was killed is made again by the same calls: what `fit` or `checkpoints` has restored is not
    repeated, and `metrics.jsonl` comes out as of an unbroken run. A run with several fits names each by its `stage`.

    Many processes make the run together (see `initialise_processes`), each with all of these calls; the first alone
    writes and prints. What `main` decides by the clock or by files, it has to decide by `from_first`.

    **Raises:** `RunError` for a `metrics.jsonl` that is damaged before its last line.
    """

    def __init__(
        self,
        directory: str | Path,
        seed: int,
        *,
        config_hash: str = "",
        quiet: bool = False,
        smoke: bool = False,
        termination: Termination | None = None,
    ):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.seed, self.quiet, self.smoke = seed, quiet or not is_first(), smoke
        self.key: PRNGKeyArray = jax.random.key(seed)
        self.data: str | None = None
        self.compile_seconds = 0.0
        self._config_hash = config_hash
        self._termination = termination or Termination()
        self._metrics = self.directory / "metrics.jsonl"
        self._rows = self._read_rows() if is_first() else []
        self._replayed = Counter((row["stage"], row["step"]) for row in self._rows)

    def log(self, step: int, metrics: Mapping[str, float], *, stage: str = "train") -> None:
        """Append a line `{"stage", "step", **metrics}` to `metrics.jsonl`; a line there from before a kill stays."""
        if self._replayed[stage, step] > 0:
            self._replayed[stage, step] -= 1
            return
        for name in ("stage", "step"):
            if name in metrics:
                raise ValueError(f"`metrics` has the name {name!r}, which the line itself uses; rename it.")
        row = {"stage": stage, "step": step, **{name: float(value) for name, value in metrics.items()}}
        if is_first():
            with open(self._metrics, "a") as file:
                file.write(json.dumps(row) + "\n")

    def checkpoints(
        self,
        stage: str = "train",
        *,
        keep: int = 2,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        every: int = 1,
        end: int | None = None,
    ) -> Checkpoints:
        """The `Checkpoints` of a stage of this run (arguments as there), for a training loop of one's own.

        Opening them cuts the stage's lines of `metrics.jsonl` back to the latest checkpoint: restore it next.
        """
        store = Checkpoints(
            self.directory / "checkpoint" / stage,
            keep=keep,
            best=best,
            mode=mode,
            every=every,
            end=end,
            config_hash=self._config_hash,
        )
        latest = -1 if store.latest is None else store.latest
        kept = [row for row in self._rows if row["stage"] != stage or row["step"] <= latest]
        if len(kept) < len(self._rows):
            write_whole(self._metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._rows = kept
        # What the state restored has seen will not be logged again, and what was cut will be.
        for key in [key for key in self._replayed if key[0] == stage]:
            del self._replayed[key]
        return store

    def fit(
        self,
        objective: Objective,
        state: PyTree,
        data: PyTree,
        optimiser: optax.GradientTransformation,
        *,
        steps: int,
        stage: str = "train",
        keep: int = 2,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        every: int = 1,
        **options: Any,
    ) -> TrainState:
        """`opkit.training.fit` with this run's seed, log, checkpoints and progress bar; `options` are those of `fit`.

        `keep`, `best`, `mode` and `every` are those of `Checkpoints`; a checkpoint falls on the end of a chunk.

        **Raises:** `Diverged` when the loss is no longer finite; `Terminated` where `launch` heard SIGTERM: at the next
        end of a chunk, when the state is saved.
        """
        store = self.checkpoints(stage, keep=keep, best=best, mode=mode, every=every, end=steps)
        try:
            with self._termination.deferred():
                return fit(
                    objective,
                    state,
                    data,
                    optimiser,
                    steps=steps,
                    seed=self.seed,
                    checkpoints=store,
                    log=partial(self.log, stage=stage),
                    on_compile=self._add_compile_seconds,
                    stop=lambda: self._termination.requested,
                    progress=not self.quiet,
                    **options,
                )
        except NonFiniteLoss as error:
            good = store.directory / str(store.steps[-1]) if store.steps else "none yet"
            raise Diverged(f"Seed {self.seed}, {stage}: {error} The last good checkpoint: {good}.") from error
        except Stopped as error:
            raise Terminated(
                f"Seed {self.seed}, {stage}: ended by SIGTERM after step {error.step}, which is saved; the same "
                "command resumes."
            ) from error

    def check(self, result: Any, what: str) -> None:
        """Raise `SolveFailed` unless `result`, the result code (or a batch of them) of a Lineax, Optimistix or Diffrax
        solve, or of ours, is success. `what` names the solve in the message."""
        codes = result._enumeration  # no public way leads from an item to its enumeration
        failed = np.ravel(np.asarray(result != codes.successful))
        if failed.any():
            first = int(np.argmax(failed))
            message = codes[jax.tree.map(lambda value: np.asarray(np.ravel(value)[first]), result)]
            count = f" in {failed.sum()} of {failed.size} solves, first in number {first}" if failed.size > 1 else ""
            raise SolveFailed(f"Seed {self.seed}: {what} failed{count}: {message}")

    def save_figure(self, figure: Any, name: str = "figure") -> Path:
        """Write a Matplotlib figure as `NAME.png` into the folder, and close it."""
        import matplotlib.pyplot as plt

        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=150, bbox_inches="tight")
        plt.close(figure)
        if is_first():
            write_whole(self.directory / f"{name}.png", content.getvalue())
        return self.directory / f"{name}.png"

    def save_model(self, model: PyTree, hyperparameters: Mapping[str, Any], name: str = "model") -> Path:
        """`opkit.training.save_model` as `NAME.safetensors` into the folder."""
        path = self.directory / f"{name}.safetensors"
        if is_first():
            save_model(path, model, hyperparameters)
        return path

    def record_data(self, content_hash: str) -> None:
        """Put the content hash of the data into the result.

        **Raises:** `RunError` if the run was begun on other data, or another process has other data.
        """
        path = self.directory / "data.json"
        begun = from_first(lambda: json.loads(path.read_text()) if path.exists() else content_hash)
        if begun != content_hash:
            raise RunError(
                f"Seed {self.seed} was begun on data with the hash {begun}, and is now given {content_hash}. "
                f"Give it the same data, or remove {self.directory} to start afresh."
            )
        if is_first():
            write_json(path, content_hash)
        self.data = content_hash

    def print(self, *values: Any) -> None:
        """Print a line, past the progress bar, unless quiet."""
        if not self.quiet:
            from tqdm import tqdm

            tqdm.write(" ".join([f"[seed {self.seed}]", *map(str, values)]))

    def _add_compile_seconds(self, seconds: float) -> None:
        self.compile_seconds += seconds

    def _read_rows(self) -> list[dict[str, Any]]:
        lines = self._metrics.read_bytes().splitlines(keepends=True) if self._metrics.exists() else []
        if lines and not lines[-1].endswith(b"\n"):  # the process was killed as it wrote
            write_whole(self._metrics, b"".join(lines := lines[:-1]))
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise RunError(
                    f"{self._metrics} is damaged in line {number}; remove {self.directory} to start seed {self.seed} "
                    "afresh."
                ) from error
        return rows
