"""Starting values do not depend on how the draws are shared."""

import jax
import numpy as np
import pytest

from opkit.layers import initial


@pytest.mark.parametrize("shape", [(5,), (24, 25), (2, 3, 40, 40)])
def test_values_are_those_of_a_draw_of_the_very_shape(shape):
    key = jax.random.key(7)
    uniform = jax.random.uniform(key, shape, minval=-0.3, maxval=0.3)
    np.testing.assert_array_equal(initial.uniform(key, shape, 0.3), uniform)
    np.testing.assert_array_equal(initial.normal(key, shape, 0.5), 0.5 * jax.random.normal(key, shape))
