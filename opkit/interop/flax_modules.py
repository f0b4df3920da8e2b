"""Flax modules, Linen and NNX, as pure functions of arrays; and such functions as operators on a grid.

What is trained are leaves of the PyTree: `partition`, `fit`, checkpoints, model files and Optax see them as any other.
Neither kind draws random numbers here: dropout must be off.
"""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers import Domain, Frozen, Grid


class LinenFunction(eqx.Module):
    """A Linen module with its variables: `f(x) = module.apply(variables, x)`.

        network = nn.Sequential([nn.Dense(32), nn.tanh, nn.Dense(1)])
        field = LinenFunction(network, network.init(jax.random.key(0), jnp.ones(2)))

    It is called as Flax is, with the channels last: on one point `(d,)` a field. For an operator see `ChannelsLast`.
    Trained is the collection `params`; the others (batch statistics) are `Frozen`, and the module must leave them as
    they are. Precision is the module's affair, by its `dtype` and `param_dtype`.

    **Raises:** `ValueError` for what is no Linen module, variables without `params`, and, when called, for a module
    that would update a collection.
    """

    parameters: PyTree
    state: Frozen[PyTree]
    module: Any = eqx.field(static=True)

    def __init__(self, module: Any, variables: Mapping[str, PyTree]):
        from flax import linen

        if not isinstance(module, linen.Module):
            raise ValueError(f"`module` is a {type(module).__name__}; expected a Linen module. For NNX: `NNXFunction`.")
        if "params" not in variables:
            raise ValueError(f"`variables` are {sorted(variables)}; expected 'params' among them, as of `module.init`.")
        self.parameters = jax.tree.map(jnp.asarray, variables["params"])
        self.state = Frozen({name: tree for name, tree in variables.items() if name != "params"})
        self.module = module

    def __call__(self, x: Float[Array, "*n cin"]) -> Float[Array, "*n cout"]:
        """Apply the module."""
        from flax.errors import ModifyScopeVariableError

        try:
            return self.module.apply({"params": self.parameters, **self.state.value}, x)
        except ModifyScopeVariableError as error:
            raise ValueError(
                _updates(sorted(self.state.tree), "build its BatchNorm `use_running_average=True`")
            ) from error


class NNXFunction(eqx.Module):
    """An NNX module: `f(x) = module(x)`, of the module as it was when it was handed over.

        field = NNXFunction(nnx.Linear(2, 1, rngs=nnx.Rngs(0)))

    The conventions are those of `LinenFunction`. Trained are the variables of type `nnx.Param`, the others `Frozen`.

    **Raises:** `ValueError` for what is no NNX module, and, when called, for one that updates its variables.
    """

    parameters: PyTree
    state: Frozen[PyTree]
    graph: Any = eqx.field(static=True)

    def __init__(self, module: Any):
        from flax import nnx

        if not isinstance(module, nnx.Module):
            raise ValueError(f"`module` is a {type(module).__name__}; expected an NNX module. Linen: `LinenFunction`.")
        self.graph, parameters, state = nnx.split(module, nnx.Param, ...)
        self.parameters = nnx.to_pure_dict(parameters)
        self.state = Frozen(nnx.to_pure_dict(state))

    def __call__(self, x: Float[Array, "*n cin"]) -> Float[Array, "*n cout"]:
        """Apply the module."""
        from flax import nnx

        before = self.state.value
        module = nnx.merge(self.graph, self.parameters, before)
        y = module(x)
        after = nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param)))
        if any(new is not old for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True)):
            raise ValueError(_updates(sorted(before), "call `module.eval()` before it is handed over"))
        return y


class ChannelsLast(eqx.Module):
    """A function on batches with the channels last, `(1, *n, cin)` to `(1, *n, cout)`, as an operator.

    `op(u, domain)[c, x] = f(v)[0, x, c]` with `v[0, x, c] = u[c, x]`: Flax's convention for images, a batch of one.

        op = ChannelsLast(LinenFunction(network, variables))

    **Claim.** Only what `function` keeps: it sees values, not the grid. Of a convolution, one resolution.

    **Call:** `u: (cin, *domain.shape)`, `domain: Grid`; `query`: `None` or the same. `args`: `None`; `key` is not used.

    **Raises:** `ValueError` for another domain, and for a function that does not answer on the points it was given.
    """

    function: Callable[[Array], Array]

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
        if not isinstance(domain, Grid) or u.shape[1:] != domain.shape:
            raise ValueError(f"`u` has shape {u.shape}, `domain` is {domain}; expected a Grid, and (channels, *shape).")
        if query is not None and query != domain:
            raise ValueError("`query` differs from `domain`; this operator answers on the grid of its input.")
        if args is not None:
            raise ValueError("`args` was given; this operator takes none. Append them to `u` as constant channels.")
        v = self.function(jnp.moveaxis(u, 0, -1)[None])
        if v.shape[:-1] != (1, *domain.shape):
            raise ValueError(
                f"`function` made {v.shape} of {(1, *domain.shape, len(u))}; expected {(1, *domain.shape)}, channels."
            )
        return jnp.moveaxis(v[0], -1, 0)


def _updates(variables: list[str], remedy: str) -> str:
    return f"`module` updates its variables ({', '.join(variables)}) when called; {remedy}, so that they stay."
