"""The bench: equations, initial states and sizes of the data sets that operators are compared on."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from solvers import Grid, PowerSpectrum, gaussian_random_field
from solvers.equations import Burgers, BurgersFisher, Equation, KuramotoSivashinsky, NavierStokes2D

Draw = Callable[[PRNGKeyArray, Grid], tuple[Float[Array, "c *n"], Equation]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What `generate` makes a data set of: trajectories of an equation by ETDRK4, in float64, stored in float32.

    `dataclasses.replace` varies one; a new one takes a `draw` of a few lines. Quantities have no units.

    **Arguments:** `name`. `title`: the equation, box and initial states in words, for the file. `draw`: maps a key and
    the grid to an initial state `(c, *n)` and an equation (random coefficients: draw them too). `grid`: that of the
    solver. `points`: every axis is sampled at that many of its points for the file. `dt`, `every`, `frames`,
    `warm_up`: a file holds `frames` states, `every` steps of `dt` apart, after `warm_up` discarded steps. `train`,
    `test`: how many trajectories. `pairs`: numbers of points at which first and last states are stored too, as the
    pairs of `read_pairs`; the first is for training. `batch`: how many are computed at a time.

    **Raises:** `ValueError` for sizes that are not positive or points that do not divide those of the grid.
    """

    name: str
    title: str
    draw: Draw
    grid: Grid
    points: int
    dt: float
    every: int
    frames: int
    train: int
    test: int
    warm_up: int = 0
    pairs: tuple[int, ...] = ()
    batch: int = 16

    def __post_init__(self):
        for size in ("points", "every", "train", "test", "batch"):
            if getattr(self, size) < 1:
                raise ValueError(f"`{size}` is {getattr(self, size)}; expected 1 or more.")
        if self.frames < 2:
            raise ValueError(f"`frames` is {self.frames}; expected 2 or more: the initial state counts.")
        for points in (self.points, *self.pairs):
            if any(n % points for n in self.grid.shape):
                raise ValueError(f"`grid` has {self.grid.shape} points, of which {points} are no regular part.")


def draw_burgers(key: PRNGKeyArray, grid: Grid) -> tuple[Float[Array, "1 n"], Equation]:
    """Of the covariance 625 (-Lap + 25)^-2 without mean, `nu = 0.01` (arXiv:2010.08895); of wavenumbers up to 63, which
    128 points show."""
    spectrum = PowerSpectrum(alpha=2, tau=5, sigma=25)
    u = gaussian_random_field(grid, spectrum, basis="periodic", modes=127, key=key, zero_mean=True)
    return u[None], Burgers(0.01)


def draw_kuramoto_sivashinsky(key: PRNGKeyArray, grid: Grid) -> tuple[Float[Array, "1 n"], Equation]:
    """Of equal variance at every growing wavenumber, `k < 1`, without mean."""
    unstable = lambda eigenvalues: jnp.where(eigenvalues < 1, 0.1, 0.0)
    modes = 2 * int(grid.extent[0] / 6) + 1
    u = gaussian_random_field(grid, unstable, basis="periodic", modes=modes, key=key, zero_mean=True)
    return u[None], KuramotoSivashinsky()


def draw_navier_stokes(key: PRNGKeyArray, grid: Grid) -> tuple[Float[Array, "1 n m"], Equation]:
    """Of the covariance 7^3 (-Lap + 49)^-2.5, `nu = 1e-3`, `g = 0.1 (sin 2 pi (x + y) + cos 2 pi (x + y))`, the
    problem of arXiv:2010.08895 as its published code has it (the text says `7^(3/2)`)."""
    spectrum = PowerSpectrum(alpha=2.5, tau=7, sigma=7**1.5)
    w = gaussian_random_field(grid, spectrum, basis="periodic", modes=41, key=key, zero_mean=True)
    phase = 2 * jnp.pi * sum(grid.coordinates())
    return w[None], NavierStokes2D(1e-3, forcing=0.1 * (jnp.sin(phase) + jnp.cos(phase))[None])


def draw_burgers_fisher(key: PRNGKeyArray, grid: Grid) -> tuple[Float[Array, "1 n"], Equation]:
    """A Gaussian random field through a sigmoid, so that it is between the equilibria 0 and 1 and stays there; uniform
    `c` in (-1, 1), `b` in (0, 1), `nu` in (0.002, 0.02), `r` in (0, 2)."""
    key_u, key_coefficients = jax.random.split(key)
    spectrum = PowerSpectrum(alpha=2, tau=5, sigma=75)
    u = gaussian_random_field(grid, spectrum, basis="periodic", modes=129, key=key_u, zero_mean=True)
    least, most = jnp.array([-1, 0, 0.002, 0]), jnp.array([1, 1, 0.02, 2])
    coefficients = least + (most - least) * jax.random.uniform(key_coefficients, (4,))
    return jax.nn.sigmoid(u)[None], BurgersFisher(*coefficients)


BENCH = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="d1",
            title="Burgers, u_t + u u_x = 0.01 u_xx, periodic on [0, 1); u(0) Gaussian, 625 (-Lap + 25)^-2, no mean",
            draw=draw_burgers,
            grid=Grid(1024),
            points=128,
            dt=1 / 400,
            every=40,
            frames=11,
            train=1000,
            test=200,
            pairs=(128, 512),
        ),
        Recipe(
            name="d3",
            title="Kuramoto-Sivashinsky, u_t + u u_x + u_xx + u_xxxx = 0, periodic on [0, 64); on the attractor",
            draw=draw_kuramoto_sivashinsky,
            grid=Grid(128, upper=64.0),
            points=128,
            dt=0.05,
            every=4,
            frames=140,
            train=206,
            test=50,
            warm_up=4000,
        ),
        Recipe(
            name="d4",
            title="Navier-Stokes, w_t + u . grad w = 0.001 Lap w + 0.1 (sin 2 pi (x + y) + cos 2 pi (x + y)), periodic "
            "on [0, 1)^2; w(0) Gaussian, 343 (-Lap + 49)^-2.5, no mean",
            draw=draw_navier_stokes,
            grid=Grid((64, 64)),
            points=64,
            dt=1 / 25,
            every=25,
            frames=51,
            train=160,
            test=40,
            batch=8,
        ),
        Recipe(
            name="d5",
            title="Burgers-Fisher, u_t + c u_x + b u u_x = nu u_xx + r u (1 - u), periodic on [0, 1), c in (-1, 1), "
            "b in (0, 1), nu in (0.002, 0.02), r in (0, 2); u(0) a sigmoid of Gaussian, 5625 (-Lap + 25)^-2",
            draw=draw_burgers_fisher,
            grid=Grid(256),
            points=256,
            dt=1 / 400,
            every=40,
            frames=21,
            train=800,
            test=200,
        ),
    )
}
"""D1 Burgers (initial to final states at 128 and 512 points, and trajectories), D3 Kuramoto-Sivashinsky, D4
Navier-Stokes, D5 a family with random coefficients."""
