"""The rows of the Fourier neural operator and of the residual network."""

import math

from opkit.operators import FNO, ResNet

from .rows import DEPTH, IN, OUT, WIDTH, Consistent, OneResolution, Row, mlp


def fno(ndim, *, key):
    return FNO(
        IN, OUT, modes=(4, 3, 2)[:ndim], width=WIDTH, depth=DEPTH, groups=2, coordinates=False, conditioning=2, key=key
    )


def fno_parameters(ndim):
    spectral = 2 * (4, 7 * 3, 7 * 5 * 2)[ndim - 1] * WIDTH**2 + WIDTH
    skips, norm, film = WIDTH**2 + WIDTH, 2 * WIDTH, mlp(2, WIDTH, 2 * WIDTH)
    block = spectral + skips + norm + film + mlp(WIDTH, WIDTH // 2, WIDTH)
    return mlp(IN, 2 * WIDTH, WIDTH) + DEPTH * block + mlp(WIDTH, 2 * WIDTH, OUT)


def fno_on_a_box(ndim, *, key):
    return FNO(IN, OUT, modes=(4, 3, 2)[:ndim], width=WIDTH, depth=DEPTH, padding=0.25, mlp_ratio=0, key=key)


def fno_on_a_box_parameters(ndim):
    block = 2 * (4, 7 * 3, 7 * 5 * 2)[ndim - 1] * WIDTH**2 + WIDTH + WIDTH**2
    return mlp(IN + ndim, 2 * WIDTH, WIDTH) + DEPTH * block + mlp(WIDTH, 2 * WIDTH, OUT)


def resnet(ndim, *, key):
    boundary = ("reflect", "zero", "replicate")[:ndim]
    return ResNet(
        IN, OUT, ndim=ndim, width=WIDTH, depth=DEPTH, dilations=(1, 2), boundary=boundary, coordinates=True, key=key
    )


def resnet_parameters(ndim):
    convolutions = 2 * (WIDTH**2 * 3**ndim + WIDTH)
    return (IN + ndim) * WIDTH + WIDTH + DEPTH * convolutions + WIDTH * OUT + OUT


ROWS = [
    Row("FNO", fno, fno_parameters, Consistent(math.inf), conditioning=2, slow=False),
    Row("FNO on a box", fno_on_a_box, fno_on_a_box_parameters, Consistent(1), placement="nodes", slow=False),
    Row("ResNet", resnet, resnet_parameters, OneResolution("its kernels count points, not lengths"), slow=False),
]
