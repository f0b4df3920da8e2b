import dataclasses
import enum
import json
import signal
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest

from opkit.training import (
    CheckpointError,
    Diverged,
    Run,
    RunError,
    SolveFailed,
    Term,
    TrainState,
    launch,
    load_model,
    result_table,
)


class Flow(enum.Enum):
    LAMINAR = 1
    TURBULENT = 2


@dataclasses.dataclass(frozen=True)
class Grid:
    points: int = 8


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 0.1
    widths: tuple[int, ...] = (4, 4)
    flow: Flow = Flow.LAMINAR
    deep: bool = False
    grid: Grid = Grid()


def start(main, *argv, out, **options):
    return launch(main, Config, argv=["--out", str(out), "--quiet", *argv], **options)


def figures(config, run):
    run.record_data("d41d8")
    return {"rate": config.rate + run.seed, "error@8": jnp.float32(0.5 * run.seed), "error@16": np.float64(2.0)}


def objective(model, batch, *, key, carry):
    x, y = batch
    return {"data": Term(x @ model - y, "residual")}, {}, carry


DATA = (np.random.default_rng(0).normal(size=(12, 3)), np.ones(12))


def fitted(run, stage="train", rate=0.1, steps=6, **options):
    return run.fit(
        objective, jnp.zeros(3), DATA, optax.sgd(rate), steps=steps, batch_size=4, chunk=2, stage=stage, **options
    )


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_result_holds_every_seed_and_its_median(tmp_path):
    result = start(figures, "--seeds", "0", "2", "1", out=tmp_path)
    (folder,) = (tmp_path / "test_launch").iterdir()
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["seeds"] == [0, 1, 2]
    assert result["values"] == {"rate": [0.1, 1.1, 2.1], "error@8": [0.0, 0.5, 1.0], "error@16": [2.0] * 3}
    assert result["metrics"] == {"rate": 1.1, "error@8": 0.5, "error@16": 2.0}
    assert result["data"] == "d41d8"
    assert result["config"] == {
        "rate": 0.1, "widths": [4, 4], "flow": "LAMINAR", "deep": False, "grid": {"points": 8}
    }  # fmt: skip
    assert {"experiment", "seconds", "device", "versions", "commit"} <= set(result)
    assert json.loads((folder / "seed2" / "config.json").read_text())["seed"] == 2


def test_flags_override_presets_and_smoke_which_override_the_defaults(tmp_path):
    given = []

    def main(config, run):
        given.append((config, run.smoke))
        return {}

    presets = {"turbulent": Config(flow=Flow.TURBULENT, rate=0.2, grid=Grid(64))}
    start(main, "--preset", "turbulent", "--widths", "1", "2", "3", "--deep", out=tmp_path, presets=presets)
    start(
        main,
        "--preset=turbulent",
        "--smoke",
        "--grid.points",
        "5",
        out=tmp_path,
        presets=presets,
        smoke={"widths": (1,)},
    )
    start(main, "--flow", "TURBULENT", "--seeds", "4", "4", out=tmp_path)
    assert given == [
        (Config(0.2, (1, 2, 3), Flow.TURBULENT, True, Grid(64)), False),
        (Config(0.2, (1,), Flow.TURBULENT, False, Grid(5)), True),
        (Config(flow=Flow.TURBULENT), False),
    ]


def test_each_configuration_has_its_folder_and_a_smoke_run_never_that_of_the_full_one(tmp_path):
    for argv in ([], ["--rate", "0.2"], ["--smoke"], ["--seeds", "1"]):
        start(figures, *argv, out=tmp_path)
    assert len(list((tmp_path / "test_launch").iterdir())) == 3


def test_finished_seeds_are_read_and_not_run_again(tmp_path, capsys):
    runs = []

    def main(config, run):
        runs.append(run.seed)
        return {"error": 1.0 + run.seed}

    start(main, "--seeds", "0", "1", out=tmp_path)
    result = start(main, "--seeds", "1", "2", out=tmp_path)
    assert runs == [0, 1, 2]
    assert result["seeds"] == [0, 1, 2]
    assert capsys.readouterr().out == ""
    launch(main, Config, argv=["--out", str(tmp_path)])
    assert runs == [0, 1, 2]
    assert "error  2 (1..3)" in capsys.readouterr().out


def test_the_help_tells_the_experiments_flags_and_presets(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        start(figures, "--help", out=tmp_path, presets={"turbulent": Config(), "slow": Config()})
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    assert all(text in told for text in ("--rate FLOAT", "--seeds", "Presets: turbulent, slow."))


def test_the_table_has_a_column_for_each_resolution():
    result = {
        "experiment": "fno", "seeds": [0, 1, 2], "seconds": 75.2, "device": "1 x cpu",
        "values": {"l2@32": [0.1, 0.3, 0.2], "l2@64": [0.4, 0.4, 0.4], "h1@64": [1.0, 2.0, 3.0], "size": [7.0] * 3},
    }  # fmt: skip
    assert result_table(result).splitlines() == [
        "fno: seeds 0 1 2, 75 s on 1 x cpu",
        "                @32             @64",
        "l2              0.2 (0.1..0.3)  0.4 (0.4..0.4)",
        "h1                              2 (1..3)",
        "size  7 (7..7)",
    ]


def main_of(file: Path, text: str):
    """The function `main` of an experiment in `file`."""
    file.write_text(text)
    namespace = {}
    exec(compile(text, str(file), "exec"), namespace)
    return namespace["main"]


def test_changed_code_is_refused_unless_told(tmp_path):
    file = tmp_path / "experiment.py"
    start(main_of(file, "main = lambda config, run: {'a': 1}"), out=tmp_path)
    changed = main_of(file, "main = lambda config, run: {'a': 2}")
    with pytest.raises(RunError):
        start(changed, "--seeds", "1", out=tmp_path)
    result = start(changed, "--seeds", "1", "--changed-code", out=tmp_path)
    assert result["values"] == {"a": [1.0, 2.0]}
    assert len(result["code"]) == 2


def test_the_code_that_counts_is_opkit_solvers_and_the_experiments_own(tmp_path, monkeypatch):
    from opkit.training.runs.provenance import code_hash

    experiment, beside = tmp_path / "experiment.py", tmp_path / "problem.py"
    hashes = []
    for path, text in ((experiment, "a"), (experiment, "b"), (beside, "c"), (beside, "d")):
        path.write_text(text)
        hashes.append(code_hash(experiment))
    assert len(set(hashes)) == 2  # what lies beside it does not count until it is imported
    monkeypatch.syspath_prepend(tmp_path)
    beside.write_text("x = 1")
    import problem  # noqa: F401  # pyright: ignore[reportMissingImports]  written just now

    assert code_hash(experiment) not in hashes
    del sys.modules["problem"]


def summed(run: Run, until: int, stage: str) -> float:
    """A training loop of one's own: the sum of the steps."""
    state = TrainState(jnp.zeros(()), None, None, jnp.asarray(0))
    with run.checkpoints(stage, every=2) as checkpoints:
        state = checkpoints.restore(state) or state
        for step in range(int(state.step) + 1, until + 1):
            state = TrainState(state.model + step, None, None, jnp.asarray(step))
            run.log(step, {"sum": float(state.model)}, stage=stage)
            checkpoints.save(state, {})
    return float(state.model)


def test_a_loop_of_ones_own_resumes_with_its_checkpoints(tmp_path):
    assert summed(Run(tmp_path, 0), 5, "sum") == 15.0
    assert summed(Run(tmp_path, 0), 7, "sum") == 28.0
    assert [row["sum"] for row in lines(tmp_path)] == [1, 3, 6, 10, 15, 21, 28]


def test_a_run_resumes_its_stages_one_by_one(tmp_path):
    """Stopped in the second: the first is not repeated, and the lines are those of an unbroken run."""

    def main(config, run, stop=False):
        run.log(0, {"samples": 12.0}, stage="data")
        first = summed(run, 4, "first")
        run.log(0, {"norm": first}, stage="between")
        run.log(0, {"norm": 2.0}, stage="between")

        def validate(state):
            if stop and state.step == 4:
                raise KeyboardInterrupt
            return {}

        second = fitted(run, "second", validate=validate, validate_every=2)
        run.log(9, {"norm": 1.0}, stage="after")
        return {"first": first, "second": jnp.sum(second.model)}

    unbroken = start(main, out=tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        start(lambda config, run: main(config, run, stop=True), out=tmp_path / "broken")
    (broken,) = (tmp_path / "broken").glob("*/*/seed0")
    assert [(row["stage"], row["step"]) for row in lines(broken)][-2:] == [("between", 0), ("second", 2)]
    with open(broken / "metrics.jsonl", "a") as file:
        file.write('{"stage": "second", "step": 4, "lost": 1.0}\n{"stage": "sec')
    resumed = start(main, out=tmp_path / "broken")
    assert resumed["values"] == unbroken["values"]
    assert resumed["resumed"] == [0]
    (whole,) = (tmp_path / "unbroken").glob("*/*/seed0")
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert len(lines(whole)) == 1 + 4 + 2 + 3 + 1


def test_figures_and_models_are_written_beside_the_metrics(tmp_path):
    import matplotlib.pyplot as plt

    run = Run(tmp_path, 3)
    assert jnp.array_equal(jax.random.key_data(run.key), jax.random.key_data(jax.random.key(3)))
    figure, axes = plt.subplots()
    axes.plot([0, 1])
    run.save_figure(figure)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert not plt.get_fignums()
    model = eqx.nn.Linear(2, 3, key=run.key)
    path = run.save_model(model, {"n": 3})
    assert eqx.tree_equal(load_model(path, lambda n: eqx.nn.Linear(2, n, key=run.key)), model)


def test_printing_names_the_seed_and_quiet_prints_nothing(tmp_path, capsys):
    Run(tmp_path, 3, quiet=True).print("no")
    Run(tmp_path, 3).print("yes", 1)
    assert capsys.readouterr().out == "[seed 3] yes 1\n"


def test_an_interrupt_at_the_command_line_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["experiment", "--out", str(tmp_path)])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where a shell began the tests with `&`
    try:
        with pytest.raises(SystemExit) as stopped:
            launch(lambda config, run: signal.raise_signal(signal.SIGINT), Config)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.code == 130
    assert "the same command resumes" in capsys.readouterr().err


@pytest.mark.plain
def test_a_loss_that_is_not_finite_names_seed_step_and_the_last_good_checkpoint(tmp_path, monkeypatch):
    def main(config, run):
        fitted(run, rate=1e12, steps=40)

    with pytest.raises(
        Diverged, match=r"Seed 2, train: .* step \d+.*last good checkpoint: \S*seed2/checkpoint/train/\d+"
    ):
        start(main, "--seeds", "2", out=tmp_path)
    monkeypatch.setattr(sys, "argv", ["experiment", "--out", str(tmp_path), "--quiet"])
    with pytest.raises(SystemExit, match=r"Diverged: Seed 0.*"):  # a message for an exit code is the code 1
        launch(main, Config)


@pytest.mark.plain
def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"`--out` \S*file/runs cannot be written"):
        start(lambda config, run: pytest.fail("worked"), out=tmp_path / "file" / "runs")


@pytest.mark.plain
def test_refusals_say_what_to_do(tmp_path):
    start(main_of(tmp_path / "experiment.py", "main = lambda config, run: {}"), out=tmp_path)
    changed = main_of(tmp_path / "experiment.py", "main = lambda config, run: None")
    with pytest.raises(RunError, match=r"seed0 was begun under other code .* go on with --changed-code"):
        start(changed, out=tmp_path)
    with pytest.raises(RunError, match=r"`--preset` is 'large'; expected one of \['small'\]"):
        start(figures, "--preset", "large", out=tmp_path, presets={"small": Config()})
    with pytest.raises(RunError, match=r"`main` returned error=Array.*expected one number"):
        start(lambda config, run: {"error": jnp.ones(2)}, "--rate", "3", out=tmp_path)
    with pytest.raises(RunError, match=r"`--seeds` is empty"):
        start(figures, "--seeds", out=tmp_path)
    with pytest.raises(RunError, match=r"Another process is at work in \S*seed0"):
        start(lambda config, run: start(figures, out=tmp_path), out=tmp_path)


@pytest.mark.plain
def test_a_configuration_that_is_none_is_told(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Bare:
        rate: float

    @dataclasses.dataclass(frozen=True)
    class Taken:
        out: str = ""

    @dataclasses.dataclass(frozen=True)
    class Holding:
        rate: float = 1.0
        table: tuple = (np.ones(2),)

    for config, message in ((Bare, "rate has none"), (Taken, "names other than out"), (dict, "expected a dataclass")):
        with pytest.raises(ValueError, match=message):
            launch(figures, config, argv=["--out", str(tmp_path)])
    with pytest.raises(ValueError, match=r"`config.table\[0\]` is array"):
        launch(figures, Holding, argv=["--out", str(tmp_path)])


@pytest.mark.plain
def test_a_run_tells_of_other_data_a_failed_solve_and_a_damaged_file(tmp_path):
    run = Run(tmp_path, 5)
    run.record_data("abc")
    with pytest.raises(RunError, match="Seed 5 was begun on data with the hash abc, and is now given xyz"):
        Run(tmp_path, 5).record_data("xyz")
    run.check(lx.RESULTS.successful, "the solve")
    with pytest.raises(SolveFailed, match=r"Seed 5: the pressure solve failed: The maximum number of solver steps"):
        run.check(lx.RESULTS.max_steps_reached, "the pressure solve")
    mixed = jax.vmap(lambda bad: lx.RESULTS.where(bad, lx.RESULTS.max_steps_reached, lx.RESULTS.successful))(
        jnp.array([False, True, True])
    )
    with pytest.raises(SolveFailed, match=r"failed in 2 of 3 solves, first in number 1: The maximum"):
        run.check(mixed, "it")
    with pytest.raises(ValueError, match=r"`metrics` has the name 'step'"):
        run.log(1, {"step": 1.0})
    (tmp_path / "metrics.jsonl").write_text('{"stage": "train", "step": 1}\n{"sta\n{"stage": "train", "step": 2}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl is damaged in line 2"):
        Run(tmp_path, 5)


@pytest.mark.plain
def test_damage_to_a_checkpoint_reaches_the_command_line(tmp_path, monkeypatch):
    def main(config, run):
        fitted(run)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(main, out=tmp_path)
    for file in tmp_path.glob("*/*/seed0/checkpoint/train/6/manifest/metadata"):
        file.write_text("{")
    with pytest.raises(CheckpointError, match=r"6 is damaged.*Step 4 is intact: to resume from it, remove"):
        start(main, out=tmp_path)
