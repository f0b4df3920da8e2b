"""Boundary values carried into a box."""

from itertools import product
from math import prod

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from solvers import as_module

from .given import Given, check_point
from .shapes import Box


class BoxLift(eqx.Module):
    """The function in a box with the values of another on its boundary: transfinite interpolation, smooth if that is.

    With `P_i` the linear interpolation along axis `i` between the values on its two sides, it is the Boolean sum

        (1 - (1 - P_1) ... (1 - P_d)) u

    and so asks for values on the boundary alone, `3^d - 1` of them: for data that differ from side to side it is what
    `HardConditions` best takes,

        data = DirichletData(BoxLift(box, lambda x: ...))
        field = HardConditions(network, BoundaryConditions(box, data))

    where different conditions on the sides would be blended with singular second derivatives at the corners. The data
    must agree where sides meet.

    **Arguments:** `value`: a function of the point, which is asked for points on the boundary.

    Gordon and Hall (1973), Transfinite element methods, doi:10.1007/BF01436298.
    """

    value: Given
    box: Box

    def __init__(self, box: Box, value: Given):
        self.box, self.value = box, as_module(value)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, "..."]:
        """At one point."""
        check_point("x", x, self.box.ndim)
        lower, upper = (jnp.asarray(bound, x.dtype) for bound in self.box.bounds)
        part = (x - lower) / (upper - lower)
        total = 0.0
        for sides in product((None, 0, 1), repeat=self.box.ndim):
            fixed = [(axis, side) for axis, side in enumerate(sides) if side is not None]
            if fixed:
                weight = prod(part[axis] if side else 1 - part[axis] for axis, side in fixed)
                at = x
                for axis, side in fixed:
                    at = at.at[axis].set((lower, upper)[side][axis])
                total = total - (-1) ** len(fixed) * weight * jnp.asarray(self.value(at))
        return jnp.asarray(total)
