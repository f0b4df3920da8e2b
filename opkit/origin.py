"""Which opkit this is, and whether the `solvers` that Python finds is the one that came with it."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path


def check_solvers() -> None:
    """Raise `ImportError`, naming its path, where another `solvers` shadows ours: the name is a generic one."""
    ours = Path(__file__).resolve().parent.parent / "solvers"
    spec = find_spec("solvers")
    places = [] if spec is None else [*(spec.submodule_search_locations or []), spec.origin or ""]
    if not any(Path(place).resolve() == ours for place in places):
        found = next((place for place in places if place), "none")
        raise ImportError(
            f"opkit needs its own package `solvers`, {ours}, but Python finds {found}. Rename that one, "
            "put it later on `sys.path`, or start Python in another folder."
        )


try:
    __version__ = version("opkit")
except PackageNotFoundError:  # run from a copy of the source that was never installed
    __version__ = "0+unknown"
check_solvers()
