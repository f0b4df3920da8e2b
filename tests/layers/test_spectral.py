"""SpectralConv against a discrete Fourier transform written out here, and against its action on single modes."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from opkit.layers import SpectralConv

SHAPES = [((11,), (4,)), ((12,), (9,)), ((6, 9), (3, 4)), ((9, 4), (4, 4)), ((5, 4, 6), (2, 2, 3))]


@eqx.filter_jit
def call(conv, u):
    return conv(u)


def by_definition(conv, u):
    """Sum over every kept wavenumber of the full, two-sided spectrum; weights of mirrored ones are conjugates."""
    *n, modes = *u.shape[1:], conv.modes
    points = np.meshgrid(*(np.arange(k) / k for k in n), indexing="ij")
    weights = np.asarray(conv.real) + 1j * np.asarray(conv.imag)
    v = np.zeros((weights.shape[-2], *n))
    for k in itertools.product(*(range(1 - m, m) for m in modes)):
        if k[-1] < 0 or any(2 * abs(kj) >= nj for kj, nj in zip(k, n, strict=True)):
            continue
        wave = np.exp(2j * np.pi * sum(kj * x for kj, x in zip(k, points, strict=True)))
        coefficient = (u * wave.conj()).reshape(len(u), -1).mean(axis=1)
        index = (*(kj + m - 1 for kj, m in zip(k[:-1], modes[:-1], strict=True)), k[-1])
        term = np.multiply.outer(weights[index] @ coefficient, wave).real
        v += term if k[-1] == 0 else 2 * term
    return v + np.asarray(conv.bias).reshape(-1, *(1,) * len(n))


@pytest.mark.parametrize("transform", ["fft", "matrix"])
@pytest.mark.parametrize(("shape", "modes"), SHAPES)
def test_both_transforms_agree_with_the_sum_over_the_two_sided_spectrum(shape, modes, transform, key):
    conv = SpectralConv(2, 3, modes, transform=transform, key=key)
    u = np.random.default_rng(0).normal(size=(2, *shape))
    np.testing.assert_allclose(call(conv, jnp.asarray(u)), by_definition(conv, u), atol=1e-13)


def test_a_cosine_comes_out_scaled_and_shifted_by_its_weight_alone(key):
    n, m, k = 32, 6, 3
    conv = SpectralConv(1, 1, (m,), key=key)
    x = jnp.arange(n) / n
    weight = conv.real[k, 0, 0] + 1j * conv.imag[k, 0, 0]
    expected = jnp.abs(weight) * jnp.cos(2 * jnp.pi * k * x + jnp.angle(weight))
    np.testing.assert_allclose(call(conv, jnp.cos(2 * jnp.pi * k * x)[None])[0], expected, atol=1e-13)
    assert jnp.abs(call(conv, jnp.cos(2 * jnp.pi * m * x)[None])).max() < 1e-13  # the first mode left out


@pytest.mark.parametrize("transform", ["fft", "matrix"])
def test_the_nyquist_mode_is_left_out_and_coarse_grids_use_the_modes_they_resolve(transform, key):
    conv = SpectralConv(1, 1, (6,), transform=transform, key=key)
    alternating = jnp.resize(jnp.array([1.0, -1.0]), (1, 8))
    assert jnp.abs(call(conv, alternating)).max() < 1e-14
    x = jnp.arange(32) / 32
    u = (jnp.cos(2 * jnp.pi * 3 * x) + jnp.sin(2 * jnp.pi * x))[None]
    np.testing.assert_allclose(call(conv, u)[:, ::4], call(conv, u[:, ::4]), atol=1e-13)


def test_it_commutes_with_translations(key):
    conv = SpectralConv(2, 2, (3, 4), key=key)
    u = np.random.default_rng(0).normal(size=(2, 9, 12))
    np.testing.assert_allclose(
        call(conv, np.roll(u, (2, 5), (1, 2))), np.roll(call(conv, u), (2, 5), (1, 2)), atol=1e-13
    )


def test_kept_modes_keep_their_expected_power(key):
    conv = SpectralConv(64, 64, (20,), transform="fft", key=key)
    power = jnp.mean(conv.real**2 + conv.imag**2) * 64
    assert abs(power - 1) < 0.02  # 82k weights: three deviations


@pytest.mark.dtype
@pytest.mark.parametrize("transform", ["fft", "matrix"])
def test_precision_follows_the_input_and_bfloat16_is_transformed_in_float32(transform):
    conv = SpectralConv(2, 2, (3, 3), transform=transform, key=jax.random.key(0))
    u = jax.random.normal(jax.random.key(1), (2, 8, 8), jnp.float32)
    assert call(conv, u).dtype == jnp.float32
    low = call(conv, u.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    exact = call(conv, u.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(low, exact.astype(jnp.bfloat16))  # one rounding, at the end
    if jax.config.read("jax_enable_x64"):
        assert call(conv, u.astype(jnp.float64)).dtype == jnp.float64


@pytest.mark.parametrize("transform", ["fft", "matrix"])
def test_a_batch_over_devices_stays_there_without_gathering(transform, key):
    conv = SpectralConv(2, 2, (3, 3), transform=transform, key=key)
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
    u = jax.device_put(jax.random.normal(key, (8, 2, 12, 12)), NamedSharding(mesh, PartitionSpec("batch")))
    compiled = jax.jit(jax.vmap(lambda v: conv(v))).lower(u).compile()
    gathers = "all-gather" in compiled.as_text() or "all-to-all" in compiled.as_text()
    assert gathers == (transform == "fft")  # XLA gathers what it transforms; matrix products it leaves in place
    np.testing.assert_allclose(compiled(u), jax.vmap(lambda v: call(conv, v))(np.asarray(u)), atol=1e-13)


@pytest.mark.plain
def test_errors_name_the_argument():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="`modes` is \\(\\)"):
        SpectralConv(1, 1, (), key=key)
    with pytest.raises(ValueError, match="`modes` is \\(3, 0\\)"):
        SpectralConv(1, 1, (3, 0), key=key)
    with pytest.raises(ValueError, match="`transform` is 'dft'"):
        SpectralConv(1, 1, (3,), transform="dft", key=key)
    conv = SpectralConv(2, 1, (3,), key=key)
    with pytest.raises(ValueError, match="`u` has 1 channels"):
        conv(jnp.ones((1, 8)))
    with pytest.raises(ValueError, match=r"one axis for each of `modes` \(3,\)"):
        jax.jit(lambda u: conv(u))(jnp.ones((2, 8, 8)))
