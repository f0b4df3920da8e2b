"""Batches in parts: the same numbers on any number of devices and micro-batches, and what the devices exchange."""

import os
import re
import subprocess
import sys
from math import prod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from opkit.data import ArraySource, index_stream
from opkit.operators import FNO
from opkit.training import (
    BATCH_AXIS,
    Balanced,
    Checkpoints,
    Term,
    data_parallel,
    fit,
    fold_key,
    init_state,
    make_train_step,
    sample_keys,
    shared_key,
    supervised,
)
from solvers import ETDRK, Grid
from solvers.equations import NavierStokes2D

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 16)).astype(np.float32)
Y = np.roll(X, 1, axis=-1) - X
KEY = jax.random.key(0)


def network():
    k1, k2 = jax.random.split(jax.random.key(1))
    linear = lambda *sizes, key: eqx.nn.Linear(*sizes, dtype=jnp.float32, key=key)
    layers = [linear(16, 8, key=k1), eqx.nn.Lambda(jnp.tanh), eqx.nn.Dropout(0.3), linear(8, 16, key=k2)]
    return eqx.nn.Sequential(layers)


def objective(model, batch, *, key, carry):
    """Noise and dropout of each sample, noise that all share, an uneven mask, counts, figures and a running mean."""
    x, y = batch
    shift = 0.1 * jax.random.normal(shared_key(fold_key(key, 7)), (), x.dtype)

    def residual(x, y, key):
        noise, drop = jax.random.split(key)
        return model(x + shift + 0.1 * jax.random.normal(noise, x.shape, x.dtype), key=drop) - y

    r = jax.vmap(residual)(x, y, sample_keys(key, len(x)))
    kept = x[:, 0] > -0.3
    terms = {
        "data": Term(r, "residual", mask=kept),
        "mean": Term(jnp.mean(r, 1) ** 2, "losses", weight=0.3),
        "sum": Term(jnp.abs(r), "losses", count=100, weight=0.1),
    }
    figures = {"left_out": jnp.sum(~kept), "unsolved": jnp.sum(kept, dtype=x.dtype), "level": jnp.mean(x)}
    return terms, figures, 0.9 * carry + 0.1 * jnp.mean(x)


OPTIMISER = optax.adam(1e-2)
SETTINGS = {"batch_size": 8, "seed": 3, "chunk": 10, "carry": jnp.zeros((), jnp.float32)}


def trained(steps=20, data=(X, Y), **options):
    rows = []
    state = fit(
        objective, network(), data, OPTIMISER, steps=steps, log=lambda _, r: rows.append(r), **SETTINGS, **options
    )
    return state, rows


def distance(a, b):
    """Of all that is inexact in two PyTrees, relative to the norm of the second."""
    a, b = (
        np.concatenate(
            [np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(eqx.filter(t, eqx.is_inexact_array))]
        )
        for t in (a, b)
    )
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def on_one():
    return trained()


def same(found, expected):
    assert distance(found[0].model, expected[0].model) < 1e-6
    assert distance(found[0].carry, expected[0].carry) < 1e-6
    for row, other in zip(found[1], expected[1], strict=True):
        assert row.keys() == other.keys()
        np.testing.assert_allclose([*row.values()], [row[k] for k in other], rtol=0)
        np.testing.assert_allclose([row[k] for k in other], [*other.values()], rtol=2e-6, atol=1e-7)


def test_four_devices_train_as_one_noise_dropout_masks_and_counts_included(on_one):
    state, rows = trained(devices=jax.devices()[:4])
    same((state, rows), on_one)
    assert all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(eqx.filter(state, eqx.is_array)))


@pytest.mark.slow
def test_one_device_that_is_named_is_as_none(on_one):
    devices = jax.devices()[2:3]
    state, rows = trained(data=ArraySource((X, Y)), devices=devices, shard_optimiser=True)
    assert state.model[0].weight.devices() == set(devices)
    same((state, rows), on_one)


@pytest.mark.slow
def test_a_stream_over_two_devices_in_micro_batches_trains_as_one(on_one):
    same(trained(data=ArraySource((X, Y)), devices=jax.devices()[1:3], micro_batches=2), on_one)


@pytest.mark.slow
def test_eight_devices_train_as_one(on_one, tmp_path):
    program = f"""
import equinox as eqx, jax, numpy as np
from tests.training.test_sharding import trained
state, _ = trained(devices=jax.devices())
np.savez({str(tmp_path / "found.npz")!r}, *jax.tree.leaves(eqx.filter(state.model, eqx.is_array)))
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    subprocess.run([sys.executable, "-c", program], env=os.environ | flags, check=True)
    found = [*np.load(tmp_path / "found.npz").values()]
    assert distance([jnp.asarray(a) for a in found], eqx.filter(on_one[0].model, eqx.is_array)) < 1e-6


@pytest.mark.slow
def test_micro_batches_have_the_gradient_of_the_batch(on_one):
    same(trained(micro_batches=4), on_one)


@pytest.mark.slow
def test_what_four_devices_saved_goes_on_on_two_and_on_one(on_one, tmp_path):
    trained(steps=10, devices=jax.devices()[:4], checkpoints=Checkpoints(tmp_path))
    for devices in (jax.devices()[:2], None):
        state, rows = trained(devices=devices, checkpoints=Checkpoints(tmp_path, every=100))
        assert len(rows) == 1  # the second chunk alone
        same((state, rows), (on_one[0], on_one[1][1:]))


GRID = Grid((8, 8))
fno = lambda: FNO(1, 1, modes=(3, 3), width=4, depth=2, coordinates=False, transform="fft", key=KEY)
fno_goal = supervised(lambda p, t, domain: jnp.mean((p - t) ** 2), GRID)


def solver(model, batch, *, key, carry):
    step = ETDRK(NavierStokes2D(model["viscosity"], model["drag"]), Grid((8, 8), 0.0, 2 * np.pi), 0.1)
    return {"data": Term(jax.vmap(step)(batch[0]) - batch[1], "residual")}, {}, carry


def compiled(objective, make, **options):
    """The step on four devices, the sizes of what each kind of collective in it gives, and the trained shapes."""
    step = make_train_step(objective, OPTIMISER, axis=BATCH_AXIS, **options)
    step = data_parallel(step, jax.devices()[:4], **options)
    shapes = eqx.filter_eval_shape(lambda: init_state(make(), OPTIMISER))
    arrays, static = eqx.partition(shapes, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    run = lambda arrays, batch: eqx.filter(step(eqx.combine(arrays, static), batch, key=KEY)[0].model, eqx.is_array)
    program = jax.jit(run).lower(arrays, (jax.ShapeDtypeStruct((8, 1, 8, 8), float),) * 2).compile()
    text = program.as_text()
    found = {}
    for results, name in re.findall(r"= (.*) (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", text):
        shapes = re.findall(r"\w+\[([\d,]*)\]", results)
        found.setdefault(name, []).extend(prod(int(n) for n in shape.split(",") if n) for shape in shapes)
    return program, {name: sorted(sizes) for name, sizes in found.items()}, jax.tree.leaves(arrays.model)


def test_devices_with_an_fno_exchange_one_sum_of_each_gradient_leaf_and_nothing_else():
    _, found, leaves = compiled(fno_goal, fno)
    assert found == {"all-reduce": sorted(leaf.size for leaf in leaves)}


@pytest.mark.slow
def test_devices_with_a_solver_exchange_that_too_and_take_the_step_of_one_device():
    make = lambda: {"viscosity": jnp.array(0.01), "drag": jnp.array(0.1)}
    program, found, _ = compiled(solver, make)
    assert found == {"all-reduce": [1, 1]}
    u = jax.random.normal(KEY, (8, 1, 8, 8))
    batch, state = (u - jnp.mean(u, (2, 3), keepdims=True), jnp.zeros_like(u)), init_state(make(), OPTIMISER)
    expected, _ = jax.jit(make_train_step(solver, OPTIMISER))(state, batch, key=KEY)
    assert distance(program(state, batch), expected.model) < 1e-12


@pytest.mark.slow
def test_an_optimiser_in_pieces_trains_as_one(on_one):
    same(trained(devices=jax.devices()[:4], shard_optimiser=True), on_one)


@pytest.mark.slow
def test_around_an_optimiser_in_pieces_parameters_alone_are_gathered():
    _, found, leaves = compiled(fno_goal, fno, shard_optimiser=True)
    cut = sorted(leaf.size for leaf in leaves if any(n % 4 == 0 for n in leaf.shape))
    assert found["all-gather"] == cut
    assert found["reduce-scatter"] == [size // 4 for size in cut]
    assert set(found) == {"all-reduce", "all-gather", "reduce-scatter"}
    assert sum(found["all-reduce"]) == sum(leaf.size for leaf in leaves) - sum(cut)


@pytest.mark.slow
def test_pmap_of_the_step_trains_as_one_device(on_one):
    step = make_train_step(objective, OPTIMISER, axis=BATCH_AXIS)
    arrays, static = eqx.partition(init_state(network(), OPTIMISER, carry=SETTINGS["carry"]), eqx.is_array)

    def run(arrays, batch, key):
        state, metrics = step(eqx.combine(arrays, static), batch, key=key)
        return eqx.filter(state, eqx.is_array), metrics["loss"]

    mapped = jax.pmap(run, axis_name=BATCH_AXIS, in_axes=(0, 0, None), devices=jax.devices()[:4])
    arrays = jax.tree.map(lambda a: jnp.stack([a] * 4), arrays)
    losses = []
    for number, chosen in enumerate(index_stream(len(X), 8, 3)(0, 20)):
        batch = tuple(a[chosen].reshape(4, 2, 16) for a in (X, Y))
        arrays, loss = mapped(arrays, batch, jax.random.fold_in(jax.random.key(3), number))
        losses.append(loss)
    assert distance(jax.tree.map(lambda a: a[3], arrays.model), on_one[0].model) < 1e-6
    np.testing.assert_allclose(np.mean(losses[:10], 0), on_one[1][0]["loss"], rtol=1e-6)


@pytest.mark.plain
def test_what_cannot_be_split_is_an_error():
    def run(goal=objective, optimiser=OPTIMISER, data=(X, Y), **settings):
        settings = {"steps": 1, "seed": 0, "batch_size": 8, "devices": jax.devices()[:4]} | settings
        return fit(goal, network(), data, optimiser, carry=jnp.zeros(()), **settings)

    with pytest.raises(ValueError, match="`batch_size` is 6 for 4 devices; expected a multiple of 4, such as 8"):
        run(batch_size=6)
    with pytest.raises(ValueError, match=r"`devices` is .*; expected one or more, each once"):
        run(devices=jax.devices()[:1] * 2)
    with pytest.raises(ValueError, match="`data` is None with 4 `devices` and 1 `micro_batches`"):
        run(data=None, batch_size=None)
    with pytest.raises(ValueError, match="`micro_batches` is 0; expected 1 or more"):
        run(micro_batches=0)
    with pytest.raises(ValueError, match="`micro_batches` is 3 for 2 samples a device; expected a divisor"):
        run(micro_batches=3)
    with pytest.raises(ValueError, match="`objective` is a Balanced, whose `prepare` sees a whole batch"):
        run(Balanced(objective))
    with pytest.raises(ValueError, match="`optimiser` asks for the loss as a function of the parameters"):
        run(optimiser=optax.lbfgs())
    with pytest.raises(ValueError, match=r"`optimiser` is not elementwise \(reduce_sum\)"):
        run(optimiser=optax.chain(optax.clip_by_global_norm(1.0), OPTIMISER), shard_optimiser=True)
    with pytest.raises(ValueError, match="`shard_optimiser` is True without an `axis`"):
        make_train_step(objective, OPTIMISER, shard_optimiser=True)
    with pytest.raises(TypeError, match="PartKey"):  # one draw for a part would depend on the split
        run(lambda model, batch, *, key, carry: jax.random.normal(key, ()))
