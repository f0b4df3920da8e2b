"""Joined windows of trajectories: what the rollout recipes take from a source."""

import h5py
import numpy as np
import optax
import pytest

from opkit.data import WindowSource
from opkit.training import fit, mse, unrolled

from ..training.recipe_cases import Step

STATES = np.random.default_rng(0).normal(size=(3, 6, 1, 8))
ARGS = np.arange(3.0)[:, None]


def test_joined_windows_are_every_stretch_with_the_parameters_of_its_trajectory(tmp_path):
    with h5py.File(tmp_path / "u.h5", "w") as file:
        file["u"] = STATES
    with h5py.File(tmp_path / "u.h5") as file:
        source = WindowSource(file["u"], every=2, steps=2, joined=True, args={"nu": ARGS})
        assert len(source) == 3 * 2
        windows, args = source.take(np.array([5, 0, 5]))
    np.testing.assert_array_equal(windows, [STATES[2, 1::2], STATES[0, :5:2], STATES[2, 1::2]])
    np.testing.assert_array_equal(args["nu"], ARGS[[2, 0, 2]])


def test_a_recipe_trains_on_joined_windows():
    """On exact data of the step itself the loss is that of the step it began with, and falls."""
    truth = Step(seed=2)
    states = [0.5 * STATES[:, 0]]
    for _ in range(4):
        states.append(np.stack([truth(u, args=a) for u, a in zip(states[-1], ARGS / 10, strict=True)]))
    source = WindowSource(np.stack(states, 1), steps=2, joined=True, args=ARGS / 10)
    losses = []
    fit(
        unrolled(mse, None, steps=2),
        Step(),
        source,
        optax.adam(0.1),
        steps=60,
        batch_size=9,
        seed=0,
        chunk=20,
        log=lambda step, metrics: losses.append(metrics["loss"]),
    )
    assert losses[-1] < 0.02 * losses[0]


@pytest.mark.plain
def test_parameters_that_go_with_no_window_are_errors():
    with pytest.raises(ValueError, match=r"`args` has 3 samples, `states` 3, `joined` is False"):
        WindowSource(STATES, args=ARGS)
    with pytest.raises(ValueError, match=r"`args` has 2 samples, `states` 3, `joined` is True"):
        WindowSource(STATES, joined=True, args=ARGS[:2])
