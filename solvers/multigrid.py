"""Black-box multigrid for nearest-neighbour stencils with varying coefficients: a preconditioner and a
solver.

Points are coarsened by index, every other one of any number, one axis after the other. Along an axis the
interpolation follows the operator, as in black-box multigrid (Dendy, "Black box multigrid", J. Comput. Phys.
48, 1982, doi:10.1016/0021-9991(82)90057-2), so that it respects jumps of a coefficient wherever they lie;
restriction is its transpose and the coarse operator the Galerkin product, again a stencil on at most `3^d`
points. The smoother is Gauss-Seidel over the `2^d` parity classes of the points, none of which couples to
itself (red-black where only faces couple)."""

import itertools
import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Index = tuple[int, ...]


class Stencil(eqx.Module):
    """The linear map `(A u)_i = sum_o entries[o]_i u_{i+o}` over offsets `o` in `{-1, 0, 1}^d`.

    **Arguments:** `entries`: an array `(*n,)` for each offset; an absent offset is zero. Entries that reach
    past the end of an axis that is not periodic must be zero. `periodic`: whether each axis wraps around."""

    entries: dict[Index, Float[Array, " *n"]]
    periodic: tuple[bool, ...] = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """The points per axis."""
        return self.entries[(0,) * len(self.periodic)].shape

    def __call__(self, u: Float[Array, " *n"]) -> Float[Array, " *n"]:
        """Apply to a field on the grid."""
        neighbour = _neighbours(u, self.periodic)
        return sum((s * neighbour(o) for o, s in self.entries.items()), jnp.zeros_like(u))


class Transfer(eqx.Module):
    """Interpolation along one axis: points of even index take the coarse values, an odd point `2 j + 1` the
    sum `left_j u_j + right_j u_{j+1}`. Restriction is its transpose."""

    left: Float[Array, " *m"]
    right: Float[Array, " *m"]
    axis: int = eqx.field(static=True)
    size: int = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)

    def restrict(self, r: Float[Array, " *n"]) -> Float[Array, " *m"]:
        """To the coarse points."""
        even, odd = _halves(r, self.axis)
        return even + self.left * odd + _step(self.right * odd, -1, self.axis, self.periodic)

    def interpolate(self, u: Float[Array, " *m"]) -> Float[Array, " *n"]:
        """From the coarse points."""
        odd = self.left * u + self.right * _step(u, 1, self.axis, self.periodic)
        both = jnp.stack([u, odd], self.axis + 1)
        shape = [2 * n if k == self.axis else n for k, n in enumerate(u.shape)]
        return lax.slice_in_dim(both.reshape(shape), 0, self.size, axis=self.axis)


class Smoother(eqx.Module):
    """Gauss-Seidel over parity classes. Class `e` holds the points `2 j + e` at index `j`, padded to `ceil(n
    / 2)`."""

    couplings: dict[Index, Float[Array, "k *m"]]  # off the diagonal, stacked: XLA compiles one array sooner than many
    inverse_diagonal: dict[Index, Float[Array, " *m"]]
    # For each class e and coupling (e', s): row j couples to entry j + s of class e'.
    targets: tuple[tuple[Index, tuple[tuple[Index, Index], ...]], ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    periodic: tuple[bool, ...] = eqx.field(static=True)

    @property
    def order(self) -> list[Index]:
        """The classes in the order of relaxation, red points (even index sum) first."""
        return sorted(self.couplings, key=lambda e: (sum(e) % 2, e))

    def forward(self, f: Float[Array, " *n"]) -> tuple[Float[Array, " *n"], Float[Array, " *n"]]:
        """One sweep from zero: the values, and the residual they leave."""
        right, order, u, at = _split(f), self.order, {}, {}
        for e in order:
            u[e] = self.inverse_diagonal[e] * (right[e] - self._coupled(e, at))
            at[e] = _neighbours(u[e], self.periodic)
        # A row's residual is what the classes relaxed after it, or wrapped onto it, have changed.
        residual = {e: -self._coupled(e, {other: at[other] for other in order[i:]}) for i, e in enumerate(order)}
        return _merge(u, self.shape), _merge(residual, self.shape)

    def backward(self, u: Float[Array, " *n"], f: Float[Array, " *n"]) -> Float[Array, " *n"]:
        """One sweep from `u` in the reverse order: the transpose of the forward one."""
        right, new = _split(f), _split(u)
        at = {e: _neighbours(v, self.periodic) for e, v in new.items()}
        for e in reversed(self.order):
            new[e] = self.inverse_diagonal[e] * (right[e] - self._coupled(e, at))
            at[e] = _neighbours(new[e], self.periodic)
        return _merge(new, self.shape)

    def _coupled(self, e: Index, at: dict[Index, Callable[[Index], Array]]) -> Array:
        targets = enumerate(dict(self.targets)[e])
        terms = [self.couplings[e][k] * at[other](shift) for k, (other, shift) in targets if other in at]
        return sum(terms, jnp.zeros_like(self.inverse_diagonal[e]))


class Level(eqx.Module):
    """One grid of the hierarchy: its smoother, and the transfers to the next, axis by axis."""

    smoother: Smoother
    transfers: tuple[Transfer, ...]


class Multigrid(eqx.Module):
    """A hierarchy of grids for one operator; calling it applies one symmetric V-cycle to a right-hand side.

    The cycle starts from zero and smooths once on the way down and once, in reverse order, on the way up, so
    it is a symmetric positive definite map close to the inverse: a preconditioner for conjugate gradients.
    The coarsest grid is solved by its dense inverse."""

    levels: tuple[Level, ...]
    coarsest: Float[Array, "k k"]

    def __call__(self, f: Float[Array, " *n"]) -> Float[Array, " *n"]:
        """One V-cycle from zero for the right-hand side `f`."""
        on_the_way = []
        for level in self.levels:
            u, residual = level.smoother.forward(f)
            on_the_way.append((level, u, f))
            for transfer in level.transfers:
                residual = transfer.restrict(residual)
            f = residual
        correction = (self.coarsest @ f.reshape(-1)).reshape(f.shape)
        for level, u, right in reversed(on_the_way):
            for transfer in reversed(level.transfers):
                correction = transfer.interpolate(correction)
            correction = level.smoother.backward(u + correction, right)
        return correction


def multigrid(
    operator: Stencil, *, spacing: Sequence[float] | None = None, singular: bool = False, coarsest: int = 64
) -> Multigrid:
    """Build the hierarchy for a symmetric positive (semi)definite `operator`.

    **Arguments:** `operator`: with positive diagonal and, off it, mostly non-positive entries, as a diffusion
    operator has. `spacing`: the distance between points per axis, equal by default; an axis whose spacing is
    more than 1.5 times the finest waits until the others have caught up, since points couple weakly along it.
    `singular`: whether constants are the null space; the coarsest inverse is then a pseudo-inverse.
    `coarsest`: the most points solved densely.

    **Raises:** `ValueError` where `coarsest` is less than one or `spacing` has another number of axes.
    """
    ndim = len(operator.periodic)
    width = [1.0] * ndim if spacing is None else [float(h) for h in spacing]
    if len(width) != ndim:
        raise ValueError(f"`spacing` has {len(width)} entries for an operator on {ndim} axes; give one an axis.")
    if coarsest < 1:
        raise ValueError(f"`coarsest` is {coarsest}; the coarsest grid keeps at least one point.")
    levels = []
    while math.prod(operator.shape) > coarsest:
        smoother = _smoother(operator)
        transfers = []
        finest = min(h for h, n in zip(width, operator.shape, strict=True) if n > 1)
        for axis in range(ndim):
            if operator.shape[axis] > 1 and width[axis] <= 1.5 * finest:
                operator, transfer = _coarsen(operator, axis)
                transfers.append(transfer)
                width[axis] *= 2
        levels.append(Level(smoother, tuple(transfers)))
    return Multigrid(tuple(levels), _dense_inverse(operator, singular))


def multigrid_solve(
    operator: Stencil,
    f: Float[Array, " *n"],
    *,
    cycles: int,
    spacing: Sequence[float] | None = None,
    singular: bool = False,
) -> Float[Array, " *n"]:
    """`cycles` V-cycles for `A u = f` from zero: multigrid on its own, without Krylov acceleration."""
    cycle = multigrid(operator, spacing=spacing, singular=singular)
    return lax.fori_loop(0, cycles, lambda _, u: u + cycle(f - operator(u)), jnp.zeros_like(f))


def _coarsen(operator: Stencil, axis: int) -> tuple[Stencil, Transfer]:
    """The Galerkin operator on the points of even index along `axis`, and the transfer to them.

    At an odd point the interpolation solves the equation summed over the other axes. The product is taken for
    all offsets across the axis at once, stacked in front."""
    size, wraps, ndim = operator.shape[axis], operator.periodic[axis], len(operator.periodic)
    across = sorted({o[:axis] + o[axis + 1 :] for o in operator.entries})
    zero = jnp.zeros_like(operator.entries[(0,) * ndim])
    stacked = jnp.stack([operator.entries.get((*o[:axis], k, *o[axis:]), zero) for k in (-1, 0, 1) for o in across])
    halves = lax.optimization_barrier(_halves(stacked, axis + 1))
    even, odd = (dict(zip((-1, 0, 1), jnp.split(half, 3), strict=True)) for half in halves)

    index = jnp.arange(even[0].shape[axis + 1]).reshape([-1 if k == axis else 1 for k in range(ndim)])
    padding = 2 * index + 1 >= size
    centre = jnp.where(padding, 1, odd[0].sum(0))
    left, right = lax.optimization_barrier((-odd[-1].sum(0) / centre, -odd[1].sum(0) / centre))
    transfer = Transfer(left, right, axis, size, wraps)

    # The weights of the odd points after and before an even one, at each offset across the axis.
    after = [_patches(w, across, operator.periodic, axis) for w in (left, right)]
    own, before = after, [_step(w, -1, axis + 1, wraps) for w in after]
    if wraps and size % 2:
        # The last even point and the first are neighbours: step over the padding between them.
        after = [jnp.where(padding, value, w) for value, w in zip((0, 1), after, strict=True)]
        before = [jnp.where(index == 0, value, w) for value, w in zip((1, 0), before, strict=True)]
    from_even = {
        -1: even[-1] * before[0],
        0: even[0] + even[-1] * before[1] + even[1] * after[0],
        1: even[1] * after[1],
    }
    from_odd = {0: odd[-1] + odd[0] * own[0], 1: odd[0] * own[1] + odd[1]}
    coarse = {
        -1: from_even[-1] + _step(right * from_odd[0], -1, axis + 1, wraps),
        0: from_even[0] + left * from_odd[0] + _step(right * from_odd[1], -1, axis + 1, wraps),
        1: from_even[1] + left * from_odd[1],
    }
    coarse = lax.optimization_barrier(coarse)
    entries = {(*o[:axis], k, *o[axis:]): coarse[k][i] for k in (-1, 0, 1) for i, o in enumerate(across)}
    return Stencil(entries, operator.periodic), transfer


def _smoother(operator: Stencil) -> Smoother:
    shape, periodic = operator.shape, operator.periodic
    classes = {offset: _split(entry) for offset, entry in operator.entries.items()}
    diagonal = classes.pop((0,) * len(shape))
    couplings, targets, inverse = {}, {}, {}
    for e, values in diagonal.items():
        inverse[e] = 1 / jnp.where(_is_point(e, shape), values, 1)
        links = [
            (target, shift, jnp.where(mask, values[e], 0))
            for offset, values in classes.items()
            for target, shift, mask in _targets(e, offset, shape, periodic)
        ]
        targets[e] = tuple((target, shift) for target, shift, _ in links)
        couplings[e] = jnp.stack([part for _, _, part in links])
    couplings, inverse = lax.optimization_barrier((couplings, inverse))
    return Smoother(couplings, inverse, tuple(targets.items()), shape, periodic)


def _targets(e: Index, offset: Index, shape: tuple[int, ...], periodic: tuple[bool, ...]):
    """The classes and shifts that `offset` leads to from class `e`, and where. An odd periodic axis joins its
    last point, of class 0, to its first, also of class 0: there the padding is stepped over."""
    per_axis = []
    for axis, (k, o, n, wraps) in enumerate(zip(e, offset, shape, periodic, strict=True)):
        target, shift = (k + o) % 2, (k + o) // 2
        if wraps and n % 2 and k == 0 and o:
            m = (n + 1) // 2
            index = jnp.arange(m).reshape([-1 if a == axis else 1 for a in range(len(shape))])
            end = index == (0 if o < 0 else m - 1)
            per_axis.append([(target, shift, ~end), (0, o, end)])
        else:
            per_axis.append([(target, shift, True)])
    for choice in itertools.product(*per_axis):
        targets, shifts, masks = zip(*choice, strict=True)
        mask = True
        for here in masks:
            mask = here if mask is True else mask if here is True else mask & here
        yield targets, shifts, mask


def _dense_inverse(operator: Stencil, singular: bool) -> Float[Array, "k k"]:
    """The (pseudo-)inverse, after scaling to unit diagonal, which takes most of a coefficient's contrast
    out."""
    size = math.prod(operator.shape)
    diagonal = operator.entries[(0,) * len(operator.periodic)]
    eye = jnp.eye(size, dtype=diagonal.dtype).reshape(size, *operator.shape)
    matrix = jax.vmap(operator)(eye).reshape(size, size)
    diagonal = jnp.diagonal(matrix)
    scale = lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1))  # zero: a single point of a singular operator
    matrix = scale[:, None] * matrix * scale
    if not singular:
        return scale[:, None] * _inverse(matrix) * scale
    null = 1 / scale
    null = null / jnp.linalg.norm(null)
    projector = null[:, None] * null
    return scale[:, None] * (_inverse(matrix + projector) - projector) * scale


def _inverse(matrix: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """Gauss-Jordan elimination without pivoting, for a positive definite matrix. On batches of matrices this
    small it is faster than LAPACK, whose threads get in each other's way."""
    index = jnp.arange(matrix.shape[0])

    def eliminate(k, a):
        pivot, here = a[k, k], index == k
        row = jnp.where(here, 1, a[k]) / pivot
        column = jnp.where(here, 0, a[:, k])
        return jnp.where(here[:, None], row, jnp.where(here, 0, a) - column[:, None] * row)

    return lax.fori_loop(0, matrix.shape[0], eliminate, matrix)


def _neighbours(u: Array, periodic: tuple[bool, ...]) -> Callable[[Index], Array]:
    """`offset -> u_{i + offset}`, offsets in {-1, 0, 1}: zero past the ends of an axis, around them where it
    is periodic."""
    padded = jnp.pad(u, [(0, 0) if wraps else (1, 1) for wraps in periodic])
    for axis, wraps in enumerate(periodic):
        if wraps:
            padded = jnp.pad(padded, [(int(k == axis),) * 2 for k in range(u.ndim)], mode="wrap")
    # Without the barrier XLA computes `u` again for every neighbour, and compiles for minutes.
    padded = lax.optimization_barrier(padded)

    def neighbour(offset: Index) -> Array:
        start = [1 + o for o in offset]
        return lax.slice(padded, start, [s + n for s, n in zip(start, u.shape, strict=True)])

    return neighbour


def _patches(w: Array, across: list[Index], periodic: tuple[bool, ...], axis: int) -> Array:
    neighbour = _neighbours(w, periodic)
    return jnp.stack([neighbour((*o[:axis], 0, *o[axis:])) for o in across])


def _step(u: Array, step: int, axis: int, periodic: bool) -> Array:
    """`u_{i + step}` along one axis, with zero or the other end for what lies outside."""
    if periodic:
        return jnp.roll(u, -step, axis)
    padded = jnp.pad(u, [(int(k == axis and step < 0), int(k == axis and step > 0)) for k in range(u.ndim)])
    start = int(step > 0)
    return lax.slice_in_dim(padded, start, start + u.shape[axis], axis=axis)


def _halves(u: Array, axis: int) -> tuple[Array, Array]:
    """The entries of even and of odd index along an axis, a zero appended to an odd number."""
    even = jnp.pad(u, [(0, int(k == axis and n % 2)) for k, n in enumerate(u.shape)])
    return lax.slice_in_dim(even, 0, None, 2, axis), lax.slice_in_dim(even, 1, None, 2, axis)


def _corners(ndim: int) -> list[Index]:
    return list(itertools.product((0, 1), repeat=ndim))


def _is_point(e: Index, shape: tuple[int, ...]) -> Array:
    """Where class `e` holds points of the grid rather than the padding of an odd axis."""
    axes = [2 * jnp.arange((n + 1) // 2) + k < n for k, n in zip(e, shape, strict=True)]
    return math.prod(jnp.meshgrid(*axes, indexing="ij", sparse=True), start=jnp.ones((), bool))


def _split(u: Array) -> dict[Index, Array]:
    even = jnp.pad(u, [(0, n % 2) for n in u.shape])
    return {e: even[tuple(slice(k, None, 2) for k in e)] for e in _corners(u.ndim)}


def _merge(classes: dict[Index, Array], shape: tuple[int, ...]) -> Array:
    ndim = len(shape)
    stacked = jnp.stack([classes[e] for e in _corners(ndim)])
    stacked = stacked.reshape((2,) * ndim + stacked.shape[1:])
    both = stacked.transpose([k for axis in range(ndim) for k in (ndim + axis, axis)])
    return both.reshape([n + n % 2 for n in shape])[tuple(slice(n) for n in shape)]
