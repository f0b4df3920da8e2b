"""Every run: 4 CPU devices, warnings as errors. The main run: x64 and shapes checked at run time. The second run, which
`test_without_hook.py` starts, is as users run it: no x64, no hook."""

import os

import pytest

AS_USERS = os.environ.get("OPKIT_TEST_AS_USERS") == "1"

# Code that runs once is compiled without optimisation, in a third of the time.
flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
if not AS_USERS:
    os.environ["JAX_ENABLE_X64"] = "1"
    from jaxtyping import install_import_hook

    install_import_hook(["opkit", "solvers"], "beartype.beartype")


def pytest_collection_modifyitems(config, items):
    """Keep `plain` tests for the run without the hook, and only `plain` and `dtype` tests in it; the longest first, as
    workers take over from each other only what has not begun."""
    kept, dropped = [], []
    for item in items:
        plain, dtype = (item.get_closest_marker(name) is not None for name in ("plain", "dtype"))
        (kept if (plain or dtype if AS_USERS else not plain) else dropped).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = sorted(kept, key=lambda item: item.get_closest_marker("smoke") is None)


@pytest.fixture
def key():
    """A fixed typed key."""
    import jax

    return jax.random.key(0)
