"""Layers and operators on fields in pieces give what one device gives for the whole, gradients of weights included."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.layers import Conv, FDConv, GroupNorm, LocalIntegral, SpectralConv
from opkit.operators import FNO, ResNet
from solvers import Grid, Piece

from ..solvers.decomposed_cases import collectives, compiled, in_pieces

KEY = jax.random.key(0)


def values_and_gradients(model, shape, names, call, dtype=float):
    """On one device and in pieces: the outputs, gradients in weights and input, and the program in pieces."""
    rng, grid = np.random.default_rng(0), Grid(shape, 0.0, 2.0)
    u, target = (jnp.asarray(rng.normal(size=(c, *shape)), dtype) for c in (2, 3))
    params, static = eqx.partition(model, eqx.is_array)
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    apply = lambda params, u, domain: call(eqx.combine(params, static), u, domain)
    pieces = in_pieces(lambda params, u: apply(params, u, Piece(grid, names)), names)

    def program(run):
        product = lambda params, u: (jnp.sum(target * run(params, u)), run(params, u))
        return compiled(jax.value_and_grad(product, (0, 1), has_aux=True), params, u)

    whole, cut = program(lambda params, u: apply(params, u, grid)), program(pieces)
    (_, output), gradients = whole(params, u)
    (_, found), found_gradients = cut(params, u)
    return (output, gradients), (found, found_gradients), cut


def apart(found, expected):
    """The largest relative distance of their arrays."""
    distance = lambda a, b: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
    return max(jax.tree.leaves(jax.tree.map(distance, found, expected)))


def spectral(ndim, **options):
    return SpectralConv(2, 3, (4, 3, 3)[:ndim], key=KEY, **options)


on_grid = lambda layer, u, domain: layer(u, domain)
by_names = lambda layer, u, domain: layer(u, axis_names=domain.axis_names)


def layered(layer, u, domain):
    return jnp.concatenate([layer(u, domain.axis_names), u[:1]])


SQUARE = ("x", "y")
LAYERS = [
    (spectral(2), (8, 10), ("x", None), by_names),
    (Conv(2, 3, (3, 3), boundary=("reflect", "periodic"), key=KEY), (8, 10), SQUARE, by_names),
    (spectral(2), (4, 6), ("x", None), by_names),  # coarser than the modes
    (spectral(3), (8, 6, 5), ("x", "y", None), by_names),
    (spectral(3), (7, 12, 9), (None, "x", None), by_names),
    (spectral(2, factorisation="cp", rank=3), (8, 7), ("x", None), by_names),
    (spectral(2, factorisation="tucker", rank=0.5), (8, 7), ("x", None), by_names),
    (Conv(2, 3, (5, 3), boundary=("zero", "replicate"), dilation=2, key=KEY), (16, 12), SQUARE, by_names),
    (Conv(2, 3, (3, 3, 5), key=KEY), (4, 5, 8), ("x", None, "y"), by_names),
    (FDConv(2, 3, (3, 3), length=0.1, boundary=("replicate", "periodic"), key=KEY), (8, 12), SQUARE, on_grid),
    (FDConv(2, 3, (3, 3), length=0.1, boundary=("periodic", "extrapolate"), key=KEY), (8, 9), ("x", None), on_grid),
    (LocalIntegral(2, 3, 2, radius=0.5, boundary=("periodic", "zero"), key=KEY), (16, 12), SQUARE, on_grid),
    (GroupNorm(1, 2), (8, 6), SQUARE, layered),
]


@pytest.mark.parametrize(
    ("layer", "shape", "names", "call"), [*LAYERS[:2], *(pytest.param(*c, marks=pytest.mark.slow) for c in LAYERS[2:])]
)
def test_layers_in_pieces_are_those_of_one_device_and_so_are_gradients(layer, shape, names, call):
    expected, found, program = values_and_gradients(layer, shape, names, call)
    assert apart(found, expected) < 1e-12
    assert not {"all-gather", "all-gather-start"} & collectives(program).keys()


def fno(ndim, **options):
    return FNO(2, 3, modes=(3,) * ndim, width=4, depth=2, key=KEY, **options)


OPERATORS = [
    (fno(2), (8, 10), ("x", None)),
    (fno(2, groups=2, coordinates=False, difference_length=0.1, integral_radius=0.4), (16, 12), ("x", None)),
    (fno(3), (8, 6, 5), ("x", "y", None)),
    (fno(3, factorisation="tucker", rank=0.3), (3, 8, 6), (None, "x", None)),
    (ResNet(2, 3, ndim=2, width=4, depth=2, groups=1, dilations=(1, 2), coordinates=True, key=KEY), (8, 10), SQUARE),
    (ResNet(2, 3, ndim=3, width=4, depth=1, boundary="zero", key=KEY), (4, 6, 4), ("x", None, "y")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "shape", "names"), OPERATORS)
def test_operators_in_pieces_are_those_of_one_device_and_so_are_gradients(operator, shape, names):
    expected, found, program = values_and_gradients(operator, shape, names, on_grid)
    assert apart(found, expected) < 1e-12
    assert not {"all-gather", "all-gather-start"} & collectives(program).keys()


@pytest.mark.slow
@pytest.mark.dtype
def test_an_operator_in_single_precision_agrees():
    expected, found, _ = values_and_gradients(fno(2), (8, 10), ("x", None), on_grid, jnp.float32)
    assert found[0].dtype == jnp.float32
    assert apart(found, expected) < 1e-5


@pytest.mark.slow
def test_a_gradient_inside_is_the_sum_over_devices():
    """As a training step takes it."""
    operator, grid = fno(2), Grid((8, 10))
    params, static = eqx.partition(operator, eqx.is_array)
    u = jnp.asarray(np.random.default_rng(0).normal(size=(2, *grid.shape)), jnp.result_type(float))

    def loss(params, u, domain):
        return jnp.sum(eqx.combine(params, static)(u, domain) ** 2)

    run = jax.shard_map(
        lambda params, u: jax.grad(loss)(params, u, Piece(grid, ("x", None))),
        mesh=jax.sharding.Mesh(np.array(jax.devices()[:4]), ("x",)),
        in_specs=(jax.P(), jax.P(None, "x")),
        out_specs=jax.P(),
    )
    assert apart(jax.jit(run)(params, u), jax.jit(jax.grad(loss))(params, u, grid)) < 1e-6


def traced(call, shape=(8, 10), names=("x", None)):
    """What tracing on a piece raises."""
    grid = Grid(shape)
    run = in_pieces(lambda _, u: (call(u, Piece(grid, names)), u)[1], names)
    jax.eval_shape(run, 0, jnp.zeros((2, *shape)))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda u, piece: fno(2, padding=0.2)(u, piece), "`domain` is a Piece; this operator has padding"),
        (lambda u, piece: fno(2, basis="cosine")(u, piece), "`domain` is a Piece; .* the basis"),
        (lambda u, piece: fno(2)(u, piece, Grid((8, 10))), "`query` is .* with a Piece for `domain`"),
        (lambda u, piece: fno(3)(u, piece), "`domain` is a piece of 2 axes"),
        (lambda u, piece: fno(2)(u[:, 1:], piece), r"`u` has shape \(2, 1, 10\); expected \(2, 2, 10\)"),
        (
            lambda u, piece: spectral(2, basis=("fourier", "cosine"))(u, ("left", "cells"), ("x", None)),
            "`axis_names` is .* pieces need Fourier axes",
        ),
        (
            lambda u, piece: FDConv(2, 2, (3, 3), length=1.0, boundary="extrapolate", key=KEY)(u, piece),
            "`boundary` of axis 0 is 'extrapolate', and 'x' cuts it",
        ),
    ],
)
def test_errors_name_the_argument(call, match):
    with pytest.raises(ValueError, match=match):
        traced(call)
