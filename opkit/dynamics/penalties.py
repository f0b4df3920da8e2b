"""What a solve may be penalised for: what its solver found hard, or the path itself; `regularised_solve` does it."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental.jet import jet
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers import VectorField

Weight = float | Array | Callable[[Any], ArrayLike]
GlobalQuantity = Literal["error", "error_squared", "stiffness", "max_stiffness"]
LocalQuantity = Literal["error", "stiffness"]
Sampling = Literal["uniform", "accepted"]
PathQuantity = Literal["kinetic", "jacobian", "taylor"]


class GlobalPenalty(eqx.Module):
    """Penalises what the solver met along the whole trajectory: the field `quantity` of `solvers.Heuristics`.

    Its gradient needs an adjoint that differentiates the steps: not `BacksolveAdjoint` (see `LocalPenalty`).

    **Arguments:** `quantity`: `"error"` lowers the number of evaluations of smooth problems, `"stiffness"` that of
    stiff ones. `weight`: a number, or a schedule of the training step, as Optax has them. As the error is measured in
    tolerances, so is the weight: tune it again where those change.

    Pal, Ma, Shah and Rackauckas (2021), Opening the blackbox, arXiv:2105.03918.
    """

    quantity: GlobalQuantity = eqx.field(static=True)
    weight: Weight

    def __init__(self, quantity: GlobalQuantity, weight: Weight):
        if quantity not in get_args(GlobalQuantity):
            raise ValueError(f"`quantity` is {quantity!r}; expected one of {get_args(GlobalQuantity)}.")
        self.quantity, self.weight = quantity, weight


class LocalPenalty(eqx.Module):
    """Penalises what the solver meets on one more step, outside the solve, at a random place: any adjoint will do.

    By `at`, the step starts

    - `"uniform"`: at a time uniform on the interval, with the mean accepted step's length (cut at the interval's end):
      unbiased, `T E(t)` has the mean `int E dt`;
    - `"accepted"`: where a step drawn uniformly from those accepted did, with its length: `n |h_j| E_j` has the mean
      `sum_j E_j |h_j|`, the value of the global penalty. (The literature calls it biased: short steps, which hard
      regions have, are drawn more often than their share of the time.)

    Of the stiffness, the penalty is `n S`, whose mean is that of `sum_j S_j` over such steps. So weights are on the
    scale of `GlobalPenalty`'s. `T` is the interval's length, `n` the number of accepted steps, a constant to the
    gradient. Values agree so; gradients need not, as the time and the length are constants to them, too.

    **Arguments:** `quantity`. `weight`: see `GlobalPenalty`. `at`. `through_state`: whether the gradient goes on
    through the state the step starts from into the solve; without, it sees the vector field at that state alone, as
    published.

    Pal, Edelman and Rackauckas (2023), Locally regularized neural differential equations, arXiv:2303.02262.
    """

    quantity: LocalQuantity = eqx.field(static=True)
    weight: Weight
    at: Sampling = eqx.field(static=True)
    through_state: bool = eqx.field(static=True)

    def __init__(
        self, quantity: LocalQuantity, weight: Weight, *, at: Sampling = "uniform", through_state: bool = True
    ):
        if quantity not in get_args(LocalQuantity):
            raise ValueError(f"`quantity` is {quantity!r}; expected one of {get_args(LocalQuantity)}.")
        if at not in get_args(Sampling):
            raise ValueError(f"`at` is {at!r}; expected one of {get_args(Sampling)}.")
        self.quantity, self.weight, self.at, self.through_state = quantity, weight, at, through_state


class PathPenalty(eqx.Module):
    """Penalises an integral along the solution of `y' = f(t, y)`, of `N` entries, `int_t0^t1 r dt` with

    - `"kinetic"`: `r = |f|^2 / N`, the kinetic energy (RNODE);
    - `"jacobian"`: `r = |eps^T df/dy|^2 / N`, with signs `eps` drawn once a solve: its mean over draws is the squared
      Frobenius norm of the Jacobian over `N` (RNODE);
    - `"taylor"`: `r = |d^K y / dt^K|^2 / N`, the total derivative of order `K = order` by Taylor mode (TayNODE).

    So of a batch integrated as one state it is the mean over the samples, too. The integral is a further state beside
    `y`. Its error does not steer the step size: steps, and so `y`, are those of the plain solve. Its own error is what
    these steps make it, of the solver's order.

    **Arguments:** `weight`: as in `GlobalPenalty`. `order`: of `"taylor"`, at least 2.

    **Raises:** `ValueError` for another quantity or order.

    Finlay, Jacobsen, Nurbekyan and Oberman (2020), How to train your neural ODE, arXiv:2002.02798, eq. 10; Kelly,
    Bettencourt, Johnson and Duvenaud (2020), Learning differential equations that are easy to solve, arXiv:2007.04504.
    """

    quantity: PathQuantity = eqx.field(static=True)
    weight: Weight
    order: int = eqx.field(static=True)

    def __init__(self, quantity: PathQuantity, weight: Weight, *, order: int = 2):
        if quantity not in get_args(PathQuantity):
            raise ValueError(f"`quantity` is {quantity!r}; expected one of {get_args(PathQuantity)}.")
        if order < 2:
            raise ValueError(f"`order` is {order}; expected at least 2: the first derivative is the kinetic energy's.")
        self.quantity, self.weight, self.order = quantity, weight, order

    def rate(
        self, vector_field: VectorField, state: PyTree, *, key: PRNGKeyArray | None = None
    ) -> Callable[[Any, PyTree, PyTree], Float[Array, ""]]:
        """`r(t, y, args)`, for states like `state`; with `key`, the draw of `"jacobian"`.

        **Raises:** `ValueError` for a missing key.
        """
        if self.quantity == "kinetic":
            return lambda t, y, args: _mean_square(vector_field(t, y, args))
        if self.quantity == "taylor":
            return lambda t, y, args: _mean_square(total_derivative(vector_field, t, y, args, self.order))
        if key is None:
            raise ValueError("`key` is missing; the Jacobian's norm is estimated with random signs.")
        flat, unravel = ravel_pytree(state)
        signs = unravel(jax.random.rademacher(key, flat.shape, flat.dtype))

        def rate(t: Any, y: PyTree, args: PyTree) -> Array:
            _, pull = jax.vjp(lambda y: vector_field(t, y, args), y)
            return _mean_square(pull(signs)[0])

        return rate


Regulariser = GlobalPenalty | LocalPenalty | PathPenalty


def total_derivative(vector_field: VectorField, t: Any, y: PyTree, args: PyTree = None, order: int = 2) -> PyTree:
    """`d^K y / dt^K` at `(t, y)`, `K = order >= 1`, along the solution of `y' = f(t, y, args)`, by Taylor mode.

    The cost grows with `K^2`, that of nested derivatives with `2^K`. The vector field must be made of what
    `jax.experimental.jet` knows: polynomials, `exp`, `tanh`, `sin`, matrix products and the like.
    """
    flat, unravel = ravel_pytree(y)

    def extended(z: Array) -> Array:
        """Autonomous: time is the last entry."""
        slope = vector_field(z[-1], unravel(z[:-1]), args)
        return jnp.append(ravel_pytree(slope)[0], jnp.ones((), z.dtype))

    z = jnp.append(flat, jnp.asarray(t, flat.dtype))
    derivatives = [extended(z)]
    for _ in range(order - 1):
        _, further = jet(extended, (z,), (derivatives,))
        derivatives = [derivatives[0], *further]
    return unravel(derivatives[-1][:-1])


def _mean_square(tree: PyTree) -> Float[Array, ""]:
    leaves = jax.tree.leaves(tree)
    return sum((jnp.sum(leaf**2) for leaf in leaves), start=jnp.zeros((), leaves[0].dtype)) / sum(
        leaf.size for leaf in leaves
    )
