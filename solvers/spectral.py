"""Calculus on periodic grids: derivatives, projections, products, resampling, norms and spectra.

A field `(channels, *n)` on a grid of placement `left` stands for the trigonometric polynomial through its values,
the real one: where an axis has an even number of points, its Nyquist wavenumber is a cosine, whose odd derivatives
vanish on the grid. Everything here is what holds for that polynomial, computed in the precision of the field and
differentiable in it.

Every function raises `ValueError` for a grid that is not periodic or a field that does not fit it (see `Fourier`)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from .fourier import Dealiasing, Fourier
from .grid import Grid


def derivative(u: Float[Array, "c *n"], grid: Grid, axis: int, order: int = 1) -> Float[Array, "c *n"]:
    """`d^order u / dx_axis^order`, by transforms along that axis alone: the others need not be periodic.

    **Raises:** `ValueError` for an axis the grid does not have, one that is not periodic, or an order below 0.
    """
    if not 0 <= axis < grid.ndim:
        raise ValueError(f"`axis` is {axis}; the grid has axes 0 to {grid.ndim - 1}, the channels not counted.")
    if u.shape[1:] != grid.shape or grid.placement[axis] != "left":
        _space(u, grid)  # says which of the two
    if order < 0:
        raise ValueError(f"`order` is {order}; expected 0, 1, 2, ...")
    line = Fourier(Grid(grid.shape[axis], grid.lower[axis], grid.upper[axis]), dtype=u.dtype)
    symbol = line.derivative(0, order).reshape([-1 if k == axis else 1 for k in range(grid.ndim)])
    return jnp.fft.irfft(symbol * jnp.fft.rfft(u, axis=axis + 1), grid.shape[axis], axis=axis + 1)


def gradient(u: Float[Array, "c *n"], grid: Grid) -> Float[Array, "c d *n"]:
    """`du_i / dx_j`, `(channels, d, *n)`."""
    return jnp.stack([derivative(u, grid, axis) for axis in range(grid.ndim)], 1)


def divergence(u: Float[Array, "d *n"], grid: Grid) -> Float[Array, "1 *n"]:
    """`sum_j du_j / dx_j`, `(1, *n)`.

    **Raises:** `ValueError` where `u` has not one component an axis.
    """
    _check_vector(u, grid)
    return sum((derivative(u[j : j + 1], grid, j) for j in range(grid.ndim)), jnp.zeros((1, *grid.shape), u.dtype))


def curl(u: Float[Array, "c *n"], grid: Grid) -> Float[Array, "b *n"]:
    """The curl, so that `curl(curl(u)) = grad div u - laplacian u` in every case:

    - in 2-D of a vector `(2, *n)`, the vorticity `dv/dx - du/dy`, `(1, *n)`;
    - in 2-D of a scalar `(1, *n)`, the streamfunction `psi`, the velocity `(dpsi/dy, -dpsi/dx)`, `(2, *n)`;
    - in 3-D of a vector, a vector.

    **Raises:** `ValueError` for other dimensions or channels.
    """
    _space(u, grid)
    return _curl(u, grid, lambda component, axis: derivative(component[None], grid, axis)[0])


def velocity_from_vorticity(vorticity: Float[Array, "c *n"], grid: Grid) -> Float[Array, "d *n"]:
    """The velocity of zero divergence and zero mean with this vorticity: `curl(-inverse_laplacian(vorticity))`.

    In 2-D `(1, *n)` to `(2, *n)`; in 3-D `(3, *n)` to `(3, *n)`. The mean of the vorticity, which has no periodic
    velocity, is ignored; in 3-D so is its divergence.

    **Raises:** `ValueError` for other dimensions or channels.
    """
    space = _space(vorticity, grid)
    if (grid.ndim, len(vorticity)) not in ((2, 1), (3, 3)):
        raise ValueError(
            f"`vorticity` has {len(vorticity)} channels in {grid.ndim}-D; expected 1 in 2-D or 3 in 3-D: the curl of a "
            "velocity."
        )
    potential = -space.inverse_laplacian * space.forward(vorticity)
    return space.inverse(_curl(potential, grid, lambda component, axis: space.derivative(axis) * component))


def laplacian(u: Float[Array, "c *n"], grid: Grid) -> Float[Array, "c *n"]:
    """`sum_j d^2 u / dx_j^2` of each channel."""
    space = _space(u, grid)
    return space.inverse(space.laplacian * space.forward(u))


def inverse_laplacian(u: Float[Array, "c *n"], grid: Grid) -> Float[Array, "c *n"]:
    """The solution of zero mean of `laplacian(v) = u - mean(u)`."""
    space = _space(u, grid)
    return space.inverse(space.inverse_laplacian * space.forward(u))


def leray_projection(u: Float[Array, "d *n"], grid: Grid) -> Float[Array, "d *n"]:
    """The part of `u` without divergence: `u - grad(p)` with `laplacian(p) = div(u)`; the mean stays.

    The orthogonal projection in L2 onto the fields whose `divergence` vanishes, to rounding.

    **Raises:** `ValueError` where `u` has not one component an axis.
    """
    _check_vector(u, grid)
    space = _space(u, grid)
    # The symbols of the first derivatives, zero at Nyquist, and not of the Laplacian: what vanishes is `divergence`.
    k = jnp.stack(jnp.broadcast_arrays(*(space.derivative(j).imag for j in range(grid.ndim))))
    square = jnp.sum(k * k, 0)
    u_hat = space.forward(u)
    return space.inverse(u_hat - k * (jnp.sum(k * u_hat, 0) / jnp.where(square > 0, square, 1)))


def dealiased_product(
    factors: Sequence[Float[Array, "_ *n"]], grid: Grid, *, dealiasing: Dealiasing = "pad"
) -> Float[Array, "c *n"]:
    """The product of fields without aliasing: the kept wavenumbers of the exact product of the fields' kept parts.

    **Arguments:** `factors`: two or more fields, each with the same number of channels or one. `dealiasing`: as in
    `Fourier` of a degree of as many fields; `"truncate"` is the 2/3 rule for two, `"pad"` the 3/2 rule.

    **Raises:** `ValueError` for no factors, or channels that do not fit one another.
    """
    channels = {len(u) for u in factors} - {1} or {1}
    if not factors or len(channels) > 1:
        raise ValueError(
            f"`factors` have {[len(u) for u in factors]} channels; expected one field or more, of the same number of "
            "channels or of one."
        )
    space = _space(factors[0], grid, degree=len(factors), dealiasing=dealiasing)
    points = space.to_points(jnp.concatenate([space.encode(u) for u in factors]))
    product, start = jnp.ones((), points.dtype), 0
    for u in factors:
        product, start = product * points[start : start + len(u)], start + len(u)
    return space.inverse(space.project(space.from_points(product)))


def resample(u: Float[Array, "c *n"], grid: Grid, new_grid: Grid) -> Float[Array, "c *m"]:
    """The field on another number of points of the same box, up or down along each axis.

    Upwards the values of the field's trigonometric polynomial, exactly. Downwards the values of the polynomial of
    `new_grid` that is nearest in L2: the higher wavenumbers are dropped, not aliased. So down after up is the
    identity, and the two are adjoint in the L2 product of the polynomials (in the mean over the points too, except
    at the coarse Nyquist wavenumber, whose cosine there has a mean square of 1 and not 1/2).

    **Raises:** `ValueError` for grids on different boxes.
    """
    _space(u, grid)
    if (grid.lower, grid.upper, grid.placement) != (new_grid.lower, new_grid.upper, new_grid.placement):
        raise ValueError(
            f"`new_grid` is {new_grid}; expected the box and placement of {grid}: use grid.resized(shape)."
        )
    for axis, (n, m) in enumerate(zip(grid.shape, new_grid.shape, strict=True), 1):
        if m != n:
            # On the finer grid a Nyquist cosine is two wavenumbers; its sine, unseen on the coarser, is dropped.
            fewer = min(n, m)
            weights = np.full((2, fewer // 2 + 1), m / n)
            if fewer % 2 == 0:
                weights[0, -1] *= 0.5 if m > n else 2.0
                weights[1, -1] = 0
            real, imaginary = jnp.asarray(weights, u.dtype).reshape(2, *(-1 if k == axis else 1 for k in range(u.ndim)))
            u_hat = lax.slice_in_dim(jnp.fft.rfft(u, axis=axis), 0, fewer // 2 + 1, axis=axis)
            u = jnp.fft.irfft(lax.complex(real * u_hat.real, imaginary * u_hat.imag), m, axis=axis)
    return u


def sobolev_inner_product(
    u: Float[Array, "c *n"], v: Float[Array, "c *n"], grid: Grid, s: ArrayLike = 0.0, *, homogeneous: bool = False
) -> Float[Array, ""]:
    """`V sum_k w(k) conj(u_k) v_k` over the channels and wavenumbers, `u_k` the Fourier coefficients of `u`, `V` the
    volume of the box, `w = (1 + |k|^2)^s`; where `homogeneous`, `w = |k|^(2s)`.

    For `s = 0` the integral of `u v` over the box (the rectangle rule); for `s = 1` that of `u v + grad u . grad v`.
    The homogeneous product leaves out the mean unless `s = 0`.

    **Arguments:** `s`: any real number.
    """
    space = _space(u, grid)
    square = -space.laplacian
    s = jnp.asarray(s, u.dtype)
    at_mean = (s == 0).astype(u.dtype) if homogeneous else 1
    base = square if homogeneous else 1 + square
    weight = jnp.where(square > 0, jnp.where(square > 0, base, 1) ** s, at_mean)
    products = (jnp.conj(space.forward(u)) * space.forward(v)).real
    scale = np.prod(grid.extent) / np.prod(grid.shape, dtype=float) ** 2
    return jnp.sum(products * weight * _multiplicity(space)) * u.dtype.type(scale)


def sobolev_norm(
    u: Float[Array, "c *n"], grid: Grid, s: ArrayLike = 0.0, *, homogeneous: bool = False
) -> Float[Array, ""]:
    """The norm of H^s, `sqrt(<u, u>)` of `sobolev_inner_product`: by Parseval, for any real `s`.

    `s = 0` is the L2 norm over the box, `sqrt(integral |u|^2)`. A mode of wavenumber `k` scales by `(1 +
    |k|^2)^(s/2)`, in the homogeneous seminorm by `|k|^s`. The gradient at zero is zero."""
    square = sobolev_inner_product(u, u, grid, s, homogeneous=homogeneous)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def energy_spectrum(u: Float[Array, "c *n"], grid: Grid) -> tuple[Float[Array, " q"], Float[Array, " q"]]:
    """`(k, E)`: the energy `|u|^2 / 2` per volume, over the channels, in shells of wavenumbers.

    Shell `q = 0, 1, ...` has the wavenumbers nearest to `k_q = q k_1`, `(q - 1/2) k_1 <= |k| < (q + 1/2) k_1`, with
    `k_1 = 2 pi / max(extent)`. All shells together, up to the corners, have `sum(E) = mean(sum_c u_c^2) / 2`."""
    space = _space(u, grid)
    unit = 2 * np.pi / max(grid.extent)
    radius = np.sqrt(space._square()) / unit
    # Half-way cases, equal but for rounding, all go up.
    shell = np.floor(radius + 0.5 + 1e-9).astype(int)
    u_hat = space.forward(u)
    energy = jnp.sum(u_hat.real**2 + u_hat.imag**2, 0) * _multiplicity(space)
    scale = u.dtype.type(0.5 / np.prod(grid.shape, dtype=float) ** 2)
    count = shell.max() + 1
    summed = jax.ops.segment_sum((energy * scale).ravel(), jnp.asarray(shell.ravel()), int(count))
    return jnp.asarray(unit * np.arange(count), u.dtype), summed


def _space(u: Array, grid: Grid, **options) -> Fourier:
    space = Fourier(grid, dtype=u.dtype, **options)
    if u.shape[1:] != grid.shape:
        raise ValueError(
            f"The field has shape {u.shape}; expected (channels, *{grid.shape}). Batches come from jax.vmap."
        )
    return space


def _check_vector(u: Array, grid: Grid) -> None:
    _space(u, grid)
    if len(u) != grid.ndim:
        raise ValueError(f"`u` has {len(u)} channels in {grid.ndim}-D; expected a vector field, one channel an axis.")


def _curl(u: Array, grid: Grid, partial: Callable[[Array, int], Array]) -> Array:
    """The curl of values or of coefficients, by the derivative of a component along an axis."""
    if (grid.ndim, len(u)) == (2, 1):
        return jnp.stack([partial(u[0], 1), -partial(u[0], 0)])
    if (grid.ndim, len(u)) == (2, 2):
        return (partial(u[1], 0) - partial(u[0], 1))[None]
    if (grid.ndim, len(u)) == (3, 3):
        pairs = ((1, 2), (2, 0), (0, 1))
        return jnp.stack([partial(u[j], i) - partial(u[i], j) for i, j in pairs])
    raise ValueError(
        f"`u` has {len(u)} channels in {grid.ndim}-D; expected 2 (a velocity) or 1 (a streamfunction) in 2-D, 3 in 3-D."
    )


def _multiplicity(space: Fourier) -> Float[Array, " k"]:
    """How many wavenumbers a coefficient of a real field stands for: itself, and the conjugate `rfftn` leaves out."""
    n = space.grid.shape[-1]
    count = np.full(n // 2 + 1, 2.0)
    count[0] = 1
    if n % 2 == 0:
        count[-1] = 1
    return jnp.asarray(count, space.dtype)
