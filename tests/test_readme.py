"""What README tells a newcomer to do is what is done."""

import math
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_submission_script_runs_the_test_command_of_the_readme():
    command = next(block for block in blocks("bash") if "pytest" in block).strip()
    assert command in (ROOT / ".ci/run").read_text().splitlines()


def test_main_command_runs_an_experiment_that_exists():
    command = blocks("bash")[0]
    script = re.search(r"python (experiments/\S+\.py)", command)
    assert script is not None
    assert (ROOT / script[1]).exists()


@pytest.mark.dtype
def test_example_composes_and_its_gradient_is_right():
    example, *_ = blocks("python")
    names: dict = {}
    exec(example, names)
    a, value, gradient = jnp.exp(names["field"]), names["value"], names["gradient"]
    assert 0 < value < 10
    if a.dtype == jnp.float64:
        direction, step = jnp.sin(20 * a), 1e-5
        defect = jax.jit(names["defect"])
        slope = (defect(a + step * direction) - defect(a - step * direction)) / (2 * step)
        assert float(jnp.sum(gradient * direction)) == pytest.approx(float(slope), rel=1e-6)
    else:
        assert jnp.all(jnp.isfinite(gradient))


@pytest.mark.dtype
def test_equation_of_ones_own_steps_and_its_gradient_is_right():
    _, example, *_ = blocks("python")
    names: dict = {}
    exec(example, names)
    assert 0.1 < names["energy_now"] < 10
    step, tolerance = (1e-5, 1e-6) if names["start"].dtype == jnp.float64 else (1e-2, 0.02)
    energy = jax.jit(names["energy"])
    slope = (energy(0.5 + step) - energy(0.5 - step)) / (2 * step)
    assert float(names["sensitivity"]) == pytest.approx(float(slope), rel=tolerance)


@pytest.mark.plain
def test_regularised_example_has_a_gradient_that_lowers_the_loss():
    _, _, example, _ = blocks("python")
    names: dict = {}
    exec(example, names)
    moved = jax.tree.map(lambda p, g: p - 1e-2 * g if eqx.is_array(g) else p, names["model"], names["gradient"])
    before, after = (eqx.filter_jit(names["loss"])(model) for model in (names["model"], moved))
    assert 0 < after < before


def test_network_solves_the_equation():
    *_, example = blocks("python")
    names: dict = {}
    exec(example, names)
    assert float(names["centre"][0]) == pytest.approx(math.log(24 - 16 * 2**0.5), abs=1e-6)


def test_links_lead_somewhere():
    for text in (README, (ROOT / "experiments/README.md").read_text()):
        folder = ROOT if text is README else ROOT / "experiments"
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (folder / target).exists(), target
