"""The row of the space-time decomposition."""

import jax

from opkit.operators import FNO, Staggered

from .rows import DEPTH, IN, OUT, WIDTH, OneResolution, Row, mlp


def staggered(ndim, *, key):
    modes = (3, 2, 2)[:ndim]
    op = lambda key: FNO(IN, OUT, modes=modes, width=WIDTH, depth=DEPTH, mlp_ratio=0, coordinates=False, key=key)
    return Staggered([op(k) for k in jax.random.split(key, 2**ndim)], factor=(2,) * ndim)


def staggered_parameters(ndim):
    block = 2 * (3, 5 * 2, 5 * 3 * 2)[ndim - 1] * WIDTH**2 + WIDTH + WIDTH**2
    return 2**ndim * (mlp(IN, 2 * WIDTH, WIDTH) + DEPTH * block + mlp(WIDTH, 2 * WIDTH, OUT))


ROWS = [
    Row(
        "Staggered",
        staggered,
        staggered_parameters,
        OneResolution("the number of a point decides which network answers there"),
    )
]
