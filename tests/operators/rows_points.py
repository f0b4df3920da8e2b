"""The rows of the operators on points, here on the points of grids."""

from functools import partial

import jax.numpy as jnp

from opkit.fields import ModulatedSIREN
from opkit.layers import Ball, KernelIntegral, LowRankIntegral, MultilevelIntegral, Nearest, PointwiseMLP
from opkit.operators import CORAL, FNO, GNO, GeoFNO, MessagePassingSolver, PhysGTO
from solvers import Grid

from .rows import DEPTH, IN, OUT, WIDTH, Consistent, OneResolution, Row, mlp

SMOOTH = Ball(0.3, 64, window="smooth")
KINDS = {
    "ball": partial(KernelIntegral, neighbourhood=SMOOTH, hidden=(6,)),
    "diagonal": partial(KernelIntegral, neighbourhood=Ball(0.3), hidden=(6,), kind="diagonal", normalise=False),
    "rank": partial(LowRankIntegral, rank=3, hidden=(6,)),
    "levels": partial(
        MultilevelIntegral, neighbourhoods=(SMOOTH, Ball(0.6, 64)), ratio=2, hidden=(6,), kind="diagonal"
    ),
}


def gno(kind, conditioning=0):
    def build(ndim, *, key):
        sizes = {"ndim": ndim, "width": WIDTH, "depth": DEPTH, "conditioning": conditioning}
        return GNO(IN, OUT, integral=KINDS[kind], **sizes, key=key)

    return build


def gno_parameters(kind, conditioning=0):
    def count(ndim):
        point = ndim + IN + conditioning
        diagonal = mlp(2 * point, 6, WIDTH)
        integral = {
            "ball": mlp(2 * point, 6, WIDTH**2),
            "diagonal": diagonal,
            "rank": 2 * mlp(point, 6, 3 * WIDTH),
            "levels": 4 * diagonal,
        }[kind]
        return point * WIDTH + WIDTH + integral + WIDTH**2 + WIDTH + mlp(WIDTH, 2 * WIDTH, OUT)

    return count


def solver(neighbourhood, conditioning=0):
    def build(ndim, *, key):
        sizes = {"ndim": ndim, "width": WIDTH, "depth": DEPTH, "conditioning": conditioning}
        return MessagePassingSolver(
            1, frames=IN, bundle=OUT, dt=0.1, neighbourhood=neighbourhood(ndim), **sizes, key=key
        )

    return build


def solver_parameters(conditioning=0):
    def count(ndim):
        encoder = mlp(IN + conditioning, WIDTH, WIDTH)
        message = 2 * WIDTH**2 + (IN + ndim + conditioning) * WIDTH + WIDTH + WIDTH**2 + WIDTH
        decoder = 1 * 8 + 8 + 2 * 8 * 1 + 1
        return encoder + DEPTH * (message + mlp(2 * WIDTH + conditioning, WIDTH, WIDTH)) + decoder

    return count


def phys_gto(ndim, *, key):
    sizes = {"width": WIDTH, "depth": DEPTH, "tokens": 3, "heads": 2, "conditioning": 2}
    return PhysGTO(IN, OUT, ndim=ndim, neighbourhood=SMOOTH, **sizes, key=key)


def phys_gto_parameters(ndim):
    flux = 2 * WIDTH**2 + (ndim + 1) * WIDTH + WIDTH + 2 * WIDTH**2 + 2 * WIDTH + mlp(3 * WIDTH, WIDTH, WIDTH)
    attention = 3 * WIDTH + 6 * WIDTH**2 + WIDTH
    ends = mlp(IN + ndim + 2, WIDTH, WIDTH) + mlp(WIDTH, WIDTH, OUT)
    return ends + DEPTH * (flux + attention + mlp(WIDTH, 2 * WIDTH, WIDTH))


def coral(ndim, *, key):
    sizes = {"width": WIDTH, "depth": DEPTH, "omega": 2.0, "hidden_omega": 2.0, "key": key}
    return CORAL(
        ModulatedSIREN(ndim, IN, code_size=5, **sizes),
        PointwiseMLP((5, 7, 6), key=key),
        ModulatedSIREN(ndim, OUT, code_size=6, **sizes),
        in_channels=IN,
        ndim=ndim,
        code_size=5,
        rate=0.1,
    )


def coral_parameters(ndim):
    def field(out, code):
        frequencies = ndim
        shifts = DEPTH * WIDTH * code
        return frequencies + ndim * WIDTH + WIDTH + (DEPTH - 1) * (WIDTH**2 + WIDTH) + WIDTH * out + out + shifts

    return field(IN, 5) + mlp(5, 7, 6) + field(OUT, 6) + 1


def geo_fno(ndim, *, key):
    reference = Grid((8, 6)[:ndim], placement="nodes")
    inner = FNO(
        IN + ndim + 1, OUT, modes=(3, 2)[:ndim], width=WIDTH, depth=DEPTH, mlp_ratio=0, coordinates=False, key=key
    )
    mapping = lambda x: x + 0.1 * jnp.sin(jnp.pi * x)
    return GeoFNO(inner, in_channels=IN, reference=reference, to_reference=mapping, metric=True)


def geo_fno_parameters(ndim):
    block = 2 * (3, 5 * 2)[ndim - 1] * WIDTH**2 + WIDTH + WIDTH**2
    return mlp(IN + ndim + 1, 2 * WIDTH, WIDTH) + DEPTH * block + mlp(WIDTH, 2 * WIDTH, OUT)


RANDOM = OneResolution("its coarse levels are random subsets of the points")
INTERPOLATED = OneResolution("interpolation to its reference grid showed order 0.3 between clouds, not 2")
STENCIL = OneResolution("its edges shrink with the distance of the points")
PERIODIC = solver(lambda d: Nearest(2, period=(1.0,) * d), 2)
ON_BALLS = solver(lambda d: Ball(0.2, period=(1.0,) * d, window="smooth"))
ROWS = [
    Row("GNO", gno("ball", 2), gno_parameters("ball", 2), Consistent(2), 2, placement="nodes", dimensions=(1,)),
    Row("GNO ball", gno("diagonal"), gno_parameters("diagonal"), Consistent(1), placement="nodes", dimensions=(1,)),
    Row("GNO low-rank", gno("rank"), gno_parameters("rank"), Consistent(2), placement="nodes"),
    Row("GNO multilevel", gno("levels"), gno_parameters("levels"), RANDOM, dimensions=(1,)),
    Row("MP solver", PERIODIC, solver_parameters(2), STENCIL, 2),
    Row("MP solver on balls", ON_BALLS, solver_parameters(), Consistent(2), dimensions=(1,)),
    Row("PhysGTO", phys_gto, phys_gto_parameters, Consistent(2), 2, placement="nodes", dimensions=(1,)),
    # interpolation divides by sums of small weights
    Row("GeoFNO", geo_fno, geo_fno_parameters, INTERPOLATED, placement="nodes", dimensions=(1, 2), rounding=2e-5),
    Row("CORAL", coral, coral_parameters, Consistent(2), placement="nodes", dimensions=(1, 2)),
]
