"""Taylor mode in several variables: every partial derivative asked for, from one pass through a function.

Beside each value `h` travel its derivatives `D h`, for exactly those `D` that the wanted ones are made of. A linear
operation maps each of them as it maps the value; a product follows Leibniz, and a function of one number Faà di Bruno,

    L g(h) = g'(h) L h + sum of g^(k)(h) D_1 h ... D_k h    over the ways to share out the factors of L among k >= 2.

A derivative enters its own rule linearly, so a sum of them, a Laplacian say, travels as one.

So a network costs one matrix product a layer and derivative, and its gradient in the parameters as many ways back.
JAX's derivatives nested term by term cost much the same for the values, as the compiler merges equal terms; but their
ways back differ, and nothing merges those.

Griewank and Walther (2008), Evaluating derivatives, ch. 13, doi:10.1137/1.9780898717761; Laplacians: Li et al. (2024),
A computational framework for neural network-based variational Monte Carlo with forward Laplacian, arXiv:2307.08214;
other sums: Dangel et al. (2025), Collapsing Taylor mode automatic differentiation, arXiv:2505.13644.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial, reduce
from itertools import combinations
from math import prod
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun
from jaxtyping import Array
from numpy.polynomial import Polynomial

Monomial = tuple[int, ...]
"""`(0, 1, 1)`: the derivative along direction 0 once and along 1 twice. Ascending."""

Operator = tuple[Monomial, ...]
"""A sum of monomials."""

Parts = Mapping[Operator, Array]
"""The derivatives of a value; those that are not there are zero."""

LINEAR = {
    "neg", "add", "sub", "add_any", "broadcast_in_dim", "reshape", "transpose", "squeeze", "slice", "dynamic_slice",
    "dynamic_update_slice", "gather", "scatter", "scatter-add", "reduce_sum", "reduce_window_sum", "cumsum",
    "concatenate", "stack", "unstack", "split", "pad", "rev", "select_n", "copy", "device_put", "name", "real", "imag",
    "complex", "conj", "convert_element_type", "reduce_precision", "stop_gradient", "fft",
}  # fmt: skip
BILINEAR = {"mul", "dot_general", "conv_general_dilated"}
ELEMENTWISE = {
    "exp", "exp2", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh",
    "asinh", "acosh", "atanh", "logistic", "erf", "erfc", "erf_inv", "sqrt", "rsqrt", "cbrt", "square", "integer_pow",
    "pow", "atan2", "abs", "lgamma", "digamma",
}  # fmt: skip
"""Of which at most one input varies; with two, `pow` and `atan2` are `general`."""

RICCATI = {"exp": (0, 1), "tanh": (1, 0, -1), "tan": (1, 0, 1), "logistic": (0, 1, -1), "reciprocal": (0, 0, -1)}
"""`q` of the functions with `y' = q(y)`, lowest power first: their derivatives are polynomials in the value."""


def propagate(f: ClosedJaxpr, x: Array, seeds: Sequence[Array], operators: Sequence[Operator]) -> tuple[Array, Parts]:
    """`f(x)`, and of `f(x + sum_i s_i seeds_i)` the derivatives `operators` in `s` at 0, `f` having one result."""
    wanted = _closure(operators)
    starts = {op: [seeds[i] for m in op if len(m) == 1 for i in m] for op in wanted}
    parts = {op: reduce(add, start) for op, start in starts.items() if start}
    values, (found,) = _evaluate(f, [x], [parts], wanted)
    return values[0], found


def _closure(operators: Sequence[Operator]) -> list[Operator]:
    """The operators and what their rules need: each proper part of each monomial."""
    needed = dict.fromkeys(operators)
    for monomial in {m for op in operators for m in op}:
        for length in range(1, len(monomial)):
            needed |= dict.fromkeys((part,) for part in combinations(monomial, length))
    return list(needed)


def _evaluate(
    closed: ClosedJaxpr, values: Sequence[Array], parts: Sequence[Parts], wanted: Sequence[Operator]
) -> tuple[list[Array], list[Parts]]:
    """The values of a jaxpr, and the wanted derivatives of each."""
    jaxpr = closed.jaxpr
    known: dict[Any, tuple[Array, Parts]] = dict(zip(jaxpr.invars, zip(values, parts, strict=True), strict=True))
    known |= {var: (jnp.asarray(value), {}) for var, value in zip(jaxpr.constvars, closed.consts, strict=True)}

    def read(atom: Any) -> tuple[Array, Parts]:
        return (jnp.asarray(atom.val), {}) if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        outputs = _apply(eqn, jaxpr, [value for value, _ in inputs], [part for _, part in inputs], wanted)
        known |= dict(zip(eqn.outvars, zip(*outputs, strict=True), strict=True))
    results = [read(atom) for atom in jaxpr.outvars]
    return [value for value, _ in results], [part for _, part in results]


def _apply(
    eqn: JaxprEqn, within: Jaxpr, values: list[Array], parts: list[Parts], wanted: Sequence[Operator]
) -> tuple[list[Array], list[Parts]]:
    """One operation: its results and their derivatives."""
    name = eqn.primitive.name
    if name == "jit":
        return _evaluate(eqn.params["jaxpr"], values, parts, wanted)
    several = _as_function(eqn, within)
    bind = lambda *inputs: several(*inputs)[0]
    results = several(*values)
    varying = [i for i, part in enumerate(parts) if part]
    if not varying or not any(jnp.issubdtype(result.dtype, jnp.inexact) for result in results):
        return results, [{} for _ in results]
    if name in LINEAR:
        return results, _linear(several, values, parts, wanted, len(results))
    if name in BILINEAR:
        return results, [_bilinear(bind, values, parts, wanted)]
    if name == "div":
        numerator, denominator = values
        inverse = 1 / denominator
        slopes = _elementwise(_riccati("reciprocal", inverse, _order(wanted)), parts[1], wanted)
        return results, [_bilinear(lambda u, v: u * v, [numerator, inverse], [parts[0], slopes], wanted)]
    if name in ELEMENTWISE and len(varying) == 1:
        (i,) = varying
        function = lambda h: bind(*values[:i], h, *values[i + 1 :])
        return results, [_elementwise(_tower(name, function, values[i], results[0], _order(wanted)), parts[i], wanted)]
    return results, _general(several, values, parts, wanted, results)


def _as_function(eqn: JaxprEqn, within: Jaxpr) -> Callable[..., list[Array]]:
    """The operation, of the values of its inputs, with whatever calls it holds."""
    inputs, outputs = [Var(atom.aval) for atom in eqn.invars], [Var(atom.aval) for atom in eqn.outvars]
    single = within.replace(
        constvars=[],
        invars=inputs,
        outvars=outputs,
        eqns=[eqn.replace(invars=[*inputs], outvars=outputs)],
        effects=eqn.effects,
        debug_info=within.debug_info.with_unknown_names(),
    )
    return jaxpr_as_fun(ClosedJaxpr(single, ()))


def _linear(
    f: Callable[..., list[Array]], values: list[Array], parts: list[Parts], wanted: Sequence[Operator], results: int
) -> list[Parts]:
    """Linear in all inputs that vary, together: each derivative is mapped by itself."""
    out: list[dict[Operator, Array]] = [{} for _ in range(results)]
    for op in wanted:
        tangents = {i: part[op] for i, part in enumerate(parts) if op in part}
        if tangents:
            for k, tangent in enumerate(_push(f, values, tangents)):
                out[k][op] = tangent
    return list(out)


def _bilinear(f: Callable[..., Array], values: list[Array], parts: list[Parts], wanted: Sequence[Operator]) -> Parts:
    """Leibniz: `L f(u, v) = f(L u, v) + f(u, L v) + sum of f(A u, B v)` over the ways to split `L` in two."""
    (u, v), (du, dv) = values, parts
    out = {}
    for op in wanted:
        terms = [f(du[op], v)] if op in du else []
        terms += [f(u, dv[op])] if op in dv else []
        for (a, b), count in _splits(op):
            if a in du and b in dv:
                terms.append(_times(count, f(du[a], dv[b])))
        if terms:
            out[op] = reduce(add, terms)
    return out


def _elementwise(tower: Sequence[Array], parts: Parts, wanted: Sequence[Operator]) -> Parts:
    """Faà di Bruno, `tower` holding `g', g'', ...` at the value."""
    out = {}
    for op in wanted:
        sums = {1: parts[op]} if op in parts else {}
        for blocks, count in _shares(op):
            if all(block in parts for block in blocks):
                product = _times(count, prod((parts[block] for block in blocks[1:]), start=parts[blocks[0]]))
                sums[len(blocks)] = sums[len(blocks)] + product if len(blocks) in sums else product
        if sums:
            out[op] = reduce(add, (tower[k - 1] * total for k, total in sums.items()))
    return out


def _general(
    f: Callable[..., list[Array]],
    values: list[Array],
    parts: list[Parts],
    wanted: Sequence[Operator],
    results: list[Array],
) -> list[Parts]:
    """Any operation that JAX can differentiate forward, by nesting: `2^n` of it for a derivative of order `n`."""
    varying = [i for i, part in enumerate(parts) if part]
    present = {op for part in parts for op in part}
    differentiable = [k for k, result in enumerate(results) if jnp.issubdtype(result.dtype, jnp.inexact)]

    def varied(*chosen: Array) -> list[Array]:
        given = dict(zip(varying, chosen, strict=True))
        outputs = f(*(given.get(i, value) for i, value in enumerate(values)))
        return [outputs[k] for k in differentiable]

    def along(op: Operator) -> tuple[Array, ...]:
        return tuple(parts[i][op] if op in parts[i] else jnp.zeros_like(values[i]) for i in varying)

    out: list[dict[Operator, Array]] = [{} for _ in results]
    for op in wanted:
        if op not in present and not any(present.issuperset(blocks) for blocks, _ in _shares(op)):
            continue
        for number, monomial in enumerate(op):
            n = len(monomial)
            subsets = [tuple(m for j, m in enumerate(monomial) if s >> j & 1) for s in range(1, 2**n - 1)]
            # Of a sum, the first monomial carries the input's derivative along the whole of it.
            inputs = [tuple(values[i] for i in varying), *(along((s,)) for s in subsets)]
            inputs.append(along(op if number == 0 else ()))
            for k, term in zip(differentiable, _nested(varied, n)(inputs), strict=True):
                out[k][op] = out[k][op] + term if op in out[k] else term
    return list(out)


def _nested(f: Callable[..., list[Array]], order: int) -> Callable[[list[tuple[Array, ...]]], list[Array]]:
    """`d^n f / ds_1 ... ds_n`, the derivatives of the input along each subset of the `s` listed as binary numbers."""
    if order == 0:
        return lambda inputs: f(*inputs[0])
    inner, half = _nested(f, order - 1), 2 ** (order - 1)
    return lambda inputs: jax.jvp(inner, (inputs[:half],), (inputs[half:],))[1]


def _push(f: Callable[..., list[Array]], values: list[Array], tangents: Mapping[int, Array]) -> list[Array]:
    """The derivative of `f` along tangents of some of its inputs."""
    varied = lambda chosen: f(*(chosen.get(i, value) for i, value in enumerate(values)))
    return jax.jvp(varied, ({i: values[i] for i in tangents},), (dict(tangents),))[1]


def _tower(name: str, g: Callable[[Array], Array], h: Array, y: Array, order: int) -> list[Array]:
    """`g'(h), g''(h), ...`, given `y = g(h)`."""
    if name in RICCATI:
        return _riccati(name, y, order)
    if name in ("sin", "cos"):
        other = jnp.cos(h) if name == "sin" else -jnp.sin(h)
        return [(other, -y, -other, y)[k % 4] for k in range(order)]
    tower = []
    for _ in range(order):
        g = partial(_slope, g)
        tower.append(g(h))
    return tower


def _slope(g: Callable[[Array], Array], h: Array) -> Array:
    return jax.jvp(g, (h,), (jnp.ones_like(h),))[1]


def _riccati(name: str, y: Array, order: int) -> list[Array]:
    """Of a solution of `y' = q(y)`: the derivative of order `k` is `q r_k`, `r_1 = 1`, `r_(k+1) = (q r_k)'`."""
    q = Polynomial(RICCATI[name])
    r = Polynomial([1])
    slope = _horner(q, y)
    tower = [slope]
    for _ in range(order - 1):
        r = (q * r).deriv()
        tower.append(slope * _horner(r, y))
    return tower


def _horner(p: Polynomial, y: Array) -> Array:
    *low, total = (int(c) for c in np.trim_zeros(p.coef, "b"))
    value = jnp.full_like(y, total)
    for c in reversed(low):
        value = value * y + c if c else value * y
    return value


def _times(count: int, value: Array) -> Array:
    return value if count == 1 else count * value


def _order(wanted: Sequence[Operator]) -> int:
    return max(len(monomial) for op in wanted for monomial in op)


@lru_cache
def _splits(op: Operator) -> list[tuple[tuple[Operator, Operator], int]]:
    """The ways to split the factors of each monomial in two, with their numbers."""
    ways: Counter[tuple[Operator, Operator]] = Counter()
    for monomial in op:
        for s in range(1, 2 ** len(monomial) - 1):
            halves = [tuple(m for j, m in enumerate(monomial) if (s >> j & 1) == side) for side in (1, 0)]
            ways[(halves[0],), (halves[1],)] += 1
    return list(ways.items())


@lru_cache
def _shares(op: Operator) -> list[tuple[tuple[Operator, ...], int]]:
    """The ways to share out the factors of each monomial among two or more blocks, with their numbers."""
    ways: Counter[tuple[Operator, ...]] = Counter()
    for monomial in op:
        for blocks in _partitions(monomial):
            if len(blocks) > 1:
                ways[tuple(sorted((block,) for block in blocks))] += 1
    return list(ways.items())


def _partitions(monomial: Monomial) -> Iterator[list[Monomial]]:
    if not monomial:
        yield []
        return
    first, *rest = monomial
    for blocks in _partitions(tuple(rest)):
        yield [(first,), *blocks]
        for i, block in enumerate(blocks):
            yield [*blocks[:i], (first, *block), *blocks[i + 1 :]]
