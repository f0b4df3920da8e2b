"""Strong forms of the solvers' evolution equations: one equation and its coefficients, for a solver and for a residual.

Coordinates are `(t, x, ...)`: time is axis 0, and space the others.
"""

from functools import singledispatch
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from solvers import equations
from solvers.equations import Equation

from .residuals import Unknown


class StrongForm(eqx.Module):
    """The form `u_t - L u - N(t, u)` of an equation of `solvers.equations`, for `Strong`:

        residual = Strong(StrongForm(Burgers(viscosity=0.01 / jnp.pi)))

    Its leaves are the equation's coefficients, differentiable and trainable. The components of the field are those of
    the solvers' states, complex equations having the real and the imaginary part, but for two:

    - equations of second order in time take `u` alone: `u_tt - c^2 Lap u + V'(u)`;
    - `NavierStokes2D` takes the velocity `(u, v)`: the equation of its vorticity, and its divergence; `NavierStokes3D`
      the velocity and the pressure `(u, v, w, p)`: the equations of momentum, and the divergence.

    **Raises:** `ValueError`, when called, for an equation without a strong form here, a field of other components, or a
    forcing or potential that is given on a grid rather than as a function.
    """

    equation: Equation

    def __call__(self, u: Unknown, x: Float[Array, "d ..."]) -> Float[Array, "e ..."]:
        """The equations `(e, ...)`."""
        return _form(self.equation, u, x)


@singledispatch
def _form(equation: Any, u: Unknown, x: Array) -> Array:
    raise ValueError(
        f"`equation` is {type(equation).__name__}, which has no strong form here; write one as a function."
    )


def _space(x: Array) -> range:
    return range(1, len(x))


def _laplacian(x: Array) -> list[Any]:
    return [(i, i) for i in _space(x)]


def _bilaplacian(x: Array) -> list[Any]:
    return [(i, i, j, j) for i in _space(x) for j in _space(x)]


def _components(value: Array, count: int, equation: Any) -> None:
    if len(value) != count:
        raise ValueError(
            f"`candidate` has {len(value)} components; the residual of {type(equation).__name__} takes {count} here."
        )


def _convected(by: Any, slopes: Any) -> Array:
    """`(by . grad) v`, from the slopes of `v` along each axis."""
    return sum((b * slope for b, slope in zip(by, slopes, strict=True)), jnp.zeros_like(slopes[0]))


@_form.register
def _burgers(equation: equations.Burgers, u: Unknown, x: Array) -> Array:
    v, v_t, diffused, *slopes = u((), 0, _laplacian(x), *_space(x))
    _components(v, len(slopes), equation)
    convection = _convected(v, slopes)
    if equation.conservative:
        divergence = sum((slope[i] for i, slope in enumerate(slopes)), jnp.zeros_like(v[0]))
        # in one dimension both forms are (v^2 / 2)_x
        convection = convection if len(slopes) == 1 else (convection + v * divergence) / 2
    return v_t + convection - equation.viscosity * diffused


@_form.register
def _korteweg_de_vries(equation: equations.KortewegDeVries, u: Unknown, x: Array) -> Array:
    v, v_t, v_x, v_xxx = u((), 0, 1, (1, 1, 1))
    return v_t + equation.convection * v * v_x + equation.dispersion * v_xxx


@_form.register
def _burgers_fisher(equation: equations.BurgersFisher, u: Unknown, x: Array) -> Array:
    v, v_t, v_x, v_xx = u((), 0, 1, (1, 1))
    moved = (equation.advection + equation.convection * v) * v_x
    return v_t + moved - equation.viscosity * v_xx - equation.growth * v * (1 - v)


@_form.register
def _kuramoto_sivashinsky(equation: equations.KuramotoSivashinsky, u: Unknown, x: Array) -> Array:
    v, v_t, v_x, v_xx, v_xxxx = u((), 0, 1, (1, 1), (1, 1, 1, 1))
    return v_t + equation.convection * v * v_x + equation.growth * v_xx + equation.damping * v_xxxx


@_form.register
def _front(equation: equations.KuramotoSivashinskyFront, u: Unknown, x: Array) -> Array:
    v_t, second, fourth, *slopes = u(0, _laplacian(x), _bilaplacian(x), *_space(x))
    steepened = equation.steepening / 2 * sum(slope**2 for slope in slopes)
    return v_t + steepened + equation.growth * second + equation.damping * fourth


def _advected(velocity: Array, u: Unknown, x: Array) -> Array:
    return _convected(jnp.broadcast_to(velocity, (len(x) - 1,)), u(*_space(x)))


def _diffused(diffusivity: Array, u: Unknown, x: Array) -> Array:
    if diffusivity.ndim == 0:
        return diffusivity * u(_laplacian(x))[0]
    if diffusivity.ndim == 1:
        return _convected(diffusivity, u(*_laplacian(x)))
    pairs = [(i, j) for i in _space(x) for j in _space(x)]
    return _convected(diffusivity.ravel(), u(*pairs))


@_form.register
def _advection(equation: equations.Advection, u: Unknown, x: Array) -> Array:
    return u(0)[0] + _advected(equation.velocity, u, x)


@_form.register
def _diffusion(equation: equations.Diffusion, u: Unknown, x: Array) -> Array:
    return u(0)[0] - _diffused(equation.diffusivity, u, x)


@_form.register
def _advection_diffusion(equation: equations.AdvectionDiffusion, u: Unknown, x: Array) -> Array:
    return u(0)[0] + _advected(equation.velocity, u, x) - _diffused(equation.diffusivity, u, x)


@_form.register
def _dispersion(equation: equations.Dispersion, u: Unknown, x: Array) -> Array:
    v_t, *thirds = u(0, *((i, i, i) for i in _space(x)))
    return v_t - _convected(jnp.broadcast_to(equation.dispersivity, (len(x) - 1,)), thirds)


@_form.register
def _hyper_diffusion(equation: equations.HyperDiffusion, u: Unknown, x: Array) -> Array:
    terms: list[Any] = [()]
    for _ in range(equation.power):
        terms = [(*term, i, i) for term in terms for i in _space(x)]
    v_t, power = u(0, terms)
    return v_t + (-1) ** equation.power * equation.hyperdiffusivity * power


@_form.register
def _navier_stokes_2d(equation: equations.NavierStokes2D, u: Unknown, x: Array) -> Array:
    wanted: Any = (), 1, 2, (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), [(1, 1, 1), (1, 2, 2)], [(1, 1, 2), (2, 2, 2)]
    v, v_x, v_y, v_tx, v_ty, v_xx, v_xy, v_yy, lap_x, lap_y = u(*wanted)
    _components(v, 2, equation)
    vorticity = v_x[1] - v_y[0]
    change = v_tx[1] - v_ty[0] + v[0] * (v_xx[1] - v_xy[0]) + v[1] * (v_xy[1] - v_yy[0])
    balance = change - equation.viscosity * (lap_x[1] - lap_y[0]) + equation.drag * vorticity
    return jnp.stack([balance - _forced(equation, x, 1)[0], v_x[0] + v_y[1]])


@_form.register
def _navier_stokes_3d(equation: equations.NavierStokes3D, u: Unknown, x: Array) -> Array:
    v, v_t, diffused, *slopes = u((), 0, _laplacian(x), *_space(x))
    _components(v, 4, equation)
    pressure_slope = jnp.stack([slope[3] for slope in slopes])
    convection = _convected(v[:3], [slope[:3] for slope in slopes])
    balance = v_t[:3] + convection + pressure_slope - equation.viscosity * diffused[:3] + equation.drag * v[:3]
    divergence = sum((slope[i] for i, slope in enumerate(slopes)), jnp.zeros_like(v[0]))
    return jnp.concatenate([balance - _forced(equation, x, 3), divergence[None]])


def _forced(equation: Any, x: Array, components: int) -> Array:
    if equation.forcing is None:
        return jnp.zeros((components, *x.shape[1:]), x.dtype)
    if not callable(equation.forcing):
        raise ValueError(
            "`forcing` is given on a grid or by its wavenumber; a residual takes a function forcing(t, x)."
        )
    forcing: Any = equation.forcing
    return forcing(x[0], x[1:])


@_form.register
def _fisher_kpp(equation: equations.FisherKPP, u: Unknown, x: Array) -> Array:
    v, v_t, diffused = u((), 0, _laplacian(x))
    return v_t - equation.diffusivity * diffused - equation.growth * v * (1 - v)


@_form.register
def _allen_cahn(equation: equations.AllenCahn, u: Unknown, x: Array) -> Array:
    v, v_t, diffused = u((), 0, _laplacian(x))
    return v_t - equation.diffusivity * diffused - equation.linear_rate * v + equation.cubic_rate * v**3


@_form.register
def _cahn_hilliard(equation: equations.CahnHilliard, u: Unknown, x: Array) -> Array:
    v, v_t, second, fourth, *slopes = u((), 0, _laplacian(x), _bilaplacian(x), *_space(x))
    cubed = 3 * v**2 * second + 6 * v * sum(slope**2 for slope in slopes)
    return v_t - equation.mobility * (cubed - second - equation.gamma * fourth)


@_form.register
def _swift_hohenberg(equation: equations.SwiftHohenberg, u: Unknown, x: Array) -> Array:
    v, v_t, second, fourth = u((), 0, _laplacian(x), _bilaplacian(x))
    square = equation.wavenumber**2
    linear = equation.growth * v - (fourth + 2 * square * second + square**2 * v)
    return v_t - linear - equation.quadratic_rate * v**2 + v**3


@_form.register
def _schroedinger(equation: equations.NonlinearSchroedinger, u: Unknown, x: Array) -> Array:
    if equation.potential is not None:
        raise ValueError(
            "`potential` is given on a grid; a residual has no place for it: write the form as a function."
        )
    psi, psi_t, diffused = u((), 0, _laplacian(x))
    _components(psi, 2, equation)
    energy = equation.dispersion * diffused + equation.nonlinearity * jnp.sum(psi**2, 0) * psi
    return jnp.stack([energy[0] - psi_t[1], energy[1] + psi_t[0]])


@_form.register
def _ginzburg_landau(equation: equations.ComplexGinzburgLandau, u: Unknown, x: Array) -> Array:
    a, a_t, diffused = u((), 0, _laplacian(x))
    _components(a, 2, equation)
    turned = lambda z: jnp.stack([-z[1], z[0]])  # i z
    square = jnp.sum(a**2, 0)
    spread = diffused + equation.alpha * turned(diffused)
    return a_t - equation.growth * a - spread + square * (a + equation.beta * turned(a))


@_form.register
def _shallow_water(equation: equations.ShallowWater, u: Unknown, x: Array) -> Array:
    state, change, diffused, *slopes = u((), 0, _laplacian(x), *_space(x))
    d = len(slopes)
    _components(state, d + 1, equation)
    v, depth = state[:d], equation.depth + state[d]
    balance = change[:d] + _convected(v, [slope[:d] for slope in slopes])
    balance = balance + equation.gravity * jnp.stack([slope[d] for slope in slopes]) - equation.viscosity * diffused[:d]
    if d == 2:
        balance = balance + equation.coriolis * jnp.stack([-v[1], v[0]])
    flux = sum((depth * slope[i] + v[i] * slope[d] for i, slope in enumerate(slopes)), jnp.zeros_like(depth))
    mass = change[d] + flux - equation.diffusivity * diffused[d]
    return jnp.concatenate([balance, mass[None]])


@_form.register
def _gray_scott(equation: equations.GrayScott, u: Unknown, x: Array) -> Array:
    state, change, diffused = u((), 0, _laplacian(x))
    _components(state, 2, equation)
    (a, b), (a_t, b_t), (lap_a, lap_b) = state, change, diffused
    reaction = a * b**2
    first = a_t - equation.diffusivity_u * lap_a + reaction - equation.feed * (1 - a)
    second = b_t - equation.diffusivity_v * lap_b - reaction + (equation.feed + equation.kill) * b
    return jnp.stack([first, second])


@_form.register
def _fitzhugh_nagumo(equation: equations.FitzHughNagumo, u: Unknown, x: Array) -> Array:
    state, change, diffused = u((), 0, _laplacian(x))
    _components(state, 2, equation)
    (a, b), (a_t, b_t), (lap_a, lap_b) = state, change, diffused
    first = a_t - equation.diffusivity_u * lap_a - a + equation.cubic_rate * a**3 + b - equation.stimulus
    relaxed = equation.slowness * (a + equation.threshold - equation.recovery * b)
    return jnp.stack([first, b_t - equation.diffusivity_v * lap_b - relaxed])


@_form.register
def _wave(equation: equations.Wave, u: Unknown, x: Array) -> Array:
    v_tt, diffused = u((0, 0), _laplacian(x))
    return v_tt - equation.speed**2 * diffused


@_form.register
def _klein_gordon(equation: equations.KleinGordon, u: Unknown, x: Array) -> Array:
    v, v_tt, diffused = u((), (0, 0), _laplacian(x))
    return v_tt - equation.speed**2 * diffused + equation.mass**2 * v


@_form.register
def _phi_four(equation: equations.PhiFour, u: Unknown, x: Array) -> Array:
    v, v_tt, diffused = u((), (0, 0), _laplacian(x))
    return v_tt - equation.speed**2 * diffused - equation.linear_rate * v + equation.cubic_rate * v**3


@_form.register
def _sine_gordon(equation: equations.SineGordon, u: Unknown, x: Array) -> Array:
    v, v_tt, diffused = u((), (0, 0), _laplacian(x))
    return v_tt - equation.speed**2 * diffused + equation.mass**2 * jnp.sin(v)
