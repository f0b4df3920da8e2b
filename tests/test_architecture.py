"""The laws of the house, read off the import statements and the syntax trees of the files."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = sorted([*ROOT.glob("solvers/**/*.py"), *ROOT.glob("opkit/**/*.py")])
FILES = LIBRARY + sorted(ROOT.glob("experiments/**/*.py"))
MIDDLE = {"opkit.fields", "opkit.operators", "opkit.physics", "opkit.dynamics", "opkit.data"}
BELOW = {
    "solvers": set(),
    "opkit.layers": {"solvers"},
    **{package: {"solvers", "opkit.layers"} for package in MIDDLE},
    "opkit.training": {"solvers", "opkit.layers", *MIDDLE},
    "opkit.interop": {"solvers", "opkit.layers", *MIDDLE, "opkit.training"},
    "opkit": {"solvers"},
    "experiments": {"solvers", "opkit", "opkit.layers", *MIDDLE, "opkit.training", "opkit.interop"},
}
DOORS = {*BELOW, "solvers.equations"}  # a package may have a side door for a namespace of its own
ACTS = ("opkit.training", "opkit.data", "opkit.interop", "experiments")
HEAVY = {"flax", "orbax", "matplotlib", "h5py", "tyro", "tqdm", "torch", "ray", "grain"}


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package(name: str) -> str:
    """The room a module stands in: `opkit.layers`, `solvers`, ..., or the name itself for what is not ours."""
    return next((p for p in sorted(BELOW, key=len, reverse=True) if name == p or name.startswith(p + ".")), name)


def imports(path: Path, tree: ast.AST) -> list[tuple[str, list[str]]]:
    """`(absolute module, names)` for every import in the file."""
    found = []
    here = module(path).split(".") if path.name == "__init__.py" else module(path).split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = here[: len(here) - node.level + 1] if node.level else []
            found.append((".".join([*origin, *filter(None, [node.module])]), [alias.name for alias in node.names]))
    return found


def import_faults(path: Path, tree: ast.AST) -> list[str]:
    """Imports that run up or sideways, or that reach behind another package's front door."""
    home = package(module(path))
    faults = []
    for name, names in imports(path, tree):
        target = package(name)
        if target not in BELOW or target == home:
            continue
        if target not in BELOW[home]:
            faults.append(f"{home} must not import {name}")
        if name not in DOORS or any(n.startswith("_") and n != "__version__" for n in names):
            faults.append(f"{home} imports {name}: {names}; take public names from {target}")
    return faults


def act_faults(path: Path, tree: ast.AST) -> list[str]:
    """jit, printing and files outside the packages that may act; global configuration anywhere in the library."""
    faults = []
    acts = module(path).startswith(ACTS)
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
        if not acts and text in ("jax.jit", "eqx.filter_jit", "print", "open", "jax.debug.print"):
            faults.append(f"line {node.lineno}: {text}")
        if not module(path).startswith("experiments") and text == "jax.config.update":
            faults.append(f"line {node.lineno}: {text}")
    return faults


@pytest.fixture(scope="module")
def trees():
    return {path: ast.parse(path.read_text()) for path in FILES}


def test_imports_run_down_and_use_front_doors(trees):
    assert len(trees) > 10
    faults = [f"{module(path)}: {fault}" for path, tree in trees.items() for fault in import_faults(path, tree)]
    assert not faults, faults


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("solvers/new.py", "from opkit.layers import SpectralConv"),
        ("opkit/operators/new.py", "from opkit.data import Normaliser"),
        ("opkit/operators/new.py", "from ..training import fit"),
        ("opkit/layers/new.py", "from solvers.grid import Grid"),
        ("opkit/training/new.py", "from opkit.data import _private"),
    ],
)
def test_a_forbidden_import_is_caught(place, source):
    assert import_faults(ROOT / place, ast.parse(source))


def test_library_neither_jits_nor_prints_nor_configures_outside_its_acting_packages(trees):
    faults = [f"{module(path)}: {fault}" for path in LIBRARY for fault in act_faults(path, trees[path])]
    assert not faults, faults
    assert act_faults(ROOT / "solvers/new.py", ast.parse("import jax\nf = jax.jit(abs)\nprint(f)"))
    assert act_faults(
        ROOT / "opkit/training/new.py", ast.parse("import jax\njax.config.update('jax_enable_x64', True)")
    )


def test_inits_hold_reexports_alone(trees):
    for path in LIBRARY:
        if path.name == "__init__.py":
            for node in trees[path].body:
                assert isinstance(node, ast.ImportFrom), f"{path}: line {node.lineno} is no re-export"
                assert all(alias.asname == alias.name for alias in node.names), f"{path}: line {node.lineno}"


def test_there_are_no_import_cycles(trees):
    edges = {}
    for path in LIBRARY:
        targets = set()
        for name, names in imports(path, trees[path]):
            targets |= {name, *(f"{name}.{n}" for n in names)}
        edges[module(path)] = targets - {module(path)}  # `from . import topic` is not of the package itself
    done: set[str] = set()

    def visit(name, trail):
        assert name not in trail, f"cycle: {' -> '.join([*trail, name])}"
        if name not in done:
            for target in edges[name] & edges.keys():
                visit(target, [*trail, name])
            done.add(name)

    for name in edges:
        visit(name, [])
    assert done == edges.keys()


def test_files_are_short_and_rooms_have_names(trees):
    long = [f"{module(path)}: {len(path.read_text().splitlines())}" for path in FILES]
    assert not [entry for entry in long if int(entry.split(": ")[1]) > 400]
    assert not [
        p for p in FILES if re.search(r"(^|/)(utils?|helpers?|common|base|misc)(\.py|/)", str(p.relative_to(ROOT)))
    ]


def test_heavy_libraries_are_imported_where_used(trees):
    for path in LIBRARY:
        for node in trees[path].body:
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
            )
            assert not {n.split(".")[0] for n in names} & HEAVY, f"{path}: line {node.lineno}"


def test_top_level_is_the_agreed_one():
    allowed = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "opkit",
        "solvers",
        "experiments",
        "tests",
        "notebooks",
    }
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0 or not listed.stdout:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert top <= allowed | {".ci", ".gitignore"}, top - allowed
