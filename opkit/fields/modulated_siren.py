"""A SIREN that a code turns into another field: a family of functions with few numbers each."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from opkit.layers import check_sizes, initial

from .arguments import check_point
from .dense import Dense
from .siren import SIREN


class ModulatedSIREN(eqx.Module):
    """A `SIREN` with a shift in every sine: `h_l = sin(w (W_l h_{l-1} + b_l) + S_l z)`, `z` the code.

    The first layer has `W_1 (omega * x) + b_1` for the bracket and no `w`, as there. At `z = 0` it is the SIREN with
    the same key, exactly. `S_l` starts uniform on `+-1 / sqrt(code_size)`.

    **Arguments:** `code_size`: the length of `z`. The others as for `SIREN`.

    **Call:** `field(x, code)`, `x: (in_size,)`, `code: (code_size,)`; `eqx.Partial(field, code=z)` is a field of `x`
    alone. **Raises:** as `SIREN`, or for a code of another length.

    Dupont, Kim, Eslami, Rezende and Rosenbaum (2022), From data to functa: your data point is a function and you can
    treat it like one, arXiv:2201.12204, section 3; Serrano et al. (2023), Operator learning with neural fields,
    arXiv:2306.07266.
    """

    siren: SIREN
    shifts: tuple[Dense, ...]

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        code_size: int,
        width: int,
        depth: int,
        omega: float | Sequence[float] = 30.0,
        hidden_omega: float = 30.0,
        key: PRNGKeyArray,
    ):
        check_sizes(code_size=code_size)
        self.siren = SIREN(in_size, out_size, width=width, depth=depth, omega=omega, hidden_omega=hidden_omega, key=key)
        shifts = []
        for i in range(depth):
            drawn = jax.random.fold_in(key, depth + 1 + i)
            plain = Dense(code_size, width, use_bias=False, key=drawn)
            shifts.append(plain.with_weights(initial.uniform(drawn, (width, code_size), code_size**-0.5), None))
        self.shifts = tuple(shifts)

    def __call__(self, x: Float[Array, " d"], code: Float[Array, " z"]) -> Float[Array, " c"]:
        """Evaluate the field of one code at one point."""
        if code.shape != (self.shifts[0].weight.shape[1],):
            raise ValueError(f"`code` has shape {code.shape}; expected {(self.shifts[0].weight.shape[1],)}.")
        omega = self.siren.omega.value.astype(x.dtype)
        check_point(x, omega.size)
        shifts = [shift(code.astype(x.dtype)) for shift in self.shifts]
        first, *others = self.siren.layers
        x = jnp.sin(first(omega * x) + shifts[0])
        for layer, shift in zip(others, shifts[1:], strict=True):
            x = jnp.sin(self.siren.hidden_omega * layer(x) + shift)
        return self.siren.readout(x)
