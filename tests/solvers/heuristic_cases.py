"""Solvers on one small problem, and a plain loop over their steps: the oracle of what a solve records."""

from itertools import pairwise

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix

RTOL, ATOL, THETA = 1e-5, 1e-6, 1.3
MATRIX = np.array([[-1.0, 4.0, 0.3], [-4.0, -1.0, 0.0], [0.0, 0.5, -2.0]])
Y0 = np.array([1.0, -0.5, 0.7])
QUANTITIES = ("error", "error_squared", "stiffness", "max_stiffness")


def drift(t, y, theta):
    """A nonlinear oscillator, damped and forced."""
    return theta * (jnp.asarray(MATRIX, y.dtype) @ jnp.tanh(y)) + jnp.sin(3 * t)


def diffusion(t, y, theta):
    """Constant, for methods of additive noise."""
    return 0.1 * theta * jnp.ones_like(y)


def ode():
    return dfx.ODETerm(drift)


def imex():
    return dfx.MultiTerm(dfx.ODETerm(lambda t, y, a: drift(t, y, a) + a * y), dfx.ODETerm(lambda t, y, a: -a * y))


def sde():
    path = dfx.VirtualBrownianTree(0.0, 1.0, 1e-3, (), jax.random.key(3), levy_area=dfx.SpaceTimeLevyArea)
    return dfx.MultiTerm(dfx.ODETerm(drift), dfx.ControlTerm(diffusion, path))


def newton():
    """A root finder exact enough for finite differences."""
    return {"root_finder": optimistix.Newton(rtol=1e-10, atol=1e-10), "root_find_max_steps": 20}


CASES = {
    "Tsit5": (dfx.Tsit5(), ode),
    "Dopri5": (dfx.Dopri5(), ode),
    "Dopri8": (dfx.Dopri8(), ode),
    "Bosh3": (dfx.Bosh3(), ode),
    "Heun": (dfx.Heun(), ode),
    "Kvaerno5": (dfx.Kvaerno5(**newton()), ode),
    "KenCarp4": (dfx.KenCarp4(**newton()), imex),
    "SPaRK": (dfx.SPaRK(), sde),
    "ShARK": (dfx.ShARK(), sde),
    "HalfSolver(ShARK)": (dfx.HalfSolver(dfx.ShARK()), sde),
}
WITH_STAGES = [name for name in CASES if CASES[name][1] is not sde]


def controller(name):
    """Tolerances, looser for low orders, for noise, where a root finder's error is to be far below them, and where two
    stages would otherwise differ by rounding."""
    slack = {"Tsit5": 1, "Dopri5": 1, "Dopri8": 100, "Bosh3": 10}.get(name, 1000)
    return dfx.PIDController(rtol=RTOL * slack, atol=ATOL * slack)


def shift(name):
    """Of the parameter, for finite differences: small, as norms have kinks; above the root finder's error."""
    return 1e-3 if isinstance(CASES[name][0], dfx.AbstractImplicitSolver) else 1e-5


def oracle(name, grid):
    """`theta -> (states, sums)` by a loop over the steps of `grid`, in NumPy but for the solver's own step."""
    solver, make = CASES[name]
    terms, tolerance = make(), controller(name)

    @jax.jit
    def step(t0, t1, y, theta, state):
        return solver.step(terms, t0, t1, y, theta, state, made_jump=False)[:4]

    def run(theta):
        y, error, squared, stiffness = jnp.asarray(Y0), 0.0, 0.0, []
        state = solver.init(terms, grid[0], grid[1], y, theta)
        states = [Y0]
        for t0, t1 in pairwise(grid):
            y1, y_error, dense, state = step(t0, t1, y, theta, state)
            scale = tolerance.atol + tolerance.rtol * np.maximum(np.abs(y), np.abs(y1))
            e = np.sqrt(np.mean((np.asarray(y_error) / scale) ** 2))
            error, squared = error + e * (t1 - t0), squared + e**2 * (t1 - t0)
            if name in WITH_STAGES:
                stiffness.append(quotient(solver, t0, t1 - t0, np.asarray(y), dense["k"], theta))
            y = y1
            states.append(np.asarray(y))
        sums = {"error": error, "error_squared": squared}
        if stiffness:
            sums |= {"stiffness": sum(stiffness), "max_stiffness": max(stiffness)}
        return np.stack(states), sums

    return run


def quotient(solver, t, h, y, slopes, theta):
    """`|f(g_s) - f(g_r)| / |g_s - g_r|` of the last two stages; for implicit methods by the Jacobian at `g_s`."""
    several = isinstance(solver.tableau, dfx.MultiButcherTableau)
    tableaus = solver.tableau.tableaus if several else [solver.tableau]
    stage, run, rise = y, 0, 0
    for tableau, k in zip(tableaus, slopes if several else [slopes], strict=True):
        k, n = np.asarray(k), tableau.num_stages
        a = np.zeros((n, n))
        for i, row in enumerate(tableau.a_lower):
            a[i + 1, : i + 1] = row
        if tableau.a_diagonal is not None:
            a[range(n), range(n)] = tableau.a_diagonal
        stage, run, rise = stage + a[-1] @ k, run + (a[-1] - a[-2]) @ k, rise + (k[-1] - k[-2])
    if any(tableau.implicit for tableau in tableaus):
        jacobian = jax.jacfwd(drift, 1)(t + h * tableaus[0].c[-1], jnp.asarray(stage), theta)
        rise = h * np.asarray(jacobian) @ run
    return np.linalg.norm(rise) / np.linalg.norm(run) / h
