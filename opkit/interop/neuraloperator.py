"""The weights of neuraloperator's FNO, read into ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from opkit.layers import Skip
from opkit.operators import FNO

_ONLY: dict[
    str, tuple[Any, ...]
] = {  # of each option what ours can be; the others show in the arrays, or act in training only
    "non_linearity": ("gelu",),
    "conv_module": ("SpectralConv",),
    "norm": (None,),
    "complex_data": (False,),
    "use_channel_mlp": (True,),  # without, theirs applies the activation twice
    "resolution_scaling_factor": (None,),
    "fno_block_precision": ("full",),
    "stabilizer": (None,),
    "max_n_modes": (None,),
    "factorization": (None, "Dense", "dense"),
    "separable": (False,),
    "preactivation": (False,),
    "positional_embedding": ("grid", None),
    "fno_skip": ("linear", "soft-gating", "identity"),
    "channel_mlp_skip": ("linear", "soft-gating", "identity"),
}
_POSITIONAL = ("n_modes", "in_channels", "out_channels", "hidden_channels")


def exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x Phi(x)` with the normal distribution's `Phi` itself, as in PyTorch; `jax.nn.gelu` approximates it."""
    return jax.nn.gelu(x, approximate=False)


def read_neuraloperator(weights: Mapping[str, Any] | str | Path, options: Mapping[str, Any] | None = None) -> FNO:
    """Our FNO with the weights of neuraloperator 2.0's, 1-D to 3-D: the same function, to round-off.

    Sizes are read off the arrays. What arrays do not show is read off the options its `state_dict` carries with it, or
    off `options`, by the names of its arguments; failing both it is taken for their default. These are
    `positional_embedding` (`"grid"`), `domain_padding` (none), and skips without weights: `"identity"` has to be given.

        torch: safetensors.torch.save_file({k: v for k, v in model.state_dict().items() if k != "_metadata"}, path)
        here:  fno = read_neuraloperator(path, {"positional_embedding": None})

    **Conventions.** Theirs keeps, of `n` modes, the wavenumbers `-n/2 .. n/2 - 1`, for odd `n` up to `(n - 1) / 2`, on
    the last axis `0 .. n/2`. Ours have a weight of zero for the `n/2` missing there. The two agree on `left` grids
    with more points than modes on every axis, and an even number on all axes but the last: with an odd number theirs
    shifts the spectrum back by one wavenumber too few. Padding agrees where its fraction of the points is whole; theirs
    pads both ends, ours the upper end by as much.

    **Arguments:** `weights`: the `state_dict`, of tensors or arrays; or a file of it: `.safetensors`, or, with PyTorch
    installed, what `torch.save` wrote, of which weights alone are unpickled. `options`: as above.

    **Raises:** `ValueError` for an option that ours does not have, naming it, and for weights of another model.
    `ImportError` for a file of PyTorch's where there is none.

    Kossaifi et al. (2024), A library for learning neural operators, arXiv:2412.10354.
    """
    arrays = dict(weights if isinstance(weights, Mapping) else _read(Path(weights)))
    given = dict(arrays.pop("_metadata", {}))
    positional = given.pop("args", ())
    if len(positional) > len(_POSITIONAL):
        raise ValueError(
            f"`weights` come of an FNO with {len(positional)} positional arguments; give `options` by name."
        )
    given |= dict(zip(_POSITIONAL, positional, strict=False)) | dict(options or {})
    for name, known in _ONLY.items():
        value = given.get(name, known[0])
        if getattr(value, "__name__", value) not in known:
            raise ValueError(f"`options` has {name}={value!r}; our FNO has only {' or '.join(map(repr, known))}.")
    spectral_skip = _skip_kind(arrays, "fno_skips", given.get("fno_skip"))
    mlp_skip = _skip_kind(arrays, "channel_mlp_skips", given.get("channel_mlp_skip"))
    depth = sum(name.startswith("fno_blocks.convs.") and name.endswith(".bias") for name in arrays)
    names = _names(depth, spectral_skip, mlp_skip)
    missing, unknown = sorted({*names.values()} - {*arrays}), sorted({*arrays} - {*names.values()})
    if missing or unknown or not depth:
        raise ValueError(
            f"`weights` lacks {missing[:3]} and has {unknown[:3]}; expected the `state_dict` of an FNO with real data "
            "and dense weights (no `factorization`), channel MLPs and no `norm`."
        )
    arrays = {name: _array(value) for name, value in arrays.items()}
    spectral, bias = (arrays[f"fno_blocks.convs.0.{name}"] for name in ("weight.tensor", "bias"))
    ndim = bias.ndim - 1
    if spectral.ndim != ndim + 2:
        raise ValueError(f"`weights` has spectral weights {spectral.shape} in {ndim}-D; ours are not `separable`.")
    kept = spectral.shape[2:]
    if "n_modes" in given and (*given["n_modes"][:-1], given["n_modes"][-1] // 2 + 1) != kept:
        raise ValueError(
            f"`options` has n_modes={given['n_modes']}, the weights are for {kept}; expected them in full use."
        )
    coordinates = given.get("positional_embedding", "grid") == "grid"
    padding = given.get("domain_padding") or 0.0
    hidden = lambda name: arrays[f"{name}.fcs.0.weight"].shape[0]
    width = arrays["lifting.fcs.1.weight"].shape[0]
    ratio = lambda name: (hidden(name) + 0.5) / width  # the FNO rounds down
    skeleton = eqx.filter_eval_shape(
        lambda: FNO(
            arrays["lifting.fcs.0.weight"].shape[1] - ndim * coordinates,
            arrays["projection.fcs.1.weight"].shape[0],
            modes=(*(n // 2 + 1 for n in kept[:-1]), kept[-1]),
            width=width,
            depth=depth,
            lifting_ratio=ratio("lifting"),
            projection_ratio=ratio("projection"),
            mlp_ratio=ratio("fno_blocks.channel_mlp.0"),
            coordinates=coordinates,
            padding=tuple(2.0 * p for p in padding) if isinstance(padding, list | tuple) else 2.0 * padding,
            activation=exact_gelu,
            spectral_skip=spectral_skip,
            mlp_skip=mlp_skip,
            key=jax.random.key(0),
        )
    )

    def value(path: tuple[Any, ...], leaf: Any) -> Array:
        ours = jax.tree_util.keystr(path, simple=True, separator="/")
        array = arrays[names[ours]]
        if ours.endswith(("spectral/real", "spectral/imag")):
            array = _on_box(np.real(array) if ours.endswith("real") else np.imag(array), leaf.shape)
        if array.size != leaf.size:
            raise ValueError(
                f"`weights` has {names[ours]} of shape {array.shape}; expected {leaf.shape}, as {ours} has."
            )
        return jnp.asarray(array.reshape(leaf.shape))

    return jax.tree_util.tree_map_with_path(value, skeleton)


def _on_box(part: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`(in, out, *kept)` as `(*box, out, in)`: both begin at the lowest wavenumber, and only the box is symmetric."""
    part = np.moveaxis(part, (0, 1), (-1, -2))
    lacking = [(0, int(wide == n + 1)) for n, wide in zip(part.shape[:-2], shape[:-2], strict=True)]
    return np.pad(part, [*lacking, (0, 0), (0, 0)])


def _names(depth: int, spectral_skip: Skip, mlp_skip: Skip) -> dict[str, str]:
    """Their names of the arrays, by our paths."""
    mlps = {"lift": "lifting", "project": "projection"}
    mlps |= {f"blocks/{i}/mlp": f"fno_blocks.channel_mlp.{i}" for i in range(depth)}
    names = {
        f"{ours}/{layer}/{kind}": f"{theirs}.fcs.{j}.{kind}"
        for ours, theirs in mlps.items()
        for j, layer in enumerate(("inner", "outer"))
        for kind in ("weight", "bias")
    }
    for i in range(depth):
        for part, name in (("real", "weight.tensor"), ("imag", "weight.tensor"), ("bias", "bias")):
            names[f"blocks/{i}/spectral/{part}"] = f"fno_blocks.convs.{i}.{name}"
        for ours, theirs, kind in (
            ("spectral_skip", "fno_skips", spectral_skip),
            ("mlp_skip", "channel_mlp_skips", mlp_skip),
        ):
            if kind == "linear":
                names[f"blocks/{i}/{ours}/weight"] = f"fno_blocks.{theirs}.{i}.conv.weight"
            elif kind == "soft-gating":
                names[f"blocks/{i}/{ours}/gate"] = f"fno_blocks.{theirs}.{i}.weight"
    return names


def _skip_kind(arrays: Mapping[str, Any], name: str, option: Any) -> Skip:
    if f"fno_blocks.{name}.0.conv.weight" in arrays:
        return "linear"
    if f"fno_blocks.{name}.0.weight" in arrays:
        return "soft-gating"
    if option == "identity":
        return "identity"
    raise ValueError(
        f"`weights` shows no {name}, so they are identities or none; give {name[:-1]}='identity' in `options` if they "
        "are the former. Our blocks are never without."
    )


def _array(value: Any) -> np.ndarray:
    return value.numpy(force=True) if hasattr(value, "numpy") else np.asarray(value)


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors":
        import safetensors
        import safetensors.numpy

        try:
            return safetensors.numpy.load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is no safetensors file, or a truncated one ({error}).") from error
    try:
        import torch  # pyright: ignore[reportMissingImports] -- optional, and no dependency of ours
    except ImportError as error:
        raise ImportError(
            f"{path} needs PyTorch to be read. Where it is, write the `state_dict` without its `_metadata` by "
            "`safetensors.torch.save_file` to a file named .safetensors."
        ) from error
    # the two objects that a `state_dict`'s own options name; the class goes as an empty one of that name
    convolution = (type("SpectralConv", (), {}), "neuralop.layers.spectral_convolution.SpectralConv")
    with torch.serialization.safe_globals([convolution, torch.nn.functional.gelu]):
        return torch.load(path, map_location="cpu", weights_only=True)
