"""Checkpoints of a training run: written by Orbax in the background, and checked to the bit when read."""

import json
import logging
import math
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import PyTree

from .manifest import DamagedError, StructureError, describe, fill, stored, verify

_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; the message names the folder and the way on."""


class Checkpoints:
    """The checkpoints of one run, a folder a step; what `opkit.training.fit` restores from and saves to.

    A state is any PyTree with an integer `step`. Its arrays (typed keys, bfloat16 and integers too) are written by
    path, with a manifest of shapes, dtypes and a CRC-32 of each; all else comes from the program. `save` copies the
    arrays and returns; Orbax writes them in a thread, under a temporary name until the folder is complete, so a
    killed process leaves the previous checkpoint as the latest. Arrays that lie in pieces on several devices are
    written in pieces, by the processes that have them; read are all of them, whole: the numbers of devices and of
    processes may change. Many processes call all methods together, with one folder that all of them see. Usable as a
    context manager, which closes it.

    **Arguments:** `directory`: made if absent. `keep`: the number of latest steps kept. `best`: also keep the step
    with the best value of this metric, `mode` telling which is best. `every`: `save` passes over a state unless a
    multiple of `every` steps lies between the last one written and it; `end`: the step that is written in any case.
    `config_hash`: what the state was trained under; a checkpoint of another is refused.

    **Raises:** `CheckpointError` for a folder that cannot be written; `ValueError` for `keep` or `every` below 1.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep: int = 2,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        every: int = 1,
        end: int | None = None,
        config_hash: str = "",
    ):
        for name, value in (("keep", keep), ("every", every)):
            if value < 1:
                raise ValueError(f"`{name}` is {value}; expected 1 or more.")
        if mode not in ("min", "max"):
            raise ValueError(f"`mode` is {mode!r}; expected 'min' or 'max'.")
        import orbax.checkpoint as ocp

        logging.getLogger("absl").addFilter(_without_orbax_chatter)
        self._ocp = ocp
        self.directory = Path(directory).absolute()
        self._keep, self._best, self._sign = keep, best, 1 if mode == "min" else -1
        self._every, self._end, self._config = every, end, config_hash
        self._scores: dict[int, float] = {}
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            options = ocp.CheckpointManagerOptions(
                preservation_policy=self,
                cleanup_tmp_directories=True,
                save_root_metadata=False,
                lightweight_initialize=True,
            )
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise CheckpointError(f"`directory` {self.directory} cannot be written: {error}.") from error
        if best is not None:
            for step in self.steps:
                try:
                    self._scores[step] = self._score(self._manifest(step)["metrics"])
                except DamagedError:
                    continue  # told when it is restored; until then it is no candidate
        self._last = self.latest or 0

    @property
    def steps(self) -> list[int]:
        """The steps with a complete checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        """The last of `steps`."""
        return self._manager.latest_step()

    def restore(self, like: PyTree, *, best: bool = False) -> PyTree | None:
        """The latest state (the best one if asked), or `None` where there is none.

        `like` is a state of the same structure: it gives what is no array, and the devices.

        **Raises:** `CheckpointError` for files that are damaged, of a format from the future, of another
        configuration or of another structure.
        """
        candidates = [step for step in self.steps if step in self._scores] if best else self.steps
        if not candidates:
            return None
        step = min(candidates, key=lambda step: (self._scores[step], -step)) if best else candidates[-1]
        where = f"The checkpoint {self.directory / str(step)}"
        try:
            manifest, arrays = self._read(step)
        except DamagedError as error:
            raise CheckpointError(f"{where} is damaged: {error}. {self._way_on(step)}") from error
        if manifest["version"] != _VERSION:
            raise CheckpointError(
                f"{where} has format version {manifest['version']}; this program reads {_VERSION}. Update opkit."
            )
        if manifest["config"] != self._config:
            raise CheckpointError(
                f"{where} was written under the configuration {manifest['config']!r}, not {self._config!r}. "
                "Give another folder, or remove this one to start afresh."
            )
        try:
            return fill(like, arrays, manifest["arrays"], same_dtype=True)
        except StructureError as error:
            raise CheckpointError(f"{where} holds another structure; {error}") from error

    def save(self, state: PyTree, metrics: Mapping[str, float], *, now: bool = False) -> None:
        """Write `state` in the background under `state.step`, with the `metrics` that belong to it; if `now`, whatever
        `every` says.

        **Raises:** `CheckpointError` where this or the previous state could not be written.
        """
        step = int(state.step)
        now = now or step == self._end or step // self._every != self._last // self._every
        if step == self._last or not now:
            return
        if self.latest is not None and step < self.latest:
            raise CheckpointError(
                f"`state` is at step {step}, but {self.directory} goes on to {self.latest}. Restore before training, "
                "or give another folder."
            )
        arrays, entries = describe(state, in_pieces=True)
        metrics = {name: float(value) for name, value in metrics.items()}
        manifest = {
            "version": _VERSION,
            "config": self._config,
            "step": step,
            "metrics": metrics,
            "arrays": entries,
        }
        manifest["checksum"] = _checksum(manifest)
        # Orbax writes no empty arrays, and returns those without axes as Python numbers.
        written = {path: array if array.ndim else array[None] for path, array in arrays.items() if array.size}
        args = self._ocp.args.Composite(
            arrays=self._ocp.args.PyTreeSave(written), manifest=self._ocp.args.JsonSave(manifest)
        )
        if self._best is not None:
            self._scores[step] = self._score(metrics)
        self._written(lambda: self._manager.save(step, args=args))
        self._last = step

    def wait(self) -> None:
        """Return when what was saved is on disk; `CheckpointError` where it could not be written."""
        self._written(self._manager.wait_until_finished)

    def close(self) -> None:
        """`wait`, and end the thread."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's question after a save: the latest `keep` stay, and the best."""
        steps = [info.step for info in checkpoints]
        known = [step for step in steps if math.isfinite(self._scores.get(step, math.inf))]
        best = min(known, key=lambda step: (self._scores[step], -step)) if known else None
        return [step in steps[-self._keep :] or step == best for step in steps]

    def _score(self, metrics: Mapping[str, float]) -> float:
        """What the best step has least of; infinite where the metric is absent or not a number."""
        value = self._sign * metrics.get(self._best or "", math.inf * self._sign)
        return math.inf if math.isnan(value) else value

    def _written(self, write: Any) -> None:
        try:
            write()
        except Exception as error:  # Orbax passes on what its threads, TensorStore and the file system raise
            # Whatever could not be written is temporary, and only fills the disk.
            for left in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(left, ignore_errors=True)
            raise CheckpointError(
                f"A checkpoint in {self.directory} could not be written: {error}. The latest complete one is of step "
                f"{self.latest}; make room or give back the right to write, and run again."
            ) from error

    def _manifest(self, step: int) -> dict[str, Any]:
        args = self._ocp.args.Composite(manifest=self._ocp.args.JsonRestore())
        try:
            manifest = self._manager.restore(step, args=args)["manifest"]
            whole = manifest.pop("checksum") == _checksum(manifest)
        except Exception as error:  # whatever JSON, Orbax or the file system makes of damaged bytes
            raise DamagedError(f"its manifest cannot be read ({type(error).__name__})") from error
        if not whole:
            raise DamagedError("the checksum of its manifest is wrong")
        return manifest

    def _read(self, step: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        manifest = self._manifest(step)
        if manifest["version"] != _VERSION:
            return manifest, {}
        whole = self._ocp.RestoreArgs(restore_type=np.ndarray)  # where the pieces lay is nothing to this program
        args = {entry["path"]: whole for entry in manifest["arrays"] if 0 not in entry["shape"]}
        args = self._ocp.args.Composite(arrays=self._ocp.args.PyTreeRestore(restore_args=args))
        try:
            read = self._manager.restore(step, args=args)["arrays"]
            arrays = {}
            for entry in manifest["arrays"]:
                shape, dtype = stored(entry)
                array = read[entry["path"]] if 0 not in shape else np.zeros(shape)
                arrays[entry["path"]] = np.asarray(array, dtype).reshape(shape)
        except Exception as error:  # as above, with TensorStore's
            raise DamagedError(f"its arrays cannot be read ({type(error).__name__})") from error
        verify(arrays, manifest["arrays"])
        return manifest, arrays

    def _way_on(self, damaged: int) -> str:
        for step in reversed([step for step in self.steps if step < damaged]):
            try:
                self._read(step)
            except DamagedError:
                continue
            later = ", ".join(str(self.directory / str(s)) for s in self.steps if s > step)
            return f"Step {step} is intact: to resume from it, remove {later} and run again."
        return f"No earlier step is intact: remove {self.directory} to start afresh."


def _checksum(manifest: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _without_orbax_chatter(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or "orbax" not in record.pathname
