"""The signatures in which pieces meet. Structural types: a lambda or somebody else's module fits if its call does."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .grid import Domain


@runtime_checkable
class Field(Protocol):
    """A function of one point: `field(x)`, `x: (d,)` (time first, `(t, x, y)`), giving `(channels,)`."""

    def __call__(self, x: Float[Array, " d"], /) -> Float[Array, " c"]:
        """Evaluate at one point."""
        ...


@runtime_checkable
class Operator(Protocol):
    """Maps a function given by its values `(cin, *n)` on `domain` to another evaluated on `query`, `(cout, *m)`.

    One sample a call: batches come from `jax.vmap`. `query=None` means `domain`. `args` carries PDE parameters, lead
    time or noise level; `key` the randomness of operators that have any.
    """

    def __call__(
        self,
        u: Float[Array, "cin *n"],
        domain: Domain,
        query: Domain | None = None,
        *,
        args: PyTree = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "cout *m"]:
        """Apply to one sample."""
        ...


@runtime_checkable
class VectorField(Protocol):
    """The right-hand side of `du/dt = f(t, u, args)`, in Diffrax's order of arguments."""

    def __call__(self, t: Any, u: PyTree, args: PyTree, /) -> PyTree:
        """The time derivative."""
        ...


@runtime_checkable
class Stepper(Protocol):
    """Advances a state `(channels, *n)` by one fixed step of time."""

    def __call__(self, u: Float[Array, "c *n"], /) -> Float[Array, "c *n"]:
        """The state one step later."""
        ...


@runtime_checkable
class Residual(Protocol):
    """`residual(candidate, where)` is an array `(equations, ...)` that vanishes where the physics holds."""

    def __call__(self, candidate: Any, where: Any, /) -> Float[Array, "e ..."]:
        """The residual of `candidate` on points or a grid."""
        ...
