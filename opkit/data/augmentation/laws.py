"""How the states and the coefficients of each equation transform: what its symmetries follow from."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import equinox as eqx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

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

Kind = Literal["scalar", "pseudoscalar", "vector", "tensor", "field", "pseudoscalar field", "vector field"]
Exponents = tuple[int, int, int]
State = tuple[tuple[Kind, Exponents], ...]
Boost = Callable[[Any, Float[Array, " d"]], tuple[Float[Array, " d"] | None, Equation]]


class Law(NamedTuple):
    """How an equation transforms.

    - `state`: its channels, in blocks of one kind with their units. A `"vector"` has one channel an axis; a
      `"pseudoscalar"` changes its sign in a mirror, as the vorticity in the plane does.
    - `units`: of each coefficient that has any, as exponents of length, time and value, the unit that the states alone
      have.
    - `ones`: the units of the coefficients that the equation has no name for, by what they are factors of: they have to
      remain 1.
    - `kinds`: of the coefficients that are no scalars; a vector given as one number has equal components.
    - `boost`: `boost(equation, velocity)` is what a boost adds to the vector in the state, `None` for nothing, and the
      equation of the boosted states; `ValueError` where there is none.
    - `lifted`: the channels that may be raised by a constant. `phase`: whether the state is a complex amplitude of any
      phase.
    """

    state: State
    units: Mapping[str, Exponents]
    ones: Mapping[str, Exponents] = {}
    kinds: Mapping[str, Kind] = {}
    boost: Boost | None = None
    lifted: tuple[int, ...] = ()
    phase: bool = False


def law_of(equation: Equation) -> Law:
    """The law of an equation. **Raises:** `ValueError` where `LAWS` has none for its class."""
    law = LAWS.get(type(equation))
    if law is None:
        raise ValueError(
            f"`equation` is a {type(equation).__name__}, and how that transforms is not known; add its `Law` to `LAWS`."
        )
    return law if isinstance(law, Law) else law(equation)


def with_coefficients(equation: Any, changes: Mapping[str, Any]) -> Any:
    """The equation with other coefficients."""
    names = list(changes)
    places = lambda equation: [getattr(equation, name) for name in names]
    return eqx.tree_at(places, equation, [changes[name] for name in names], is_leaf=lambda leaf: leaf is None)


def _in_state(equation: Any, velocity: Array) -> tuple[Array, Equation]:
    """The vector in the state is the velocity, if nothing resists it or turns it."""
    for name in ("drag", "coriolis"):
        value = getattr(equation, name, 0.0)
        if isinstance(value, Tracer) or np.any(np.asarray(value)):
            raise ValueError(f"`equation` has a `{name}` that is not known to be zero; its flow has no boost.")
    if getattr(equation, "conservative", False) and len(velocity) > 1:
        raise ValueError("`equation` is conservative in several dimensions, where `div(u u) / 2` has no boost.")
    return velocity, equation


def _in_convection(equation: Any, velocity: Array) -> tuple[Array, Equation]:
    """The state is the velocity over `a`."""
    return velocity / equation.convection.astype(velocity.dtype), equation


def _in_coefficient(name: str) -> Boost:
    """The velocity is a coefficient."""

    def boost(equation: Any, velocity: Array) -> tuple[None, Equation]:
        old = getattr(equation, name)
        if old is not None:
            own = velocity.astype(old.dtype)
            velocity = old + (own[0] if old.ndim == 0 and len(own) == 1 else own)
        return None, with_coefficients(equation, {name: velocity})

    return boost


def _hyper_diffusion(equation: HyperDiffusion) -> Law:
    return Law(_U, {"hyperdiffusivity": (2 * equation.power, -1, 0)}, lifted=(0,))


def _variable_transport(equation: VariableTransport) -> Law:
    units = {"diffusivity": _DIFFUSIVITY, "velocity": _SPEED, "reaction": _RATE, "source": (0, -1, 1)}
    kinds: dict[str, Kind] = {name: "vector field" if name == "velocity" else "field" for name in units}
    return Law(_U, units, kinds=kinds, lifted=(0,) if equation.reaction is None else ())


_SPEED, _RATE, _DIFFUSIVITY, _QUARTIC = (1, -1, 0), (0, -1, 0), (2, -1, 0), (4, -1, 0)
_CUBIC, _UNIT = (0, -1, -2), (0, 0, 1)
_U: State = (("scalar", _UNIT),)
_SLOPE: State = (("vector", _UNIT),)
_AMPLITUDE: State = (("scalar", _UNIT), ("scalar", _UNIT))
_SECOND_ORDER: State = (("scalar", _UNIT), ("scalar", (0, -1, 1)))
_CONVECTION = {"(u . grad) u": (1, -1, -1)}

LAWS: dict[type[Equation], Law | Callable[[Any], Law]] = {
    Advection: Law(
        _U, {"velocity": _SPEED}, kinds={"velocity": "vector"}, boost=_in_coefficient("velocity"), lifted=(0,)
    ),
    Diffusion: Law(_U, {"diffusivity": _DIFFUSIVITY}, kinds={"diffusivity": "tensor"}, lifted=(0,)),
    AdvectionDiffusion: Law(
        _U,
        {"velocity": _SPEED, "diffusivity": _DIFFUSIVITY},
        kinds={"velocity": "vector", "diffusivity": "tensor"},
        boost=_in_coefficient("velocity"),
        lifted=(0,),
    ),
    Dispersion: Law(_U, {"dispersivity": (3, -1, 0)}, kinds={"dispersivity": "vector"}, lifted=(0,)),
    HyperDiffusion: _hyper_diffusion,
    VariableTransport: _variable_transport,
    Burgers: Law(_SLOPE, {"viscosity": _DIFFUSIVITY}, _CONVECTION, boost=_in_state),
    KortewegDeVries: Law(
        _SLOPE,
        {"convection": (1, -1, -1), "dispersion": (3, -1, 0)},
        kinds={"dispersion": "vector"},
        boost=_in_convection,
    ),
    BurgersFisher: Law(
        _U,
        {"advection": _SPEED, "convection": (1, -1, -1), "viscosity": _DIFFUSIVITY, "growth": _RATE},
        {"the 1 in r u (1 - u)": _UNIT},
        kinds={"advection": "vector", "convection": "vector"},
        boost=_in_coefficient("advection"),
    ),
    KuramotoSivashinsky: Law(
        _SLOPE, {"convection": (1, -1, -1), "growth": _DIFFUSIVITY, "damping": _QUARTIC}, boost=_in_convection
    ),
    KuramotoSivashinskyFront: Law(
        _U, {"steepening": (2, -1, -1), "growth": _DIFFUSIVITY, "damping": _QUARTIC}, lifted=(0,)
    ),
    NavierStokes2D: Law(
        (("pseudoscalar", _UNIT),),
        {"viscosity": _DIFFUSIVITY, "drag": _RATE, "mean_velocity": _SPEED, "forcing": (0, -1, 1)},
        {"u . grad w": (0, -1, -1)},
        kinds={"mean_velocity": "vector", "forcing": "pseudoscalar field"},
        boost=_in_coefficient("mean_velocity"),
    ),
    NavierStokes3D: Law(
        _SLOPE,
        {"viscosity": _DIFFUSIVITY, "drag": _RATE, "forcing": (0, -1, 1)},
        _CONVECTION,
        kinds={"forcing": "vector field"},
        boost=_in_state,
    ),
    FisherKPP: Law(_U, {"diffusivity": _DIFFUSIVITY, "growth": _RATE}, {"the 1 in r u (1 - u)": _UNIT}),
    AllenCahn: Law(_U, {"diffusivity": _DIFFUSIVITY, "linear_rate": _RATE, "cubic_rate": _CUBIC}),
    CahnHilliard: Law(_U, {"mobility": _DIFFUSIVITY, "gamma": (2, 0, 0)}, {"u^3 beside u": (0, 0, 2)}),
    SwiftHohenberg: Law(
        _U,
        {"growth": _RATE, "wavenumber": (-1, 0, 0), "quadratic_rate": (0, -1, -1)},
        {"Lap^2 u": _QUARTIC, "u^3": _CUBIC},
    ),
    NonlinearSchroedinger: Law(
        _AMPLITUDE,
        {"dispersion": _DIFFUSIVITY, "nonlinearity": _CUBIC, "potential": _RATE},
        kinds={"potential": "field"},
        phase=True,
    ),
    ComplexGinzburgLandau: Law(_AMPLITUDE, {"growth": _RATE}, {"Lap A": _DIFFUSIVITY, "|A|^2 A": _CUBIC}, phase=True),
    GrayScott: Law(
        _AMPLITUDE,
        {"diffusivity_u": _DIFFUSIVITY, "diffusivity_v": _DIFFUSIVITY, "feed": _RATE, "kill": _RATE},
        {"u v^2": _CUBIC, "the 1 in F (1 - u)": _UNIT},
    ),
    FitzHughNagumo: Law(
        _AMPLITUDE,
        {
            "diffusivity_u": _DIFFUSIVITY,
            "diffusivity_v": _DIFFUSIVITY,
            "stimulus": (0, -1, 1),
            "cubic_rate": _CUBIC,
            "threshold": _UNIT,
        },
        {"u in u_t": _RATE},
    ),
    ShallowWater: Law(
        (("vector", _SPEED), ("scalar", _UNIT)),
        {
            "depth": _UNIT,
            "gravity": (2, -2, -1),
            "coriolis": _RATE,
            "viscosity": _DIFFUSIVITY,
            "diffusivity": _DIFFUSIVITY,
        },
        kinds={"coriolis": "pseudoscalar"},
        boost=_in_state,
    ),
    Wave: Law(_SECOND_ORDER, {"speed": _SPEED}, lifted=(0,)),
    KleinGordon: Law(_SECOND_ORDER, {"speed": _SPEED, "mass": _RATE}),
    PhiFour: Law(_SECOND_ORDER, {"speed": _SPEED, "linear_rate": (0, -2, 0), "cubic_rate": (0, -2, -2)}),
    SineGordon: Law(_SECOND_ORDER, {"speed": _SPEED, "mass": _RATE}, {"u in sin u, but for its sign": (0, 0, 2)}),
}
"""By the class of the equation; some laws depend on the equation."""
