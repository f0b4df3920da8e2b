"""The rows of the operators that go through coarser grids."""

from opkit.operators import LSM, MgNO, UNet

from .rows import IN, OUT, WIDTH, OneResolution, Row, mlp

STENCILS = OneResolution("its kernels count points, not lengths")


def mgno(ndim, *, key):
    boundary = ("zero", "periodic", "reflect")[:ndim]
    return MgNO(IN, OUT, ndim=ndim, width=WIDTH, depth=1, levels=2, boundary=boundary, key=key)


def mgno_parameters(ndim):
    # on two levels an operator and two smoothers; between them R and P
    cycle = 3**ndim * (2 * 3 * IN * WIDTH + IN**2 + WIDTH**2)
    return cycle + IN * WIDTH + WIDTH + WIDTH * OUT + OUT


def conv_block(ins, outs, ndim):
    return 3**ndim * (ins * outs + outs**2) + 2 * outs


def unet(ndim, *, key):
    boundary = ("reflect", "periodic", "zero")[:ndim]
    options = {"levels": 2, "multiplier": 1.5, "input_copies": True, "boundary": boundary, "conditioning": 2}
    return UNet(IN, OUT, ndim=ndim, width=WIDTH, key=key, **options)


def unet_parameters(ndim):
    coarse = 6
    convolutions = conv_block(WIDTH, WIDTH, ndim) + conv_block(2 * WIDTH, coarse, ndim)
    convolutions += conv_block(WIDTH + coarse, WIDTH, ndim)
    film = 2 * mlp(2, WIDTH, 2 * WIDTH) + mlp(2, coarse, 2 * coarse)
    return IN * WIDTH + WIDTH + convolutions + film + WIDTH * OUT + OUT


def lsm(ndim, *, key):
    return LSM(IN, OUT, ndim=ndim, width=WIDTH, levels=1, tokens=3, heads=2, harmonics=2, coordinates=True, key=key)


def lsm_parameters(ndim):
    # queries, five maps, the projection, the series
    block = 3 * WIDTH + 6 * WIDTH**2 + WIDTH + 2 * 2 * WIDTH
    lift = (IN + ndim) * WIDTH + WIDTH
    return lift + conv_block(WIDTH, WIDTH, ndim) + block + WIDTH * OUT + OUT


ROWS = [
    Row("MgNO", mgno, mgno_parameters, STENCILS),
    Row("U-Net", unet, unet_parameters, STENCILS, conditioning=2),
    Row("LSM", lsm, lsm_parameters, STENCILS),
]
