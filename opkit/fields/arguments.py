"""What fields ask of their arguments."""

from collections.abc import Sequence

from jaxtyping import Array


def check_point(x: Array, size: int) -> None:
    """Raise `ValueError` unless `x` is `(size,)`."""
    if x.shape != (size,):
        raise ValueError(
            f"`x` has shape {x.shape}; expected ({size},): one point, or the features of one. "
            "Batches come from jax.vmap."
        )


def per_axis(name: str, value: float | Sequence[float], axes: int) -> tuple[float, ...]:
    """One positive number an axis, from one for all or one each; `ValueError` otherwise."""
    values = (float(value),) * axes if isinstance(value, int | float) else tuple(float(v) for v in value)
    if len(values) != axes:
        raise ValueError(f"`{name}` has {len(values)} entries for {axes} axes; give one, or one an axis.")
    if not all(v > 0 for v in values):
        raise ValueError(f"`{name}` is {value}; expected positive numbers.")
    return values
