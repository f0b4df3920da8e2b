"""Meshes of the four devices, functions of whole fields that run on their pieces, and what these exchange."""

import re
from collections import Counter

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

LINE = Mesh(np.array(jax.devices()[:4]), ("x",))
SQUARE = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("x", "y"))


def mesh_of(names):
    return SQUARE if "y" in names else LINE


def in_pieces(function, names, *outputs):
    """`function(whole, piece)`, of an array that all devices have and a field `(channels, *n)` cut by `names`; so is
    the result, or by `outputs`, one a result."""
    cut, *cuts = (P(None, *each) for each in (names, *outputs))
    out = cut if not cuts else cuts[0] if len(cuts) == 1 else tuple(cuts)
    return jax.shard_map(function, mesh=mesh_of(names), in_specs=(P(), cut), out_specs=out)


def compiled(function, *args):
    return jax.jit(function).lower(*args).compile()


def collectives(program):
    """How often each kind is in a compiled program."""
    return Counter(re.findall(r" (all-[a-z-]+|collective-[a-z-]+|reduce-scatter)\(", program.as_text()))
