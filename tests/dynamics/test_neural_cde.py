"""The neural CDE against increments of its path, SciPy, its invariances, and a recurrent network."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.interpolate import CubicHermiteSpline
from scipy.linalg import expm

from opkit.dynamics import ControlledField, GlobalPenalty, Integrator, NeuralCDE, control_path

TS = np.array([0.0, 0.3, 0.7, 1.0, 1.9])
VALUES = np.random.default_rng(0).standard_normal((5, 2))
HOLES = np.where(np.array([[0, 1], [0, 0], [1, 0], [1, 0], [0, 1]], bool), np.nan, VALUES)
IDENTITY = lambda x: x


def tight(ts=None):
    controller = diffrax.PIDController(rtol=1e-9, atol=1e-9)
    return Integrator(None, controller if ts is None else diffrax.ClipStepSizeController(controller, step_ts=ts))


def path_of(ts, values, interpolation="linear", **options):
    return control_path(jnp.asarray(ts), jnp.asarray(values), interpolation, **options)


def nonlinear(t, z, args):
    return jnp.tanh(jnp.outer(z, jnp.array([0.5, 1.0, -0.7])) + jnp.array([[0.1, -0.4, 0.9]]))


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["cubic", "linear", "rectilinear"])
def test_a_constant_field_gives_the_increments_of_a_batch_of_paths_exactly(interpolation):
    matrix = np.random.default_rng(1).standard_normal((4, 3))
    clip = interpolation == "cubic"
    lift = np.eye(4, 3)

    @eqx.filter_jit
    @jax.vmap
    def read(ts, values):
        path = control_path(ts, values, interpolation)
        query = path.ts[jnp.array([0, 2, 3, 4])] + jnp.array([0.0, 0.0, 0.05, 0.0])
        integrator = tight(path.ts if clip else None)
        out = NeuralCDE(lambda t, z, args: matrix, lambda x: lift @ x, lambda z: 3 * z, integrator)(path, query)
        return out.ys, out.solution.stats["num_accepted_steps"], jax.vmap(path.evaluate)(query)

    ys, steps, xs = map(np.asarray, read(jnp.stack([TS, 1.1 * TS]), jnp.stack([VALUES, HOLES])))
    exact = xs[:, :1] @ lift.T + (xs - xs[:, :1]) @ matrix.T
    np.testing.assert_allclose(ys, 3 * exact, rtol=1e-12, atol=1e-12)
    assert steps.max() <= 54  # told of the knots, the solver takes a handful across each piece, all of them exact


def test_on_a_linear_path_a_linear_field_gives_products_of_exponentials():
    """`dz = (sum_i A_i dX_i) z`: over a straight piece the exponential of `sum_i A_i` times the increment."""
    matrices = 0.5 * np.random.default_rng(2).standard_normal((3, 3, 3))
    field = lambda t, z, args: jnp.einsum("iab,b->ai", jnp.asarray(matrices), z)
    path = path_of(TS, VALUES)
    found = eqx.filter_jit(NeuralCDE(field, IDENTITY, IDENTITY, tight()))(path).ys[-1]
    z = np.array([0.0, *VALUES[0]])
    for rise in np.diff(np.column_stack([TS, VALUES]), axis=0):
        z = expm(np.einsum("i,iab->ab", rise, matrices)) @ z
    np.testing.assert_allclose(found, z, rtol=1e-7)


def test_the_cubic_path_is_scipys_hermite_spline_with_backward_slopes():
    slopes = np.diff(VALUES, axis=0) / np.diff(TS)[:, None]
    spline = CubicHermiteSpline(TS, VALUES, np.concatenate([slopes[:1], slopes]))
    at = np.linspace(0, 1.9, 41)
    found = jax.vmap(path_of(TS, VALUES, "cubic").evaluate)(jnp.asarray(at))
    np.testing.assert_allclose(found, np.column_stack([at, spline(at)]), rtol=1e-12, atol=1e-12)


def test_missing_values_are_interpolated_held_at_the_end_and_zero_at_the_start():
    filled = HOLES.copy()
    filled[0, 1], filled[4, 1] = 0, HOLES[3, 1]
    filled[2:4, 0] = np.interp(TS[2:4], TS[[1, 4]], HOLES[[1, 4], 0])
    for interpolation in ("linear", "cubic"):
        path = path_of(TS, HOLES, interpolation)
        found = jax.vmap(path.evaluate)(jnp.asarray(TS))
        np.testing.assert_allclose(found, np.column_stack([TS, filled]), rtol=1e-12, atol=1e-12)
    # The cubic's slope has no jump, not where a gap ends either.
    left, right = (jax.vmap(path.derivative)(jnp.asarray(TS[1:-1]) + s * 1e-9) for s in (-1, 1))
    np.testing.assert_allclose(left, right, atol=1e-6)
    never = path_of(TS, np.column_stack([VALUES[:, 0], np.full(5, np.nan)]))
    np.testing.assert_array_equal(never.ys[:, 2], 0)


def test_the_rectilinear_path_knows_nothing_of_what_comes_later():
    path = path_of(TS, HOLES, "rectilinear", intensity=True)
    later = HOLES.copy()
    later[3:] = 7.0
    other = path_of(TS, later, "rectilinear", intensity=True)
    np.testing.assert_array_equal(path.ys[:6], other.ys[:6])
    at = np.arange(5) * 2
    np.testing.assert_array_equal(path.ys[at, 0], TS)
    np.testing.assert_array_equal(path.ys[at, 2], [0, *HOLES[1:4, 1], HOLES[3, 1]])
    np.testing.assert_allclose(path.ys[at, 3] * 5, [1, 2, 2, 2, 3])  # observations of the first channel so far


@pytest.mark.slow
def test_neither_how_a_path_is_sampled_nor_how_fast_it_is_traversed_matters():
    """Linear paths through the same points: with four more samples, with four others and a hole, and sped up."""
    model = eqx.filter_jit(NeuralCDE(nonlinear, lambda x: x[:1], IDENTITY, tight()))

    def sampled(more, hole=None):
        ts = np.sort(np.concatenate([TS, more]))
        values = np.stack([np.interp(ts, TS, v) for v in VALUES.T], 1)
        values[ts == hole, 0] = np.nan
        return path_of(ts, values)

    path = sampled([0.1, 0.2, 1.2, 1.5])
    reference = model(path).ys
    np.testing.assert_allclose(model(sampled([0.05, 0.5, 0.55, 1.7], hole=0.5)).ys, reference, rtol=1e-7)
    faster = diffrax.LinearInterpolation(path.ts**3 / 4, path.ys)
    np.testing.assert_allclose(model(faster).ys, reference, rtol=1e-7)


@pytest.mark.slow
def test_training_tells_turning_while_a_penalty_saves_steps(key):
    """The same few steps with and without the penalty of the error."""
    ts, values, label = draw_spirals(64, 0)
    paths = jax.vmap(control_path)(ts, values)
    controller = diffrax.PIDController(rtol=1e-3, atol=1e-3)
    keys = jax.random.split(key, 3)
    start = NeuralCDE(
        ControlledField(6, 3, width=16, key=keys[0]), eqx.nn.Linear(3, 6, key=keys[1]),
        eqx.nn.Linear(6, 1, key=keys[2]), Integrator(None, controller, max_steps=256),
    )  # fmt: skip
    optimiser = optax.adam(1e-2)

    @eqx.filter_jit
    def step(model, state, weight):
        def loss(model):
            out = jax.vmap(lambda path: model(path, regulariser=GlobalPenalty("error", weight)))(paths)
            data = optax.sigmoid_binary_cross_entropy(out.ys[:, -1, 0], label).mean()
            return data + out.penalty.mean(), (data, out.solution.stats["num_steps"].mean())

        gradient, figures = eqx.filter_grad(loss, has_aux=True)(model)
        updates, state = optimiser.update(gradient, state)
        return eqx.apply_updates(model, updates), state, figures

    steps = []
    for weight in (0.0, 0.1):
        model, state = start, optimiser.init(eqx.filter(start, eqx.is_inexact_array))
        losses = []
        for _ in range(40):
            model, state, (data, taken) = step(model, state, jnp.asarray(weight))
            losses.append(float(data))
        assert losses[-1] < losses[0] - 0.1, losses
        steps.append(float(taken))
    assert steps[1] < 0.9 * steps[0]


@pytest.mark.dtype
@pytest.mark.parametrize("interpolation", ["cubic", "linear", "rectilinear"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_that_of_the_values(interpolation, dtype, key):
    if not jax.config.jax_enable_x64 and dtype == np.float64:
        pytest.skip("no float64 without x64")
    model = NeuralCDE(ControlledField(2, 5, width=3, key=key), lambda x: x[:2], IDENTITY, Integrator())
    path, out = eqx.filter_eval_shape(
        lambda ts, values: (path := control_path(ts, values, interpolation, intensity=True), model(path)),
        jnp.asarray(TS), jnp.asarray(HOLES, dtype),
    )  # fmt: skip
    assert path.ts.dtype == out.ys.dtype == out.penalty.dtype == dtype


@pytest.mark.plain
def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"`ts` has 0\.7 at 2 and 0\.7 after it; expected strictly increasing"):
        path_of([0.0, 0.3, 0.7, 0.7, 1.9], VALUES)
    with pytest.raises(ValueError, match="`interpolation` is 'spline'; expected one of"):
        path_of(TS, VALUES, "spline")
    with pytest.raises(ValueError, match="`ts` has 5 times, `values` 4"):
        path_of(TS, VALUES[1:])
    with pytest.raises(ValueError, match="`ts` has 1 times"):
        path_of(TS[:1], VALUES[:1])
    model = NeuralCDE(lambda t, z, args: jnp.ones((3, 2)), IDENTITY, IDENTITY, Integrator())
    with pytest.raises(ValueError, match=r"`vector_field` gave shape \(3, 2\); .* = \(3, 3\)"):
        model(path_of(TS, VALUES))
    with pytest.raises(ValueError, match=r"`query` begins at -1\.0"):
        model(path_of(TS, VALUES), jnp.array([-1.0, 0.5]))


def draw_spirals(samples, seed):
    """Noisy spirals, clockwise or not, from any angle, at 20 of 60 times; a tenth of the values missing."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, samples)
    ts = np.sort(np.stack([rng.choice(60, 20, replace=False) for _ in range(samples)]), 1) / 10
    angle = rng.uniform(0, 2 * np.pi, (samples, 1)) + (2 * label[:, None] - 1) * ts
    radius = np.exp(-0.1 * ts) * rng.uniform(0.5, 1.5, (samples, 1))
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1) + 0.1 * rng.standard_normal(
        (samples, 20, 2)
    )
    values[rng.random(values.shape) < 0.1] = np.nan
    return jnp.asarray(ts), jnp.asarray(values), jnp.asarray(label)


class Recurrent(eqx.Module):
    """A GRU over the path's data and the gaps; the same numbers a step as the CDE sees."""

    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear

    def __call__(self, path):
        rows = jnp.concatenate([path.ys, jnp.diff(path.ts, prepend=path.ts[:1])[:, None]], 1)
        h, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), jnp.zeros(self.cell.hidden_size), rows)
        return self.readout(h)[0]


class Controlled(eqx.Module):
    cde: NeuralCDE

    def __call__(self, path):
        return self.cde(path).ys[-1, 0]


@pytest.mark.slow
def test_turning_is_told_from_irregular_samples_as_well_as_by_a_gru_of_as_many_parameters(key):
    (paths, label), (tests, truth) = (
        (jax.vmap(lambda t, v: control_path(t, v, "linear"))(ts, values), label)
        for ts, values, label in (draw_spirals(256, 0), draw_spirals(512, 1))
    )
    keys = jax.random.split(key, 5)
    controller = diffrax.PIDController(rtol=1e-2, atol=1e-2)
    cde = NeuralCDE(
        ControlledField(8, 3, width=17, key=keys[0]), eqx.nn.Linear(3, 8, key=keys[1]),
        eqx.nn.Linear(8, 1, key=keys[2]), Integrator(diffrax.Heun(), controller, max_steps=256),
    )  # fmt: skip
    models = Controlled(cde), Recurrent(eqx.nn.GRUCell(4, 12, key=keys[3]), eqx.nn.Linear(12, 1, key=keys[4]))
    sizes = [sum(x.size for x in jax.tree.leaves(eqx.filter(m, eqx.is_inexact_array))) for m in models]
    assert abs(sizes[0] / sizes[1] - 1) < 0.05, sizes
    accuracies = []
    for model in models:
        optimiser = optax.adam(1e-2)
        state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))

        @eqx.filter_jit
        def step(model, state, optimiser=optimiser):
            def loss(model):
                return optax.sigmoid_binary_cross_entropy(jax.vmap(model)(paths), label).mean()

            updates, state = optimiser.update(eqx.filter_grad(loss)(model), state)
            return eqx.apply_updates(model, updates), state

        for _ in range(100):
            model, state = step(model, state)
        accuracies.append(float(jnp.mean((jax.vmap(model)(tests) > 0) == (truth == 1))))
    assert accuracies[0] >= max(0.95, accuracies[1] - 0.02), accuracies
