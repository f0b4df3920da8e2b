"""What holds of every kind of field: derivatives of any order, both precisions, one leaf a weight, clear errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.jet import jet
from numpy.polynomial import Chebyshev

from opkit.fields import (
    MLP,
    SIREN,
    Cauchy,
    Chain,
    Dense,
    FourierFeatures,
    GaussianFeatures,
    ModifiedMLP,
    ModulatedSIREN,
    PeriodicEmbedding,
    PirateNet,
    Rescale,
    Separable,
    Snake,
    fit_readout,
)
from opkit.training import partition

from .field_cases import FIELDS, KEY, SMALL


@pytest.mark.parametrize("kind", FIELDS)
def test_taylor_mode_gives_the_derivatives_of_the_interpolant_on_a_line(kind):
    field = FIELDS[kind]()
    x, v = jnp.array([0.4, -0.3]), jnp.array([0.8, 0.6])

    @jax.jit
    def derivatives_and_line(s):
        zero = jnp.zeros(2)
        _, series = jet(field, (x,), ((v, zero, zero),))
        return series, jax.vmap(lambda s: field(x + s * v)[0])(s)

    nodes = 0.1 * np.polynomial.chebyshev.chebpts1(20)
    series, values = derivatives_and_line(nodes)
    line = Chebyshev.fit(nodes, values, 19, domain=[-0.1, 0.1])
    for order, derivative in enumerate(series, start=1):
        np.testing.assert_allclose(derivative[0], line.deriv(order)(0.0), rtol=1e-6, atol=1e-6)


@pytest.mark.dtype
@pytest.mark.parametrize("kind", FIELDS)
def test_precision_follows_the_point_under_strict_promotion(kind):
    field = FIELDS[kind]()
    dtypes = [jnp.float32] + [jnp.float64] * jax.config.read("jax_enable_x64")
    with jax.numpy_dtype_promotion("strict"):
        found = [eqx.filter_eval_shape(field, jnp.zeros(2, dtype)).dtype for dtype in dtypes]
    assert found == dtypes


@pytest.mark.parametrize("kind", FIELDS)
def test_every_weight_gets_a_gradient_and_every_leaf_is_an_array(kind):
    field = FIELDS[kind]()
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(field))
    trained, frozen = partition(field)

    def loss(trained):
        return jnp.mean(jax.vmap(eqx.combine(trained, frozen))(points) ** 2)

    points = jax.random.uniform(KEY, (5, 2))
    gradient = jax.jit(jax.grad(loss))(trained)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5])
def test_points_have_any_dimension(d):
    axes = [MLP(1, 6, **SMALL)] * d
    embedding = PeriodicEmbedding((None,) + (1.0,) * (d - 1), harmonics=2)
    assert embedding.size == 1 + 4 * (d - 1)
    fields = [
        MLP(d, 3, **SMALL),
        ModifiedMLP(d, 3, **SMALL),
        SIREN(d, 3, **SMALL),
        GaussianFeatures(d, 3, gaussians=5, key=KEY),
        Separable(axes, 3),
        Chain(Rescale((0.0,) * d, (2.0,) * d), FourierFeatures(d, 4, key=KEY), PirateNet(8, 3, **SMALL)),
        Chain(embedding, MLP(embedding.size, 3, **SMALL)),
    ]
    for field in fields:
        assert eqx.filter_eval_shape(field, jnp.zeros(d)).shape == (3,)


def test_numbers_of_weights_are_those_of_the_formulas():
    def count(field):
        return sum(leaf.size for leaf in jax.tree.leaves(partition(field)[0]))

    sizes = {"width": 7, "depth": 3, "key": KEY}
    hidden = (2 * 7 + 7) + 2 * (7 * 7 + 7)
    assert count(MLP(2, 3, **sizes)) == hidden + 7 * 3 + 3
    assert count(SIREN(2, 3, **sizes)) == hidden + 7 * 3 + 3
    assert count(ModulatedSIREN(2, 3, code_size=4, **sizes)) == hidden + 7 * 3 + 3 + 3 * 7 * 4
    assert count(MLP(2, 3, activation=Snake(), **sizes)) == hidden + 7 * 3 + 3 + 3
    assert count(MLP(2, 3, activation=Cauchy(), **sizes)) == hidden + 7 * 3 + 3 + 9
    assert count(ModifiedMLP(2, 3, **sizes)) == hidden + 2 * (2 * 7 + 7) + 7 * 3 + 3
    block = (4 * 7 + 7) + (7 * 7 + 7) + (7 * 4 + 4) + 1
    assert count(PirateNet(4, 3, **sizes)) == 2 * (4 * 7 + 7) + 3 * block + 4 * 3 + 3
    assert count(GaussianFeatures(2, 3, gaussians=9, key=KEY)) == 9 * (2 + 2 + 3)
    assert count(Chain(FourierFeatures(2, 3, key=KEY), Dense(6, 1, key=KEY))) == 7


@pytest.mark.plain
@pytest.mark.parametrize("kind", FIELDS)
def test_a_point_of_another_shape_is_named(kind):
    field = FIELDS[kind]()
    for shape in [(3,), (1,), (4, 2)]:
        with pytest.raises(ValueError, match=r"`x` has shape .*; expected \(2,\)"):
            field(jnp.zeros(shape))


@pytest.mark.plain
def test_errors_name_the_argument():
    points = jnp.zeros((4, 2))
    for name, value in {"in_size": 0, "out_size": 0, "width": 0, "depth": -1}.items():
        for net in (MLP, ModifiedMLP, PirateNet, SIREN):
            sizes = {"in_size": 2, "out_size": 1, "width": 3, "depth": 1, name: value}
            with pytest.raises(ValueError, match=f"`{name}` is {value}; expected at least 1"):
                net(**sizes, key=KEY)
    with pytest.raises(ValueError, match="`gaussians` is 0"):
        GaussianFeatures(2, 1, gaussians=0, key=KEY)
    with pytest.raises(ValueError, match="`waves` is 0"):
        FourierFeatures(2, 0, key=KEY)
    with pytest.raises(ValueError, match=r"`width` is -0.1; expected positive"):
        GaussianFeatures(2, 1, gaussians=3, width=-0.1, key=KEY)
    with pytest.raises(ValueError, match=r"`omega` has 3 entries for 2 axes; give one, or one an axis"):
        SIREN(2, 1, omega=(1, 2, 3), **SMALL)
    with pytest.raises(ValueError, match=r"`periods` has 0.0 on axis 1; expected a positive length, or None"):
        PeriodicEmbedding((None, 0.0))
    with pytest.raises(ValueError, match="`harmonics` is 0"):
        PeriodicEmbedding((1.0,), harmonics=0)
    with pytest.raises(ValueError, match=r"`lower` is \(0, 1\), `upper` \(1, 1\); expected .* lower below upper"):
        Rescale((0, 1), (1, 1))
    with pytest.raises(ValueError, match=r"`frequency` is -1\.0; expected positive"):
        Snake(-1.0)
    with pytest.raises(ValueError, match="`width` is 0; expected positive"):
        Cauchy(width=0)
    with pytest.raises(ValueError, match=r"`frequency` has shape \(5,\) in a layer of shape \(6,\)"):
        MLP(2, 1, activation=Snake(jnp.ones(5)), **SMALL)(jnp.zeros(2))
    with pytest.raises(ValueError, match="`maps` is empty"):
        Chain()
    with pytest.raises(ValueError, match=r"`axes` give shapes \[\(4,\)\]; expected .* `out_size` 3"):
        Separable([MLP(1, 4, **SMALL)] * 2, 3)
    with pytest.raises(ValueError, match=r"`axes` give shapes \[\(4,\), \(6,\)\]"):
        Separable([MLP(1, 4, **SMALL), MLP(1, 6, **SMALL)])
    with pytest.raises(ValueError, match="`coordinates` has 1 arrays; expected 2, one an axis"):
        FIELDS["separable"]().on_grid([jnp.zeros(3)])
    with pytest.raises(ValueError, match="`field` is Separable, without `features` and `readout`"):
        fit_readout(FIELDS["separable"](), points, points)
    for values in (jnp.zeros(4), jnp.zeros((3, 1)), jnp.zeros((4, 2))):
        with pytest.raises(ValueError, match=r"`values` has shape .*; expected \(4, 1\), those of `field` at `points`"):
            fit_readout(FIELDS["mlp"](), points, values)
