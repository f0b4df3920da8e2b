"""Floating-point operations of a function, counted from its jaxpr."""

from collections.abc import Callable
from math import log2, prod
from typing import Any

import equinox as eqx
import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def count_flops(function: Callable[..., Any], *args: Any) -> int | float:
    """The operations of the matrix products, convolutions and Fourier transforms in `function(*args)`.

    A product or convolution takes two for each multiplication and addition, a complex one four times as many; a
    transform of `N` complex points `5 N log2 N`, of real ones half of that. A scan counts as often as it runs, which
    XLA's own analysis does not see; of the branches of a condition the dearest counts. What acts on each entry alone is
    left out. Nothing is computed: arrays may be `jax.ShapeDtypeStruct`.

    **Raises:** `ValueError` for a loop whose number of turns only the data decide.
    """
    arrays, static = eqx.partition((function, args), lambda leaf: eqx.is_array(leaf) or _is_shape(leaf))

    def call(arrays: Any) -> Any:
        f, inputs = eqx.combine(arrays, static)
        return eqx.filter(f(*inputs), eqx.is_array)

    return _count(jax.make_jaxpr(call)(arrays).jaxpr)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _count(jaxpr: Jaxpr) -> int | float:
    return sum(_one(equation) for equation in jaxpr.eqns)


def _one(equation: Any) -> int | float:
    name, parameters = equation.primitive.name, equation.params
    if name == "scan":
        return parameters["length"] * _count(parameters["jaxpr"].jaxpr)
    if name == "cond":
        return max(_count(branch.jaxpr) for branch in parameters["branches"])
    if name == "while":
        inside = _count(parameters["body_jaxpr"].jaxpr) + _count(parameters["cond_jaxpr"].jaxpr)
        if inside:
            raise ValueError(
                "`function` has a while loop around products or transforms, whose number of turns is not known "
                "beforehand; use a scan, or a `fori_loop` with constant bounds."
            )
        return 0
    if name in ("dot_general", "conv_general_dilated", "fft"):
        inputs = [variable.aval for variable in equation.invars if not isinstance(variable, Literal)]
        return {"dot_general": _product, "conv_general_dilated": _convolution, "fft": _transform}[name](
            inputs, equation.outvars[0].aval, parameters
        )
    return sum(_count(inner) for value in parameters.values() for inner in _jaxprs(value))


def _jaxprs(value: Any) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    return [inner for item in value for inner in _jaxprs(item)] if isinstance(value, tuple | list) else []


def _product(inputs: list[Any], output: Any, parameters: Any) -> int | float:
    (contracted, _), _ = parameters["dimension_numbers"]
    each = 8 if output.dtype.kind == "c" else 2
    return each * prod(output.shape) * prod(inputs[0].shape[axis] for axis in contracted)


def _convolution(inputs: list[Any], output: Any, parameters: Any) -> int | float:
    kernel, numbers = inputs[1].shape, parameters["dimension_numbers"].rhs_spec
    window = prod(kernel[axis] for axis in numbers[1:])  # inputs of a group, and the extents in space
    return 2 * prod(output.shape) * window


def _transform(inputs: list[Any], output: Any, parameters: Any) -> int | float:
    lengths = parameters["fft_lengths"]
    points, real = prod(lengths), inputs[0].dtype.kind != output.dtype.kind
    return prod(output.shape[: -len(lengths)]) * (2.5 if real else 5) * points * log2(max(points, 2))
