"""What a row of the table of operators holds, and what its claims mean."""

import dataclasses
from collections.abc import Callable

from solvers import Operator

IN, OUT, WIDTH, DEPTH = 2, 3, 4, 2


@dataclasses.dataclass(frozen=True)
class Consistent:
    """The outputs on spacings h and h / 2 differ by O(h^order); infinite order: by round-off once h resolves them."""

    order: float


@dataclasses.dataclass(frozen=True)
class OneResolution:
    """No consistency is claimed, for the reason given."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    build: Callable[..., Operator]  # build(ndim, key=key), IN to OUT channels
    parameters: Callable[[int], int]  # exact count in ndim dimensions
    claim: Consistent | OneResolution | None
    conditioning: int = 0
    placement: str = "left"
    dimensions: tuple[int, ...] = (1, 2, 3)
    rounding: float = 1e-5  # how far single precision may be off
    slow: bool = True  # ten seconds of compilation: checked with the slow tests


def mlp(inputs, hidden, outputs):
    return inputs * hidden + hidden + hidden * outputs + outputs
