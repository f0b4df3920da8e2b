import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix
import pytest
from scipy.linalg import expm
from scipy.special import softmax

from opkit.dynamics import Graph, GraphAttention, GraphDiffusion, Integrator, graph_diffusion, segment_softmax

RNG = np.random.default_rng(0)
NODES = 7
EDGES = np.array([(i, j) for i in range(NODES) for j in range(NODES) if i != j and (3 * i + 5 * j) % 7 < 3]).T
GRAPH, PADDED = Graph.of(EDGES, NODES), Graph.of(EDGES, NODES, length=64)
U = jnp.asarray(RNG.normal(size=(NODES, 3)))
FINE = Integrator(diffrax.Tsit5(), diffrax.PIDController(rtol=1e-10, atol=1e-10))


def model(key, integrator=FINE, **options):
    built = GraphDiffusion(3, 4, 2, integrator=integrator, key=key, **options)
    field = lambda m: (m.vector_field.attention, m.vector_field.rate)
    new = jax.tree.map(lambda w: 2 * w, built.vector_field.attention), jnp.array(0.7)
    built = eqx.tree_at(field, built, new)
    if built.vector_field.source is None:
        return built
    return eqx.tree_at(lambda m: m.vector_field.source, built, jnp.array(-0.3))


def dense(weights, graph):
    a = np.zeros((graph.nodes, graph.nodes))
    np.add.at(a, (graph.receivers, graph.senders), np.where(graph.mask, weights, 0))
    return a


def test_attention_is_a_softmax_over_each_nodes_neighbours_whatever_the_padding(key):
    attention = GraphAttention(3, heads=2, size=5, key=key)
    run = eqx.filter_jit(attention)
    found, padded = dense(run(U, GRAPH), GRAPH), dense(run(U, PADDED), PADDED)
    linked = np.eye(NODES, dtype=bool)
    linked[EDGES[1], EDGES[0]] = True
    heads = [(U @ q.T) @ (U @ k.T).T / 5**0.5 for q, k in zip(attention.query, attention.key, strict=True)]
    expected = np.mean([softmax(np.where(linked, head, -np.inf), 1) for head in heads], 0)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    np.testing.assert_allclose(padded, expected, atol=1e-14)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-14)


def test_the_softmax_survives_large_logits_and_nodes_without_edges():
    graph = Graph.of(np.array([[0, 1, 2], [1, 2, 1]]), 4, self_loops=False, length=5)
    logits = jnp.array([1e4, -1e4, 1e4 + 1, np.nan, 0.0])
    weights, slope = jax.jit(
        lambda a: (segment_softmax(a, graph), jax.grad(lambda a: segment_softmax(a, graph)[0])(a))
    )(logits)
    np.testing.assert_allclose(weights, [1 / (1 + np.e), 1, np.e / (1 + np.e), 0, 0], rtol=1e-12)
    p = 1 / (1 + np.e)
    np.testing.assert_allclose(slope, [p * (1 - p), 0, -p * (1 - p), 0, 0], rtol=1e-12)
    x = jnp.arange(4.0)[:, None]
    np.testing.assert_array_equal(graph_diffusion(x, weights, graph)[np.array([0, 3])], 0)


@pytest.fixture(scope="module")
def solved():
    """The linear model with a source at time 3, by an explicit solver, and by implicit steps with a matrix-free one."""
    key = jax.random.key(0)
    gmres = lx.GMRES(rtol=1e-10, atol=1e-10)
    implicit = diffrax.Kvaerno3(root_finder=optimistix.Newton(rtol=1e-9, atol=1e-9, linear_solver=gmres))
    stiff = Integrator(implicit, diffrax.PIDController(rtol=1e-8, atol=1e-8))
    run = eqx.filter_jit(lambda *models: [(*m(U, PADDED, 3.0), m.encoder.channels_last(U)) for m in models])
    return run(model(key), model(key, stiff))


def test_linear_diffusion_is_the_matrix_exponential_by_explicit_and_by_implicit_steps(solved, key):
    net = model(key)
    x0 = np.asarray(solved[0][2])
    a = dense(eqx.filter_jit(net.vector_field.attention)(jnp.asarray(x0), GRAPH), GRAPH)
    rate = (a - np.eye(NODES)) / (1 + np.exp(-0.7))
    # x' = R x - 0.3 x_0 with x_0 as a second, constant half of the state
    flow = expm(3.0 * np.block([[rate, -0.3 * np.eye(NODES)], [np.zeros((NODES, 2 * NODES))]]))
    x1 = (flow @ np.concatenate([x0, x0]))[:NODES]
    for (y, out, _), tolerance in zip(solved, (1e-9, 1e-7), strict=True):
        assert out.solved
        np.testing.assert_allclose(out.ys[0], x1, atol=tolerance)
        np.testing.assert_allclose(y, net.decoder.channels_last(jnp.asarray(x1)), atol=tolerance)


def test_nonlinear_diffusion_keeps_constants_and_the_maximum_principle(key):
    net = model(key, kind="nonlinear", source=False)
    run = eqx.filter_jit(lambda u: (net.encoder.channels_last(u), net(u, GRAPH, 5.0)[1].ys[0]))
    start, end = run(U)
    assert np.all(end <= start.max(0) + 1e-12)
    assert np.all(end >= start.min(0) - 1e-12)
    assert np.ptp(end, 0).max() < 0.5 * np.ptp(start, 0).max()
    start, end = run(jnp.ones_like(U))
    np.testing.assert_allclose(end, start, atol=1e-12)


@pytest.mark.slow
def test_gradients_are_those_of_differences(key):
    net = model(key, Integrator(diffrax.Heun(), diffrax.ConstantStepSize(), dt0=0.5), kind="nonlinear")
    trained, rest = eqx.partition(net, eqx.is_inexact_array)
    direction = jax.tree.map(lambda w: jnp.cos(jnp.arange(w.size, dtype=w.dtype)).reshape(w.shape), trained)

    def loss(h):
        moved = jax.tree.map(lambda w, d: w + h * d, trained, direction)
        return jnp.sum(eqx.combine(moved, rest)(U, PADDED, 1.0)[0] ** 2)

    value, h = jax.jit(loss), 1e-5
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.0), (value(h) - value(-h)) / (2 * h), rtol=1e-7)


@pytest.mark.dtype
def test_precision_follows_the_features(key):
    net = GraphDiffusion(3, 4, 2, key=key)
    y, _ = jax.eval_shape(lambda u: net(u, GRAPH, 1.0), U.astype("float32"))
    assert (y.shape, y.dtype) == ((NODES, 2), np.float32)


@pytest.mark.plain
def test_errors_name_the_argument(key):
    for message, call in {
        "`edges` has node 0 to 7; expected 0 to 6": lambda: Graph.of(np.array([[0], [7]]), 7),
        r"`edges` has shape \(3, 2\)": lambda: Graph.of(np.zeros((3, 2), int), 7),
        "`length` is 3; the graph has 8 edges": lambda: Graph.of(np.array([[0], [1]]), 7, length=3),
        "`kind` is 'other'": lambda: GraphDiffusion(1, 2, 3, kind="other", key=key),
        "`u` has 6 rows; expected one for each of the graph's 7": lambda: GraphDiffusion(3, 4, 2, key=key)(
            U[1:], GRAPH, 1.0
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
