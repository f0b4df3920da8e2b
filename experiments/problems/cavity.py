"""The lid-driven cavity by a classical method, and Ghia's table."""

from typing import Any

import numpy as np

# u at (1/2, y) and v at (x, 1/2), Re = 100: Ghia, Ghia and Shin (1982), doi:10.1016/0021-9991(82)90058-4
U_AT_Y = (
    (0.0547, -0.03717), (0.0625, -0.04192), (0.0703, -0.04775), (0.1016, -0.06434), (0.1719, -0.10150),
    (0.2813, -0.15662), (0.4531, -0.21090), (0.5000, -0.20581), (0.6172, -0.13641), (0.7344, 0.00332),
    (0.8516, 0.23151), (0.9531, 0.68717), (0.9609, 0.73722), (0.9688, 0.78871), (0.9766, 0.84123),
)  # fmt: skip
V_AT_X = (
    (0.0625, 0.09233), (0.0703, 0.10091), (0.0781, 0.10890), (0.0938, 0.12317), (0.1563, 0.16077),
    (0.2266, 0.17507), (0.2344, 0.17527), (0.5000, 0.05454), (0.8047, -0.24533), (0.8594, -0.22445),
    (0.9063, -0.16914), (0.9453, -0.10313), (0.9531, -0.08864), (0.9609, -0.07391), (0.9688, -0.05906),
)  # fmt: skip

OFFSETS: Any = (-1, 0, 1)


def centre_lines(reynolds: float, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """`u(1/2, y)` and `v(x, 1/2)` at `y, x = 0, 1 / cells, ..., 1`: central differences of second order.

    The steady stream function, `psi_y w_x - psi_x w_y = Lap w / Re` with `w = -Lap psi`, by Newton's method; the walls'
    velocity enters by a row of points beyond them.
    """
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    n, h = cells + 1, 1 / cells
    one = sparse.eye_array(n)
    bands = lambda *values: sparse.diags_array([*values], offsets=OFFSETS, shape=(n, n))
    first = bands(-1.0, 0.0, 1.0) / (2 * h)
    bent: Any = bands(1.0, -2.0, 1.0).tolil() / h**2
    bent[0, 1] = bent[-1, -2] = 2 / h**2  # the mirror image beyond a wall
    along, up = sparse.kron(first, one, "csr"), sparse.kron(one, first, "csr")
    laplacian = (sparse.kron(bent, one) + sparse.kron(one, bent)).tocsr()
    index = np.arange(n * n).reshape(n, n)
    inside = index[1:-1, 1:-1].ravel()
    vorticity = -laplacian[:, inside]
    lid = np.zeros(n * n)
    lid[index[:, -1]] = -2 / h
    d_x, d_y, diffused = along[inside], up[inside], laplacian[inside] / reynolds
    psi: Any = np.zeros(len(inside))
    for _ in range(20):
        w = vorticity @ psi + lid
        u, v = d_y[:, inside] @ psi, -d_x[:, inside] @ psi
        convected = sparse.diags_array(u) @ d_x + sparse.diags_array(v) @ d_y
        residual = convected @ w - diffused @ w
        slope = (convected - diffused) @ vorticity
        slope = slope + sparse.diags_array(d_x @ w) @ d_y[:, inside] - sparse.diags_array(d_y @ w) @ d_x[:, inside]
        change = spsolve(slope.tocsc(), -residual)
        psi = psi + change
        if np.abs(change).max() < 1e-12:
            break
    whole = np.zeros((n, n))
    whole[1:-1, 1:-1] = psi.reshape(n - 2, n - 2)
    middle = cells // 2
    u, v = np.gradient(whole[middle], h), -np.gradient(whole[:, middle], h)
    u[[0, -1]], v[[0, -1]] = (0, 1), 0
    return u, v
