"""Data-parallel training: a batch over devices, each with the whole model."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PRNGKeyArray, PyTree

from ..state import TrainState
from ..step import TrainStep
from .optimiser_shards import specs
from .processes import many_processes

BATCH_AXIS = "batch"

Devices = Sequence[Any]
"""Of `jax.Device`s, such as `jax.devices()`."""


def data_parallel(step: TrainStep, devices: Devices, *, shard_optimiser: bool = False) -> TrainStep:
    """`step` with its batch in equal parts over `devices`, state and metrics on each of them.

        step = jax.jit(data_parallel(make_train_step(objective, optimiser, axis=BATCH_AXIS), jax.devices()))

    The parts stay where they are, Fourier transforms included, which under a plain `jit` of a sharded batch gather it
    on every device. What is exchanged is one sum an update, of the gradient and a few scalars (before it, the counts of
    masked terms). Results agree with those of one device to rounding (see `make_train_step`). The `pmap` of the same
    step, on a batch `(devices, samples, ...)`:

        jax.pmap(lambda arrays, batch, key: step(eqx.combine(arrays, static), batch, key=key)[1],
                 axis_name=BATCH_AXIS, in_axes=(None, 0, None))

    **Arguments:** `shard_optimiser`: as the step's.

    **Raises:** `ValueError` for no devices or one given twice; when traced, for samples that they do not divide.
    """
    mesh = batch_mesh(devices)

    def parallel(state: TrainState, batch: Any, *, key: PRNGKeyArray) -> tuple[TrainState, dict[str, Array]]:
        arrays, static = eqx.partition(state, eqx.is_array)
        check_divides(len(jax.tree.leaves(batch)[0]), mesh.size)

        def local(arrays: PyTree, batch: Any, key: Any) -> Any:
            state, metrics = step(eqx.combine(arrays, static), batch, key=key)
            return eqx.filter(state, eqx.is_array), metrics

        held = state_specs(arrays, mesh, shard_optimiser=shard_optimiser)
        arrays, metrics = over_batch(local, mesh, (held, P(BATCH_AXIS), P()), (held, P()))(arrays, batch, key)
        return eqx.combine(arrays, static), metrics

    return parallel


def batch_mesh(devices: Devices) -> Mesh:
    """The mesh of `devices` along `BATCH_AXIS`."""
    if not devices or len(set(devices)) < len(devices):
        raise ValueError(f"`devices` is {list(devices)}; expected one or more, each once, such as jax.devices().")
    if many_processes() and len({device.process_index for device in devices}) < jax.process_count():
        raise ValueError(
            f"`devices` is {list(devices)}; expected some of each of the {jax.process_count()} processes, such as "
            "jax.devices()."
        )
    return Mesh(np.array(devices), (BATCH_AXIS,))


def check_divides(samples: int, devices: int) -> None:
    """`ValueError` unless a batch splits evenly."""
    if samples % devices:
        raise ValueError(
            f"`batch_size` is {samples} for {devices} devices; expected a multiple of {devices}, such as "
            f"{-(-samples // devices) * devices}."
        )


def state_specs(arrays: PyTree, mesh: Mesh, *, shard_optimiser: bool) -> PyTree:
    """How each of a state's arrays lies on the devices: whole, but for the optimiser's where they are sharded."""
    whole = jax.tree.map(lambda _: P(), arrays)
    if not shard_optimiser:
        return whole
    return eqx.tree_at(lambda state: state.opt_state, whole, specs(arrays.opt_state, mesh.size, BATCH_AXIS))


def over_batch(function: Callable, mesh: Mesh, inputs: PyTree, outputs: PyTree) -> Callable:
    """`shard_map`, for results that are the same on all devices where `outputs` says so.

    That is not verified (`check_vma`): the verifier refuses the loops of solvers that begin with constants.
    """
    return jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)


def place(tree: PyTree, mesh: Mesh, held: PyTree) -> PyTree:
    """The arrays on the devices of `mesh`, as the specs in `held` say, of each or of all.

    Each process has all of every array, and takes what its devices need.
    """
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), held, is_leaf=_is_spec)
    if not _is_shared(mesh):
        return jax.device_put(tree, shardings)
    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda array: _own_parts(array, shardings), tree)
    return jax.tree.map(_own_parts, tree, shardings)


def place_parts(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays cut along their leading axis over the devices of `mesh`; each process gives what `own_shards` counts, one
    after another."""
    sharding, own = NamedSharding(mesh, P(BATCH_AXIS)), own_shards(mesh)
    devices = [mesh.devices.flat[shard] for shard in own]

    def parts(array: Any) -> Array:
        pieces = [jax.device_put(piece, d) for piece, d in zip(np.split(array, len(own)), devices, strict=True)]
        shape = (len(array) // len(own) * mesh.size, *array.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, pieces)

    return jax.tree.map(parts, tree)


def own_shards(mesh: Mesh) -> list[int]:
    """Which devices of `mesh`, in its order, are this process's."""
    return [shard for shard, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]


def on_first(tree: PyTree, mesh: Mesh) -> PyTree:
    """The arrays on the first device of `mesh`, or of this process's in it: those that lie there whole in their own
    memory. All processes of the mesh are to ask together."""
    from jax.experimental import multihost_utils

    device = mesh.devices.flat[own_shards(mesh)[0]]

    def first(array: Array) -> Array:
        if array.is_fully_replicated:
            return array.addressable_data(0)
        if array.is_fully_addressable:
            return jax.device_put(array, device)
        return jax.device_put(multihost_utils.process_allgather(array, tiled=True), device)

    return jax.tree.map(first, tree)


def _is_shared(mesh: Mesh) -> bool:
    return len(own_shards(mesh)) < mesh.size


def _own_parts(array: Any, sharding: NamedSharding) -> Array:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _own_parts(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _is_spec(node: Any) -> bool:
    return isinstance(node, P)
