import subprocess
import sys
from pathlib import Path

import pytest

import opkit

ROOT = Path(opkit.__file__).parents[1]


def python(code: str, *path: Path) -> subprocess.CompletedProcess:
    """Run `code` in a fresh process whose `sys.path` begins with `path` and then the repository."""
    first = "import sys; sys.path[:0] = sys.argv[1:]\n"
    command = [sys.executable, "-c", first + code, *map(str, [*path, ROOT])]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_the_version_is_told():
    assert opkit.__version__.split(".")[0].isdecimal()


def test_importing_the_packages_leaves_the_heavy_ones_alone():
    """No Flax, Orbax, Matplotlib, HDF5 or command line until used."""
    heavy = {"flax", "orbax", "matplotlib", "h5py", "tyro", "tqdm", "safetensors"}
    done = python(
        "import opkit; early = set(sys.modules)\n"
        "import opkit.data, opkit.layers, opkit.operators, opkit.training\n"
        "print('jax' in early, [name for name in sys.modules if '.' not in name])"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False")
    assert not [name for name in heavy if f"'{name}'" in done.stdout]


@pytest.mark.parametrize("shape", ["package", "module", "folder"])
def test_another_solvers_first_on_the_path_is_told_with_its_place(shape, tmp_path):
    if shape == "module":
        (tmp_path / "solvers.py").write_text("")
    else:
        (tmp_path / "solvers").mkdir()
        if shape == "package":
            (tmp_path / "solvers" / "__init__.py").write_text("")
    done = python("import opkit", tmp_path)
    if shape == "folder":  # a folder without __init__ gives way to a package later on the path
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 1
    assert f"ImportError: opkit needs its own package `solvers`, {ROOT / 'solvers'}" in done.stderr
    assert f"but Python finds {tmp_path / 'solvers'}" in done.stderr
