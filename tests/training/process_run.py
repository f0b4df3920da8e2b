"""An experiment of many processes: `python -m opkit.training.parallel --processes 2 process_run.py --out OUT`.

`MOMENT="kill 1 4"` in the environment makes process 1 kill itself as it reads the samples of its fourth chunk; `end`
instead of `kill` sends it SIGTERM. With `MOMENT="sick"` one sample is not finite.
"""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from opkit.data import ArraySource
from opkit.training import initialise_processes, is_first, launch

sys.path.insert(0, str(Path(__file__).parents[2]))
initialise_processes()  # before the arrays of that module are made

from tests.training.test_sharding import OPTIMISER, SETTINGS, X, Y, network, objective  # noqa: E402


@dataclass(frozen=True)
class Config:
    steps: int = 20
    stream: bool = True
    """From a source, with the optimiser's state in pieces; or from the devices' memory, and whole."""


class Dying(ArraySource):
    taken = 0

    def take(self, indices):
        what, process, when = os.environ["MOMENT"].split()
        self.taken += len(indices) > 1  # one is read to learn the size
        if self.taken == int(when) and jax.process_index() == int(process):
            os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGTERM)
        return super().take(indices)


def main(config, run):
    moment = os.environ.get("MOMENT", "")
    data = X, np.where(moment == "sick" and np.arange(len(Y)) == 5, np.nan, Y.T).T.astype(Y.dtype)
    if config.stream:
        data = (Dying if " " in moment else ArraySource)(data)

    def validate(state):
        assert is_first()
        return {
            "norm": float(jnp.linalg.norm(state.model[0].weight)),
            "moment": float(jnp.sum(state.opt_state[0].count)),
        }

    state = run.fit(
        objective,
        network(),
        data,
        OPTIMISER,
        steps=config.steps,
        shard_optimiser=config.stream,
        validate=validate,
        validate_every=10,
        **{name: value for name, value in SETTINGS.items() if name != "seed"} | {"chunk": 5},
    )
    run.save_model(state.model, {})
    leaves = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
    np.savez(run.directory / f"final{jax.process_index()}.npz", *leaves)
    return {"norm": jnp.linalg.norm(state.model[0].weight)}


if __name__ == "__main__":
    launch(main, Config, seeds=(3,))
