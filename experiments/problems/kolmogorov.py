"""Kolmogorov's flow: its truth on a fine grid, seen on a coarse one, and the classical steps it is compared with."""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from solvers import ETDRK, Dealiasing, Frozen, Grid, PowerSpectrum, gaussian_random_field, repeat, rollout, spectral
from solvers.equations import KolmogorovForcing, NavierStokes2D


@dataclasses.dataclass(frozen=True)
class Flow:
    """`w_t + u . grad w = nu Lap w - mu w - 4 cos(4 y)` on `[0, 2 pi)^2`, and what is drawn of it."""

    viscosity: float = 3e-3
    drag: float = 0.1
    mode: int = 4
    fine: int = 128
    coarse: int = 32
    frame: float = 0.2
    """The time between states, and of a learned step."""
    warm_up: float = 30.0
    """From a random field, most of it on half the points."""
    train: int = 12
    test: int = 8
    train_frames: int = 50
    test_frames: int = 30

    @property
    def equation(self) -> NavierStokes2D:
        """The equation."""
        return NavierStokes2D(self.viscosity, drag=self.drag, forcing=KolmogorovForcing(1.0, self.mode))

    def grid(self, points: int) -> Grid:
        """Points along each axis."""
        return Grid((points, points), 0.0, 2 * np.pi)


class Differences(eqx.Module):
    """A step `dt` of the same flow by central differences of second order, and the Runge-Kutta method of order 4.

    The convection is Arakawa's mean of three Jacobians, which conserves energy and enstrophy; the Laplacian has five
    points, in the equation for the stream function too, which is solved by Fourier transform.

    Arakawa (1966), Computational design for long-term numerical integration of the equations of fluid motion,
    doi:10.1016/0021-9991(66)90015-5.
    """

    inverse: Frozen
    force: Frozen
    flow: Flow = eqx.field(static=True)
    spacing: float = eqx.field(static=True)
    dt: float = eqx.field(static=True)

    def __init__(self, flow: Flow, points: int, dt: float):
        self.flow, self.dt, self.spacing = flow, dt, 2 * np.pi / points
        k = np.arange(points)
        one = (2 - 2 * np.cos(2 * np.pi * k / points)) / self.spacing**2
        symbol = one[:, None] + one[None, : points // 2 + 1]
        symbol[0, 0] = np.inf
        self.inverse = Frozen(jnp.asarray(1 / symbol))
        y = flow.grid(points).axes()[1]
        self.force = Frozen(jnp.asarray(-flow.mode * np.cos(flow.mode * np.asarray(y))))

    def __call__(self, w: Float[Array, "1 n n"]) -> Float[Array, "1 n n"]:
        """The vorticity one step later."""
        rate, dt = self.rate, self.dt
        a = rate(w[0])
        b = rate(w[0] + dt / 2 * a)
        c = rate(w[0] + dt / 2 * b)
        d = rate(w[0] + dt * c)
        return w + dt / 6 * (a + 2 * b + 2 * c + d)

    def rate(self, w: Float[Array, "n n"]) -> Float[Array, "n n"]:
        """`dw/dt`."""
        psi = jnp.fft.irfft2(self.inverse.value.astype(w.dtype) * jnp.fft.rfft2(w), w.shape)
        p, q = (_neighbours(v) for v in (psi, w))
        plus = (p[1, 0] - p[-1, 0]) * (q[0, 1] - q[0, -1]) - (p[0, 1] - p[0, -1]) * (q[1, 0] - q[-1, 0])
        outer = (
            p[1, 0] * (q[1, 1] - q[1, -1])
            - p[-1, 0] * (q[-1, 1] - q[-1, -1])
            - p[0, 1] * (q[1, 1] - q[-1, 1])
            + p[0, -1] * (q[1, -1] - q[-1, -1])
        )
        inner = (
            q[0, 1] * (p[1, 1] - p[-1, 1])
            - q[0, -1] * (p[1, -1] - p[-1, -1])
            - q[1, 0] * (p[1, 1] - p[1, -1])
            + q[-1, 0] * (p[-1, 1] - p[-1, -1])
        )
        jacobian = (plus + outer + inner) / (12 * self.spacing**2)  # psi_x w_y - psi_y w_x
        laplacian = (q[1, 0] + q[-1, 0] + q[0, 1] + q[0, -1] - 4 * w) / self.spacing**2
        flow = self.flow
        return jacobian + flow.viscosity * laplacian - flow.drag * w + self.force.value.astype(w.dtype)


def _neighbours(v: Array) -> dict[tuple[int, int], Array]:
    """The values at the eight points around, by their distance along the axes."""
    rows = {i: jnp.roll(v, -i, 0) if i else v for i in (-1, 0, 1)}
    return {(i, j): jnp.roll(row, -j, 1) if j else row for i, row in rows.items() for j in (-1, 0, 1)}


class WithForce(eqx.Module):
    """An operator on the vorticity and, for a second channel, the shape of the force."""

    op: Any
    mode: int = eqx.field(static=True)

    def __call__(
        self, w: Array, domain: Grid, query: Grid | None = None, *, args: Any = None, key: Any = None
    ) -> Array:
        """Apply to one sample."""
        force = jnp.cos(self.mode * domain.coordinates(w.dtype)[1:])
        return self.op(jnp.concatenate([w, force]), domain, query, key=key)


def solver(kind: str, flow: Flow, points: int, steps: int, dealiasing: Dealiasing = "truncate") -> Any:
    """A stepper on so many points, of so many steps a frame: `differences`, or `spectral`, which is ETDRK4."""
    dt = flow.frame / steps
    if kind == "differences":
        return Differences(flow, points, dt)
    return ETDRK(flow.equation, flow.grid(points), dt, dealiasing=dealiasing)


def steps_a_frame(flow: Flow, points: int, courant: float) -> int:
    """For a Courant number of at most `courant` at a speed of 3, about the largest."""
    return math.ceil(3.0 * flow.frame * points / (2 * math.pi) / courant)


def draw(flow: Flow, folder: Path) -> dict[str, np.ndarray]:
    """`train` and `test`, states on the coarse grid `(samples, 1 + frames, 1, n, n)`, and `initial`, the first ones of
    `test` on the fine grid; float32. Made once and kept in `folder`.

    **Raises:** `FloatingPointError` where a state is not finite.
    """
    path = folder / f"kolmogorov-{hashlib.sha256(repr(flow).encode()).hexdigest()[:12]}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        arrays = _drawn(flow)
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise FloatingPointError(f"the truth of {flow} blew up; take more `fine` points or a larger `viscosity`.")
        whole = path.with_suffix(".unfinished")
        with open(whole, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        whole.replace(path)
    with np.load(path) as arrays:
        return dict(arrays)


def _drawn(flow: Flow) -> dict[str, np.ndarray]:
    half, fine, coarse = (flow.grid(n) for n in (flow.fine // 2, flow.fine, flow.coarse))
    of_half, of_fine = (steps_a_frame(flow, grid.shape[0], 0.6) for grid in (half, fine))
    on_half, on_fine = (solver("spectral", flow, g.shape[0], n) for g, n in ((half, of_half), (fine, of_fine)))
    settle = round(2.0 / flow.frame)  # for the small scales that half the points don't have
    warm = max(1, round(flow.warm_up / flow.frame) - settle)
    spectrum = PowerSpectrum(alpha=3.0, tau=4.0, sigma=40.0)

    def begin(key: Array) -> Array:
        w = gaussian_random_field(half, spectrum, basis="periodic", modes=9, zero_mean=True, key=key)[None]
        w = repeat(on_half, warm * of_half)(w.astype(jnp.float32))
        return repeat(on_fine, settle * of_fine)(spectral.resample(w, half, fine))

    def path(w: Array, frames: int) -> Array:
        states = rollout(on_fine, frames * of_fine, every=of_fine, include_initial=True)(w).states
        return jax.lax.map(lambda state: spectral.resample(state, fine, coarse), states)

    keys = jax.random.split(jax.random.key(0), flow.train + flow.test)
    initial = jax.jit(lambda keys: jax.lax.map(begin, keys))(keys)
    paths = jax.jit(lambda w, frames: jax.lax.map(lambda v: path(v, frames), w), static_argnums=1)
    train, test = jnp.split(initial, [flow.train])
    found = {"train": paths(train, flow.train_frames), "test": paths(test, flow.test_frames), "initial": test}
    return {name: np.asarray(array) for name, array in found.items()}
