"""The rows of the operators of spectral and local kernels."""

import math

from opkit.operators import FNO, TransformOnce

from .rows import DEPTH, IN, OUT, WIDTH, Consistent, Row, mlp

MODES = (4, 3, 2)


def fno(ndim, *, key, **options):
    return FNO(IN, OUT, modes=MODES[:ndim], width=WIDTH, coordinates=False, mlp_ratio=0, key=key, **options)


def fno_parameters(depth, weight):
    return mlp(IN, 2 * WIDTH, WIDTH) + depth * (weight + WIDTH + WIDTH**2) + mlp(WIDTH, 2 * WIDTH, OUT)


def local_parameters(ndim):
    differences, integrals = WIDTH**2 * 3**ndim, WIDTH**2 * (2 + ndim)
    return differences + integrals


def cp_parameters(ndim):
    return 3 * (1 + sum(MODES[:ndim]) + 2 * WIDTH)


def tucker_ranks(ndim):
    return (*((3,), (5, 3), (5, 4, 2))[ndim - 1], 2, 2)


def tucker_parameters(ndim):
    sizes = (*((4,), (7, 3), (7, 5, 2))[ndim - 1], WIDTH, WIDTH)
    ranks = tucker_ranks(ndim)
    return 2 * math.prod(ranks) + sum(n * r for n, r in zip(sizes, ranks, strict=True))


LOCAL = {"difference_length": 0.03, "integral_radius": 0.2}
WALLS = ("cosine", "sine", "cosine")


def local_between_walls(ndim, *, key):
    return fno(ndim, depth=1, basis=WALLS[:ndim], factorisation="cp", rank=3, **LOCAL, key=key)


def between_walls(ndim, *, key):
    return fno(ndim, depth=DEPTH, basis=WALLS[:ndim], factorisation="cp", rank=3, key=key)


def local(ndim, *, key):
    return fno(ndim, depth=DEPTH, factorisation="tucker", rank=tucker_ranks(ndim), **LOCAL, key=key)


def transform_once(ndim, *, key):
    return TransformOnce(IN, OUT, modes=MODES[:ndim], width=WIDTH, depth=DEPTH, key=key)


def transform_once_parameters(ndim):
    modes = MODES[:ndim]
    layer = math.prod(modes) * (WIDTH**2 + WIDTH) + sum(m**2 for m in modes)
    return IN * WIDTH + DEPTH * layer + mlp(WIDTH + IN, 2 * WIDTH, OUT)


ROWS = [
    Row(
        "TransformOnce",
        transform_once,
        transform_once_parameters,
        Consistent(2),
        placement="nodes",
        dimensions=(1,),
        slow=False,
    ),
    Row("TransformOnce in space", transform_once, transform_once_parameters, Consistent(2), placement="nodes"),
    Row(
        "FNO between walls",
        between_walls,
        lambda ndim: fno_parameters(DEPTH, cp_parameters(ndim)),
        Consistent(2),
        placement="nodes",
    ),
    Row(
        "LocalNO",
        local,
        lambda ndim: fno_parameters(DEPTH, tucker_parameters(ndim) + local_parameters(ndim)),
        Consistent(1),
    ),
    Row(
        "LocalNO between walls",
        local_between_walls,
        lambda ndim: fno_parameters(1, cp_parameters(ndim) + local_parameters(ndim)),
        Consistent(1),
        placement="nodes",
    ),
]
