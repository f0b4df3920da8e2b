"""Every speed benchmark on whatever device is there: one command, one table, at most ten minutes.

Shows: of each benchmark beside this file the figures that matter, in `report.md`; with all it wrote and printed, the
versions, the devices and their memory, in `report.json`. Each runs in a process of its own, at sizes for the kind of
device, for at most its share of the time that is left; one that fails or takes longer is reported as such, and the
rest go on. Peers stand beside where they are installed; those on PyTorch, which run on the processor here, only where
ours do too. The benchmarks by themselves, at their own sizes, take longer and say more.

Cost: is meant to take nine minutes, on two cores as on a GPU (`--minutes` bounds it; on a GPU two thirds compile).
opkit needs no installation for it.

    python experiments/benchmarks/device_report.py --out device_report
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
GRACE = 15.0  # seconds from SIGTERM to SIGKILL: one with processes of its own ends these first


@dataclass(frozen=True)
class Config:
    """Command line."""

    out: Path = Path("device_report")
    """The folder of both files."""
    minutes: float = 9.0
    """Of all benchmarks together."""
    only: tuple[str, ...] = ()
    """Names of benchmarks; all by default."""
    smoke: bool = False
    """Shrink each to seconds."""


@dataclass(frozen=True)
class Row:
    """A figure. `beside`: its part of what another way takes, by name."""

    what: str
    value: float
    unit: str
    beside: dict[str, float]


@dataclass(frozen=True)
class Benchmark:
    """A script: its part of the time, its flags by kind of device, its peers by module, and the rows of its result."""

    share: float
    cpu: str
    gpu: str
    rows: Callable[[dict[str, Any]], Iterator[Row]]
    peers: tuple[str, ...] = ()


def parts(seconds: dict[str, float], own: str = "opkit") -> dict[str, float]:
    """Ours over each other's; first calls and our own variants apart."""
    return {name: seconds[own] / seconds[name] for name in (*MODULES, "diffrax") if name in seconds}


def fno_rows(result: dict[str, Any]) -> Iterator[Row]:
    """Steps and inferences by size; epochs."""
    for name, of_case in result.items():
        for what, label in {"train": "training step", "infer": "inference"}.items():
            if what in of_case:
                yield Row(f"{name}: {label}", 1e3 * of_case[what]["opkit"], "ms", parts(of_case[what]))
        if name.endswith(("epoch", "epochs")):
            yield Row(f"2-D 16: {name}", of_case["opkit"], "s", parts(of_case))


def darcy_rows(result: dict[str, Any]) -> Iterator[Row]:
    """Batches of solves, and single ones."""
    for row in result["throughput"]:
        beside = {"scipy's spsolve": row["ms_per_solve"] / row["spsolve_ms"]}
        yield Row(f"{row['n']} x {row['n']}: a solve in a batch", row["ms_per_solve"], "ms", beside)
    for row in result["growth"]:
        yield Row(f"{row['n']} x {row['n']}, contrast {row['contrast']:g}: one solve", row["ms"], "ms", {})


def derivative_rows(result: dict[str, Any]) -> Iterator[Row]:
    """Values and gradients beside the usual way to write them."""
    for name, ways in result.items():
        if "opkit" in ways:
            own = ways["opkit"]["seconds"]
            usual = {way: own / ways[way]["seconds"] for way in ("hessian", "term by term") if way in ways}
            yield Row(name, 1e3 * own, "ms", usual)


def ode_rows(result: dict[str, Any]) -> Iterator[Row]:
    """A training step and a prediction."""
    for what in ("train", "predict"):
        yield Row(what, 1e3 * result[what]["opkit"], "ms", parts(result[what]))


def pinn_rows(result: dict[str, Any]) -> Iterator[Row]:
    """A step of Adam."""
    yield Row("a step of Adam", 1e3 * result["step"]["opkit"], "ms", parts(result["step"]))


def stepper_rows(result: dict[str, Any]) -> Iterator[Row]:
    """A step by equation, size and batch, beside its Fourier transforms alone."""
    for row in result["rows"]:
        step, size = row["microseconds"], " x ".join(map(str, row["shape"]))
        beside = parts(step, "ours") | {"its transforms": row["of floor"]}
        yield Row(f"{row['case']} {size}, batch of {row['batch']}: a step", step["ours"], "us", beside)


def decomposition_rows(result: dict[str, Any]) -> Iterator[Row]:
    """A run by case and number of devices, and a device's memory."""
    for row in result["rows"]:
        what = f"{row['case']} on {row['devices']}"
        yield Row(what, 1e3 * row["seconds"], "ms", {"one device's memory": row["memory"]})


def scaling_rows(result: dict[str, Any]) -> Iterator[Row]:
    """Samples a second, beside a plain `jit`; what is gathered."""
    metrics = result["metrics"]
    for name, value in metrics.items():
        quantity, _, rest = name.partition("/")
        case, _, count = rest.partition("/strong@")
        if quantity == "samples_per_second" and count:
            beside = {"plain jit": metrics[f"of_plain/{case}@{count}"]} if int(count) > 1 else {}
            yield Row(f"{case} on {count}", value, "samples/s", beside)
    yield Row("gathered by all of ours", metrics["all_gathers"], "all-gathers", {})


BENCHMARKS = {  # the dearest last: what the others leave goes to them
    "pinn": Benchmark(40, "--rounds 3", "--rounds 5", pinn_rows, ("deepxde",)),
    "neural_ode": Benchmark(60, "--rounds 5 --calls 5", "--rounds 5 --calls 10", ode_rows, ("torchdiffeq",)),
    "derivatives": Benchmark(
        70, "--dimensions 3 --points 2000 --rounds 3 --calls 1", "--dimensions 3 10 --rounds 3", derivative_rows
    ),
    "darcy_solver": Benchmark(
        80,
        "--sizes 64 --batch 16 --repeats 3 --growth 64 --contrasts 4",
        "--sizes 64 128 --chunk 64 --repeats 3 --growth 256 --contrasts 4",
        darcy_rows,
    ),
    "spectral_steppers": Benchmark(
        80,
        "--only Navier-Stokes --rounds 5 --no-gradient",
        "--only Navier-Stokes --no-gradient",
        stepper_rows,
        ("exponax",),
    ),
    "decomposition": Benchmark(80, "--devices 1 4 --rounds 3", "", decomposition_rows),
    "scaling": Benchmark(
        120, "--devices 1 2 4 --processes 2 --points 32 --modes 8 --rounds 5", "--preset gpu", scaling_rows
    ),
    "fno_step": Benchmark(
        130, "--rounds 3 --epochs 1", "--rounds 7 --epochs 2", fno_rows, ("neuraloperator", "pdequinox")
    ),
}
MODULES = {  # of the peers, and whether they are on PyTorch
    "neuraloperator": ("neuralop", True),
    "pdequinox": ("pdequinox", False),
    "exponax": ("exponax", False),
    "torchdiffeq": ("torchdiffeq", True),
    "deepxde": ("deepxde", True),
}
PROBE = """
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
import jax
from opkit.training import commit
names = ("jax", "jaxlib", "numpy", "equinox", "optax", "diffrax", "lineax", "torch", *{peers!r})
versions = {{}}
for name in names:
    try:
        versions[name] = version(name)
    except PackageNotFoundError:
        pass
devices = [{{"kind": d.device_kind, "bytes": (d.memory_stats() or {{}}).get("bytes_limit")}} for d in jax.devices()]
about = {{"platform": jax.default_backend(), "devices": devices, "versions": versions}}
print(json.dumps(about | {{"commit": commit(Path({root!r}))}}))
"""


def environment() -> dict[str, str]:
    """Of every process started: opkit from this checkout, and output at once."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def machine() -> dict[str, Any]:
    """Devices, versions and host. The devices are asked in a process of its own, which then gives them back."""
    code = PROBE.format(peers=tuple(MODULES), root=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        raise SystemExit(f"JAX does not start here:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    host: dict[str, Any] = {"processor": models[0] if models else platform.machine(), "cores": os.cpu_count()}
    host["bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return found | {"host": host, "python": platform.python_version()}


def command(name: str, kind: str, folder: Path, smoke: bool) -> list[str]:
    """How a benchmark is started; its result goes below `folder`."""
    benchmark, cpu = BENCHMARKS[name], kind == "cpu"
    flags = ["--smoke"] if smoke else (benchmark.cpu if cpu else benchmark.gpu).split()
    installed = [peer for peer in benchmark.peers if importlib.util.find_spec(MODULES[peer][0])]
    peers = [peer for peer in installed if cpu or not MODULES[peer][1]]
    flags += ["--peer", *peers] if peers else []
    out = folder if name == "scaling" else folder / "result.json"
    return [sys.executable, str(FOLDER / f"{name}.py"), *flags, "--out", str(out)]


def measure(name: str, kind: str, seconds: float, smoke: bool) -> dict[str, Any]:
    """Run one for at most so many seconds: its status, what it took, its rows, its result, and what it printed."""
    began, spent = time.perf_counter(), processor_seconds()
    with tempfile.TemporaryDirectory() as folder:
        started = subprocess.Popen(
            command(name, kind, Path(folder), smoke),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            printed, status = started.communicate(timeout=seconds)[0], "done"
        except subprocess.TimeoutExpired:
            started.terminate()
            try:
                printed = started.communicate(timeout=GRACE)[0]
            except subprocess.TimeoutExpired:
                started.kill()
                printed = started.communicate()[0]
            status = f"ran over its {seconds:.0f} s"
        if status == "done" and started.returncode:
            status = f"failed with exit code {started.returncode}"
        paths = sorted(Path(folder).rglob("result.json"), key=lambda path: len(path.parts))  # above those of seeds
        result = json.loads(paths[0].read_text()) if paths and status == "done" else None
    rows = []
    if status == "done":
        try:
            rows = [vars(row) for row in BENCHMARKS[name].rows(result)] if result else []
            status = "done" if rows else "wrote no result"
        except KeyError as error:
            status = f"wrote a result without {error}"
    return {
        "status": status,
        "seconds": time.perf_counter() - began,
        "processor_seconds": processor_seconds() - spent,
        "rows": rows,
        "result": result,
        "printed": printed,
    }


def processor_seconds() -> float:
    """Of the processes that have ended."""
    spent = os.times()
    return spent.children_user + spent.children_system


def ending(record: dict[str, Any]) -> str:
    """How one ended, and after how long."""
    return f"{record['status']}, {record['seconds']:.0f} s ({record['processor_seconds']:.0f} s of the processor)"


def markdown(about: dict[str, Any], found: dict[str, dict[str, Any]]) -> str:
    """The table, what it was measured with, and the last lines of what failed."""
    memory = lambda size: f", {size / 2**30:.0f} GiB" if size else ""
    devices, host = about["devices"], about["host"]
    lines = [
        f"# opkit on {len(devices)} x {devices[0]['kind']}{memory(devices[0]['bytes'])}",
        "",
        f"{host['cores']} cores ({host['processor']}{memory(host['bytes'])}); python {about['python']}, "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        + f"; commit {about['commit'] or 'unknown'}.",
        "Medians; compilation apart. *Part of*: our time over another's.",
        "",
        "| benchmark | what | | part of |",
        "|---|---|---|---|",
    ]
    for name, record in found.items():
        lines += [
            f"| {name} | {row['what']} | {row['value']:.4g} {row['unit']} | "
            + ", ".join(f"{value:.2f} of {peer}" for peer, value in row["beside"].items())
            + " |"
            for row in record["rows"]
        ]
    lines += ["", *(f"- {name}: {ending(record)}" for name, record in found.items())]
    for name, record in found.items():
        if record["status"] != "done" and record["printed"]:
            lines += ["", f"{name} ended with", "", *("    " + line for line in record["printed"].splitlines()[-6:])]
    return "\n".join(lines) + "\n"


def main(config: Config) -> dict[str, Any]:
    """Runs all, one after the other; both files are written again after each."""
    unknown = set(config.only) - BENCHMARKS.keys()
    if unknown:
        raise SystemExit(f"`--only` has {sorted(unknown)}; expected some of {sorted(BENCHMARKS)}.")
    end = time.perf_counter() + 60 * config.minutes
    about = machine()
    names = [name for name in BENCHMARKS if name in config.only or not config.only]
    found: dict[str, dict[str, Any]] = {}
    config.out.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        shares = [BENCHMARKS[other].share for other in names[number:]]
        seconds = max(1.0, (end - time.perf_counter()) * shares[0] / sum(shares))
        print(f"{name}, at most {seconds:.0f} s: ", end="", flush=True)
        found[name] = measure(name, about["platform"], seconds, config.smoke)
        print(ending(found[name]), flush=True)
        report = {"about": about, "smoke": config.smoke, "benchmarks": found}
        (config.out / "report.json").write_text(json.dumps(report, indent=1))
        (config.out / "report.md").write_text(markdown(about, found))
    print(f"\n{markdown(about, found)}")
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
