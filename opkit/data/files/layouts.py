"""Read trajectories from the files of PDEBench and of The Well.

Takamoto et al. (2022), PDEBench, arXiv:2210.07182; the layouts are those that its loaders and generators read and
write. Ohana et al. (2024), The Well, arXiv:2412.00568, with the specification in its documentation ("Data format")."""

import os
from itertools import product
from typing import Any

import numpy as np

from .arrays import open_hdf5
from .pairs import check_finite
from .trajectories import Trajectories

_PDEBENCH_VARIABLES = ("density", "pressure", "Vx", "Vy", "Vz")
_ORDERS = ("t0_fields", "t1_fields", "t2_fields")


def read_pdebench(path: str | os.PathLike[str], *, samples: slice = slice(None)) -> Trajectories:
    """Read an HDF5 file of PDEBench; its layout is told by the names in it.

    - `tensor`: `(samples, time, *n)`, one channel, with `x-coordinate` and on: advection, Burgers, reaction-diffusion
      in 1-D; Darcy flow, whose coefficient `nu` is then among `constants`.
    - `density`, `pressure`, `Vx` and on: `(samples, time, *n)` each, a channel each: compressible flow.
    - groups `0000`, `0001`, ... with `data`: `(time, *n, channels)`, and `grid/t`, `grid/x`: reaction-diffusion in 2-D,
      shallow water, diffusion-sorption.
    - `velocity`, `particles`: `(samples, time, *n, channels)`, `t`, and `force` among `constants`: incompressible flow.

    `parameters` are the numbers among the file's attributes. `t-coordinate` of the first two layouts has an entry more
    than there are states in some files; it is dropped. A file without times has one state, at time 0.

    **Arguments:** `samples`: which to read: the files are large.

    **Raises:** `ValueError` naming the file and what in it: none of these layouts, damaged, shapes that do not fit,
    NaN. `FileNotFoundError`.
    """
    file, arrays = open_hdf5(path)
    with file:
        if "tensor" in arrays or "density" in arrays:
            return _coordinate_layout(path, file, samples)
        if arrays and all(name.isdigit() for name in arrays):
            return _group_layout(path, file, samples)
        if "velocity" in arrays:
            return _channels_last_layout(path, file, samples)
        raise ValueError(
            f"{path} has {sorted(arrays)[:8]}; PDEBench has 'tensor', 'density', 'velocity', or groups '0000' on."
        )


def read_well(path: str | os.PathLike[str], *, samples: slice = slice(None)) -> Trajectories:
    """Read an HDF5 file of The Well.

    The fields of `t0_fields`, `t1_fields`, `t2_fields` that vary in time are the channels, in the order of the file's
    `field_names`; components of vectors and tensors are named after the axes, `velocity_x`, `stress_xy`. Those that do
    not are `constants`, a field each. What a file stores once for all samples, or for all points along an axis, is
    repeated. `parameters` are its `scalars`.

    **Arguments:** `samples`: which to read: the files are large.

    **Raises:** `ValueError` naming the file and what in it: a missing group or attribute, damaged, shapes that do not
    fit, no field that varies in time, NaN. `FileNotFoundError`.
    """
    file, _ = open_hdf5(path)
    with file:
        names = [str(name) for name in _attribute(path, file, "dimensions", "spatial_dims")]
        axes = tuple(_whole(path, file, f"dimensions/{name}") for name in names)
        if any(axis.ndim != 1 for axis in axes):
            raise ValueError(f"{path}: the coordinates have shapes {[a.shape for a in axes]}; expected one axis each.")
        n, total = tuple(len(axis) for axis in axes), int(_attribute(path, file, "", "n_trajectories"))
        times = _whole(path, file, "dimensions/time")
        times = times[samples] if times.ndim == 2 else times
        number = len(range(total)[samples])
        states: dict[str, np.ndarray] = {}
        constants: dict[str, np.ndarray] = {}
        for order, group in enumerate(_ORDERS):
            for field in _attribute(path, file, group, "field_names"):
                shape = (number, times.shape[-1], *n)
                values, in_time = _well_field(path, file, f"{group}/{field}", samples, shape, order)
                for place, component in enumerate(product(names, repeat=order)):
                    name = f"{field}_{''.join(component)}" if order else str(field)
                    (states if in_time else constants)[name] = values[..., place]
        if not states:
            raise ValueError(f"{path} has no field that varies in time among {_ORDERS}.")
        parameters = {}
        for name in _attribute(path, file, "scalars", "field_names"):
            values = _whole(path, file, f"scalars/{name}")
            by_sample = _attribute(path, file, f"scalars/{name}", "sample_varying")
            parameters[str(name)] = values[samples] if by_sample else np.squeeze(values)
        boundary = _well_boundary(path, file, names)
        return _checked(
            path, np.stack(list(states.values()), 2), tuple(states), times, axes, boundary, constants, parameters
        )


def _coordinate_layout(path: Any, file: Any, samples: slice) -> Trajectories:
    axes = tuple(_whole(path, file, f"{x}-coordinate") for x in "xyz" if f"{x}-coordinate" in file)
    n = tuple(len(axis) for axis in axes)
    names = ("tensor",) if "tensor" in file else _PDEBENCH_VARIABLES[: 2 + len(axes)]
    parts = [_take(path, file, name, samples) for name in names]
    for name, part in zip(names, parts, strict=True):
        if part.ndim != 2 + len(axes) or part.shape[2:] != n or part.shape != parts[0].shape:
            raise ValueError(f"{path}: {name!r} has shape {part.shape}; expected (samples, time, {n}), as the others.")
    steps = parts[0].shape[1]
    times = _whole(path, file, "t-coordinate")[:steps] if "t-coordinate" in file or steps > 1 else np.zeros(1)
    constants = {"nu": _take(path, file, "nu", samples)} if "nu" in file else {}
    return _checked(path, np.stack(parts, 2), names, times, axes, ("",) * len(n), constants, _numbers(file))


def _group_layout(path: Any, file: Any, samples: slice) -> Trajectories:
    groups = sorted(file)[samples]
    if not groups:
        raise ValueError(f"{path}: `samples` = {samples} selects none of {len(file)}.")
    states = [_whole(path, file, f"{group}/data") for group in groups]
    if len({part.shape for part in states}) > 1 or states[0].ndim < 3:
        raise ValueError(
            f"{path}: the shapes of 'data' are {sorted({s.shape for s in states})}; expected (time, *n, c)."
        )
    n = states[0].shape[1:-1]
    axes = tuple(_whole(path, file, f"{groups[0]}/grid/{x}") for x, _ in zip("xyz", n, strict=False))
    times = _whole(path, file, f"{groups[0]}/grid/t")
    if tuple(len(axis) for axis in axes) != n:
        raise ValueError(f"{path}: 'data' is on {n} points, 'grid' has {tuple(len(axis) for axis in axes)}.")
    channels = tuple(f"u{i}" for i in range(states[0].shape[-1]))
    states = np.moveaxis(np.stack(states), -1, 2)
    return _checked(path, states, channels, times, axes, ("",) * len(n), {}, _numbers(file))


def _channels_last_layout(path: Any, file: Any, samples: slice) -> Trajectories:
    names = [name for name in ("velocity", "particles") if name in file]
    parts = [np.moveaxis(_take(path, file, name, samples), -1, 2) for name in names]
    if len({(part.shape[:2], part.shape[3:]) for part in parts}) > 1:
        raise ValueError(
            f"{path}: {names} have shapes {[part.shape for part in parts]}; expected as many points in all."
        )
    channels = [f"V{x}" for x, _ in zip("xyz", range(parts[0].shape[2]), strict=False)]
    channels += names[1:]
    constants = {}
    if "force" in file:
        force = _take(path, file, "force", samples)
        constants = {f"force_{x}": force[..., i] for i, x in zip(range(force.shape[-1]), "xyz", strict=False)}
    boundary = ("",) * (parts[0].ndim - 3)
    times = _take(path, file, "t", samples)
    return _checked(path, np.concatenate(parts, 2), tuple(channels), times, (), boundary, constants, _numbers(file))


def _well_field(
    path: Any, file: Any, name: str, samples: slice, shape: tuple[int, ...], order: int
) -> tuple[np.ndarray, bool]:
    """A field as `(samples, [time,] *n, components)`, and whether it varies in time."""
    by_sample, in_time = (bool(_attribute(path, file, name, f"{axis}_varying")) for axis in ("sample", "time"))
    along = [bool(varies) for varies in _attribute(path, file, name, "dim_varying")]
    varies = [by_sample, in_time, *along]
    values = _take(path, file, name, samples) if by_sample else _whole(path, file, name)
    components = (len(shape) - 2) ** order
    expected = tuple(size for size, kept in zip(shape, varies, strict=False) if kept)
    if (
        len(varies) != len(shape)
        or values.shape[: len(expected)] != expected
        or values.size != np.prod((*expected, components))
    ):
        raise ValueError(f"{path}: {name!r} has shape {values.shape}; expected {expected} and {components} components.")
    values = values.reshape(*(size if kept else 1 for size, kept in zip(shape, varies, strict=True)), components)
    values = np.broadcast_to(values, (shape[0], shape[1] if in_time else 1, *shape[2:], components))
    return (values if in_time else values[:, 0]), in_time


def _well_boundary(path: Any, file: Any, names: list[str]) -> tuple[str, ...]:
    """The type of each axis; where a mask says that its two ends differ, both, as `"wall/open"`."""
    ends: dict[str, list[str]] = {name: ["", ""] for name in names}
    for group in file.get("boundary_conditions", ()):
        place = f"boundary_conditions/{group}"
        kind = str(_attribute(path, file, place, "bc_type")).lower()
        dims = [str(name) for name in _attribute(path, file, place, "associated_dims")]
        mask = _whole(path, file, f"{place}/mask")
        for axis, name in enumerate(dims):
            for end, index in enumerate((0, -1)):
                if np.any(np.take(mask, index, axis)):
                    ends[name][end] = kind
    return tuple(low if low == high else f"{low}/{high}" for low, high in ends.values())


def _checked(path, states, channels, times, axes, boundary, constants, parameters) -> Trajectories:
    if 0 in states.shape:
        raise ValueError(f"{path}: what was asked for is empty: its shape is {states.shape}.")
    if times.shape[-1] != states.shape[1]:
        raise ValueError(f"{path} has {times.shape[-1]} times for {states.shape[1]} states.")
    check_finite(f"{path}: the trajectory data", states, np.arange(len(states)))
    return Trajectories(states, channels, times, axes, boundary, constants, parameters)


def _numbers(file: Any) -> dict[str, np.ndarray]:
    """The attributes that are real numbers."""
    values = {str(name): np.asarray(value) for name, value in file.attrs.items()}
    return {name: value for name, value in values.items() if value.dtype.kind in "biuf" and not value.ndim}


def _take(path: Any, file: Any, name: str, index: Any) -> np.ndarray:
    """A part of a dataset of real numbers, by its path in the file."""
    dataset = file.get(name)
    if not hasattr(dataset, "dtype"):
        raise ValueError(f"{path} has no dataset {name!r}; it has {sorted(file)[:8]}.")
    if dataset.dtype.kind not in "biuf":
        raise ValueError(f"{path}: {name!r} has dtype {dataset.dtype}; expected real numbers.")
    try:
        return dataset[index]
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path}: {name!r} is truncated or damaged ({error}); fetch it again.") from error


def _whole(path: Any, file: Any, name: str) -> np.ndarray:
    return _take(path, file, name, ())


def _attribute(path: Any, file: Any, group: str, name: str) -> Any:
    """An attribute of a group or dataset; `group` empty for the file itself."""
    owner = file.get(group) if group else file
    if owner is None:
        raise ValueError(f"{path} has no {group!r}; a file of The Well has 'dimensions', 'scalars' and {_ORDERS}.")
    if name not in owner.attrs:
        raise ValueError(f"{path}: {group or 'the file'!r} has no attribute {name!r}; it has {sorted(owner.attrs)}.")
    return owner.attrs[name]
