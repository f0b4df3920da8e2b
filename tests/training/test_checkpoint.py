import gc
import json
import logging
import random
import resource
import shutil
import signal
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.training import CheckpointError, Checkpoints, TrainState


def state_at(step: int) -> TrainState:
    """A state with every kind of leaf, all of whose arrays depend on the step."""
    key = jax.random.key(step)
    model = {
        "weight": np.random.default_rng(step).normal(size=(5, 7)).astype(np.float32),
        "half": jnp.arange(3, dtype=jnp.bfloat16) + step,
        "complex": jnp.full(2, step + 1j),
        "keys": jax.random.split(key, 3),
        "activation": jnp.tanh,
        "slope": 0.2,
    }
    return TrainState(
        jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, model),
        (key,),
        {"empty": jnp.zeros((0, 2)), "host": np.arange(4) * step},
        jnp.asarray(step, jnp.int32),
    )


def bits(tree) -> list:
    leaves = jax.tree.leaves(tree)
    raw = [
        jax.random.key_data(x) if eqx.is_array(x) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in leaves
    ]
    return [(x.dtype, x.shape, np.asarray(x).tobytes()) if hasattr(x, "dtype") else x for x in raw]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Steps 10 to 40, of which the metric `error` is least at 10; the latest two are kept, and the best."""
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    with Checkpoints(folder, keep=2, best="error", config_hash="abc") as checkpoints:
        assert checkpoints.restore(state_at(0)) is None
        for step in (10, 20, 30, 40):
            checkpoints.save(state_at(step), {"error": step / 100, "other": 1.0})
    return folder


@pytest.fixture
def copied(written, tmp_path):
    return shutil.copytree(written, tmp_path / "checkpoint")


def opened(folder, **changes):
    return Checkpoints(folder, **{"keep": 2, "best": "error", "config_hash": "abc"} | changes)


@pytest.mark.dtype
def test_the_latest_state_comes_back_to_the_bit(written):
    with opened(written) as checkpoints:
        restored = checkpoints.restore(state_at(0))
    assert bits(restored) == bits(state_at(40))
    assert restored.opt_state[0].dtype == jax.random.key(0).dtype


def test_the_latest_are_kept_and_the_best(written):
    with opened(written) as checkpoints:
        assert checkpoints.steps == [10, 30, 40]
        assert bits(checkpoints.restore(state_at(0), best=True)) == bits(state_at(10))


def test_the_greatest_is_the_best_when_asked_and_what_is_no_number_never(tmp_path):
    with Checkpoints(tmp_path, keep=1, best="accuracy", mode="max") as checkpoints:
        for step, accuracy in ((1, 0.5), (2, 0.9), (3, float("nan")), (4, None), (5, 0.7)):
            checkpoints.save(state_at(step), {} if accuracy is None else {"accuracy": accuracy})
        checkpoints.wait()
        assert checkpoints.steps == [2, 5]


def test_states_between_multiples_of_every_are_passed_over_but_not_the_end(tmp_path):
    with Checkpoints(tmp_path, keep=9, every=10, end=37) as checkpoints:
        for step in (4, 8, 12, 16, 21, 25, 33, 37):
            checkpoints.save(state_at(step), {})
        checkpoints.wait()
        assert checkpoints.steps == [12, 21, 33, 37]


def test_what_is_saved_is_the_state_at_the_call(tmp_path):
    """Training goes on in the same memory while the state is written."""
    host = np.zeros(100_000)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(TrainState(host, None, None, jnp.asarray(1)), {})
        host[:] = 1.0
        restored = checkpoints.restore(TrainState(host, None, None, jnp.asarray(0)))
    assert not restored.model.any()


def test_a_state_is_placed_where_the_program_has_it(tmp_path):
    """Written from one device, read onto four: the arrays are whole on disk."""
    mesh = jax.make_mesh((4,), ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(TrainState(jnp.arange(8.0), None, None, jnp.asarray(1)), {})
        like = TrainState(jax.device_put(jnp.zeros(8), sharding), None, None, jnp.asarray(0))
        restored = checkpoints.restore(like)
    assert restored.model.sharding == sharding
    np.testing.assert_array_equal(restored.model, np.arange(8.0))
    assert not restored.step.committed


def test_a_number_that_promotes_weakly_still_does(tmp_path):
    """Else a resumed program would compute, and compile, in another precision."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(TrainState(jnp.asarray(2.5), None, None, jnp.asarray(1)), {})
        restored = checkpoints.restore(TrainState(jnp.asarray(0.0), None, None, jnp.asarray(0)))
    assert restored.model == 2.5
    assert restored.model.weak_type


def test_an_unfinished_folder_is_passed_over_and_removed(copied):
    leftover = copied / "50.orbax-checkpoint-tmp"
    shutil.copytree(copied / "40", leftover)
    (leftover / "manifest" / "metadata").write_text("{")
    with opened(copied) as checkpoints:
        assert checkpoints.latest == 40
        assert bits(checkpoints.restore(state_at(0))) == bits(state_at(40))
    for _ in range(100):  # Orbax removes it from a thread of its own
        if not leftover.exists():
            break
        time.sleep(0.1)
    assert not leftover.exists()


def damaged_versions(raw: bytes, truncations: int, flips: int, rng: random.Random):
    """Truncations, bit flips, and where there are many, the empty file and none at all."""
    yield from (raw[: len(raw) * i // (truncations + 1)] for i in range(1, truncations + 1))
    for _ in range(flips if raw else 0):
        position = rng.randrange(8 * len(raw))
        changed = bytearray(raw)
        changed[position // 8] ^= 1 << position % 8
        yield bytes(changed)
    if flips > 1:
        yield from (b"", None)


def outcomes_of_damage(folder, truncations: int, flips: int) -> dict[str, int]:
    """Damage each file of the latest checkpoint in turn; anything else than an error or the right bits fails."""
    counts, right, rng = {"error": 0, "right": 0}, bits(state_at(40)), random.Random(0)
    for file in sorted(path for path in (folder / "40").rglob("*") if path.is_file()):
        raw = file.read_bytes()
        for content in damaged_versions(raw, truncations, flips, rng):
            file.unlink() if content is None else file.write_bytes(content)
            with opened(folder) as checkpoints:
                try:
                    restored = checkpoints.restore(state_at(0))
                except CheckpointError as error:
                    told = str(error)
                    counts["error"] += 1
                else:
                    told = "Step 30 is intact" if bits(restored) == right else "wrong numbers"
                    counts["right"] += 1
            assert "Step 30 is intact" in told, f"{file}: {told}"
        file.write_bytes(raw)
    # Where one of many arrays cannot be read, Orbax closes its event loop on the other reads, which complain of it.
    gc.collect()
    time.sleep(0.2)
    return counts


orbax_complains = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@orbax_complains
def test_damage_to_any_file_is_an_error_or_harmless(copied):
    counts = outcomes_of_damage(copied, truncations=1, flips=1)
    assert counts["error"] > 5


@orbax_complains
@pytest.mark.slow
def test_damage_to_any_file_is_an_error_or_harmless_at_length(copied):
    counts = outcomes_of_damage(copied, truncations=8, flips=60)
    print(counts)
    assert counts["error"] > 150


def test_a_wrong_checksum_of_an_array_names_it(copied):
    file = copied / "40" / "manifest" / "metadata"
    manifest = json.loads(file.read_text())
    from opkit.training.runs.checkpoint import _checksum

    manifest["arrays"][0]["crc32"] += 1
    del manifest["checksum"]
    file.write_text(json.dumps(manifest | {"checksum": _checksum(manifest)}))
    name = manifest["arrays"][0]["path"]
    with opened(copied) as checkpoints, pytest.raises(CheckpointError, match=f"checksum of the array {name}"):
        checkpoints.restore(state_at(0))


def test_orbax_says_nothing_below_a_warning_and_the_users_own_records_pass(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    logging.getLogger("absl").setLevel(logging.INFO)
    try:
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(state_at(1), {})
        logging.getLogger("absl").info("the user's own")
    finally:
        logging.getLogger("absl").setLevel(logging.NOTSET)
    assert [r.message for r in caplog.records if r.name == "absl"] == ["the user's own"]


@pytest.mark.plain
def test_errors_name_the_folder_what_is_wrong_and_the_way_on(copied):
    (copied / "40" / "manifest" / "metadata").write_text("{")
    with opened(copied) as checkpoints, pytest.raises(CheckpointError, match=r"40 is damaged.*remove \S*40 and run"):
        checkpoints.restore(state_at(0))
    for step in ("10", "30"):
        (copied / step / "manifest" / "metadata").write_text("{")
    with opened(copied) as checkpoints, pytest.raises(CheckpointError, match="No earlier step is intact"):
        checkpoints.restore(state_at(0))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: eqx.tree_at(lambda s: s.model["weight"], s, jnp.zeros((5, 8))), r"model/weight \(5, 7\).*\(5, 8\)"),
        (lambda s: eqx.tree_at(lambda s: s.model["half"], s, jnp.zeros(3)), r"model/half \(3,\) bfloat16.*float32"),
        (lambda s: eqx.tree_at(lambda s: s.model["keys"], s, jnp.zeros(3)), r"model/keys \(3,\) key:threefry2x32"),
        (lambda s: eqx.tree_at(lambda s: s.model["keys"], s, None), "model/keys .* the program has model/weight"),
        (lambda s: eqx.tree_at(lambda s: s.model["slope"], s, jnp.ones(())), "the program has model/slope"),
    ],
)
def test_another_structure_is_refused_by_its_first_path(written, change, message):
    with opened(written) as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.restore(change(state_at(0)))


@pytest.mark.plain
def test_another_configuration_and_a_format_of_the_future_are_refused(copied, monkeypatch):
    with opened(copied, config_hash="xyz") as checkpoints, pytest.raises(CheckpointError, match="'abc', not 'xyz'"):
        checkpoints.restore(state_at(0))
    monkeypatch.setattr("opkit.training.runs.checkpoint._VERSION", 0)
    with opened(copied) as checkpoints, pytest.raises(CheckpointError, match="format version 1; this program reads 0"):
        checkpoints.restore(state_at(0))


@pytest.mark.plain
def test_wrong_arguments_and_folders_are_told(written, tmp_path):
    with pytest.raises(ValueError, match="`keep` is 0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="`mode` is 'least'"):
        Checkpoints(tmp_path, mode="least")  # pyright: ignore[reportArgumentType]  the point
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"`directory` .* cannot be written"):
        Checkpoints(tmp_path / "file" / "checkpoint")
    with opened(written) as checkpoints, pytest.raises(CheckpointError, match=r"at step 3, but .* goes on to 40"):
        checkpoints.save(state_at(3), {})


@orbax_complains
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_state_that_the_disk_has_no_room_for_is_an_error_and_leaves_the_earlier_one(tmp_path):
    """The room is a limit on the size of files, here of 100 kB."""
    limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(1), {})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            noise = np.random.default_rng(0).normal(size=100_000)
            checkpoints.save(TrainState(noise, None, None, jnp.asarray(2)), {})
            with pytest.raises(CheckpointError, match="latest complete one is of step 1; make room"):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        assert bits(checkpoints.restore(state_at(0))) == bits(state_at(1))
