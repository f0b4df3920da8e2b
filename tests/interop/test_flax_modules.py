"""Flax modules in the house's roles, against Flax itself."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from opkit.interop import ChannelsLast, LinenFunction, NNXFunction
from opkit.training import Term, fit, load_model, partition, save_model
from solvers import Grid

RNG = np.random.default_rng(0)
GRID = Grid(8)
POINTS = jnp.asarray(RNG.normal(size=(6, 2)), jnp.float32)
FIELDS = jnp.asarray(RNG.normal(size=(6, 2, 8)), jnp.float32)


class LinenConvolution(linen.Module):
    average: bool = True

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(4, (3,), padding="CIRCULAR")(x)
        x = linen.BatchNorm(use_running_average=self.average)(x)
        return linen.Conv(1, (3,), padding="CIRCULAR")(jnp.tanh(x))


class NNXConvolution(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.Conv(2, 4, (3,), padding="CIRCULAR", kernel_init=draw, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.outer = nnx.Conv(4, 1, (3,), padding="CIRCULAR", kernel_init=draw, rngs=rngs)

    def __call__(self, x):
        return self.outer(self.drop(jnp.tanh(self.norm(self.inner(x)))))


def draw(_, shape, dtype=np.float32):
    """In NumPy: JAX compiles its generators for every shape."""
    return jnp.asarray(RNG.normal(size=shape) / 2, dtype)


def with_variables(module, x):
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    drawn = {"params": jax.tree.map(lambda a: draw(None, a.shape), shapes["params"])}
    return module, drawn | {
        name: jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), shapes[name]) for name in shapes if name != "params"
    }


def linen_field():
    return with_variables(linen.Sequential([linen.Dense(8), jnp.tanh, linen.Dense(1)]), POINTS[0])


def linen_convolution(average=True):
    return with_variables(LinenConvolution(average), FIELDS[0].T[None])


def nnx_field():
    layer = lambda m, n: nnx.Linear(m, n, kernel_init=draw, rngs=nnx.Rngs(0))
    return nnx.Sequential(layer(2, 8), jnp.tanh, layer(8, 1))


def nnx_convolution():
    module = NNXConvolution(nnx.Rngs(0))
    module.eval()
    return module


@pytest.fixture(scope="module")
def models():
    return {
        "linen field": LinenFunction(*linen_field()),
        "nnx field": NNXFunction(nnx_field()),
        "linen operator": ChannelsLast(LinenFunction(*linen_convolution())),
        "nnx operator": ChannelsLast(NNXFunction(nnx_convolution())),
    }


@pytest.mark.parametrize(
    "names",
    [
        ("linen field", "nnx operator"),
        pytest.param(("nnx field", "linen operator"), marks=pytest.mark.slow),
    ],
)
def test_both_kinds_train_as_fields_and_as_operators_in_the_same_fit(models, names):
    models = {name: models[name] for name in names}
    points = jnp.sin(POINTS[:, :1])
    fields = FIELDS[:, :1] - jnp.roll(FIELDS[:, 1:], 1, -1)

    def objective(models, batch, *, key, carry):
        x, y, u, v = batch
        terms = {}
        for name, model in models.items():
            made, wanted = (jax.vmap(model)(x), y) if "field" in name else (jax.vmap(lambda u: model(u, GRID))(u), v)  # noqa: B023
            terms[name] = Term(made - wanted, "residual")
        return terms, {}, carry

    log = []
    state = fit(
        objective,
        models,
        (POINTS, points, FIELDS, fields),
        optax.adamw(1e-2),
        steps=40,
        seed=0,
        chunk=20,
        log=lambda step, figures: log.append(figures),
    )
    for name in models:
        assert log[1][f"term/{name}"] < 0.9 * log[0][f"term/{name}"]
    before, after = (partition(m)[0] for m in (models, state.model))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, after)))


def test_batch_statistics_are_not_trained(models):
    trained, rest = partition(models)
    for kind in ("linen", "nnx"):
        function = trained[f"{kind} operator"].function
        assert len(jax.tree.leaves(function.parameters)) == 6
        assert not jax.tree.leaves(function.state)
        assert len(jax.tree.leaves(rest[f"{kind} operator"].function.state)) >= 2


def test_values_and_gradients_are_those_of_linen():
    module, variables = linen_convolution()
    op = ChannelsLast(LinenFunction(module, variables))
    u = FIELDS[0]

    def own(parameters):
        y = module.apply(variables | {"params": parameters}, u.T[None])
        return jnp.sum(y**2), y[0].T

    def wrapped(op):
        y = op(u, GRID)
        return jnp.sum(y**2), y

    flax, y_flax = jax.grad(own, has_aux=True)(variables["params"])
    trained, rest = partition(op)
    ours, y = jax.grad(lambda t: wrapped(eqx.combine(t, rest)), has_aux=True)(trained)
    assert y.shape == (1, 8)
    np.testing.assert_array_equal(y, y_flax)
    jax.tree.map(np.testing.assert_array_equal, ours.function.parameters, dict(flax))


def test_values_and_gradients_are_those_of_nnx():
    module = nnx_field()
    field = NNXFunction(module)
    np.testing.assert_array_equal(field(POINTS[0]), module(POINTS[0]))
    flax = nnx.grad(lambda m: jnp.sum(m(POINTS) ** 2))(module)
    ours = jax.grad(lambda p: jnp.sum(with_parameters(field, p)(POINTS) ** 2))(field.parameters)
    jax.tree.map(np.testing.assert_array_equal, ours, nnx.to_pure_dict(flax))


def with_parameters(field, parameters):
    return eqx.tree_at(lambda f: f.parameters, field, parameters)


def test_the_weights_go_through_a_model_file_by_their_paths(tmp_path):
    module, variables = linen_field()
    save_model(tmp_path / "field.safetensors", LinenFunction(module, variables), {})
    content = (tmp_path / "field.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert "parameters/layers_0/kernel" in header
    other = jax.tree.map(jnp.zeros_like, variables)
    back = load_model(tmp_path / "field.safetensors", lambda: LinenFunction(module, other))
    jax.tree.map(np.testing.assert_array_equal, back.parameters, dict(variables["params"]))


@pytest.mark.plain
def test_what_is_no_flax_module_or_would_change_itself_is_refused():
    module, variables = linen_field()
    with pytest.raises(ValueError, match=r"`module` is a Sequential; expected a Linen module"):
        LinenFunction(nnx_field(), variables)
    with pytest.raises(ValueError, match="`module` is a Sequential; expected an NNX module"):
        NNXFunction(module)
    with pytest.raises(ValueError, match=r"`variables` are \['batch_stats'\]; expected 'params'"):
        LinenFunction(module, {"batch_stats": {}})
    with pytest.raises(ValueError, match=r"`module` updates its variables \(batch_stats\).*use_running_average=True"):
        LinenFunction(*linen_convolution(average=False))(FIELDS[0].T[None])
    training = nnx_convolution()
    training.train()
    with pytest.raises(ValueError, match=r"`module` updates its variables .*norm.*`module.eval\(\)`"):
        NNXFunction(training)(FIELDS[0].T[None])


@pytest.mark.plain
def test_an_operator_refuses_what_does_not_fit_its_grid():
    op = ChannelsLast(lambda v: v)
    u = FIELDS[0]
    np.testing.assert_array_equal(op(u, GRID), u)
    with pytest.raises(ValueError, match=r"`u` has shape \(2, 8\), `domain` is .*; expected a Grid"):
        op(u, Grid(7))
    with pytest.raises(ValueError, match="`query` differs from `domain`"):
        op(u, GRID, Grid(16))
    with pytest.raises(ValueError, match="`args` was given; this operator takes none"):
        op(u, GRID, args=jnp.ones(1))
    with pytest.raises(ValueError, match=r"`function` made \(1, 4, 2\) of \(1, 8, 2\); expected \(1, 8\), channels"):
        ChannelsLast(lambda v: v[:, ::2])(u, GRID)
