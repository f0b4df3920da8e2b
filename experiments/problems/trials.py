"""A learning rate chosen by short trainings."""

from collections.abc import Callable
from typing import Any

from opkit.training import Diverged

Fitted = Callable[[float, int, str, bool], Any]
"""`fitted(rate, steps, stage, held)`: the model, trained under a name of the stage; `held` keeps some data back."""


def at_better_rate(
    fitted: Fitted, error: Callable[[Any], float], rates: tuple[float, ...], *, steps: int, stage: str
) -> Any:
    """Trained at the rate of the least `error(model)` after a third of the steps with some data held back.

    A single rate is not tried.
    """

    def tried(rate: float) -> float:
        try:
            return error(fitted(rate, max(2, steps // 3), f"{stage}-{rate:g}", True))
        except Diverged:
            return float("inf")

    rate = rates[0] if len(rates) == 1 else min(rates, key=tried)
    return fitted(rate, steps, stage, False)
