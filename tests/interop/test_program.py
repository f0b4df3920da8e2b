"""A program file runs where opkit is not, with the bits of the jitted function."""

import os
import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.data import Normalised, Normaliser
from opkit.interop import export_program, load_program
from opkit.operators import FNO
from opkit.training import ModelFileError, save_model
from solvers import Grid, repeat, rollout

pytest.importorskip("flatbuffers")

GRID = Grid(8, upper=2.0)
U = np.random.default_rng(0).normal(size=(3, 1, 8)).astype(np.float32)
SAMPLE = jax.ShapeDtypeStruct((1, 8), np.float32)
ALONE = """
import sys
for name in ("opkit", "solvers", "equinox", "safetensors"):
    sys.modules[name] = None
try:
    import opkit
except ImportError:
    pass
else:
    raise SystemExit("opkit was imported")
import numpy as np
"""


def operator(**options):
    statistics = Normaliser(np.float32([0.5]), np.float32([2.0]))
    op = FNO(1, 1, modes=(3,), width=4, depth=1, **options, key=jax.random.key(0))
    return Normalised(op, statistics, statistics)


def test_the_documented_loader_runs_it_without_opkit_to_the_bit(tmp_path):
    op = operator()
    about = export_program(tmp_path / "darcy.program", op, SAMPLE, GRID)
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["domain"] == {"shape": [8], "lower": [0.0], "upper": [2.0], "placement": ["left"]}
    assert about["inputs"] == {"u": {"shape": ["batch", 1, 8], "dtype": "float32"}}
    _, _, code = (export_program.__doc__ or "").partition("needs `jax` and `flatbuffers`:\n")
    code, _, _ = code.partition("    then `call(u)`")
    np.save(tmp_path / "u.npy", U)
    ends = "np.save('v.npy', call(np.load('u.npy')))\nprint(about['commit'])\n"
    (tmp_path / "alone.py").write_text(ALONE + textwrap.dedent(code) + ends)
    command = [sys.executable, "alone.py"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(about["commit"])
    wanted = jax.jit(jax.vmap(lambda u: op(u, GRID)))(U)
    assert np.load(tmp_path / "v.npy").tobytes() == np.asarray(wanted).tobytes()


def test_a_rollout_comes_back_as_a_dictionary_of_its_arrays_for_any_batch(tmp_path):
    def step(u):
        u = u + 0.1 * jax.nn.relu(jnp.roll(u, 1, -1) - u)  # with a derivative of its own
        return jax.lax.platform_dependent(u, cpu=lambda u: u + 1, default=lambda u: u - 1)

    run = rollout(step, 4, every=2)
    export_program(tmp_path / "flow.program", run, SAMPLE)
    program = load_program(tmp_path / "flow.program")
    made, wanted = program(U), jax.jit(jax.vmap(run))(U)
    assert made["states"].shape == (3, 2, 1, 8)
    np.testing.assert_array_equal(made["states"], wanted.states)
    np.testing.assert_array_equal(program(U[:2])["states"], wanted.states[:2])
    assert {name: tuple(told["shape"]) for name, told in program.about["outputs"].items()} == {
        name: ("batch", *array.shape[1:]) for name, array in made.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_of_each_sample_are_an_input_in_either_precision(dtype, tmp_path):
    op = operator(conditioning=1)
    op = eqx.tree_at(lambda o: o.op.blocks[0].film.outer.weight, op, replace_fn=lambda w: w + 0.3)
    u, a = U.astype(dtype), np.linspace(0, 1, 3, dtype=dtype)[:, None]
    export_program(tmp_path / "p", op, u[0], GRID, Grid(12, upper=2.0), args=a[0])
    made = load_program(tmp_path / "p")(u, a)
    wanted = jax.jit(jax.vmap(lambda u, a: op(u, GRID, Grid(12, upper=2.0), args=a)))(u, a)
    assert made.dtype == dtype
    assert made.shape == (3, 1, 12)
    np.testing.assert_array_equal(made, wanted)


@pytest.mark.slow
def test_a_repeated_operator_in_two_dimensions_comes_back_to_the_bit(tmp_path):
    grid = Grid((8, 6))
    op = FNO(1, 1, modes=(3, 3), width=4, depth=1, coordinates=False, key=jax.random.key(0))
    step = repeat(lambda u: op(u, grid), 3)
    u = np.random.default_rng(1).normal(size=(2, 1, 8, 6))
    export_program(tmp_path / "p", step, u[0])
    np.testing.assert_array_equal(load_program(tmp_path / "p")(u), jax.jit(jax.vmap(step))(u))


def test_a_function_that_cannot_run_everywhere_is_exported_for_where_it_can(tmp_path):
    about = export_program(
        tmp_path / "p", lambda a: jnp.linalg.eigvals(a).real, jax.ShapeDtypeStruct((2, 2), np.float32)
    )
    assert "cpu" in about["platforms"]
    assert "tpu" not in about["platforms"]


@pytest.mark.plain
def test_what_cannot_be_exported_is_told(tmp_path):
    (n,) = jax.export.symbolic_shape("n")
    with pytest.raises(ValueError, match=r"has shape \(1, n\); expected integers.*export once for each resolution"):
        export_program(tmp_path / "p", operator(), jax.ShapeDtypeStruct((1, n), np.float32), GRID)
    with pytest.raises(ValueError, match="`args` was given without `domain`"):
        export_program(tmp_path / "p", jnp.sin, SAMPLE, args=SAMPLE)
    with pytest.raises(ValueError, match=r"`u` has shape \(1, 8\); expected \(1, 9\)"):
        export_program(tmp_path / "p", operator(), SAMPLE, Grid(9))


@pytest.mark.plain
def test_a_foreign_or_damaged_file_is_told(tmp_path):
    path = tmp_path / "sine.program"
    export_program(path, jnp.sin, SAMPLE)
    content = path.read_bytes()
    np.testing.assert_array_equal(load_program(path)(U), jnp.sin(U))
    path.write_bytes(content[:-100])
    with pytest.raises(ModelFileError, match=r"sine\.program is no model file, or a truncated or damaged one"):
        load_program(path)
    path.write_bytes(content[:-100] + bytes(100))
    with pytest.raises(ModelFileError, match=r"sine\.program is damaged: the checksum of the array program is wrong"):
        load_program(path)
    path.write_text("something else")
    with pytest.raises(ModelFileError, match=r"sine\.program is no model file"):
        load_program(path)
    save_model(path, {"weight": jnp.ones(2)}, {"width": 2})
    with pytest.raises(ModelFileError, match="holds a model, to be read by `load_model`"):
        load_program(path)
    save_model(path, {"program": np.arange(64, dtype=np.uint8)}, {"kind": "program", "bytes": 64})
    with pytest.raises(ModelFileError, match=r"holds a program that jax \S+ does not read"):
        load_program(path)
