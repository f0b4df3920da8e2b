"""Random symmetries: which an equation has, drawn anew for every sample."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from solvers import Grid, Symmetry, symmetries
from solvers.equations import Equation

from .laws import law_of
from .transformations import Window, boost, change_units, lift, translate, turn, turn_phase, turned

Change = Literal["coefficients", "times"]
Transform = Callable[[Window], Window]
Random = Callable[..., Window]
"""`draw(window, *, key) -> window`."""


class Translations(eqx.Module):
    """`translate` along `axes`, uniform over the box."""

    axes: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, window: Window, *, key: PRNGKeyArray) -> Window:
        """Draw one and apply it."""
        shifts = jax.random.uniform(key, (window.grid.ndim,), window.states.dtype)
        for axis in self.axes:
            window = translate(window, axis, shifts[axis] * window.grid.extent[axis])
        return window


class Turns(eqx.Module):
    """`turn` by one of the `elements`, all equally likely.

    **Raises:** `ValueError` for no element.
    """

    elements: tuple[Symmetry, ...]

    def __check_init__(self):
        if not self.elements:
            raise ValueError("`elements` is empty; expected some of `solvers.symmetries(grid)`.")

    def __call__(self, window: Window, *, key: PRNGKeyArray) -> Window:
        """Draw one and apply it."""
        i = jax.random.randint(key, (), 0, len(self.elements))
        axes, reflected = (
            jnp.asarray(np.array([getattr(g, name) for g in self.elements]))[i] for name in ("axes", "reflected")
        )
        return turned(window, axes, reflected)


class Boosts(eqx.Module):
    """`boost` along each of `axes`, uniform between `-speed` and `speed`."""

    axes: tuple[int, ...] = eqx.field(static=True)
    speed: float = eqx.field(static=True)

    def __call__(self, window: Window, *, key: PRNGKeyArray) -> Window:
        """Draw one and apply it."""
        dtype = window.states.dtype
        speeds = jax.random.uniform(key, (window.grid.ndim,), dtype, -self.speed, self.speed)
        for axis in self.axes:
            window = boost(window, axis, speeds[axis])
        return window


class Amplitudes(eqx.Module):
    """`change_units` of the value by a factor, its logarithm uniform up to `largest` either way, and random `signs`."""

    largest: float = eqx.field(static=True)
    signs: bool = eqx.field(static=True)

    def __call__(self, window: Window, *, key: PRNGKeyArray) -> Window:
        """Draw one and apply it."""
        sign, size = jax.random.split(key)
        value = _log_uniform(size, self.largest, window.states.dtype)
        return change_units(window, value=jnp.where(self.signs & jax.random.bernoulli(sign), -value, value))


class Rescalings(eqx.Module):
    """`change_units` of the time by a factor, its logarithm uniform up to `largest` either way, and of the value by
    that to the `power`: on the same box, another pace and other coefficients."""

    largest: float = eqx.field(static=True)
    power: float = eqx.field(static=True)

    def __call__(self, window: Window, *, key: PRNGKeyArray) -> Window:
        """Draw one and apply it."""
        time = _log_uniform(key, self.largest, window.states.dtype)
        return change_units(window, time=time, value=time**self.power)


class Lifts(eqx.Module):
    """`lift` by a constant uniform between `-largest` and `largest`."""

    largest: float = eqx.field(static=True)

    def __call__(self, window: Window, *, key: PRNGKeyArray) -> Window:
        """Draw one and apply it."""
        dtype = window.states.dtype
        return lift(window, jax.random.uniform(key, (), dtype, -self.largest, self.largest))


class Phases(eqx.Module):
    """`turn_phase` by a uniform angle."""

    def __call__(self, window: Window, *, key: PRNGKeyArray) -> Window:
        """Draw one and apply it."""
        return turn_phase(window, jax.random.uniform(key, (), window.states.dtype, 0, 2 * np.pi))


def symmetries_of(
    equation: Equation,
    grid: Grid,
    *,
    speed: float = 0.0,
    stretch: float = 1.0,
    level: float = 0.0,
    changing: Sequence[Change] = (),
) -> tuple[Random, ...]:
    """The symmetries of an equation on a grid, as random transformations for `augment`.

    Which it has is found by applying each to the equation: a symmetry leaves it as it is. So a force on the points ends
    the translations along which it varies, and Kolmogorov's keeps those along x and the half turn.

    **Arguments:**

    - `equation`: with concrete coefficients.
    - `speed`: the largest boost along an axis; 0 for none. `stretch`: the largest amplitude, 1 for none beside the
      sign. `level`: the largest constant added, 0 for none.
    - `changing`: what may change too. `"coefficients"`: whatever maps the equation to one of its class, for operators
      that are given the coefficients; with `"times"` also, the rescalings by up to `stretch`, for those that are given
      the lead time. The window then says what they became.

    **Returns:** functions `draw(window, *, key)`.

    **Raises:** `ValueError` for an equation without a `Law`, a grid it cannot have, or strengths below the least.
    """
    if not speed >= 0 or not stretch >= 1 or not level >= 0:
        raise ValueError(
            f"`speed` is {speed}, `stretch` {stretch}, `level` {level}; expected at least 0, 1 and 0, for none of it."
        )
    unknown = set(changing) - {"coefficients", "times"}
    if unknown:
        raise ValueError(f"`changing` has {sorted(unknown)}; expected some of 'coefficients', 'times'.")
    law, axes = law_of(equation), range(grid.ndim)
    candidates: dict[Any, Transform] = {
        **{("translate", j): lambda w, j=j: translate(w, j, 0.37 * grid.extent[j]) for j in axes},
        **{("turn", g): lambda w, g=g: turn(w, g) for g in symmetries(grid)},
        **{("boost", j): lambda w, j=j: boost(w, j, 1.0) for j in axes if speed},
        ("stretch", 0): lambda w: change_units(w, value=2.0),
        ("sign", 0): lambda w: change_units(w, value=-1.0),
    }
    power = _power(tuple(law.ones.values()))
    if power is not None and stretch > 1 and {"coefficients", "times"} <= set(changing):
        candidates["rescale", 0] = lambda w: change_units(w, time=2.0, value=2.0**power)
    held = _held(equation, grid, candidates, "coefficients" in changing)
    free, turns, moving = (tuple(of for kind, of in held if kind == name) for name in ("translate", "turn", "boost"))
    amplitude, signs = (stretch if ("stretch", 0) in held else 1.0), ("sign", 0) in held
    group: list[Random] = []
    if moving:  # first: once traced, a drag or a Coriolis force is no longer known to be zero
        group.append(Boosts(moving, speed))
    if free:
        group.append(Translations(free))
    if len(turns) > 1:
        group.append(Turns(turns))
    if signs or amplitude > 1:
        group.append(Amplitudes(amplitude, signs))
    if ("rescale", 0) in held:
        group.append(Rescalings(stretch, power or 0.0))
    if level and law.lifted:
        group.append(Lifts(level))
    if law.phase:
        group.append(Phases())
    return tuple(group)


def augment(window: Window, group: Sequence[Random], *, key: PRNGKeyArray) -> Window:
    """A random element of the group, applied: one of each of its families, one after another.

    Inside `jit`, and `vmap` with a key for each sample; the shapes stay.
    """
    for i, draw in enumerate(group):
        window = draw(window, key=jax.random.fold_in(key, i))
    return window


def augmentation(
    group: Sequence[Random], equation: Equation, grid: Grid, dt: float
) -> Callable[..., Float[Array, "time c *n"]]:
    """`transform(u, *, key)`: `augment` for the states `(time, c, *n)` of an equation that stays, `dt` apart.

    What `opkit.training.augmented` takes for batches of trajectories; for pairs of a state and the next,

        augmented(supervised(relative_l2, grid), lambda pair, *, key: tuple(transform(jnp.stack(pair), key=key)))
    """

    def transform(u: Float[Array, "time c *n"], *, key: PRNGKeyArray) -> Float[Array, "time c *n"]:
        return augment(Window(u, dt * jnp.arange(len(u), dtype=u.dtype), grid, equation), group, key=key).states

    return transform


def _log_uniform(key: PRNGKeyArray, largest: float, dtype: np.dtype) -> Array:
    return jnp.exp(jax.random.uniform(key, (), dtype, -np.log(largest), np.log(largest)))


def _power(ones: tuple[tuple[int, int, int], ...]) -> float | None:
    """`p` so that `time`, `value = time^p` leave the ones alone; 0 where any does, `None` where none does."""
    powers = {None if value == 0 else -time / value for _, time, value in ones if time or value}
    return 0.0 if not powers else next(iter(powers)) if len(powers) == 1 else None


def _held(equation: Equation, grid: Grid, candidates: dict[Any, Transform], may_change: bool) -> list[Any]:
    """Which of the candidates map the equation to itself, or where it may change to another of its class."""
    channels = equation.channels(grid.ndim) * (1 if equation.real else 2)
    still = Window(jnp.zeros((1, channels, *grid.shape)), jnp.zeros(1), grid, equation)
    exist = {}
    for name, transform in candidates.items():
        with contextlib.suppress(ValueError):
            jax.eval_shape(lambda transform=transform: transform(still))
            exist[name] = transform
    if may_change:
        return list(exist)
    # one program, of the equations alone
    found = jax.jit(lambda: [jax.tree.leaves(transform(still).equation) for transform in exist.values()])()
    leaves = jax.tree.leaves(equation)
    return [name for name, other in zip(exist, found, strict=True) if _same(leaves, other)]


def _same(leaves: list[Array], others: list[Array]) -> bool:
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in others]:
        return False
    return all(np.allclose(a, b, 1e-6, 1e-6 * np.max(np.abs(a))) for a, b in zip(leaves, others, strict=True))
