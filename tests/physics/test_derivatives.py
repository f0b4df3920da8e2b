"""Against JAX's nested derivatives, closed forms and finite differences."""

from functools import reduce

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.physics import (
    curl,
    derivatives,
    directional_derivative,
    divergence,
    forward_laplacian,
    gradient,
    hessian_vector,
    jacobian,
    laplacian,
)

POINT = np.array([0.7, 0.3, 0.4])


def network(components=2, key=None, dtype=float):
    key = jax.random.key(3) if key is None else key
    return eqx.nn.MLP(3, components, 8, 2, jnp.tanh, dtype=dtype, key=key)


def nested(f, order):
    """All derivatives of an order, `(c, d, ..., d)`, forward over forward."""
    return reduce(lambda g, _: jax.jacfwd(g), range(order), f)


def functions_of_one_number(x):
    """An entry for each kind."""
    a, b, c = x
    s = a * b * c + a * b + 0.2
    functions = (
        jnp.tanh, jax.nn.sigmoid, jnp.tan, jnp.exp, jnp.sin, jnp.cos, jnp.log, jnp.log1p, jnp.sqrt, jax.lax.rsqrt,
        jnp.reciprocal, jax.scipy.special.erf, jax.nn.gelu, jnp.abs, jnp.floor, jax.lax.stop_gradient,
        lambda s: s**2.5, lambda s: s**4, lambda s: 2.0**s, lambda s: jnp.arctan2(1.0, s),
    )  # fmt: skip
    return jnp.stack([f(s) for f in functions])


def linear_and_bilinear(x):
    """Sums, products and everything that only moves numbers about."""
    a, b, c = x
    s, v = a * b + c * b, x * x[::-1]
    vectors = (
        jnp.cumsum(v), v @ jnp.outer(x, v), jnp.convolve(v, x)[:3], v[jnp.array([2, 0])], x.at[1].set(s), jnp.pad(v, 1),
        jnp.real(jnp.fft.rfft(v)), jnp.flip(v), jnp.roll(v, 1), jnp.where(v > 0.1, v, x),
    )  # fmt: skip
    return jnp.concatenate([jnp.stack([a / s, s / b, s * 0 + 1]), *vectors])


def without_rules(x):
    """What goes by the general rule; a custom derivative, too: that of `relu` at 0."""
    a, b, c = x
    s, v = a * b + 0.2, x * x[::-1]
    return jnp.array(
        [
            a**s, jnp.arctan2(s, c), jnp.maximum(s, c), jax.nn.softplus(s), jax.nn.relu(a - POINT[0]), jnp.prod(v),
            jnp.sort(v)[1], jnp.max(v),
        ]
    )  # fmt: skip


def with_inner_functions(x):
    """Loops, branches, rematerialisation and linear solves."""
    a, b, c = x
    loop = jax.lax.fori_loop(0, 2, lambda i, y: jnp.sin(y) * a, b)
    scan = jax.lax.scan(lambda y, s: (y * s + a, jnp.cos(y)), b, x * c)[1]
    chosen = jax.lax.cond(c > 0, lambda y: y**3, jnp.sin, a * b)
    kept = jax.checkpoint(lambda y: jnp.sin(y * b))(a)
    solved = jax.scipy.linalg.solve_triangular(jnp.outer(x, x) + jnp.eye(3), x * a)
    return jnp.concatenate([jnp.stack([loop, chosen, kept]), scan, solved])


@pytest.mark.parametrize(
    ("f", "mixed"),
    [
        (functions_of_one_number, (2, 0, 1)),
        (linear_and_bilinear, (2, 0)),
        (without_rules, (0, 1)),
        (with_inner_functions, (0, 1)),
        pytest.param(without_rules, (2, 1, 0), marks=pytest.mark.slow),
        pytest.param(with_inner_functions, (2, 1, 0), marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_operation_agrees_with_nested_forward_differentiation(f, mixed):
    axes = np.eye(3)
    along = lambda f, i: lambda x: jax.jvp(f, (x,), (axes[i],))[1]

    @jax.jit
    def both(x):
        ours = derivatives(f, x, (), mixed, [1, (0, 0), (2, 2)])
        total = along(f, 1)(x) + sum(along(along(f, i), i)(x) for i in (0, 2))
        return ours, (f(x), reduce(along, mixed, f)(x), total)

    for ours, theirs in zip(*both(jnp.asarray(POINT)), strict=True):
        wrong = ~np.isclose(ours, theirs, rtol=1e-11, atol=1e-11)
        assert not wrong.any(), np.flatnonzero(wrong)


def test_mixed_and_summed_derivatives_of_fourth_order_of_a_network():
    f = eqx.nn.MLP(3, 2, 4, 1, jnp.tanh, key=jax.random.key(3))

    @jax.jit
    def both(x):
        fourth = nested(f, 4)(x)
        biharmonic = [(i, i, j, j) for i in range(3) for j in range(3)]
        return derivatives(f, x, (2, 0, 1, 0), biharmonic), (fourth[:, 0, 0, 1, 2], jnp.einsum("ciijj->c", fourth))

    for ours, theirs in zip(*both(jnp.asarray(POINT)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_a_network_agrees_with_finite_differences():
    f, x, step = network(), jnp.asarray(POINT), 1e-3
    points = x + step * jnp.array([[0, 0, 0], [0, 1, 0], [0, -1, 0], [0, 2, 0], [0, -2, 0]])
    values, (slope, second) = jax.jit(lambda x: (jax.vmap(f)(points), derivatives(f, x, 1, (1, 1))))(x)
    np.testing.assert_allclose(slope, (8 * (values[1] - values[2]) - values[3] + values[4]) / (12 * step), rtol=1e-9)
    weights = np.array([-30, 16, 16, -1, -1]) / (12 * step**2)
    np.testing.assert_allclose(second, weights @ values, rtol=1e-7)


def test_harmonic_functions_have_no_laplacian():
    plane = lambda x: jnp.array([jnp.log(x @ x), jnp.real((x[0] + 1j * x[1]) ** 5), jnp.exp(x[0]) * jnp.sin(x[1])])
    space = lambda x: jnp.array([1 / jnp.linalg.norm(x)])
    assert np.abs(laplacian(plane, jnp.asarray(POINT[:2]))).max() < 1e-13
    assert np.abs(laplacian(space, jnp.asarray(POINT))).max() < 1e-13


@pytest.mark.parametrize("d", [1, 2, 10])
def test_the_laplacian_of_a_gaussian_in_any_dimension(d):
    f = lambda x: jnp.exp(-x @ x / 2)[None]
    x = jnp.linspace(-0.5, 1, d)
    value, slope, total = forward_laplacian(f, x)
    np.testing.assert_allclose(value, f(x), rtol=1e-14)
    np.testing.assert_allclose(slope, -(x * f(x))[None], rtol=1e-14)
    np.testing.assert_allclose(total, (x @ x - d) * f(x), rtol=1e-13)
    np.testing.assert_allclose(laplacian(f, x), total, rtol=1e-14)


def test_the_heat_kernel_solves_the_heat_equation():
    """Space alone, time first."""
    kernel = lambda p: (jnp.exp(-(p[1] ** 2 + p[2] ** 2) / (4 * p[0])) / p[0])[None]
    p = jnp.asarray(POINT)
    u_t, spread = derivatives(kernel, p, 0, [(1, 1), (2, 2)])
    np.testing.assert_allclose(u_t, spread, rtol=1e-13)
    np.testing.assert_allclose(laplacian(kernel, p, axes=(1, 2)), spread, rtol=1e-14)


def test_a_sum_along_directions_is_an_anisotropic_laplacian():
    f, s = network(1), np.array([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]])
    x = jnp.asarray(POINT)
    along = lambda x: derivatives(f, x, [(0, 0), (1, 1)], directions=jnp.asarray(s))[0]
    total, hessian = jax.jit(lambda x: (along(x), jax.hessian(f)(x)))(x)
    np.testing.assert_allclose(total, np.einsum("cij,ki,kj->c", hessian, s, s), rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_directional_derivatives_of_a_plane_wave(order):
    a, v, x = jnp.array([1.0, -2.0]), jnp.array([0.5, 0.7]), jnp.array([0.3, 0.1])
    f = lambda x: jnp.array([jnp.exp(a @ x), jnp.sin(a @ x)])
    exact = (a @ v) ** order * jnp.array([jnp.exp(a @ x), jnp.sin(a @ x + order * jnp.pi / 2)])
    np.testing.assert_allclose(directional_derivative(f, x, v, order), exact, rtol=1e-13)


@pytest.mark.parametrize("components", [1, 3])
def test_jacobian_gradient_and_hessian_vector_product(components):
    """Of one component by reverse differentiation, of three by forward."""
    f, v = network(components), jnp.array([1.0, -1.0, 2.0])

    @jax.jit
    def both(x):
        slopes, hessian = jax.jacfwd(f)(x), jax.hessian(f)(x)
        ours = jacobian(f, x), jacobian(f, x, axes=(2, 0)), hessian_vector(f, x, v), gradient(lambda x: f(x)[:1], x)
        return ours, (slopes, slopes[:, jnp.array([2, 0])], hessian @ v, slopes[0])

    for ours, theirs in zip(*both(jnp.asarray(POINT)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_divergence_and_curl_of_rotation_and_expansion():
    omega, x = jnp.array([1.0, 2.0, -3.0]), jnp.asarray(POINT)
    flow = lambda x: jnp.cross(omega, x) + 5 * x
    np.testing.assert_allclose(divergence(flow, x), 15, rtol=1e-14)
    np.testing.assert_allclose(curl(flow, x), 2 * omega, rtol=1e-14)
    unsteady = lambda p: p[0] * jnp.array([-p[2], p[1]])
    np.testing.assert_allclose(curl(unsteady, x, axes=(1, 2)), 2 * x[0], rtol=1e-14)


def test_second_order_identities_hold_through_nesting():
    """curl grad = 0, div curl = 0, div grad = laplacian: a derivative is a field again."""
    f, v, x = network(1), network(3), jnp.asarray(POINT)

    @jax.jit
    def identities(x):
        slope = lambda x: gradient(f, x)
        zeros = curl(slope, x), divergence(lambda x: curl(v, x), x), divergence(slope, x) - laplacian(f, x)[0]
        inner = derivatives(lambda x: derivatives(f, x, (0, 1))[0], x, 2)[0] - derivatives(f, x, (0, 1, 2))[0]
        return *zeros, inner

    for zero in identities(x):
        assert np.abs(zero).max() < 1e-14


def test_the_parameters_gradient_is_that_of_the_hessians_trace():
    points = jax.random.uniform(jax.random.key(1), (5, 3), float)

    def gradients(second):
        return lambda f: eqx.filter_grad(lambda f: jnp.mean(jax.vmap(lambda x: second(f, x))(points) ** 2))(f)

    naive = gradients(lambda f, x: jnp.trace(jax.hessian(f)(x), axis1=1, axis2=2))
    ours, theirs = eqx.filter_jit(lambda f: (gradients(laplacian)(f), naive(f)))(network())
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_derivative_more_is_one_matrix_product_a_layer():
    """`u, u_t, u_x, u_xx` are four, and a Laplacian in d dimensions is d + 2; the first layer needs none for `u_xx`."""

    def products(jaxpr):
        inner = sum(products(sub) for eqn in jaxpr.eqns for sub in jax.extend.core.jaxprs_in_params(eqn.params))
        return inner + sum(eqn.primitive.name == "dot_general" for eqn in jaxpr.eqns)

    f, x = network(), jnp.asarray(POINT)
    count = lambda g: products(jax.make_jaxpr(g)(x).jaxpr)
    assert count(f) == 3
    assert count(lambda x: derivatives(f, x, (), 0, 1, (1, 1))) == 3 + 4 + 4
    assert count(lambda x: laplacian(f, x)) == 4 + 5 + 5


@pytest.mark.dtype
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_precision_follows_the_input(dtype):
    if dtype == "float64" and not jax.config.jax_enable_x64:
        pytest.skip("there is no float64 without x64")
    f, x = network(dtype=jnp.dtype(dtype)), jnp.asarray(POINT, dtype)

    @jax.jit
    def both(x):
        ours = (*derivatives(f, x, (), 0, (1, 1, 2)), *forward_laplacian(f, x), jacobian(f, x))
        return ours, jnp.trace(jax.hessian(f)(x), axis1=1, axis2=2)

    with jax.numpy_dtype_promotion("strict"):
        found, total = both(x)
    assert {each.dtype for each in found} == {jnp.dtype(dtype)}
    tolerance = 100 * jnp.finfo(dtype).eps
    np.testing.assert_allclose(found[5], total, rtol=tolerance, atol=tolerance)


@pytest.mark.plain
def test_wrong_arguments_are_named():
    f, x = lambda x: jnp.array([x[0] * x[1], x[1]]), jnp.array([0.5, 0.2])
    cases = [
        (lambda: derivatives(f, x[None], 0), r"`x` has shape \(1, 2\).*jax.vmap"),
        (lambda: derivatives(f, jnp.array([1, 2]), 0), "`x` .*int32; expected one point"),
        (lambda: derivatives(lambda x: x[0], x, 0), r"`field` returns shapes \[\(\)\]"),
        (lambda: derivatives(lambda x: (x, x), x, 0), r"`field` returns shapes \[\(2,\), \(2,\)\]"),
        (lambda: derivatives(f, x, (1, 2)), r"`wanted` has \(1, 2\); expected axes 0 to 1"),
        (lambda: derivatives(f, x, -1), "`wanted` has -1"),
        (lambda: derivatives(f, x, []), "`wanted` has .*sum"),
        (lambda: derivatives(f, x, [(), 1]), "`wanted` has .*sum"),
        (lambda: derivatives(f, x, 0, directions=jnp.ones(2)), r"`directions` has shape \(2,\); expected \(m, 2\)"),
        (lambda: directional_derivative(f, x, x, 0), "`order` is 0"),
        (lambda: directional_derivative(f, x, jnp.ones(3)), r"`v` has shape \(3,\)"),
        (lambda: hessian_vector(f, x, jnp.ones(3)), r"`v` has shape \(3,\)"),
        (lambda: laplacian(f, x, axes=(0, 0)), r"`axes` are \(0, 0\)"),
        (lambda: jacobian(f, x, axes=(2,)), r"`axes` are \(2,\); expected different ones, from 0 to 1"),
        (lambda: gradient(f, x), "`field` has 2 components; expected 1"),
        (lambda: divergence(f, x, axes=(1,)), r"`field` has 2 components and `axes` are \(1,\)"),
        (lambda: curl(f, x, axes=(1,)), r"`axes` are \(1,\); a curl needs two or three"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.plain
def test_an_operation_without_forward_derivative_is_named_by_jax():
    def called(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((2,), x.dtype), x)

    @jax.custom_vjp
    def reversible(x):
        return jnp.sin(x)

    reversible.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))
    x = jnp.array([0.5, 0.2])
    for f, message in ((called, "[Cc]allbacks do not support JVP"), (reversible, "custom_vjp")):
        with pytest.raises((ValueError, TypeError), match=message):
            derivatives(f, x, 0)
