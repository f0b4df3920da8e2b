"""Every equation once, with its right-hand side written out a second time: from the derivatives, known in closed form,
of a sum of waves, without a Fourier transform."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from solvers import Grid
from solvers.equations import (
    Advection,
    AdvectionDiffusion,
    AllenCahn,
    Burgers,
    BurgersFisher,
    CahnHilliard,
    ComplexGinzburgLandau,
    Diffusion,
    Dispersion,
    Equation,
    FisherKPP,
    FitzHughNagumo,
    GrayScott,
    HyperDiffusion,
    KleinGordon,
    KolmogorovForcing,
    KortewegDeVries,
    KuramotoSivashinsky,
    KuramotoSivashinskyFront,
    NavierStokes2D,
    NavierStokes3D,
    NonlinearSchroedinger,
    PhiFour,
    ShallowWater,
    SineGordon,
    SwiftHohenberg,
    VariableTransport,
    Wave,
)


class Waves:
    """Fields `sum_m a_m cos(k_m . x + phase_m)` of `channels` components; `waves(0, 0, 1)` is `d_xxy` of them."""

    def __init__(self, grid: Grid, channels: int, seed: int, highest: int = 2, scale: float = 0.5):
        rng = np.random.default_rng(seed)
        self.x = np.stack(
            np.meshgrid(
                *(lo + np.arange(n) * e / n for lo, n, e in zip(grid.lower, grid.shape, grid.extent, strict=True)),
                indexing="ij",
            )
        )
        integers = rng.integers(-highest, highest + 1, (5, grid.ndim))
        self.k = 2 * np.pi * integers / np.array(grid.extent)
        self.a = scale * rng.normal(size=(channels, 5))
        self.phase = rng.uniform(0, 2 * np.pi, (channels, 5))

    def __call__(self, *axes: int) -> np.ndarray:
        factor = np.prod(self.k[:, list(axes)], axis=1)
        angle = np.tensordot(self.k, self.x, 1) + self.phase[(...,) + (None,) * len(self.x)]
        return np.einsum("cm,cm...->c...", self.a * factor, np.cos(angle + len(axes) * np.pi / 2))

    def laplacian(self, *axes: int) -> np.ndarray:
        return sum(self(j, j, *axes) for j in range(len(self.x)))

    def bilaplacian(self) -> np.ndarray:
        return sum(self.laplacian(j, j) for j in range(len(self.x)))

    def along(self, velocity) -> np.ndarray:
        """`velocity . grad`."""
        return sum(velocity[j] * self(j) for j in range(len(self.x)))


class Case(NamedTuple):
    equation: Equation
    grid: Grid
    rate: Callable[[Waves], np.ndarray]  # du/dt of the state that `state` makes of waves
    state: Callable[[Waves], np.ndarray] = lambda f: f()
    waves: int = 1  # components of the waves
    dt: float = 0.02


LINE = Grid(16, -1.0, 4.0)
FINE = Grid(27, -1.0, 4.0)
PLANE = Grid((14, 15), (-1.0, 0.5), (4.0, 7.0))
FINE_PLANE = Grid((25, 26), (-1.0, 0.5), (4.0, 7.0))
BOX = Grid((13, 14, 15), 0.0, (4.0, 5.0, 6.0))

A = np.array([[0.3, 0.1], [0.04, 0.2]])
C, D_, R, S = (Waves(PLANE, c, seed, highest=1, scale=0.2) for c, seed in ((2, 11), (1, 12), (1, 13), (1, 14)))
A_FIELD, A_X, A_Y = 0.8 + D_()[0], D_(0)[0], D_(1)[0]
V = Waves(FINE, 1, 15, highest=1)()[0]
F3 = Waves(BOX, 3, 16, highest=1)


def of_waves(second: Callable[[Waves], np.ndarray]) -> Callable[[Waves], np.ndarray]:
    """The rate of `(u, v)` from `u_tt` of the waves' first component."""
    return lambda f: np.stack([f()[1], second(f)])


def vorticity(psi: Waves) -> np.ndarray:
    return -psi.laplacian()


def vorticity_rate(forcing=0.0, nu=0.1, mu=0.0, mean=(0.0, 0.0)) -> Callable[[Waves], np.ndarray]:
    def rate(psi: Waves) -> np.ndarray:
        velocity = mean[0] + psi(1)[0], mean[1] - psi(0)[0]
        convection = sum(velocity[j] * -psi.laplacian(j) for j in range(2))
        return -convection - nu * psi.bilaplacian() - mu * vorticity(psi) + forcing

    return rate


def convection(f: Waves) -> np.ndarray:
    return f.along(f())


def conservative_convection(f: Waves) -> np.ndarray:
    divergence = sum(f(j)[j] for j in range(len(f.x)))
    return (f.along(f()) + f() * divergence) / 2


def complex_rate(rate: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Waves], np.ndarray]:
    def split(f: Waves) -> np.ndarray:
        z = rate(f()[0] + 1j * f()[1], f.laplacian()[0] + 1j * f.laplacian()[1])
        return np.stack([z.real, z.imag])

    return split


def gray_scott(f: Waves) -> np.ndarray:
    (u, v), (lu, lv) = f(), f.laplacian()
    return np.stack([0.2 * lu - u * v**2 + 0.04 * (1 - u), 0.1 * lv + u * v**2 - 0.1 * v])


def fitzhugh_nagumo(f: Waves) -> np.ndarray:
    (u, v), (lu, lv) = f(), f.laplacian()
    return np.stack([0.1 * lu + u - 0.3 * u**3 - v + 0.2, 0.2 * lv + 0.5 * (u + 0.7 - 0.8 * v)])


def shallow_water(f: Waves) -> np.ndarray:
    (u, v, h), (ux, vx, hx), (uy, vy, hy), (lu, lv, lh) = f(), f(0), f(1), f.laplacian()
    return np.stack(
        [
            -u * ux - v * uy + 0.5 * v - 2.0 * hx + 0.1 * lu,
            -u * vx - v * vy - 0.5 * u - 2.0 * hy + 0.1 * lv,
            -(1.5 + h) * (ux + vy) - u * hx - v * hy + 0.05 * lh,
        ]
    )


def transport(f: Waves) -> np.ndarray:
    flux = A_FIELD * f.laplacian() + A_X * f(0) + A_Y * f(1)
    return flux - f.along(C()) + R() * f() + S()


def solenoidal(f: Waves) -> np.ndarray:
    """The curl of the waves."""
    return np.stack([f(j)[k] - f(k)[j] for j, k in ((1, 2), (2, 0), (0, 1))])


def vorticity_rate_3d(f: Waves) -> np.ndarray:
    """Of the curl of the velocity `solenoidal(f)`: `-(u . grad) w + (w . grad) u + nu Lap w - mu w + curl g`."""

    def curl(*axes: int) -> np.ndarray:
        return np.stack([f(j, *axes)[k] - f(k, *axes)[j] for j, k in ((1, 2), (2, 0), (0, 1))])

    def curl_curl(*axes: int) -> np.ndarray:
        return np.stack([curl(j, *axes)[k] - curl(k, *axes)[j] for j, k in ((1, 2), (2, 0), (0, 1))])

    u, w = curl(), curl_curl()
    rate = sum(w[j] * curl(j) - u[j] * curl_curl(j) + 0.1 * curl_curl(j, j) for j in range(3))
    return rate - 0.3 * w + solenoidal(F3)


def kolmogorov(amplitude: float, mode: int, y: np.ndarray, extent: float) -> np.ndarray:
    kappa = 2 * np.pi * mode / extent
    return -amplitude * kappa * np.cos(kappa * y)


def pulse(t, x):
    """A forcing that moves."""
    return jnp.cos(2 * jnp.pi * x[:1] / 5.0 + t)


CASES = {
    "advection": Case(Advection(0.7), LINE, lambda f: -0.7 * f(0)),
    "advection-2d": Case(Advection([0.7, -0.4]), PLANE, lambda f: -f.along([0.7, -0.4])),
    "diffusion": Case(Diffusion(0.3), PLANE, lambda f: 0.3 * f.laplacian()),
    "diffusion-axes": Case(Diffusion([0.3, 0.1]), PLANE, lambda f: 0.3 * f(0, 0) + 0.1 * f(1, 1)),
    "diffusion-tensor": Case(Diffusion(A), PLANE, lambda f: sum(A[i, j] * f(i, j) for i in range(2) for j in range(2))),
    "advection-diffusion": Case(
        AdvectionDiffusion(0.5, 0.2), PLANE, lambda f: 0.2 * f.laplacian() - f.along([0.5, 0.5])
    ),
    "dispersion": Case(Dispersion(0.3), LINE, lambda f: 0.3 * f(0, 0, 0)),
    "hyper-diffusion": Case(HyperDiffusion(0.02), PLANE, lambda f: -0.02 * f.bilaplacian()),
    "transport": Case(VariableTransport(A_FIELD, C(), R()[0], S()[0]), PLANE, transport),
    "wave": Case(Wave(1.5), PLANE, of_waves(lambda f: 2.25 * f.laplacian()[0]), waves=2),
    "klein-gordon": Case(
        KleinGordon(1.5, 0.8), LINE, of_waves(lambda f: 2.25 * f.laplacian()[0] - 0.64 * f()[0]), waves=2
    ),
    "phi-four": Case(
        PhiFour(1.5, 0.8, 0.6),
        FINE,
        of_waves(lambda f: 2.25 * f.laplacian()[0] + 0.8 * f()[0] - 0.6 * f()[0] ** 3),
        waves=2,
    ),
    "sine-gordon": Case(
        SineGordon(1.5, 0.8),
        Grid(96, -1.0, 4.0),
        of_waves(lambda f: 2.25 * f.laplacian()[0] - 0.64 * np.sin(f()[0])),
        waves=2,
    ),
    "burgers": Case(Burgers(0.1), LINE, lambda f: 0.1 * f.laplacian() - f() * f(0)),
    "burgers-2d": Case(Burgers(0.1), PLANE, lambda f: 0.1 * f.laplacian() - convection(f), waves=2),
    "burgers-3d": Case(Burgers(0.1), BOX, lambda f: 0.1 * f.laplacian() - convection(f), waves=3),
    "burgers-2d-conservative": Case(
        Burgers(0.1, True), PLANE, lambda f: 0.1 * f.laplacian() - conservative_convection(f), waves=2
    ),
    "burgers-3d-conservative": Case(
        Burgers(0.1, True), BOX, lambda f: 0.1 * f.laplacian() - conservative_convection(f), waves=3
    ),
    "korteweg-de-vries": Case(KortewegDeVries(5.0, 0.4), LINE, lambda f: -5 * f() * f(0) - 0.4 * f(0, 0, 0)),
    "burgers-fisher": Case(
        BurgersFisher(0.4, 0.6, 0.1, 0.7),
        LINE,
        lambda f: 0.1 * f(0, 0) - 0.4 * f(0) - 0.6 * f() * f(0) + 0.7 * f() * (1 - f()),
    ),
    "kuramoto-sivashinsky": Case(
        KuramotoSivashinsky(0.9, 0.8, 0.7), LINE, lambda f: -0.9 * f() * f(0) - 0.8 * f(0, 0) - 0.7 * f(0, 0, 0, 0)
    ),
    "kuramoto-sivashinsky-front": Case(
        KuramotoSivashinskyFront(0.9, 0.8, 0.7),
        PLANE,
        lambda f: -0.45 * (f(0) ** 2 + f(1) ** 2) - 0.8 * f.laplacian() - 0.7 * f.bilaplacian(),
    ),
    "fisher-kpp": Case(FisherKPP(0.2, 0.7), PLANE, lambda f: 0.2 * f.laplacian() + 0.7 * f() * (1 - f())),
    "allen-cahn": Case(
        AllenCahn(0.2, 0.7, 0.9), FINE_PLANE, lambda f: 0.2 * f.laplacian() + 0.7 * f() - 0.9 * f() ** 3
    ),
    "cahn-hilliard": Case(
        CahnHilliard(0.2, 0.1),
        FINE,
        lambda f: 0.2 * (3 * f() ** 2 * f(0, 0) + 6 * f() * f(0) ** 2 - f(0, 0) - 0.1 * f(0, 0, 0, 0)),
    ),
    "swift-hohenberg": Case(
        SwiftHohenberg(0.3, 1.1, 0.4),
        FINE_PLANE,
        lambda f: (0.3 - 1.1**4) * f() - 2 * 1.21 * f.laplacian() - f.bilaplacian() + 0.4 * f() ** 2 - f() ** 3,
        dt=0.002,
    ),
    "gray-scott": Case(GrayScott(0.2, 0.1, 0.04, 0.06), FINE_PLANE, gray_scott, waves=2),
    "fitzhugh-nagumo": Case(FitzHughNagumo(0.1, 0.2, 0.2, 0.3, 0.5, 0.7, 0.8), FINE_PLANE, fitzhugh_nagumo, waves=2),
    "schroedinger": Case(
        NonlinearSchroedinger(0.4, 0.9, V),
        FINE,
        complex_rate(lambda z, lap: 1j * (0.4 * lap + 0.9 * abs(z) ** 2 * z - V * z)),
        waves=2,
    ),
    "schroedinger-2d": Case(
        NonlinearSchroedinger(),
        FINE_PLANE,
        complex_rate(lambda z, lap: 1j * (0.5 * lap + abs(z) ** 2 * z)),
        waves=2,
    ),
    "ginzburg-landau": Case(
        ComplexGinzburgLandau(0.9, 0.5, -0.7),
        FINE_PLANE,
        complex_rate(lambda z, lap: 0.9 * z + (1 + 0.5j) * lap - (1 - 0.7j) * abs(z) ** 2 * z),
        waves=2,
    ),
    "navier-stokes-2d": Case(NavierStokes2D(0.1), PLANE, vorticity_rate(), vorticity),
    "navier-stokes-2d-kolmogorov": Case(
        NavierStokes2D(0.1, 0.3, KolmogorovForcing(1.2, 2)),
        PLANE,
        vorticity_rate(kolmogorov(1.2, 2, C.x[1], 6.5), mu=0.3),
        vorticity,
    ),
    "navier-stokes-2d-field": Case(
        NavierStokes2D(0.1, forcing=S(), mean_velocity=[0.3, -0.2]),
        PLANE,
        vorticity_rate(S(), mean=(0.3, -0.2)),
        vorticity,
    ),
    "navier-stokes-2d-function": Case(
        NavierStokes2D(0.1, forcing=pulse), PLANE, vorticity_rate(np.cos(2 * np.pi * C.x[:1] / 5 + 0.4)), vorticity
    ),
    "navier-stokes-3d": Case(NavierStokes3D(0.1, 0.3, F3()), BOX, vorticity_rate_3d, solenoidal, waves=3),
    "shallow-water": Case(ShallowWater(1.5, 2.0, 0.5, 0.1, 0.05), PLANE, shallow_water, waves=3),
}
