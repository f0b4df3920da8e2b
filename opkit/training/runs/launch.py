"""The command line of an experiment: its seeds, run or resumed, and the one result above them."""

import argparse
import dataclasses
import enum
import hashlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jax
import numpy as np

from ..parallel.processes import from_first, initialise_processes, is_first
from .atomic import write_json
from .checkpoint import CheckpointError
from .provenance import code_hash, commit, device, versions
from .run import Run, RunError
from .termination import Terminated, Termination

C = TypeVar("C")
Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Options:
    seeds: tuple[int, ...]
    """One run each; seeds that are finished are read, not run again."""
    out: Path = Path("runs")
    """The folder of all results."""
    preset: str = ""
    """A named configuration, which the other flags then change."""
    smoke: bool = False
    """Shrink to seconds: does it run at all?"""
    quiet: bool = False
    """Print nothing."""
    changed_code: bool = False
    """Go on although the code changed since the run was begun."""


def launch(
    main: Callable[[Any, Run], Mapping[str, Any]],
    config: type[C],
    *,
    presets: Mapping[str, C] | None = None,
    smoke: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0,),
    double: bool = False,
    argv: Sequence[str] | None = None,
) -> Result:
    """Run `main(config, run)` for each seed of the command line, and return what it writes to `result.json`.

    The flags are the fields of the frozen dataclass `config`, each with a default, and `--seeds`, `--out`, `--preset`,
    `--smoke`, `--quiet`, `--changed-code`. Below `OUT/<name of main's file>/<hash of the configuration>/` each
    `seed<N>/` holds `config.json`, `metrics.jsonl`, `checkpoint/`, `result.json` and what `main` adds; `result.json`
    above them covers every finished seed: `experiment`, `config`, `metrics` (medians), `values` (in the order of
    `seeds`), `seconds`, `device`, `versions`, `commit`, `data` (content hash), `code` (hashes: two, if it changed),
    `compile_seconds`, and which seeds were `resumed` (their seconds are those since).

    The same command goes on after a kill, from the checkpoints; finished, it prints its result. Where a run was begun
    under other code (that of opkit, solvers, the experiment's file and what it imports from its folder) it refuses.

    **Arguments:** `main` returns the figures of one seed; those at several resolutions are named `relative_l2@32`.
    `presets`: configurations by name. `smoke`: what `--smoke` replaces in the configuration; flags override it. It is
    counted into the hash. `seeds`: the default of `--seeds`. `double`: whether float64 is on while it runs, as
    second-order optimisers need it. `argv`: by default the command line; then an error that says all ends the process
    with its message and the code 1, an interrupt with 130 and SIGTERM with 143.

    On SIGTERM `Run.fit` saves at the end of the chunk of steps; then, or at once outside of it, `Terminated` is raised.
    Many processes are joined first (`initialise_processes`); `--out` is then a folder that all of them see.

    **Raises:** `RunError`; `CheckpointError`; `Terminated`; `ValueError` for a `config` that is no dataclass with
    defaults.
    """
    termination = Termination()
    try:
        options, values = _parse(config, presets or {}, smoke or {}, seeds, argv)
        initialise_processes()
        with jax.enable_x64(True) if double else nullcontext(), termination.heard():
            return _run_all(main, values, options, termination)
    except (RunError, CheckpointError) as error:
        if argv is not None:
            raise
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    except KeyboardInterrupt:
        if argv is not None:
            raise
        print("Interrupted; the same command resumes.", file=sys.stderr)
        raise SystemExit(130) from None
    except Terminated as ended:
        if argv is not None:
            raise
        print(ended, file=sys.stderr)
        raise SystemExit(143) from None


def result_table(result: Result) -> str:
    """The result as text: median and (least..greatest) over the seeds, one column for each `@resolution`."""
    rows = _unique(name.partition("@")[0] for name in result["values"])
    columns = sorted(_unique(name.partition("@")[2] for name in result["values"]), key=bool)  # the bare one first
    cells = [["", *(f"@{column}" if column else "" for column in columns)]]
    for row in rows:
        names = [f"{row}@{column}" if column else row for column in columns]
        cells.append([row, *(_spread(result["values"].get(name)) for name in names)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    seeds = " ".join(map(str, result["seeds"]))
    head = f"{result['experiment']}: seeds {seeds}, {result['seconds']:.0f} s on {result['device']}"
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([head, *(line.rstrip() for line in lines if line.strip())])


def _parse(
    config: type,
    presets: Mapping[str, Any],
    smoke: Mapping[str, Any],
    seeds: Sequence[int],
    argv: Sequence[str] | None,
) -> tuple[_Options, Any]:
    import tyro

    fields = dataclasses.fields(config) if dataclasses.is_dataclass(config) else ()
    bare = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    taken = sorted({f.name for f in fields} & {f.name for f in dataclasses.fields(_Options)})
    if not fields or bare or taken:
        raise ValueError(
            f"`config` is {config}; expected a dataclass of fields with defaults"
            + (f", and {', '.join(bare)} has none." if bare else f" and names other than {', '.join(taken)}.")
        )
    argv = sys.argv[1:] if argv is None else list(argv)
    # What --preset and --smoke choose are the defaults of the other flags, so they are read first.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="")
    first.add_argument("--smoke", action="store_true")
    chosen, _ = first.parse_known_args(argv)
    if chosen.preset and chosen.preset not in presets:
        raise RunError(f"`--preset` is {chosen.preset!r}; expected one of {sorted(presets)}.")
    default = presets[chosen.preset] if chosen.preset else config()
    if chosen.smoke:
        default = dataclasses.replace(default, **smoke)
    about = sys.modules[config.__module__].__doc__ or ""
    # Fields of the configuration and options stand side by side; a nested dataclass keeps its name, `--arm.width`.
    beside = tyro.conf.arg(name="")
    command = dataclasses.make_dataclass(
        "Command",
        [
            ("config", Annotated[config, beside]),
            ("run", Annotated[_Options, beside, tyro.conf.FlagCreatePairsOff]),
        ],
    )
    parsed = tyro.cli(
        command,
        args=argv,
        default=command(default, _Options(tuple(seeds))),
        description="\n\n".join([about.strip(), *([f"Presets: {', '.join(presets)}."] if presets else [])]),
    )
    if not parsed.run.seeds:
        raise RunError("`--seeds` is empty; give one or more, as in `--seeds 0 1 2`.")
    return parsed.run, parsed.config


def _run_all(
    main: Callable[[Any, Run], Mapping[str, Any]], config: Any, options: _Options, termination: Termination
) -> Result:
    file = Path(inspect.getsourcefile(main) or "experiment").resolve()
    identity = {"experiment": file.stem, "config": _plain(config, "config"), "smoke": options.smoke}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = options.out / file.stem / digest
    code = code_hash(file)

    def begin() -> list[int]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "config.json", identity)
        except OSError as error:
            raise RunError(f"`--out` {options.out} cannot be written: {error}. Give a folder that can.") from error
        for path in [] if options.changed_code else sorted(folder.glob("seed*/config.json")):
            if (begun := json.loads(path.read_text())["code"][-1]) != code:
                raise RunError(
                    f"{path.parent} was begun under other code ({begun}; now it is {code}). Remove {folder} to start "
                    "afresh, or go on with --changed-code."
                )
        seeds = dict.fromkeys(options.seeds)
        return [seed for seed in seeds if not (folder / f"seed{seed}" / "result.json").exists()]

    def end() -> Result:
        paths = folder.glob("seed*/result.json")
        records = {int(path.parent.name[4:]): json.loads(path.read_text()) for path in paths}
        result = _collect(identity, dict(sorted(records.items())))
        write_json(folder / "result.json", result)
        if not options.quiet:
            print(result_table(result), folder / "result.json", sep="\n")
        return result

    for seed in from_first(begin):
        directory = folder / f"seed{seed}"
        directory.mkdir(exist_ok=True)
        with ExitStack() as held:
            from_first(partial(held.enter_context, _alone(directory)))
            run = Run(
                directory,
                seed,
                config_hash=digest,
                quiet=options.quiet,
                smoke=options.smoke,
                termination=termination,
            )
            _run_one(main, config, run, identity, code, file)
    return from_first(end)


def _run_one(
    main: Callable[[Any, Run], Mapping[str, Any]],
    config: Any,
    run: Run,
    identity: Result,
    code: str,
    file: Path,
) -> None:
    begun = run.directory / "config.json"
    earlier = json.loads(begun.read_text())["code"] if begun.exists() else []
    codes = earlier if code in earlier[-1:] else [*earlier, code]
    if is_first():
        write_json(begun, identity | {"seed": run.seed, "code": codes})
    start = time.perf_counter()
    metrics = {name: _number(name, value) for name, value in main(config, run).items()}
    record = {
        "metrics": metrics,
        "seconds": time.perf_counter() - start,
        "compile_seconds": run.compile_seconds,
        "resumed": bool(earlier),
        "device": device(),
        "versions": versions(),
        "commit": commit(file.parent),
        "data": run.data,
        "code": codes,
    }
    if is_first():
        write_json(run.directory / "result.json", record)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep a second process out of the folder of a seed; the lock ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    with open(directory / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"Another process is at work in {directory}; wait for its end, or end it.") from error
        except OSError:
            pass  # a file system without locks
        yield


def _collect(identity: Result, records: Mapping[int, Result]) -> Result:
    names = list(next(iter(records.values()))["metrics"])
    for seed, record in records.items():
        if list(record["metrics"]) != names:
            raise RunError(f"`main` returned {list(record['metrics'])} for seed {seed}, and {names} for another.")
    values = {name: [record["metrics"][name] for record in records.values()] for name in names}
    return {
        **identity,
        "seeds": list(records),
        "metrics": {name: float(np.median(of_seeds)) for name, of_seeds in values.items()},
        "values": values,
        "seconds": sum(record["seconds"] for record in records.values()),
        "compile_seconds": sum(record["compile_seconds"] for record in records.values()),
        "resumed": [seed for seed, record in records.items() if record["resumed"]],
        **{
            key: _common(record[key] for record in records.values()) for key in ("device", "versions", "commit", "data")
        },
        "code": _unique(code for record in records.values() for code in record["code"]),
    }


def _plain(value: Any, where: str) -> Any:
    """A configuration as JSON has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"`{where}` is {value!r}; a configuration holds numbers, strings, paths, enumerations, and dataclasses, tuples "
        "or dictionaries of them. Build what it stands for in `main`."
    )


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except TypeError as error:
        raise RunError(f"`main` returned {name}={value!r}; expected one number.") from error


def _spread(values: Sequence[float] | None) -> str:
    if values is None:
        return ""
    middle = f"{np.median(values):.4g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.4g}..{max(values):.4g})"


def _common(values: Iterable[Any]) -> Any:
    """What all seeds have in common, or else the list."""
    listed = list(values)
    return listed[0] if all(value == listed[0] for value in listed) else listed


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
