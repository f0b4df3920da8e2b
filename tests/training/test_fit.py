"""The loop: exact on least squares, the same numbers from the device and from a stream, and after a resume."""

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from opkit.data import ArraySource, HDF5Source, index_stream
from opkit.training import NonFiniteLoss, Term, ema_parameters, fit, init_state, supervised

RNG = np.random.default_rng(0)
X = RNG.normal(size=(21, 1, 16)).astype(np.float32)
Y = np.roll(X, 1, axis=-1) - X


class Store:
    """A checkpoint store in memory."""

    def __init__(self, saved=None):
        self.saved, self.states, self.figures, self.closed = saved, {}, [], 0

    def restore(self, like):
        return self.saved

    def save(self, state, metrics, *, now=False):
        self.saved = jax.tree.map(lambda a: jnp.copy(a) if eqx.is_array(a) else a, state)
        self.states[int(state.step)] = self.saved
        self.figures.append(metrics)

    def close(self):
        self.closed += 1


def network():
    """A convolution with enough around it for a compiler to fuse, and random at every call."""
    k1, k2 = jax.random.split(jax.random.key(1))
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv1d(1, 4, 5, padding=2, padding_mode="CIRCULAR", dtype=jnp.float32, key=k1),
            eqx.nn.Lambda(jax.nn.gelu),
            eqx.nn.Conv1d(4, 1, 5, padding=2, padding_mode="CIRCULAR", dtype=jnp.float32, key=k2),
        ]
    )


def noisy(model, batch, *, key, carry):
    x, y = batch
    x = x + 0.1 * jax.random.normal(key, x.shape, x.dtype)
    return {"data": Term(jax.vmap(model)(x) - y, "residual")}, {}, 0.9 * carry + 0.1


OPTIMISER = optax.chain(optax.adam(1e-2), ema_parameters(0.9))
SETTINGS = {"steps": 17, "batch_size": 8, "seed": 3, "chunk": 5}


@pytest.fixture(scope="module")
def whole_run():
    """A run from the device, its log and its checkpoints."""
    store, lines, compiled = Store(), [], []
    state = fit(
        noisy,
        network(),
        (X, Y),
        OPTIMISER,
        carry=0.0,
        checkpoints=store,
        log=lambda step, figures: lines.append((step, figures)),
        on_compile=compiled.append,
        validate=lambda state: {"carry": float(state.carry)},
        validate_every=10,
        **SETTINGS,
    )
    return state, store, lines, compiled


def test_least_squares_reaches_the_exact_solution():
    a, b = RNG.normal(size=(30, 4)), RNG.normal(size=(30, 1))

    def objective(w, batch, *, key, carry):
        return {"fit": Term(batch[0] @ w - batch[1], "residual")}, {}, carry

    state = fit(objective, jnp.zeros((4, 1)), (a, b), optax.sgd(0.3), steps=600, seed=0)
    np.testing.assert_allclose(state.model, np.linalg.lstsq(a, b)[0], atol=1e-10)


def test_a_stream_gives_the_devices_numbers_bit_for_bit(whole_run, tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x_train"], file["y_train"] = X, Y
    with HDF5Source(tmp_path / "data.h5", ndim=1) as source:
        from_disk = fit(noisy, network(), source, OPTIMISER, carry=0.0, **SETTINGS)
    assert eqx.tree_equal(from_disk, whole_run[0])


def test_a_resumed_run_agrees_with_the_whole_bit_for_bit(whole_run):
    state, store, lines, _ = whole_run
    rest = []
    resumed = fit(
        noisy,
        network(),
        (X, Y),
        OPTIMISER,
        carry=0.0,
        checkpoints=Store(store.states[10]),
        log=lambda step, figures: rest.append((step, figures["loss"])),
        **SETTINGS,
    )
    assert eqx.tree_equal(resumed, state)
    assert rest == [(step, figures["loss"]) for step, figures in lines if step > 10]


@pytest.mark.parametrize("source", [lambda data: data, ArraySource])
def test_an_interrupt_closes_the_checkpoints_and_passes_on(source):
    store = Store()

    def log(step, _):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            growing,
            jnp.ones(1),
            source(np.ones((4, 1))),
            optax.sgd(0.1),
            steps=9,
            seed=0,
            chunk=1,
            log=log,
            checkpoints=store,
        )
    assert list(store.states) == [1, 2]
    assert store.closed == 1


def test_chunks_end_on_the_grid_and_compile_once_a_length(whole_run):
    state, store, lines, compiled = whole_run
    assert list(store.states) == [step for step, _ in lines] == [5, 10, 15, 17]
    assert len(compiled) == 2
    assert min(compiled) > 0
    assert store.closed == 1
    assert state.step == 17
    assert state.carry.weak_type is False
    np.testing.assert_allclose(state.carry, 1 - 0.9**17, rtol=1e-6)


def test_validation_is_logged_when_it_is_due_and_at_the_end(whole_run):
    _, store, lines, _ = whole_run
    assert ["validate/carry" in figures for _, figures in lines] == [False, True, False, True]
    np.testing.assert_allclose(lines[1][1]["validate/carry"], 1 - 0.9**10, rtol=1e-6)
    assert set(lines[0][1]) == {"loss", "grad_norm", "term/data"}
    assert store.figures[-1] == lines[-1][1]


def test_the_steps_see_the_documented_keys_and_batches():
    def objective(w, batch, *, key, carry):
        numbers = jnp.sum(batch.astype(jnp.int32) * 100 ** jnp.arange(2)[:, None])
        return {"a": Term(w, "residual")}, {"batch": numbers, "noise": jax.random.normal(key)}, carry

    rows = []
    data = np.arange(7.0)[:, None]
    fit(
        objective,
        jnp.ones(1),
        data,
        optax.sgd(0.1),
        steps=5,
        batch_size=2,
        seed=9,
        chunk=1,
        log=lambda s, f: rows.append(f),
    )
    batches = index_stream(7, 2, 9)(0, 5)
    keys = [jax.random.fold_in(jax.random.key(9), step) for step in range(5)]
    assert [row["batch"] for row in rows] == [float(a + 100 * b) for a, b in batches]
    np.testing.assert_allclose([row["noise"] for row in rows], [jax.random.normal(key) for key in keys], rtol=1e-12)


def test_the_callers_state_and_data_survive():
    state, data = init_state(jnp.ones(3), OPTIMISER), jnp.ones((4, 3))
    fit(growing, state, data, OPTIMISER, steps=5, seed=0)
    assert np.array_equal(state.model, np.ones(3))
    assert not any(array.is_deleted() for array in jax.tree.leaves((state, data)))


def test_an_objective_may_make_its_own_batches():
    def objective(w, batch, *, key, carry):
        assert batch is None
        points = jax.random.uniform(key, (64,), w.dtype)
        return {"pde": Term(w[0] + w[1] * points - points**2, "residual")}, {}, carry

    state = fit(objective, jnp.zeros(2), None, optax.adam(3e-2), steps=600, seed=0)
    np.testing.assert_allclose(state.model, [-1 / 6, 1], atol=0.02)  # the best line through x^2


def growing(w, batch, *, key, carry):
    return {"square": Term(w * batch, "residual")}, {}, carry


@pytest.mark.parametrize("source", [lambda data: data, ArraySource])
def test_a_loss_that_is_not_finite_names_step_and_terms_and_is_never_saved(source):
    # a step takes w to w - 2 * 2 w, so w^2 is 9^s, and 9^40 < 3.4e38 < 9^41
    store, data = Store(), np.ones((1, 1), np.float32)
    model = jnp.ones(1, jnp.float32)
    with pytest.raises(NonFiniteLoss, match="not finite at step 41: square inf") as caught:
        fit(growing, model, source(data), optax.sgd(2.0), steps=100, seed=0, chunk=10, checkpoints=store)
    assert caught.value.step == 41
    assert caught.value.terms == {"square": np.inf}
    assert list(store.states) == [10, 20, 30, 40]
    assert store.closed == 1
    assert np.isfinite(store.saved.model).all()


def test_chunks_divide_the_steps_between_validations_by_default():
    ends, due = [], []
    settings = {"steps": 330, "seed": 0, "log": lambda step, figures: ends.append(step)}
    model, data = jnp.ones(1), np.ones((4, 1))
    fit(growing, model, data, optax.sgd(0.1), validate=lambda s: due.append(s) or {}, validate_every=150, **settings)
    assert ends == [75, 150, 225, 300, 330]
    assert [int(state.step) for state in due if not state.step.is_deleted()] == [330]
    assert len(due) == 3
    ends.clear()
    fit(growing, model, data, optax.sgd(0.1), **settings)
    assert ends == [100, 200, 300, 330]


def test_only_what_is_accepted_is_trained_and_a_key_may_be_carried():
    def objective(model, batch, *, key, carry):
        carry, key = jax.random.split(carry)
        return {"a": Term(model["a"] * model["b"] + jax.random.normal(key, (1,)), "residual")}, {}, carry

    model, accept = {"a": jnp.ones(1), "b": jnp.ones(1)}, lambda path: path == "b"
    settings = {"steps": 3, "seed": 0, "carry": jax.random.key(5), "trainable": accept}
    state = fit(objective, model, None, optax.adamw(0.1, weight_decay=0.1), **settings)
    assert state.model["a"] == 1
    assert state.model["b"] != 1
    assert state.carry != jax.random.key(5)


def test_a_finished_run_is_not_trained_further(whole_run):
    state = whole_run[0]
    again = fit(noisy, network(), (X, Y), OPTIMISER, carry=0.0, checkpoints=Store(state), **SETTINGS)
    assert eqx.tree_equal(again, state)


def test_progress_is_shown_when_asked(capsys):
    fit(growing, jnp.ones(1), np.ones((4, 1)), optax.sgd(0.1), steps=4, seed=0, progress=True)
    assert "4/4" in capsys.readouterr().err
    fit(growing, jnp.ones(1), np.ones((4, 1)), optax.sgd(0.1), steps=4, seed=0)
    assert capsys.readouterr().err == ""


@pytest.mark.dtype
def test_supervised_training_of_a_normal_user_lowers_the_loss():
    losses = []
    objective = supervised(lambda p, t, domain: jnp.mean((p - t) ** 2), None)
    fit(objective, network(), (X, Y), optax.adam(3e-2), steps=40, seed=0, chunk=20, log=lambda s, f: losses.append(f))
    assert losses[1]["loss"] < 0.5 * losses[0]["loss"]


@pytest.mark.plain
def test_configurations_that_do_not_fit_together_are_errors():
    def run(data=X[:, 0], **settings):
        return fit(growing, jnp.ones(16), data, optax.sgd(0.1), **{"steps": 10, "seed": 0} | settings)

    with pytest.raises(ValueError, match="`batch_size` is 22 for 21 samples; expected 1 to 21"):
        run(batch_size=22)
    with pytest.raises(ValueError, match="`batch_size` is 0 for 21 samples"):
        run(batch_size=0)
    with pytest.raises(ValueError, match="`batch_size` is 4, but `data` is None"):
        run(data=None, batch_size=4)
    with pytest.raises(ValueError, match=r"\[0\]': \(21, 1, 16\).*\[1\]': \(20, 1, 16\).*as many samples in all"):
        run(data=(X, Y[:20]))
    with pytest.raises(ValueError, match="`chunk` is 0; expected at least one step"):
        run(chunk=0)
    with pytest.raises(ValueError, match="`validate_every` is 7 steps, not a multiple of `chunk`, 5"):
        run(chunk=5, validate=lambda state: {}, validate_every=7)
    with pytest.raises(
        ValueError, match="`validate_every` is 5, `validate` None; expected a number of steps and a func"
    ):
        run(validate_every=5)
    with pytest.raises(ValueError, match="`carry` is for a model to begin with; this `state` is a `TrainState`"):
        fit(growing, init_state(jnp.ones(1), optax.sgd(0.1)), None, optax.sgd(0.1), steps=1, seed=0, carry=1)
