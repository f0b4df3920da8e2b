"""Densities in the plane whose logarithm is known, and so the likelihood that no flow exceeds."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

CENTRES = 2.0 * jnp.stack([jnp.cos(jnp.arange(8) * jnp.pi / 4), jnp.sin(jnp.arange(8) * jnp.pi / 4)], -1)
SPREAD, RADIUS, WIDTH, HEIGHT = 0.3, 2.0, 0.3, 1.0


class Density(NamedTuple):
    """`sample(key, n)` gives `(n, 2)` points, `log_density(x)` of one point is exact."""

    sample: Callable[[jax.Array, int], jax.Array]
    log_density: Callable[[jax.Array], jax.Array]
    window: float
    """Half the side of the square that figures show."""


def _eight_gaussians(key: jax.Array, n: int) -> jax.Array:
    which, noise = jax.random.split(key)
    return CENTRES[jax.random.randint(which, (n,), 0, 8)] + SPREAD * jax.random.normal(noise, (n, 2))


def _eight_gaussians_log_density(x: jax.Array) -> jax.Array:
    return logsumexp(norm.logpdf(x, CENTRES, SPREAD).sum(-1)) - jnp.log(8)


def _ring(key: jax.Array, n: int) -> jax.Array:
    """A radius from a normal distribution (of either sign: the angle is uniform)."""
    angle, radius = jax.random.split(key)
    theta = jax.random.uniform(angle, (n,), maxval=2 * jnp.pi)
    r = RADIUS + WIDTH * jax.random.normal(radius, (n,))
    return r[:, None] * jnp.stack([jnp.cos(theta), jnp.sin(theta)], -1)


def _ring_log_density(x: jax.Array) -> jax.Array:
    r = jnp.linalg.norm(x)
    both = jnp.logaddexp(norm.logpdf(r, RADIUS, WIDTH), norm.logpdf(-r, RADIUS, WIDTH))
    return both - jnp.log(2 * jnp.pi * r)


def _funnel(key: jax.Array, n: int) -> jax.Array:
    """Neal's in two dimensions: `v ~ N(0, HEIGHT^2)` and `x ~ N(0, e^v)`; points are `(x, v)`."""
    x, v = jax.random.normal(key, (2, n))
    v = HEIGHT * v
    return jnp.stack([jnp.exp(v / 2) * x, v], -1)


def _funnel_log_density(x: jax.Array) -> jax.Array:
    return norm.logpdf(x[1], 0, HEIGHT) + norm.logpdf(x[0], 0, jnp.exp(x[1] / 2))


DENSITIES = {
    "eight_gaussians": Density(_eight_gaussians, _eight_gaussians_log_density, 3.5),
    "ring": Density(_ring, _ring_log_density, 3.5),
    "funnel": Density(_funnel, _funnel_log_density, 4.0),
}
