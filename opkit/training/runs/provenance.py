"""What a result was made with: code, commit, versions, device."""

import hashlib
import importlib
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax


def code_hash(experiment: Path) -> str:
    """A hash over the source of opkit, solvers, the experiment's file, and what it imports from its folder."""
    files = {}
    for package in ("opkit", "solvers"):
        root = Path(importlib.import_module(package).__path__[0])
        files |= {f"{package}/{path.relative_to(root)}": path for path in root.rglob("*.py")}
    loaded = [Path(getattr(module, "__file__", None) or "").resolve() for module in list(sys.modules.values())]
    for path in [experiment, *loaded]:
        if path.suffix == ".py" and path.is_relative_to(experiment.parent) and "site-packages" not in path.parts:
            files[str(path.relative_to(experiment.parent))] = path
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {hashlib.sha256(files[name].read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def commit(folder: Path) -> str | None:
    """The commit of the repository around `folder`, with `-dirty` where tracked files differ from it; or `None`."""
    head = _git(folder, "rev-parse", "HEAD")
    return head and head + ("-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide the numbers."""
    found = {"python": platform.python_version()}
    for name in ("opkit", "jax", "jaxlib", "equinox", "optax"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a copy of the source that was never installed
            found[name] = "unknown"
    return found


def device() -> str:
    """As `2 x NVIDIA H200`."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
