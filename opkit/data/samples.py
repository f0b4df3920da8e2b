"""Data sets of samples that are no trajectories: what to draw of each, and how many."""

import dataclasses
from collections.abc import Callable, Mapping

from jaxtyping import Array, PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class SampleRecipe:
    """What `generate` makes a data set of that has no time: pairs of fields, measurements, numbers.

    **Arguments:** `name`, `title`, `solver`: as for the file, the latter two in words. `draw`: maps a key to the arrays
    of one sample by name, where `{}` stands for the part, `train` or `test`; a name that ends in a digit is for tests
    only, as `x_{}65` of `read_pairs`. It is called in float64 and stored in float32; where its solver fails it returns
    NaN. `constants`: makes the arrays that all samples share. `train`, `test`: how many. `batch`: how many a call.

    **Raises:** `ValueError` for sizes that are not positive.
    """

    name: str
    title: str
    solver: str
    draw: Callable[[PRNGKeyArray], Mapping[str, Array]]
    train: int
    test: int
    constants: Callable[[], Mapping[str, Array]] = dict
    batch: int = 16

    def __post_init__(self):
        for size in ("train", "test", "batch"):
            if getattr(self, size) < 1:
                raise ValueError(f"`{size}` is {getattr(self, size)}; expected 1 or more.")
