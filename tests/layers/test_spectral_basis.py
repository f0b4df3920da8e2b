"""Series per axis against Bessel functions, SciPy's transforms and exact solutions of the heat equation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import fft
from scipy.special import iv

from opkit.layers import SpectralConv, series_coefficients, series_values
from solvers import Grid

PAIRS = [
    ("fourier", "left"), ("fourier", "cells"), ("cosine", "nodes"), ("cosine", "cells"), ("sine", "nodes"),
    ("sine", "cells"), ("chebyshev", "chebyshev"),
]  # fmt: skip


def points(placement, n):
    return np.asarray(Grid(n, placement=placement).axes(jnp.float64)[0])


def function(basis, s):
    """A smooth function whose series has Bessel functions for coefficients."""
    if basis == "sine":
        return np.sin(np.pi * s) * np.exp(np.cos(np.pi * s))
    return np.exp({"fourier": np.cos(2 * np.pi * s), "cosine": np.cos(np.pi * s), "chebyshev": 2 * s - 1}[basis])


def exact(basis, modes):
    q = np.arange(modes)
    if basis == "sine":
        return 2**0.5 * (q + 1) * iv(q + 1, 1)
    plain = np.where(q > 0, 2**0.5, 1) * iv(q, 1)
    return np.insert(plain, np.arange(1, modes) + 1, 0) if basis == "fourier" else plain


def test_coefficients_are_those_of_the_function_on_any_number_of_points():
    fields = {(b, p, n): function(b, points(p, n))[:, None] for b, p in PAIRS for n in (24, 47)}
    found = jax.jit(lambda fields: {k: series_coefficients(u, [(*k[:2], 6)]) for k, u in fields.items()})
    for (basis, placement, n), a in found(fields).items():
        np.testing.assert_allclose(a[:, 0], exact(basis, 6), atol=1e-13, err_msg=f"{basis} {placement} {n}")


def test_with_as_many_modes_as_points_the_transforms_are_scipys_and_invert_each_other():
    n = 8
    x = np.random.default_rng(0).normal(size=(n, 1))
    x_inner = x * (np.arange(n) % (n - 1) > 0)[:, None]  # sines on nodes do not see the walls
    cases = {
        ("cosine", "cells"): (x, fft.dct(x[:, 0], 2) / n / np.r_[2, np.full(n - 1, 2**0.5)]),
        ("cosine", "nodes"): (x, fft.dct(x[:, 0], 1) / (n - 1) / np.r_[2, np.full(n - 2, 2**0.5), 2 * 2**0.5]),
        ("sine", "cells"): (x, fft.dst(x[:, 0], 2) / n / np.r_[np.full(n - 1, 2**0.5), 2 * 2**0.5]),
        ("sine", "nodes"): (x_inner, np.r_[fft.dst(x[1:-1, 0], 1) / (n - 1) / 2**0.5, 0, 0]),
    }

    @jax.jit
    def run(fields):
        there = {k: series_coefficients(u, [(*k, n)]) for k, u in fields.items()}
        return there, {k: series_values(a, [(*k, n)], (n,)) for k, a in there.items()}

    coefficients, back = run({k: u for k, (u, _) in cases.items()})
    for k, (u, expected) in cases.items():
        np.testing.assert_allclose(coefficients[k][:, 0], expected, atol=1e-14, err_msg=str(k))
        np.testing.assert_allclose(back[k], u, atol=1e-14, err_msg=str(k))


@pytest.mark.parametrize("walls", ["cosine", pytest.param("sine", marks=pytest.mark.slow)])
def test_a_diagonal_symbol_is_the_flow_of_the_heat_equation_between_walls_and_around_a_circle(walls, key):
    n, m, time, speed = (33, 24), (16, 12), 0.02, 0.3
    conv = SpectralConv(1, 1, m, basis=(walls, "fourier"), use_bias=False, key=key)
    k, q = np.arange(m[1])[:, None], np.arange(m[0]) + (walls == "sine")
    symbol = np.exp(-time * ((2 * np.pi * k) ** 2 + (np.pi * q) ** 2) - 2j * np.pi * k * speed)[..., None, None]
    conv = eqx.tree_at(lambda c: (c.real, c.imag), conv, (jnp.asarray(symbol.real), jnp.asarray(symbol.imag)))
    x, y = points("nodes", n[0]), points("left", n[1])
    u = np.outer(function(walls, x), function("fourier", y))[None]
    v = eqx.filter_jit(conv)(jnp.asarray(u), ("nodes", "left"))
    wave = np.sin if walls == "sine" else np.cos
    decayed = exact(walls, m[0]) * np.exp(-time * (np.pi * q) ** 2) * np.where(q > 0, 2**0.5, 1)
    across = decayed @ wave(np.pi * np.outer(q, x))
    decayed = iv(k[:, 0], 1) * np.exp(-time * (2 * np.pi * k[:, 0]) ** 2) * np.where(k[:, 0] > 0, 2, 1)
    around = decayed @ np.cos(2 * np.pi * k * (y - speed))
    np.testing.assert_allclose(v[0], np.outer(across, around), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("basis", [("chebyshev", "fourier", "sine"), ("fourier", "cosine", "fourier")])
def test_in_three_dimensions_axes_keep_their_places(basis, key):
    """Fields of one function an axis: the layer multiplies them, whatever the order of the axes."""
    placement = tuple({"fourier": "left", "chebyshev": "chebyshev"}.get(name, "nodes") for name in basis)
    n, conv = (7, 8, 9), SpectralConv(1, 1, (3, 3, 3), basis=basis, use_bias=False, key=key)
    index = {"fourier": 1, "sine": 0}  # the second real function of each basis: one wave, or half a wave
    lines = [function_of(name, points(p, k)) for name, p, k in zip(basis, placement, n, strict=True)]
    u = np.einsum("x,y,z->xyz", *lines)
    waves = [j for j, name in enumerate(basis) if name == "fourier"]
    at = [3 for _ in waves[:-1]] + [1] + [index.get(basis[j], 1) for j in range(3) if j not in waves]
    weight = np.zeros(conv.real.shape)
    weight[tuple(at)] = 0.7
    for j in range(len(waves) - 1):  # cosines along two axes are waves of either sign
        mirrored = list(at)
        mirrored[j] = 1
        weight[tuple(mirrored)] = 0.7
    conv = eqx.tree_at(lambda c: (c.real, c.imag), conv, (jnp.asarray(weight), jnp.zeros_like(conv.imag)))
    np.testing.assert_allclose(eqx.filter_jit(conv)(jnp.asarray(u)[None], placement)[0], 0.7 * u, atol=1e-13)


def function_of(basis, s):
    return {
        "fourier": np.cos(2 * np.pi * s), "cosine": np.cos(np.pi * s), "sine": np.sin(np.pi * s), "chebyshev": 2 * s - 1
    }[basis]  # fmt: skip


@pytest.mark.plain
def test_errors_name_the_argument():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="`basis` is 'wavelet'"):
        SpectralConv(1, 1, (3,), basis="wavelet", key=key)
    with pytest.raises(ValueError, match=r"`basis` is \('sine',\); .* or one for each of 2 axes"):
        SpectralConv(1, 1, (3, 3), basis=("sine",), key=key)
    conv = SpectralConv(1, 1, (3,), basis="sine", key=key)
    with pytest.raises(ValueError, match="`placement` is None"):
        conv(jnp.ones((1, 8)))
    with pytest.raises(ValueError, match="`placement` of an axis is 'left'; its basis 'sine' needs 'nodes' or 'cells'"):
        conv(jnp.ones((1, 8)), ("left",))
    with pytest.raises(ValueError, match=r"the Fourier axes of .* need even spacing"):
        SpectralConv(1, 1, (3,), key=key)(jnp.ones((1, 8)), ("chebyshev",))
