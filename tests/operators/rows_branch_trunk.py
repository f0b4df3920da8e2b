"""The rows of branch and trunk: with an operator as branch, any grid of its claim is taken."""

import math

from opkit.layers import TappedMLP
from opkit.operators import FNO, DeepONet

from .rows import IN, OUT, WIDTH, Consistent, Row, mlp

FEATURES, TAPS = 5, 2


def multionet(ndim, *, key):
    modes = (3, 3, 2)[:ndim]
    branch = FNO(IN, TAPS * FEATURES * OUT, modes=modes, width=WIDTH, depth=1, mlp_ratio=0, coordinates=False, key=key)
    trunk = TappedMLP(ndim, width=FEATURES, depth=3, taps=TAPS, key=key)
    return DeepONet(branch, trunk, IN, OUT, sensors=None, taps=TAPS)


def multionet_parameters(ndim):
    spectral = 2 * (3, 5 * 3, 5 * 5 * 2)[ndim - 1] * WIDTH**2 + WIDTH + WIDTH**2
    branch = mlp(IN, 2 * WIDTH, WIDTH) + spectral + mlp(WIDTH, 2 * WIDTH, TAPS * FEATURES * OUT)
    trunk = ndim * FEATURES + FEATURES + 2 * (FEATURES**2 + FEATURES)
    return branch + trunk + TAPS + OUT


ROWS = [Row("MultiONet", multionet, multionet_parameters, Consistent(math.inf))]
