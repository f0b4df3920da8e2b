"""Branch and trunk, the POD trunk, sets of measurements, adaptive bases: against their formulas."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.layers import TappedMLP
from opkit.operators import NIO, AdaFNN, DeepONet, GridInterpolant, bag, orthogonality, pod, sparsity
from solvers import Grid, Points

SENSORS = Grid(6, placement="nodes")


def deeponet(key, outputs=1, taps=1, **options):
    keys = [jax.random.fold_in(key, i) for i in range(2)]
    branch = TappedMLP(2 * 6 + options.get("conditioning", 0), width=4, depth=2, taps=taps, key=keys[0])
    trunk = TappedMLP(1, width=4, depth=2, taps=taps, key=keys[1])
    return DeepONet(branch, trunk, 2, outputs, sensors=SENSORS, taps=taps, **options)


def test_multionet_is_the_mean_over_taps_of_weighted_products(key):
    op = deeponet(key, outputs=2, taps=2, conditioning=1)
    op = eqx.tree_at(lambda o: (o.tap_weights, o.bias), op, (jnp.array([0.5, 2.0]), jnp.array([1.0, -1.0])))
    u, args, y = jax.random.normal(key, (2, 6)), jnp.array([0.3]), jnp.array([[0.1], [0.7], [2.0]])

    @jax.jit
    def run(u, y):
        field = op.encode(u, SENSORS, args=args)
        features = op.branch(jnp.concatenate([u.reshape(-1), args])), jax.vmap(op.trunk)(y)
        return op(u, SENSORS, Points(y), args=args), op(u, SENSORS, args=args), jax.vmap(field)(y), features

    out, on_grid, by_field, (b, t) = run(u, y)
    expected = np.zeros((2, 3))
    for c in range(2):  # each channel has half of the features
        for tap, w in enumerate([0.5, 2.0]):
            expected[c] += w / 2 * np.asarray(t)[:, tap, 2 * c : 2 * c + 2] @ np.asarray(b)[tap, 2 * c : 2 * c + 2]
    np.testing.assert_allclose(out, expected + np.array([[1.0], [-1.0]]), atol=1e-13)
    np.testing.assert_allclose(by_field.T, out, atol=1e-13)
    assert on_grid.shape == (2, 6)


def test_channels_may_share_the_basis_or_the_coefficients():
    few, many = np.array([1.0, 2.0]), np.arange(6.0)  # three channels of two features
    expected = many.reshape(3, 2) @ few
    for b, t in ((many, few), (few, many)):
        op = DeepONet(lambda u, b=b: jnp.asarray(b), lambda x, t=t: jnp.asarray(t), 1, 3, sensors=2)
        out = jax.jit(lambda u, op=op: op(u, Points(jnp.ones((2, 1)))))(np.ones((1, 2)))
        np.testing.assert_allclose(out, np.stack([expected] * 2, 1), atol=1e-14)


def low_rank_outputs(grid):
    """Five functions in a space of two dimensions about their mean, two channels."""
    x, y = np.asarray(grid.coordinates())
    waves = np.stack([[np.sin(x + y), x * y], [np.cos(3 * y), x**2], [x - y, np.exp(-x)]])
    coefficients = np.random.default_rng(0).normal(size=(5, 2))
    return np.einsum("sk,kcxy->scxy", np.concatenate([coefficients, np.ones((5, 1))], 1), waves)


def test_pod_modes_are_orthonormal_under_the_quadrature_and_span_the_outputs():
    grid = Grid((5, 7), (0.0, -1.0), (2.0, 1.0), placement=("nodes", "chebyshev"))
    outputs = low_rank_outputs(grid)
    trunk, mean = eqx.filter_jit(pod)(jnp.asarray(outputs), grid, 2)
    weights = np.asarray(grid.weights())
    modes = np.asarray(trunk.values.value).reshape(2, 2, 5, 7)  # (c, k, *n)
    np.testing.assert_allclose(np.einsum("ckxy,clxy,xy->kl", modes, modes, weights), np.eye(2), atol=1e-12)
    centred = outputs - np.asarray(mean.values.value)
    b = np.einsum("ckxy,scxy,xy->sk", modes, centred, weights)
    op = DeepONet(lambda u: u, trunk, 1, 2, sensors=2, mean=mean)
    sensors = Points(jnp.zeros((2, 2)))
    out = jax.jit(jax.vmap(lambda b: op(b, sensors, grid)))(b[:, None])
    np.testing.assert_allclose(out, outputs, atol=1e-12)


@pytest.mark.slow
def test_between_the_points_the_interpolant_is_second_order():
    points = np.random.default_rng(0).uniform(size=(50, 2))
    f = lambda x, y: np.sin(3 * x) * np.cos(2 * y)
    errors = []
    for n in (9, 33):
        grid = Grid((n, n), placement="nodes")
        values = f(*np.meshgrid(*[np.linspace(0, 1, n)] * 2, indexing="ij"))
        field = GridInterpolant(jnp.asarray(values)[None], grid)
        everywhere = np.concatenate([points, [[0.0, 1.0], [0.25, 0.5]]])
        found = jax.jit(jax.vmap(field))(everywhere)[:, 0]
        np.testing.assert_array_equal(found[-2:], [values[0, -1], values[n // 4, n // 2]])
        errors.append(np.abs(found[:-2] - f(*points.T)).max())
    assert np.log2(errors[0] / errors[1]) / 2 > 1.8


def test_nio_takes_sets_of_any_size_in_any_order(key):
    grid = Grid(8)
    operator = lambda v, domain, **_: jnp.cumsum(v, axis=1)[:1] ** 2
    op = NIO(deeponet(key, outputs=2), operator)

    @jax.jit
    def run(u, mask):
        each = jax.vmap(lambda v: op.set_operator(v, SENSORS, grid))(u)
        return op(u, SENSORS, grid, mask=mask), operator(each[mask.argsort()[-3:]].mean(0), grid)

    rng = np.random.default_rng(0)
    u, mask, order = rng.normal(size=(5, 2, 6)), np.array([True, True, False, True, False]), rng.permutation(5)
    out, by_definition = run(u, mask)
    assert out.shape == (1, 8)
    np.testing.assert_allclose(out, by_definition, atol=1e-13)
    np.testing.assert_allclose(run(u[order], mask[order])[0], out, atol=1e-13)
    np.testing.assert_allclose(jax.jit(lambda u: op(u, SENSORS, grid))(u[mask]), out, atol=1e-13)


@pytest.mark.slow
def test_a_bag_is_a_random_number_of_draws_with_replacement(key):
    u = jnp.arange(6.0).reshape(6, 1, 1)
    drawn, masks = jax.jit(lambda: jax.vmap(lambda k: bag(u, least=2, key=k))(jax.random.split(key, 400)))()
    counts = np.asarray(masks).sum(1)
    assert set(counts) == {2, 3, 4, 5, 6}
    np.testing.assert_allclose(np.bincount(np.asarray(drawn, int).ravel()) / drawn.size, 1 / 6, atol=0.03)
    assert any(len(np.unique(row)) < 6 for row in np.asarray(drawn))


def cosines(n):
    """`cos(pi k x)` times two: of norm sqrt(2) on the unit interval, orthogonal."""
    return lambda x: 2 * jnp.cos(jnp.pi * jnp.arange(1, n + 1) * x)


def test_scores_are_the_integrals_at_second_order_on_nodes():
    op = AdaFNN([cosines(2), lambda x: x**2], lambda scores: scores)
    exact = np.array([-4 / np.pi**2 / np.sqrt(2), 0.0, np.sqrt(5) / 4])  # of x, with the functions normalised
    errors = []
    for n in (17, 33):
        grid, x = Grid(n, placement="nodes"), np.linspace(0, 1, n)
        cloud = Points(jnp.asarray(x[:, None]), grid.weights())
        on_grid, on_cloud = jax.jit(lambda u, grid=grid, cloud=cloud: (op(u, grid), op(u, cloud)))(x[None])
        np.testing.assert_allclose(on_cloud, on_grid, atol=1e-14)
        errors.append(np.abs(on_grid - exact).max())
    assert np.log2(errors[0] / errors[1]) > 1.9


def test_penalties_see_angles_and_supports_and_no_scale():
    grid = Grid(64, placement="cells")
    op = AdaFNN([cosines(2), lambda x: 7 * jnp.where(x < 0.25, 1.0, 0.0), lambda x: jnp.ones(1)], lambda s: s)
    angles, shares = map(np.asarray, jax.jit(lambda: (orthogonality(op, grid), sparsity(op, grid)))())
    np.testing.assert_allclose(angles[0], 0, atol=1e-13)
    np.testing.assert_allclose(angles[-1], 0.5, atol=1e-13)  # a bump on a quarter against a constant
    np.testing.assert_allclose(shares[2:], [0.5, 1.0], atol=1e-13)


@pytest.mark.dtype
def test_precision_follows_the_input():
    key = jax.random.key(0)
    trunk = TappedMLP(1, width=3, depth=1, key=key)
    ops = deeponet(key), AdaFNN([lambda x: trunk(x)[0]], lambda scores: scores)
    dtypes = [jnp.bfloat16, jnp.float32] + [jnp.float64] * jax.config.read("jax_enable_x64")
    for dtype in dtypes:
        for op in ops:
            out = eqx.filter_eval_shape(lambda op, u: op(u, SENSORS), op, jnp.ones((2, 6), dtype))
            assert out.dtype == dtype


@pytest.mark.plain
def test_errors_name_the_argument():
    key = jax.random.key(0)
    op, u = deeponet(key), jnp.ones((2, 6))
    uneven = DeepONet(lambda v: jnp.ones(3), lambda x: jnp.ones(4), 1, 1, sensors=2)
    cloud = Points(jnp.ones((2, 1)))
    ada = AdaFNN([lambda x: x], lambda s: s)
    calls = {
        r"`domain` has 9 points .*built for 6 sensors \(Grid": lambda: op(jnp.ones((2, 9)), Grid(9)),
        "`domain` has 6 points .*built for 6 sensors": lambda: op(u, Grid(6, placement="cells")),
        "`domain` has 3 points .*built for 2 sensors \\(a cloud": lambda: uneven(
            jnp.ones((1, 3)), Points(jnp.ones((3, 1)))
        ),
        r"`u` has shape \(1, 6\); expected \(2, 6\)": lambda: op(u[:1], SENSORS),
        "`branch` gives 3 features and `trunk` 4 for 1 output": lambda: uneven(jnp.ones((1, 2)), cloud),
        "`args` was given": lambda: op(u, SENSORS, args=jnp.ones(1)),
        "`taps` is 0": lambda: DeepONet(lambda v: v, lambda x: x, sensors=1, taps=0),
        "`taps` is 3; expected from 1 to `depth` = 2": lambda: TappedMLP(1, width=2, depth=2, taps=3, key=key),
        "`features` is 4; expected from 1 to 3": lambda: pod(jnp.ones((3, 1, 6)), SENSORS, 4),
        r"`outputs` are on \(5,\) points": lambda: pod(jnp.ones((3, 1, 5)), SENSORS, 1),
        "`values` has shape": lambda: GridInterpolant(jnp.ones((1, 5)), SENSORS),
        r"`x` has shape \(2,\); expected \(1,\)": lambda: GridInterpolant(jnp.ones((1, 6)), SENSORS)(jnp.ones(2)),
        r"`mask` has shape \(3,\); expected \(2,\)": lambda: NIO(op, lambda v, grid, **_: v)(
            jnp.ones((2, 2, 6)), SENSORS, Grid(8), mask=jnp.ones(3, bool)
        ),
        "`least` is 3; expected from 1 to the 2": lambda: bag(jnp.ones((2, 1, 6)), least=3, key=key),
        "`domain` is Points without `weights`": lambda: ada(jnp.ones((1, 2)), cloud),
        r"`u` has shape \(1, 3\)": lambda: ada(jnp.ones((1, 3)), cloud),
        "`basis` is empty": lambda: AdaFNN([], lambda s: s),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
