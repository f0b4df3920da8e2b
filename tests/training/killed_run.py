"""An experiment that kills itself at chosen moments: `python killed_run.py OUT MOMENT[,MOMENT...] ...`.

Each argument is one run: killed at its moments, in turn, and then run to the end; one JSON line tells how that compares
with a run never killed. The process imports everything once and forks: each child runs to its end, or to its kill.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint  # noqa: F401  here, so that the children need not

from opkit.training import Term, Terminated, launch

END, CHUNK = 40, 5
BALLAST = 2_000_000  # numbers in the state: a checkpoint then takes long enough to be killed in


@dataclass(frozen=True)
class Config:
    rate: float = 0.05


def objective(model, batch, *, key, carry):
    """Depends on everything that must be restored: model, batch, key and carry."""
    x, y = batch
    noise = 0.1 * jax.random.normal(key, y.shape)
    prediction = jnp.tanh(x @ model["w"]) @ model["v"]
    weight = 1 + 0.1 * jnp.tanh(carry["mean"])
    carry = {"mean": 0.9 * carry["mean"] + 0.1 * jnp.mean(prediction), "ballast": carry["ballast"] + 1}
    return {"data": Term(prediction - y + noise, "residual", weight=weight)}, {"carry": carry["mean"]}, carry


def die(by=signal.SIGKILL):
    os.kill(os.getpid(), by)


def die_while_saving(folder: Path, step: str):
    """Kill as soon as the temporary folder of this step holds an array."""
    while not any(folder.glob(f"{step}.orbax-checkpoint-tmp*/arrays*/**/*")):
        time.sleep(0.001)
    die()


def experiment(moment: str):
    what, _, when = moment.partition(" ")

    def main(config, run):
        if what == "saving":
            folder = run.directory / "checkpoint" / "train"
            threading.Thread(target=die_while_saving, args=(folder, when), daemon=True).start()

        def validate(state):
            validate.calls += 1
            if what == "chunk" and validate.calls == int(when):
                die()
            if what in ("interrupt", "terminate") and validate.calls == int(when):
                die(signal.SIGINT if what == "interrupt" else signal.SIGTERM)
            if what == "line" and validate.calls == int(when):
                with open(run.directory / "metrics.jsonl", "a") as file:
                    file.write('{"stage": "train", "st')
                die()
            return {"norm": float(jnp.linalg.norm(state.model["w"]))}

        validate.calls = 0
        if what == "start":
            die()
        rng = np.random.default_rng(run.seed)
        data = jnp.asarray(rng.normal(size=(48, 3))), jnp.asarray(rng.normal(size=(48, 2)))
        keys = jax.random.split(run.key)
        model = {"w": jax.random.normal(keys[0], (3, 8)), "v": jax.random.normal(keys[1], (8, 2))}
        carry = {"mean": jnp.zeros(()), "ballast": jnp.asarray(rng.normal(size=BALLAST))}
        run.log(0, {"samples": 48.0}, stage="data")
        state = run.fit(
            objective,
            model,
            data,
            optax.adam(config.rate),
            steps=END,
            batch_size=7,
            carry=carry,
            chunk=CHUNK,
            validate=validate,
            validate_every=CHUNK,
        )
        if what == "fitted":
            die()
        leaves = jax.tree.leaves((state.model, state.opt_state, state.carry, state.step))
        np.savez(run.directory / "final.npz", *leaves)
        return {"norm": jnp.linalg.norm(state.model["w"])}

    return main


def child(out: Path, moment: str) -> tuple[int, list[str]]:
    """Run in a fork; its exit status, and the folders of unfinished checkpoints that it leaves."""
    process = os.fork()
    if process == 0:
        try:
            # The children have the code of this process, whoever edits it meanwhile.
            launch(experiment(moment), Config, argv=["--out", str(out), "--quiet", "--changed-code"])
        except KeyboardInterrupt:
            os._exit(130)
        except Terminated:
            os._exit(143)
        except BaseException as error:
            traceback.print_exception(error)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), [path.name for path in out.glob("*/*/*/checkpoint/*/*-tmp*")]


def outcome(out: Path) -> dict[str, bytes]:
    """What must come out the same: the final arrays to the bit, the metrics file, the figures of the result."""
    (folder,) = out.glob("killed_run/*")
    arrays = np.load(folder / "seed0" / "final.npz")
    result = json.loads((folder / "result.json").read_text())
    return {
        "arrays": b"".join(arrays[name].tobytes() for name in arrays.files),
        "metrics": (folder / "seed0" / "metrics.jsonl").read_bytes(),
        "values": json.dumps(result["values"]).encode(),
    }


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
    root = Path(sys.argv[1])
    assert child(root / "unbroken", "never")[0] == 0
    expected = outcome(root / "unbroken")
    for number, moments in enumerate(sys.argv[2:]):
        out = root / str(number)
        killed = [child(out, moment) for moment in moments.split(",")]
        status, unfinished = child(out, "never")
        same = {name: content == expected[name] for name, content in outcome(out).items()}
        row = {"moments": moments, "status": [k[0] for k in killed], "unfinished": [k[1] for k in killed]}
        print(json.dumps(row | {"last": [status, unfinished], "same": same}), flush=True)
