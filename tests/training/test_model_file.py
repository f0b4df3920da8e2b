import json
import os
import random

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from opkit.data import Normalised, Normaliser
from opkit.training import ModelFileError, load_model, save_model
from solvers import Frozen, Grid

HYPERPARAMETERS = {"widths": [3, 4, 2], "activation": "tanh", "scale": 0.5}


class Model(eqx.Module):
    layers: list[eqx.nn.Linear]
    table: Frozen
    key: jax.Array
    complex_table: jax.Array
    empty: jax.Array
    activation: object
    scale: float = eqx.field(static=True)
    widths: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, widths, activation, scale, *, key):
        keys = jax.random.split(key, len(widths))
        self.layers = [eqx.nn.Linear(m, n, key=k) for m, n, k in zip(widths[:-1], widths[1:], keys[1:], strict=True)]
        self.table = Frozen({"mean": jax.random.normal(keys[0], (3, 1)), "count": jnp.arange(3)})
        self.key = keys[0]
        self.complex_table = jnp.linspace(0, 1, 4) * (1 + 2j)
        self.empty = jnp.zeros((0, 2))
        self.activation = {"tanh": jnp.tanh, "gelu": jax.nn.gelu}[activation]
        self.scale, self.widths = scale, widths

    def __call__(self, x):
        for layer in self.layers:
            x = self.activation(layer(x)) * self.scale
        return x + self.table.value["mean"][:2, 0]


def build(**hyperparameters):
    return Model(**hyperparameters, key=jax.random.key(0))


@pytest.fixture
def model():
    return Model((3, 4, 2), "tanh", 0.5, key=jax.random.key(7))


def same(a, b) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and bool(eqx.tree_equal(a, b))


def cast(model, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) and not jnp.iscomplexobj(x) else x, model)


@pytest.mark.dtype
def test_a_model_comes_back_to_the_bit_and_in_its_function(model, tmp_path):
    save_model(tmp_path / "model.safetensors", model, HYPERPARAMETERS)
    loaded = load_model(tmp_path / "model.safetensors", build)
    assert same(loaded, model)
    assert loaded.widths == (3, 4, 2)
    np.testing.assert_array_equal(loaded(jnp.ones(3)), model(jnp.ones(3)))


def test_loading_initialises_nothing(model, tmp_path):
    """`build` sees tracers, never values."""
    save_model(tmp_path / "model", model, HYPERPARAMETERS)
    kinds = []

    def traced(**hyperparameters):
        built = build(**hyperparameters)
        kinds.append(isinstance(built.layers[0].weight, jax.core.Tracer))
        return built

    load_model(tmp_path / "model", traced)
    assert kinds == [True]


@pytest.mark.dtype
def test_a_model_cast_to_bfloat16_comes_back_in_it(model, tmp_path):
    half = cast(model, jnp.bfloat16)
    save_model(tmp_path / "half", half, HYPERPARAMETERS)
    loaded = load_model(tmp_path / "half", build)
    assert same(loaded, half)
    assert loaded.layers[0].weight.dtype == jnp.bfloat16


def tied(*, key):
    pair = eqx.nn.Linear(3, 3, key=key), eqx.nn.Linear(3, 3, key=key)
    return eqx.nn.Shared(pair, weight_of_second, weight_of_first)


def weight_of_first(pair):
    return pair[0].weight


def weight_of_second(pair):
    return pair[1].weight


def test_a_layer_used_twice_stays_one(tmp_path):
    model = tied(key=jax.random.key(1))
    save_model(tmp_path / "tied", model, {})
    loaded = load_model(tmp_path / "tied", lambda: tied(key=jax.random.key(2)))
    assert same(eqx.filter(loaded, eqx.is_array), eqx.filter(model, eqx.is_array))
    assert len(safetensors.numpy.load_file(tmp_path / "tied")) == 3
    first, second = loaded()
    assert first.weight is second.weight


class Convolution(eqx.Module):
    layer: eqx.nn.Conv1d

    def __call__(self, u, domain, query=None, *, args=None, key=None):
        return self.layer(u)


def test_an_operator_with_its_normalisers_comes_back(tmp_path):
    def operator(channels, seed=0, std=1.0):
        layer = eqx.nn.Conv1d(channels, channels, 3, padding=1, key=jax.random.key(seed))
        normaliser = Normaliser(np.zeros(1), np.full(1, std))
        return Normalised(Convolution(layer), normaliser, normaliser)

    model = operator(1, seed=5, std=2.5)
    save_model(tmp_path / "operator", model, {"channels": 1})
    loaded = load_model(tmp_path / "operator", operator)
    assert same(loaded, model)
    u = jnp.sin(jnp.arange(8.0))[None]
    np.testing.assert_array_equal(loaded(u, Grid(8)), model(u, Grid(8)))


def test_a_file_that_could_not_be_finished_leaves_the_old_one(model, tmp_path, monkeypatch):
    path = tmp_path / "model"
    save_model(path, model, HYPERPARAMETERS)
    old = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(path, cast(model, jnp.float16), HYPERPARAMETERS)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["model"]


def as_version_0(content: bytes) -> bytes:
    """The file as version 0 had it: arrays by number, no checksums."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    fields = header["__metadata__"]
    entries = json.loads(fields["arrays"])
    tensors = safetensors.numpy.load(content)
    arrays = json.dumps([[e["path"], e["shape"], e["dtype"]] for e in entries])
    metadata = {"format": "opkit-model", "version": "0", "hyperparameters": fields["hyperparameters"], "arrays": arrays}
    return safetensors.numpy.save({str(i): tensors[e["path"]] for i, e in enumerate(entries)}, metadata=metadata)


def test_a_file_of_version_0_is_migrated(model, tmp_path):
    save_model(tmp_path / "model", model, HYPERPARAMETERS)
    (tmp_path / "old").write_bytes(as_version_0((tmp_path / "model").read_bytes()))
    assert same(load_model(tmp_path / "old", build), model)


def test_damage_anywhere_is_an_error_or_harmless(model, tmp_path):
    path = tmp_path / "model"
    save_model(path, model, HYPERPARAMETERS)
    raw, rng, caught = path.read_bytes(), random.Random(0), 0
    versions = [raw[: len(raw) * i // 60] for i in range(60)]
    for position in rng.sample(range(8 * len(raw)), 240):
        changed = bytearray(raw)
        changed[position // 8] ^= 1 << position % 8
        versions.append(bytes(changed))
    template = eqx.filter_eval_shape(build, widths=(3, 4, 2), activation="tanh", scale=0.5)
    for content in versions:
        path.write_bytes(content)
        try:
            loaded = load_model(path, lambda **_: template)
        except ModelFileError:
            caught += 1
        else:
            assert same(loaded, model)
    assert caught > 295, caught  # what is harmless is the padding of the header


def rewritten(path, **changes):
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    fields = header["__metadata__"] | changes
    path.write_bytes(safetensors.numpy.save(safetensors.numpy.load(content), metadata=fields))


@pytest.mark.plain
def test_files_of_another_kind_or_from_the_future_are_refused(model, tmp_path):
    path = tmp_path / "model"
    path.write_text("not a model")
    with pytest.raises(ModelFileError, match="no model file, or a truncated or damaged one"):
        load_model(path, build)
    safetensors.numpy.save_file({"a": np.ones(2)}, path)
    with pytest.raises(ModelFileError, match="no opkit model"):
        load_model(path, build)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "absent", build)
    save_model(path, model, HYPERPARAMETERS)
    rewritten(path, hyperparameters='{"widths": [3, 4, 3]}')
    with pytest.raises(ModelFileError, match="the checksum of its metadata is wrong"):
        load_model(path, build)
    rewritten(path, version="2")
    with pytest.raises(ModelFileError, match=r"format version 2; this program reads up to 1. Update opkit"):
        load_model(path, build)


@pytest.mark.plain
def test_another_structure_is_refused_by_its_path(model, tmp_path):
    path = tmp_path / "model"
    save_model(path, model, HYPERPARAMETERS)
    with pytest.raises(ModelFileError, match=r"layers/0/weight \(4, 3\) float32 was written; the program has \(5, 3\)"):
        load_model(path, lambda widths, **rest: build(widths=(3, 5, 2), **rest))
    with pytest.raises(ModelFileError, match=r"table/tree/count \(3,\) int32 .* the program has layers/2/weight"):
        load_model(path, lambda widths, **rest: build(widths=(3, 4, 2, 2), **rest))
    save_model(path, model, {"widths": [3, 4, 2]})
    with pytest.raises(ModelFileError, match=r"`build` refuses the hyperparameters .*TypeError.*'activation'"):
        load_model(path, build)


@pytest.mark.plain
def test_float64_in_a_file_asks_for_x64(model, tmp_path):
    save_model(tmp_path / "double", {"a": np.ones(3)}, {})
    with pytest.raises(ModelFileError, match=r"a \(3,\) float64 was written.*`jax_enable_x64`"):
        load_model(tmp_path / "double", lambda: {"a": jnp.ones(3)})


@pytest.mark.plain
def test_hyperparameters_that_json_does_not_hold_are_refused_by_name(model, tmp_path):
    with pytest.raises(ValueError, match=r"`hyperparameters` has activation=.*name it by a string"):
        save_model(tmp_path / "model", model, {"activation": jnp.tanh})
    assert not (tmp_path / "model").exists()
