"""Terms, and the scalar derived from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.training import Term, residual_vector, supervised, total
from solvers import Grid

RNG = np.random.default_rng(0)


def test_the_total_is_the_weighted_sum_of_means():
    r, losses = RNG.normal(size=(4, 3)), RNG.uniform(size=5)
    terms = {"residual": Term(jnp.asarray(r), "residual", weight=2.0), "data": Term(jnp.asarray(losses), "losses")}
    np.testing.assert_allclose(total(terms), 2 * np.mean(r**2) + np.mean(losses), rtol=1e-14)


def test_masked_entries_count_neither_in_the_sum_nor_in_the_gradient():
    mask = np.array([True, False, True])
    values = jnp.asarray(RNG.normal(size=(3, 2))).at[1].set(jnp.nan)
    value, gradient = jax.value_and_grad(lambda v: total({"r": Term(v, "residual", mask=jnp.asarray(mask))}))(values)
    kept = np.asarray(values)[mask]
    np.testing.assert_allclose(value, np.mean(kept**2), rtol=1e-14)
    np.testing.assert_allclose(gradient, np.where(mask[:, None], 2 * np.nan_to_num(values) / kept.size, 0), rtol=1e-14)


def test_an_empty_term_is_zero():
    assert total({"r": Term(jnp.ones(3), "losses", mask=jnp.zeros(3, bool))}) == 0
    assert total({"r": Term(jnp.ones((0, 2)), "residual")}) == 0


@pytest.mark.parametrize("kind", ["losses", "residual"])
def test_uneven_shards_with_the_global_count_add_up_to_the_batch(kind):
    x = jnp.asarray(RNG.normal(size=(11, 3)))
    mask = jnp.asarray(RNG.uniform(size=11) < 0.7)
    w = jnp.asarray(RNG.normal(size=3))

    @jax.value_and_grad
    def loss(w, x, mask, count=None):
        values = jnp.tanh(x @ w) ** 2
        return total({"a": Term(values, kind, mask=mask, count=count, weight=0.3)})

    loss = jax.jit(loss)
    whole = loss(w, x, mask)
    cuts = [slice(0, 2), slice(2, 9), slice(9, 11)]
    shards = [loss(w, x[cut], mask[cut], mask.sum()) for cut in cuts]
    summed = jax.tree.map(lambda *parts: sum(parts), *shards)
    np.testing.assert_allclose(summed[0], whole[0], rtol=1e-14)
    np.testing.assert_allclose(summed[1], whole[1], rtol=1e-13)


def test_the_squared_norm_of_the_residual_vector_is_the_total():
    mask = jnp.asarray([True, True, False])
    terms = {
        "pde": Term(jnp.asarray(RNG.normal(size=(3, 4))), "residual", weight=3.0, mask=mask),
        "boundary": Term(jnp.asarray(RNG.normal(size=2)), "residual"),
    }
    np.testing.assert_allclose(jnp.sum(residual_vector(terms) ** 2), total(terms), rtol=1e-14)


def test_a_term_of_a_residual_has_its_values_at_the_samples_and_no_gradient_through_them():
    points, targets = jnp.asarray(RNG.normal(size=(4, 2))), jnp.asarray(RNG.normal(size=4))
    residual = lambda w, sample: w * sample[0] - sample[1]

    def value(w, points, of):
        terms = Term.of(residual, w, (points, targets)) if of else Term(w * points - targets[:, None], "residual")
        return total({"r": terms})

    w = jnp.asarray([0.3, -2.0])
    found, (slope, none) = jax.value_and_grad(value, (0, 1))(w, points, True)
    expected = jax.value_and_grad(value)(w, points, False)
    np.testing.assert_allclose(found, expected[0], rtol=1e-14)
    np.testing.assert_allclose(slope, expected[1], rtol=1e-14)
    np.testing.assert_array_equal(none, 0)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_a_term_in_chunks_is_the_term_at_once_and_so_are_its_derivatives(chunk):
    points = jnp.asarray(RNG.normal(size=(7, 2)))

    def loss(w, chunk):
        term = Term.of(lambda w, x: jnp.tanh(w * x), w, points, chunk=chunk)
        return total({"r": term}), term.values

    w = jnp.asarray([0.3, -2.0])
    everything = lambda chunk: (
        loss(w, chunk),
        jax.grad(loss, has_aux=True)(w, chunk),
        jax.hessian(loss, has_aux=True)(w, chunk),
    )
    for found, expected in zip(*map(jax.tree.leaves, (everything(chunk), everything(None))), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_the_gradient_of_a_term_in_chunks_keeps_only_one():
    points, weights = jnp.ones((4096, 8)), [jnp.ones((8, 8))] * 6

    def memory(chunk):
        def loss(weights):
            def residual(weights, x):
                for w in weights:
                    x = jnp.tanh(w @ x)
                return x

            return total({"r": Term.of(residual, weights, points, chunk=chunk)})

        return jax.jit(jax.grad(loss)).lower(weights).compile().memory_analysis().temp_size_in_bytes

    assert memory(256) < 0.5 * memory(None)


def test_supervised_is_the_mean_over_the_batch_of_the_loss_on_the_query():
    x, y = jnp.asarray(RNG.normal(size=(4, 1, 6))), jnp.asarray(RNG.normal(size=(4, 1, 3)))
    seen = []
    fine, coarse = Grid(6), Grid(3)

    def operator(u, domain, query=None, *, args=None, key=None):
        seen.append((domain, query, key))
        return 2.0 * u[:, ::2]

    objective = supervised(lambda p, t, where: where.shape[0] * jnp.mean((p - t) ** 2), fine, coarse)
    terms, _, carry = objective(operator, (x, y), key=jax.random.key(0), carry=7)
    np.testing.assert_allclose(
        total(terms), 3 * np.mean((2 * np.asarray(x)[..., ::2] - np.asarray(y)) ** 2), rtol=1e-14
    )
    assert carry == 7
    assert seen[0][:2] == (fine, coarse)
    assert jnp.issubdtype(seen[0][2].dtype, jax.dtypes.prng_key)


@pytest.mark.dtype
@pytest.mark.parametrize(
    ("dtype", "expected"), [(jnp.float32, jnp.float32), (jnp.bfloat16, jnp.float32), (jnp.float16, jnp.float32)]
)
def test_the_total_follows_the_values_and_is_float32_at_least(dtype, expected):
    terms = {"a": Term(jnp.ones(1001, dtype), "losses"), "b": Term(jnp.ones((3, 2), dtype), "residual")}
    assert total(terms).dtype == expected
    assert total(terms) == 2


@pytest.mark.plain
def test_wrong_terms_are_errors():
    with pytest.raises(ValueError, match=r"`kind` is 'loss'; expected 'losses' or 'residual'"):
        Term(jnp.ones(3), "loss")
    with pytest.raises(ValueError, match=r"`mask` has shape \(2,\); expected the leading axes .*\(3, 2\)"):
        Term(jnp.ones((3, 2)), "losses", mask=jnp.ones(2, bool))
    with pytest.raises(ValueError, match="`chunk` is 0; expected 1 or more samples"):
        Term.of(lambda m, x: x, None, jnp.ones(3), chunk=0)
    with pytest.raises(ValueError, match="`terms` is empty"):
        total({})
    with pytest.raises(ValueError, match="'data' as per-sample losses; a least-squares method needs residuals"):
        residual_vector({"data": Term(jnp.ones(3), "losses")})
