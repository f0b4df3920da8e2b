"""A compiled function in one file, to be run where opkit is not installed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from opkit.training import ModelFileError, commit, load_model, save_model
from solvers import Domain, Grid

_ROOT = Path(__file__).parents[2]  # of the repository that opkit runs from, if it does
_PLATFORMS = ("cpu", "cuda", "tpu")


def export_program(
    path: str | Path,
    function: Callable[..., Any],
    sample: Any,
    domain: Domain | None = None,
    query: Domain | None = None,
    *,
    args: PyTree = None,
    platforms: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write `function`, its weights included, as a program for batches of any size; returns what the file tells of it.

        export_program("darcy.program", Normalised(op, ...), jax.ShapeDtypeStruct((1, 64, 64), "float32"), grid)
        export_program("flow.program", repeat(stepper, 100), jax.ShapeDtypeStruct((1, 64), "float32"))

    The program is `vmap` of `u -> function(u)`; with `domain`, of the operator `u -> function(u, domain, query)`; with
    `args` too, of `(u, args) -> function(u, domain, query, args=args)`. A result that is not one array, such as a
    `Rollout`, becomes a dictionary of its arrays by path. On the same device the outputs are to the bit those of
    `jit` of that `vmap`.

    To run it, Python needs `jax` and `flatbuffers`:

        import json
        import pathlib
        import jax
        import jax.export

        content = pathlib.Path("darcy.program").read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        about = json.loads(header["__metadata__"]["hyperparameters"])
        begin, end = header["program"]["data_offsets"]
        program = jax.export.deserialize(bytearray(content[start + begin : start + end]))
        call = jax.jit(program.call)

    then `call(u)` with `u: (batch, *sample.shape)`. It compiles once for each batch size. `load_program` does the same
    and checks the file.

    **Format.** A safetensors container, as of `save_model`, with the bytes of `jax.export` as the array `program`.
    Nothing is unpickled; but a program may do what its device can: run those whose origin you trust. JAX promises to
    read a file with versions up to 6 months younger, and 3 weeks older, than the one that wrote it; to keep a model for
    longer, keep its weights (`save_model`) as well. The program runs forward only: it has no derivative.

    **Arguments:**

    - `sample`: array or `jax.ShapeDtypeStruct` of one sample, `(channels, *n)`. Its shape is fixed: lengths of an FFT
      cannot be left open, nor can grids, so write one file for each resolution.
    - `args`: likewise for the parameters of one sample: arrays, or tuples, lists and dictionaries of them.
    - `platforms`: by default those of `cpu`, `cuda`, `tpu` that can lower `function`.

    A float64 program needs `jax_enable_x64` where it is run. Arrays `function` closes over must be on one device; those
    of a PyTree are brought to one.

    **Raises:** `ValueError` for a shape that is left open, or `args` without `domain`. What `function` and JAX's export
    raise: of programs that call back into Python, for one; `ImportError` without the package `flatbuffers`.
    """
    if args is not None and domain is None:
        raise ValueError("`args` was given without `domain`; they are an operator's. Close over them instead.")
    inputs = [sample] if args is None else [sample, args]
    for leaf in jax.tree.leaves(inputs):
        if not all(isinstance(n, int) for n in leaf.shape):
            raise ValueError(
                f"`sample` or `args` has shape {leaf.shape}; expected integers. Only the batch may be left open, and "
                "it is: FFTs and grids have fixed lengths, so export once for each resolution."
            )
    arrays, rest = eqx.partition(function, eqx.is_array)
    function = eqx.combine(jax.device_put(arrays, jax.local_devices()[0]), rest)

    def one(u: Any, *parameters: PyTree) -> Any:
        if domain is None:
            return _plain(function(u))
        return _plain(function(u, domain, query, args=parameters[0]) if parameters else function(u, domain, query))

    inputs = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jax.dtypes.canonicalize_dtype(a.dtype)), inputs)
    outputs = jax.eval_shape(one, *inputs)  # so that what is wrong with `function` is told by itself
    exported = _exported(jax.jit(jax.vmap(one)), inputs, platforms)
    program = np.frombuffer(exported.serialize(), np.uint8)
    about = {
        "kind": "program",
        "bytes": program.size,
        "function": getattr(function, "__name__", type(function).__name__),
        "inputs": _described(dict(zip(("u", "args"), inputs, strict=False))),
        "outputs": _described(outputs if isinstance(outputs, dict) else {"v": outputs}),
        "domain": _described_domain(domain),
        "query": _described_domain(query),
        "platforms": list(exported.platforms),
        "calling_convention": exported.calling_convention_version,
        "commit": commit(_ROOT) if (_ROOT / ".git").exists() else None,
    }
    save_model(path, {"program": program}, about)
    return about


@dataclass(frozen=True)
class Program:
    """A program read back: `program(u)` for a batch `u`, and what its file tells `about` it."""

    call: Callable[..., PyTree]
    about: Mapping[str, Any]

    def __call__(self, *inputs: PyTree) -> PyTree:
        """Run on a batch; compiled at the first call for each size."""
        return self.call(*inputs)


def load_program(path: str | Path) -> Program:
    """The program that `export_program` wrote.

    **Raises:** `ModelFileError` for a file that is foreign, damaged, or of a version this JAX does not read. `OSError`
    where there is no such file.
    """
    import jax.export

    content = load_model(path, _skeleton)
    try:
        exported = jax.export.deserialize(bytearray(content["program"].tobytes()))
    except ImportError:
        raise
    except Exception as error:  # whatever its reader makes of another version's bytes
        raise ModelFileError(
            f"{path} holds a program that jax {jax.__version__} does not read ({type(error).__name__}: {error}); "
            "its metadata names the version that wrote it."
        ) from error
    return Program(jax.jit(exported.call), content["about"])


def _skeleton(**about: Any) -> dict[str, Any]:
    if about.get("kind") != "program":
        raise ValueError("the file holds a model, to be read by `load_model`, and no program.")
    return {"program": np.empty(about["bytes"], np.uint8), "about": about}


def _exported(program: Any, inputs: list[PyTree], platforms: Sequence[str] | None) -> Any:
    from jax import export

    (batch,) = export.symbolic_shape("batch")
    batched = jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch, *a.shape), a.dtype), inputs)
    lower = lambda names: export.export(program, platforms=names)(*batched)
    if platforms is not None:
        return lower(tuple(platforms))
    try:
        return lower(_PLATFORMS)
    except (NotImplementedError, ValueError):  # a primitive that one of them lacks, or has only in an unstable form
        able = []
        for name in _PLATFORMS:
            try:
                lower((name,))
            except (NotImplementedError, ValueError):
                continue
            able.append(name)
        if not able:
            raise
        return lower(tuple(able))


def _plain(result: Any) -> Any:
    if eqx.is_array(result):
        return result
    leaves = jax.tree_util.tree_flatten_with_path(result)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _described(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): {"shape": ["batch", *leaf.shape], "dtype": leaf.dtype.name} for path, leaf in leaves}


def _described_domain(domain: Domain | None) -> dict[str, Any] | None:
    if isinstance(domain, Grid):
        return {name: list(getattr(domain, name)) for name in ("shape", "lower", "upper", "placement")}
    return None if domain is None else {"type": type(domain).__name__}
