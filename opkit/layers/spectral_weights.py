"""The weights of a spectral convolution: how they act, and two forms with few parameters.

A weight is a tensor `(parts, *box, out, in)`: real and imaginary part of a matrix for every mode, or one real part for
real coefficients. Factors are real, and shared by the two parts: the channel factors then commute with the transform.
"""

from collections.abc import Sequence
from math import prod
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .initial import normal

Factorisation = Literal["tucker", "cp"]

Rank = float | int | Sequence[int]  # a fraction of the dense parameters, or the ranks themselves

Cuts = tuple[slice, ...]


def mix(
    weight: Sequence[Float[Array, "*k cout cin"]], a: Float[Array, "parts *k cin"]
) -> Float[Array, "parts *k cout"]:
    """Mode by mode the product of a matrix with the channels: complex for two parts, real for one."""
    ndim = a.ndim - 2
    each = tuple(range(ndim))
    dimensions = (((ndim,), (ndim + 1,)), (each, each))
    if len(weight) == 1:
        return lax.dot_general(a[0], weight[0], dimensions)[None]
    real, imag = weight
    # one real product in place of four; as its left side, the batch that `vmap` adds stays beside the channels
    both = jnp.concatenate([jnp.concatenate([real, imag], -2), jnp.concatenate([-imag, real], -2)], -1)
    mixed = lax.dot_general(jnp.concatenate([*a], -1), both, dimensions)
    return jnp.stack(jnp.split(mixed, 2, -1))


class Tucker(eqx.Module):
    """`R_part(k)_{oi} = sum C_part(r_1, .., r_d, r_o, r_i) U_1(k_1, r_1) .. U_d(k_d, r_d) V(o, r_o) W(i, r_i)`.

    With the ranks of a full decomposition (the sizes of the tensor) it is any weight. Factors are normal with variance
    one over their rank, the core with the variance of the dense weight, which the composed one then has too.

    **Arguments:** `shape`: of the weight. `rank`: a fraction of the dense parameters, which ranks in proportion to the
    sizes do not exceed (unless ranks of one do); or the ranks `(r_1, .., r_d, r_out, r_in)`. `deviation`: of the dense
    weight. The parameters are `parts prod(r) + sum_j n_j r_j`.

    **Raises:** `ValueError` for a fraction outside (0, 1], or ranks that are not from 1 to the sizes.

    Tucker (1966), Some mathematical notes on three-mode factor analysis, doi:10.1007/BF02289464; in an operator:
    Kossaifi et al. (2023), Multi-grid tensorized Fourier neural operator, arXiv:2310.00120.
    """

    core: Float[Array, "parts *r rout rin"]
    modes: tuple[Float[Array, "_ _"], ...]
    outer: Float[Array, "cout rout"]
    inner: Float[Array, "cin rin"]

    def __init__(self, shape: tuple[int, ...], rank: Rank, *, deviation: float, key: PRNGKeyArray):
        ranks = _tucker_ranks(shape, rank)
        self.core = normal(jax.random.fold_in(key, 0), (shape[0], *ranks), deviation)
        *modes, self.outer, self.inner = (
            normal(jax.random.fold_in(key, 1 + j), (n, r), r**-0.5)
            for j, (n, r) in enumerate(zip(shape[1:], ranks, strict=True))
        )
        self.modes = tuple(modes)

    def dense(self) -> Float[Array, "parts *box cout cin"]:
        """The weight itself."""
        core = self._over_modes((slice(None),) * len(self.modes))
        return jnp.einsum("...rs,or,is->...oi", core, self.outer, self.inner)

    def mix(self, a: Float[Array, "parts *k cin"], cuts: Cuts) -> Float[Array, "parts *k cout"]:
        """What the weight, cut to some modes, makes of coefficients."""
        tables = jax.tree.map(lambda w: w.astype(a.dtype), self)
        core = tables._over_modes(cuts)
        (cout, rout), (cin, rin), parts = self.outer.shape, self.inner.shape, len(a)
        # Real products for a mode and sample (composing the weight is shared by a batch): with as many channels out as
        # in and two parts, factors win below 0.62 of the full rank, for one part below 0.41.
        if cin * rin + parts * rin * rout + rout * cout < parts * cin * cout:
            return mix([*core], a @ tables.inner) @ tables.outer.T
        return mix([*jnp.einsum("...rs,or,is->...oi", core, tables.outer, tables.inner)], a)

    def _over_modes(self, cuts: Cuts) -> Float[Array, "parts *k rout rin"]:
        core = self.core
        for axis, (table, cut) in enumerate(zip(self.modes, cuts, strict=True), start=1):
            core = jnp.moveaxis(jnp.tensordot(table[cut], core, (1, axis)), 0, axis)
        return core


class CP(eqx.Module):
    """`R_part(k)_{oi} = sum_r C_part(r) U_1(k_1, r) .. U_d(k_d, r) V(o, r) W(i, r)`, a canonical polyadic form.

    Factors are normal with variance one; that of `C` gives the composed weight the variance of the dense one.

    **Arguments:** as for `Tucker`; `rank` is a fraction of the dense parameters or the number of terms. The parameters
    are `rank (parts + sum_j n_j)`.

    **Raises:** `ValueError` for a fraction outside (0, 1], or fewer terms than one.

    Hitchcock (1927), The expression of a tensor or a polyadic as a sum of products, doi:10.1002/sapm192761164.
    """

    core: Float[Array, "parts r"]
    modes: tuple[Float[Array, "_ r"], ...]
    outer: Float[Array, "cout r"]
    inner: Float[Array, "cin r"]

    def __init__(self, shape: tuple[int, ...], rank: Rank, *, deviation: float, key: PRNGKeyArray):
        terms = _cp_rank(shape, rank)
        self.core = normal(jax.random.fold_in(key, 0), (shape[0], terms), deviation * terms**-0.5)
        *modes, self.outer, self.inner = (
            normal(jax.random.fold_in(key, 1 + j), (n, terms), 1.0) for j, n in enumerate(shape[1:])
        )
        self.modes = tuple(modes)

    def dense(self) -> Float[Array, "parts *box cout cin"]:
        """The weight itself."""
        return self._with_channels(self._over_modes((slice(None),) * len(self.modes)))

    def mix(self, a: Float[Array, "parts *k cin"], cuts: Cuts) -> Float[Array, "parts *k cout"]:
        """What the weight, cut to some modes, makes of coefficients."""
        tables = jax.tree.map(lambda w: w.astype(a.dtype), self)
        terms = tables._over_modes(cuts)
        (cout, rank), (cin, _), parts = self.outer.shape, self.inner.shape, len(a)
        # counted as in `Tucker`: for two parts, factors win with fewer terms than channels
        if rank * (cin + parts + cout) >= parts * cin * cout:
            return mix([*tables._with_channels(terms)], a)
        h = a @ tables.inner
        if len(terms) == 2:
            h = jnp.stack([terms[0] * h[0] - terms[1] * h[1], terms[0] * h[1] + terms[1] * h[0]])
        else:
            h = terms * h
        return h @ tables.outer.T

    def _over_modes(self, cuts: Cuts) -> Float[Array, "parts *k r"]:
        terms = self.core
        for table, cut in zip(self.modes, cuts, strict=True):
            terms = terms[..., None, :] * table[cut]
        return terms

    def _with_channels(self, terms: Float[Array, "parts *k r"]) -> Float[Array, "parts *k cout cin"]:
        return (terms[..., None, :] * self.outer) @ self.inner.T


def _tucker_ranks(shape: tuple[int, ...], rank: Rank) -> tuple[int, ...]:
    parts, *sizes = shape
    if isinstance(rank, Sequence):
        if len(rank) != len(sizes) or not all(1 <= r <= n for r, n in zip(rank, sizes, strict=True)):
            raise ValueError(
                f"`rank` is {tuple(rank)}; expected a fraction, or (modes..., out, in), each from 1 to {tuple(sizes)}."
            )
        return tuple(rank)
    budget, ranks = _fraction(rank) * prod(shape), [1] * len(sizes)
    count = lambda ranks: parts * prod(ranks) + sum(n * r for n, r in zip(sizes, ranks, strict=True))
    raised = lambda axis: [r + (i == axis) for i, r in enumerate(ranks)]
    while fitting := [i for i, n in enumerate(sizes) if ranks[i] < n and count(raised(i)) <= budget]:
        ranks = raised(min(fitting, key=lambda i: ranks[i] / sizes[i]))
    return tuple(ranks)


def _cp_rank(shape: tuple[int, ...], rank: Rank) -> int:
    if isinstance(rank, int):
        if rank < 1:
            raise ValueError(f"`rank` is {rank}; expected a fraction, or at least one term.")
        return rank
    return max(1, int(_fraction(rank) * prod(shape) / (shape[0] + sum(shape[1:]))))


def _fraction(rank: Rank) -> float:
    if not isinstance(rank, float) or not 0 < rank <= 1:
        raise ValueError(
            f"`rank` is {rank}; expected a fraction of the dense parameters, in (0, 1] as 0.1 is, or whole ranks."
        )
    return rank
