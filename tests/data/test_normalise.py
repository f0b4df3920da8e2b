"""Normalisation by channel, and the operator that carries it."""

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.data import Identity, Normalised, Normaliser, content_hash, fit_normaliser
from solvers import Grid

RNG = np.random.default_rng(0)
FIELDS = RNG.normal(size=(50, 2, 6, 5)) * np.array([3.0, 0.01])[:, None, None] + np.array([-1.0, 40.0])[:, None, None]


def test_the_statistics_are_those_of_each_channel_whatever_the_block():
    for block in (7, 50, 1000):
        fitted = fit_normaliser(FIELDS, block=block)
        np.testing.assert_allclose(fitted.mean.value, FIELDS.mean((0, 2, 3)), rtol=1e-14)
        np.testing.assert_allclose(fitted.std.value, FIELDS.std((0, 2, 3)), rtol=1e-12)


def test_a_large_mean_costs_no_digits():
    noise = RNG.normal(size=(40, 1, 8))
    fitted = fit_normaliser(noise + 1e8, block=3)
    np.testing.assert_allclose(fitted.std.value, [(noise + 1e8 - 1e8).std()], rtol=1e-7)


def test_encoding_gives_mean_zero_and_deviation_one_and_decoding_undoes_it_at_any_resolution():
    fitted = fit_normaliser(FIELDS)
    encoded = jax.vmap(fitted.encode)(jnp.asarray(FIELDS))
    np.testing.assert_allclose(encoded.mean((0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(encoded.std((0, 2, 3)), 1, rtol=1e-12)
    u = jnp.asarray(RNG.normal(size=(2, 9)))
    np.testing.assert_allclose(fitted.decode(fitted.encode(u)), u, rtol=1e-10)


def test_a_constant_channel_becomes_zero_not_noise():
    fields = FIELDS.copy()
    fields[:, 1] = 0.1
    for dtype in (np.float64, np.float32):
        fitted = fit_normaliser(fields.astype(dtype))
        assert fitted.std.value[1] == 1
        np.testing.assert_allclose(fitted.encode(jnp.asarray(fields[0], dtype))[1], 0, atol=1e-7)


def test_statistics_are_read_from_a_dataset_on_disk(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["x"] = FIELDS
        fitted = fit_normaliser(file["x"], block=8)
    np.testing.assert_allclose(fitted.std.value, FIELDS.std((0, 2, 3)), rtol=1e-12)


def test_a_normalised_operator_has_physical_fields_in_and_out():
    grid, seen = Grid((6, 5)), []

    def inner(v, domain, query=None, *, args=None, key=None):
        seen.append((v, domain, query, args, key))
        return 2 * v

    input, output = fit_normaliser(FIELDS), Normaliser(np.array([1.0, 2.0]), np.array([10.0, 20.0]))
    operator = Normalised(inner, input, output)
    u = jnp.asarray(FIELDS[0])
    result = operator(u, grid, grid, args="lead time", key=None)
    np.testing.assert_allclose(
        result, 2 * input.encode(u) * np.array([10.0, 20.0])[:, None, None] + np.array([1.0, 2.0])[:, None, None]
    )
    assert seen[0][1:] == (grid, grid, "lead time", None)
    np.testing.assert_array_equal(Normalised(inner, Identity(), Identity())(u, grid), 2 * u)


def test_no_gradient_reaches_the_statistics():
    fitted = fit_normaliser(FIELDS)
    gradient = jax.grad(lambda n: jnp.sum(n.decode(n.encode(jnp.asarray(FIELDS[0])) ** 2)))(fitted)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.dtype
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_normalisation_keeps_the_precision_of_the_field_and_the_statistics_that_of_the_data(dtype):
    assert fit_normaliser(FIELDS.astype(np.float32)).mean.value.dtype == jnp.float32
    fitted = fit_normaliser(FIELDS.astype(np.float32))
    u = jnp.ones((2, 4), dtype)
    assert fitted.encode(u).dtype == fitted.decode(u).dtype == dtype


@pytest.mark.plain
def test_wrong_normalisers_are_errors():
    with pytest.raises(ValueError, match=r"`mean`, `std` have shapes \(2,\), \(3,\); expected \(channels,\)"):
        Normaliser(np.ones(2), np.ones(3))
    with pytest.raises(
        ValueError, match=r"`std` is \[1\. 0\.\]; expected positive numbers \(1 for a constant channel\)"
    ):
        Normaliser(np.ones(2), np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="`u` has 1 channels, the normaliser 2; are those of input and output swapped"):
        fit_normaliser(FIELDS).encode(jnp.ones((1, 5)))
    with pytest.raises(ValueError, match=r"`samples` are bool \(3, 1, 4\); expected floats \(samples, channels, \*n\)"):
        fit_normaliser(np.ones((3, 1, 4), bool))
    with pytest.raises(ValueError, match=r"`samples` have NaN or infinity in channels \[1\]"):
        fit_normaliser(np.where(np.arange(2)[:, None, None] == 1, np.nan, FIELDS))


def test_the_content_hash_sees_values_names_shapes_and_dtypes_but_no_layout():
    data = {"x": RNG.normal(size=(4, 6)), "y": np.arange(3)}
    same = {"y": np.arange(3).astype(">i8"), "x": np.asfortranarray(data["x"])}
    assert content_hash(data) == content_hash(same)
    changed = data["x"].copy()
    changed[3, 5] = np.nextafter(changed[3, 5], 9)
    others = [
        data | {"x": changed},
        data | {"x": data["x"].reshape(6, 4)},
        data | {"x": data["x"].astype(np.float32)},
        {"z": data["x"], "y": data["y"]},
    ]
    assert len({content_hash(other) for other in [data, *others]}) == 5
    assert content_hash(jax.tree.map(jnp.asarray, data)) == content_hash(data)


@pytest.mark.plain
def test_the_content_hash_takes_bfloat16_and_refuses_what_is_no_number():
    assert content_hash({"a": jnp.ones(2, jnp.bfloat16)}) != content_hash({"a": jnp.ones(2, jnp.float16)})
    with pytest.raises(ValueError, match=r"`arrays` hold a object at \"\['f'\]\"; expected numbers"):
        content_hash({"f": object()})
    assert len(content_hash(eqx.nn.Linear(2, 3, key=jax.random.key(0)).weight)) == 64
