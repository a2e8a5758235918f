"""The compiled loops of both cells, on vectors of the processor's own width.

Numba compiles the kernels when they are first called, once for each dtype, and keeps them on disk. They see memory as
addresses (``int64``), index it in numbers of the call's dtype and never allocate. A :class:`Vector` fills two
registers; an operation on it is one instruction for each, no product and sum is fused but where ``fma`` or ``fnma``
stands, and there is no fast-math: NaN propagates and bits repeat.

:func:`product` and :func:`add_outer` hold all the arithmetic of the matrices. Every entry of what they add is one chain
of multiply-adds in ascending order of the inner index, from zero, whatever tile computes it: so a sample's states do
not depend on the rest of the batch. Sums over steps and samples are taken in blocks of ``ring_steps`` steps (dε step
by step), last step first, in an order that T and B alone decide: so neither ``keep_every`` nor the number of threads
changes a bit.

Everything that is compiled stands in this one file: what is kept on disk is keyed by its text, by the values of its
constants, whatever module they come from, and by the compiler (:class:`_Cache`).

The tags are the specification's (``antisymrnn_ref/DERIVATION.md``). A *panel* is as many columns as a vector has lanes;
what is called *padded* has columns up to a multiple of it.
"""

from __future__ import annotations

import functools
import operator
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import llvmlite
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.caching import FunctionCache
from numba.core.datamodel import models
from numba.extending import intrinsic, lower_builtin, register_jitable, register_model, type_callable

from antisymrnn_numba._target import TARGET

MOST_ROWS = 8 if TARGET.registers == 32 else 6
"""Rows of the largest tile: its sums, two registers each, leave just enough for a row of operands and a factor."""

VECTOR_BYTES = TARGET.vector_bytes

FEW_INPUTS = 4
"""Up to so many, the gated cell adds V x as it activates."""

EVEN_SPLIT = 8 if MOST_ROWS == 6 else 0
"""So many rows are two tiles of four, which fill the registers better than six and two."""

NONE = np.int64(0)
"""No address, no stride, no: a literal 0 would be another type, and the callee compiled once more."""

_WORD, _INDEX = ir.IntType(32), ir.IntType(64)


class Call(NamedTuple):
    """The arguments of a kernel; addresses are in bytes, everything else counts numbers. Absent ones are 0.

    Attributes
    ----------
    gated
        1 for equation (13).
    T, B, n, m, keep_every
        As in the contract, ``keep_every`` at most T (at least 1).
    tile_rows, ring_steps
        Samples that are run together, and steps whose outer products are summed together.
    streams
        Whether states and stashes bypass the cache.
    x, h0, h, g, dx, dh0
        Arrays of the contract.
    g_states
        1 if g has every state.
    s, z
        Stash of tanh and of the gate, (T, B, padded n).
    M, V, V_z, M_rows, V_columns, V_z_columns
        Packed in panels: M h, V x, V_z x; Mᵀ δ, Vᵀ δ, V_zᵀ δ.
    b, b_z, zeros
        Padded vectors.
    none
        Always 0, where a constant would make LLVM compile a special copy of :func:`product`.
    """

    gated: int
    T: int
    B: int
    n: int
    m: int
    keep_every: int
    tile_rows: int
    ring_steps: int
    streams: int
    x: int
    h0: int
    h: int
    g: int
    g_states: int
    dx: int
    dh0: int
    s: int
    z: int
    M: int
    V: int
    V_z: int
    M_rows: int
    V_columns: int
    V_z_columns: int
    b: int
    b_z: int
    zeros: int
    none: int


class Vector(types.Type):
    """As many numbers of one dtype as two registers of the target hold: the width of a tile, and of a panel."""

    def __init__(self, scalar: types.Float) -> None:
        self.scalar = scalar
        self.lanes = 2 * 8 * TARGET.vector_bytes // scalar.bitwidth
        super().__init__(name=f"vector({scalar}, {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, models_known: Any, vector: Vector) -> None:
        number = ir.FloatType() if vector.scalar.bitwidth == 32 else ir.DoubleType()
        super().__init__(models_known, vector, ir.VectorType(number, vector.lanes))


def _operator(symbol: Callable[..., Any], instruction: str) -> None:
    @type_callable(symbol)
    def type_of(context: Any) -> Any:
        return lambda left, right: left if isinstance(left, Vector) and left == right else None

    @lower_builtin(symbol, Vector, Vector)
    def lower(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        return getattr(builder, instruction)(*operands)


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")


def _constant(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _broadcast(builder: Any, number: Any, kind: ir.VectorType) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, number, _WORD(0))
    return builder.shuffle_vector(first, undefined, _constant(ir.VectorType(_WORD, kind.count), 0))


def _call_llvm(builder: Any, name: str, result: Any, *operands: Any) -> Any:
    signature = ir.FunctionType(result, [operand.type for operand in operands])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), operands)


def _suffix(kind: ir.VectorType) -> str:
    return f"v{kind.count}f{8 * _size(kind)}"


def _size(kind: Any) -> int:
    number = kind.element if isinstance(kind, ir.VectorType) else kind
    return 4 if isinstance(number, ir.FloatType) else 8


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    if TARGET.fused:
        return _call_llvm(builder, f"llvm.fma.{_suffix(a.type)}", a.type, a, b, c)
    return builder.fadd(builder.fmul(a, b), c)


def _pointer(builder: Any, address: Any, index: Any, kind: Any) -> Any:
    number = kind.element if isinstance(kind, ir.VectorType) else kind
    first = builder.inttoptr(address, number.as_pointer())
    return builder.bitcast(builder.gep(first, [index]), kind.as_pointer())


@intrinsic
def apart(_):
    """Keep the function it stands in one of its own: in every caller's code again it would take seconds to compile."""

    def lower(context, builder, signature, operands):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), lower


@intrinsic
def bytes_of(_, scalar):
    """Bytes of a number."""
    return types.int64(scalar), lambda context, builder, signature, operands: _INDEX(scalar.bitwidth // 8)


@intrinsic
def width_of(_, scalar):
    """How many such numbers a vector holds, which is a panel."""
    return types.int64(scalar), lambda context, builder, signature, operands: _INDEX(Vector(scalar).lanes)


@intrinsic(prefer_literal=True)
def number(_, like, value):
    """A small integer as a number of the dtype: in Numba ``0 * float32`` is a float64."""

    def lower(context, builder, signature, operands):
        return ir.Constant(context.get_value_type(like), value.literal_value)

    return like(like, value), lower


@intrinsic
def splat(_, scalar):
    """A vector of one number."""
    vector = Vector(scalar)

    def lower(context, builder, signature, operands):
        return _broadcast(builder, operands[0], context.get_value_type(vector))

    return vector(scalar), lower


@intrinsic
def fma(_, a, b, c):
    """a b + c, rounded once where the target can."""
    return a(a, a, a), lambda context, builder, signature, operands: _fused(builder, *operands)


@intrinsic
def fnma(_, a, b, c):
    """c − a b, rounded once where the target can."""

    def lower(context, builder, signature, operands):
        return _fused(builder, builder.fneg(operands[0]), *operands[1:])

    return a(a, a, a), lower


@intrinsic
def load(_, address, index, like):
    """The number or vector at an index; ``like`` says which."""

    def lower(context, builder, signature, operands):
        kind = context.get_value_type(like)
        return builder.load(_pointer(builder, *operands[:2], kind), align=_size(kind))

    return like(types.int64, types.int64, like), lower


@intrinsic
def store(_, address, index, value):
    """Write a number or a vector at an index."""

    def lower(context, builder, signature, operands):
        kind = operands[2].type
        builder.store(operands[2], _pointer(builder, *operands[:2], kind), align=_size(kind))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, value), lower


@intrinsic
def stream(_, address, index, value):
    """Write a vector past the cache; the address must be a multiple of its size."""

    def lower(context, builder, signature, operands):
        pointer = _pointer(builder, *operands[:2], operands[2].type)
        written = builder.store(operands[2], pointer, align=TARGET.vector_bytes)
        written.set_metadata("nontemporal", builder.module.add_metadata([_WORD(1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, value), lower


@intrinsic
def fence(_):
    """Let other threads see what was streamed."""

    def lower(context, builder, signature, operands):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), lower


def _first(builder: Any, count: Any, kind: ir.VectorType) -> Any:
    """Mask of the first ``count`` lanes."""
    indices = ir.VectorType(_INDEX, kind.count)
    return builder.icmp_signed("<", ir.Constant(indices, list(range(kind.count))), _broadcast(builder, count, indices))


@intrinsic
def load_first(_, address, index, like, count):
    """The first ``count`` lanes of a vector; zero in the others, which are not read."""

    def lower(context, builder, signature, operands):
        kind = context.get_value_type(like)
        pointer, mask = _pointer(builder, *operands[:2], kind), _first(builder, operands[3], kind)
        zero = _constant(kind, 0.0)
        return _call_llvm(
            builder, f"llvm.masked.load.{_suffix(kind)}.p0", kind, pointer, _WORD(_size(kind)), mask, zero
        )

    return like(types.int64, types.int64, like, types.int64), lower


@intrinsic
def store_first(_, address, index, value, count):
    """Write the first ``count`` lanes of a vector."""

    def lower(context, builder, signature, operands):
        kind = operands[2].type
        pointer, mask = _pointer(builder, *operands[:2], kind), _first(builder, operands[3], kind)
        name = f"llvm.masked.store.{_suffix(kind)}.p0"
        _call_llvm(builder, name, ir.VoidType(), operands[2], pointer, _WORD(_size(kind)), mask)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, value, types.int64), lower


@intrinsic
def prefetch(_, address, index, like):
    """Ask for the cache line at an index."""

    def lower(context, builder, signature, operands):
        pointer = _pointer(builder, *operands[:2], context.get_value_type(like))
        _call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, _WORD(0), _WORD(2), _WORD(1))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, like), lower


class _Cache(FunctionCache):
    """Numba's cache on disk, keyed by all that a kernel depends on, with the key in every file.

    Numba's own key has the text of this file and the processor, but neither the constants that other modules find nor
    LLVM's version. Its files are numbered in an index that is written before them, so processes that share a folder
    may find one that is of another key: such a file is none.
    """

    def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
        constants = {name: value for name, value in globals().items() if name.isupper()}
        compiler = numba.__version__, llvmlite.__version__, int(numba.config.OPT)  # type: ignore[attr-defined]
        text = self._cache_file._source_stamp
        return (*super()._index_key(signature, codegen), text, *compiler, repr(constants))

    def _load_overload(self, signature: Any, target_context: Any) -> Any:
        key = self._index_key(signature, target_context.codegen())
        found = self._cache_file.load(key)
        return self._impl.rebuild(target_context, found[1]) if found and found[0] == key else None

    def _save_overload(self, signature: Any, compiled: Any) -> None:
        if self._impl.check_cachable(compiled):
            self._impl.locator.ensure_cache_path()
            key = self._index_key(signature, compiled.codegen)
            self._cache_file.save(key, (key, self._impl.reduce(compiled)))


def _kernel(function: Any) -> Any:
    """Compile for Python when called, and keep the result on disk, where that is possible."""
    options: Any = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return call.dispatcher(*arguments)  # type: ignore[attr-defined]
        except Exception as error:  # a damaged file may raise anything
            if not _of_the_cache(error):
                raise
            call.dispatcher = _uncached(function, options, error)  # type: ignore[attr-defined]
            return call.dispatcher(*arguments)  # type: ignore[attr-defined]

    try:
        call.dispatcher = numba.njit(function, **options)  # type: ignore[attr-defined]
        call.dispatcher._cache = _Cache(function)  # type: ignore[attr-defined]
    except RuntimeError as error:  # no folder to write to
        call.dispatcher = _uncached(function, options, error)  # type: ignore[attr-defined]
    return call


def _of_the_cache(error: BaseException) -> bool:
    """Whether Numba failed to read or write its cache, which is before the kernel runs."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "numba.core.caching" for frame, _ in frames)


def _uncached(function: Any, options: Any, error: Exception) -> Any:
    reason = f"antisymrnn_numba compiles anew in every process, as its kernels cannot be kept on disk ({error})"
    fix = "name a folder to write to in NUMBA_CACHE_DIR, or remove what is damaged in it"
    warnings.warn(f"{reason}; {fix}", RuntimeWarning, stacklevel=3)
    return numba.njit(function, **options)


def _inner(function: Any) -> Any:
    """Compile for the kernels alone."""
    options: Any = {"error_model": "numpy", "no_cfunc_wrapper": True, "no_cpython_wrapper": True}
    return numba.njit(function, **options)


class Coefficients(NamedTuple):
    """What differs between the dtypes, rounded to them: tanh and sigmoid are otherwise one formula.

    Attributes
    ----------
    mantissa : int
        Bits of the significand behind the leading one.
    log2_e, ln2, ln2_rest : float
        1/ln 2, and ln 2 in two parts.
    tanh_round : float
        1.5 · 2^mantissa and a whole number: what is added to it is rounded, and the result's last bits, shifted into
        the exponent, are the power of two that tanh needs.
    tanh_small, tanh_most : float
        Below the first there is no reduction, above the second tanh is 1.
    tanh_series : tuple of float
        κ (√w coth √w − 1)/w in powers of w, for √w up to 0.55.
    sigmoid_round, sigmoid_least, sigmoid_most, sigmoid_scale : float
        Likewise; the scale keeps denormal results exact until the division.
    exp_series : tuple of float
        (e^−r − 1 + r)/r² in powers of r, for |r| up to 0.35.
    """

    mantissa: int
    log2_e: float
    ln2: float
    ln2_rest: float
    tanh_round: float
    tanh_small: float
    tanh_most: float
    tanh_series: tuple[float, ...]
    sigmoid_round: float
    sigmoid_least: float
    sigmoid_most: float
    sigmoid_scale: float
    exp_series: tuple[float, ...]


KAPPA = 1.6

_hex = float.fromhex

COEFFICIENTS = {
    32: Coefficients(
        mantissa=23,
        log2_e=_hex("0x1.715476p+0"),
        ln2=_hex("0x1.62e4p-1"),
        ln2_rest=_hex("0x1.7f7d1cp-20"),
        tanh_round=_hex("0x1.8000fcp+23"),
        tanh_small=_hex("0x1.19999ap-1"),
        tanh_most=10.0,
        tanh_series=tuple(map(_hex, ("0x1.1110dcp-1", "-0x1.23016ap-5", "0x1.a326p-9"))),
        sigmoid_round=_hex("0x1.8000c2p+23"),
        sigmoid_least=-104.0,
        sigmoid_most=20.0,
        sigmoid_scale=2.0**-30,
        exp_series=tuple(
            map(_hex, ("0x1.fffffap-2", "-0x1.55548ep-3", "0x1.555a24p-5", "-0x1.123c0cp-7", "0x1.695104p-10"))
        ),
    ),
    64: Coefficients(
        mantissa=52,
        log2_e=_hex("0x1.71547652b82fep+0"),
        ln2=_hex("0x1.62e42fefa38p-1"),
        ln2_rest=_hex("0x1.ef35793c7673p-45"),
        tanh_round=_hex("0x1.80000000003fep+52"),
        tanh_small=_hex("0x1.199999999999ap-1"),
        tanh_most=20.0,
        tanh_series=tuple(
            map(
                _hex,
                (
                    "0x1.111111111111p-1", "-0x1.23456789ab322p-5", "0x1.bbd77931d8f01p-9", "-0x1.6312c68689dc8p-12",
                    "0x1.1eed4be90e6d8p-15", "-0x1.d0b4e56f56272p-19", "0x1.76164fd371e1ep-22",
                    "-0x1.0af6ca3562b3ap-25",
                ),
            )
        ),
        sigmoid_round=_hex("0x1.80000000003c3p+52"),
        sigmoid_least=-746.0,
        sigmoid_most=40.0,
        sigmoid_scale=2.0**-60,
        exp_series=tuple(
            map(
                _hex,
                (
                    "0x1.000000000000ap-1", "-0x1.5555555555505p-3", "0x1.555555555067ap-5", "-0x1.11111111253dbp-7",
                    "0x1.6c16c1848f90dp-10", "-0x1.a01a0136eaeb9p-13", "0x1.a01999075abe7p-16",
                    "-0x1.71df0a847a33fp-19", "0x1.28ae5d9e9a89ap-22", "-0x1.ada8bb15ed5bp-26",
                ),
            )
        ),
    ),
}  # fmt: skip
"""Minimax by Remez on 50 digits; the leading coefficients were rounded one by one and the others fitted again."""


class _Lanes:
    """A vector in LLVM IR with Python's operators; numbers are rounded to its dtype."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def constant(self, number: Any) -> Any:
        return number.value if isinstance(number, _Lanes) else _constant(self.value.type, number)

    def __add__(self, other: Any) -> _Lanes:
        return _Lanes(self.builder, self.builder.fadd(self.value, self.constant(other)))

    def __sub__(self, other: Any) -> _Lanes:
        return _Lanes(self.builder, self.builder.fsub(self.value, self.constant(other)))

    def __mul__(self, other: Any) -> _Lanes:
        return _Lanes(self.builder, self.builder.fmul(self.value, self.constant(other)))

    def __truediv__(self, other: Any) -> _Lanes:
        return _Lanes(self.builder, self.builder.fdiv(self.value, self.constant(other)))

    def __neg__(self) -> _Lanes:
        return _Lanes(self.builder, self.builder.fneg(self.value))

    def times_plus(self, factor: Any, term: Any) -> _Lanes:
        """Self · factor + term, fused."""
        return _Lanes(self.builder, _fused(self.builder, self.value, self.constant(factor), self.constant(term)))

    def where(self, relation: str, bound: float, then: Any, otherwise: Any) -> _Lanes:
        """``then`` in the lanes that stand in a relation to a number, which NaN does to none."""
        holds = self.builder.fcmp_ordered(relation, self.value, self.constant(bound))
        return _Lanes(self.builder, self.builder.select(holds, self.constant(then), self.constant(otherwise)))

    def series(self, coefficients: tuple[float, ...]) -> _Lanes:
        """A polynomial by Horner's rule."""
        total = self.times_plus(coefficients[-1], coefficients[-2])
        for coefficient in coefficients[-3::-1]:
            total = total.times_plus(self, coefficient)
        return total

    def bits(self, operation: Callable[[Any, Any], Any], bits: Any) -> _Lanes:
        """An operation of whole numbers on the lanes' bits."""
        whole = ir.VectorType(ir.IntType(8 * _size(self.value.type)), self.value.type.count)
        given = isinstance(bits, _Lanes)
        operand = self.builder.bitcast(bits.value, whole) if given else _constant(whole, bits)
        result = operation(self.builder.bitcast(self.value, whole), operand)
        return _Lanes(self.builder, self.builder.bitcast(result, self.value.type))


def _tanh(builder: Any, value: Any) -> Any:
    """tanh |x| = 1 − D/(h M + D/2), D = κ (…)(C − r), M = κ (C + r), C = r coth r, |x| = r + k ln 2 / 2, h = 2^(k−1).

    Near 0 (k = 0) it is |x| − |x| (C − 1)/(h M + D/2). κ scales numerator and denominator, for fewer roundings.
    """
    x, width = _Lanes(builder, value), 8 * _size(value.type)
    c = COEFFICIENTS[width]
    magnitude = x.bits(builder.and_, 2 ** (width - 1) - 1)
    magnitude = magnitude.where(">", c.tanh_most, c.tanh_most, magnitude)
    reduced = magnitude.where("<", c.tanh_small, 0.0, magnitude)
    rounded = reduced.times_plus(2 * c.log2_e, c.tanh_round)
    k = rounded - c.tanh_round
    r = k.times_plus(-c.ln2_rest / 2, k.times_plus(-c.ln2 / 2, magnitude))
    w = r * r
    excess = w * w.series(c.tanh_series)
    C = excess + KAPPA
    M = r.times_plus(KAPPA, C)
    D = r.times_plus(-2 * KAPPA, M)
    power = rounded.bits(builder.shl, c.mantissa)
    ratio = magnitude.where("<", c.tanh_small, excess, D) / power.times_plus(M, D * 0.5)
    scale = magnitude.where("<", c.tanh_small, magnitude, 1.0)
    return (-scale).times_plus(ratio, scale).bits(builder.or_, x.bits(builder.and_, -(2 ** (width - 1)))).value


def _sigmoid(builder: Any, value: Any) -> Any:
    """σ(x) = 1/(1 + 2^k (1 + p)), −x = k ln 2 − r, p = e^−r − 1; scaled, so that 2^k is never too large."""
    x, width = _Lanes(builder, value), 8 * _size(value.type)
    c = COEFFICIENTS[width]
    x = x.where("<", c.sigmoid_least, c.sigmoid_least, x)
    x = x.where(">", c.sigmoid_most, c.sigmoid_most, x)
    rounded = x.times_plus(-c.log2_e, c.sigmoid_round)
    k = rounded - c.sigmoid_round
    r = k.times_plus(c.ln2_rest, k.times_plus(c.ln2, x))
    p = (r * r).times_plus(r.series(c.exp_series), -r)
    power = rounded.bits(builder.shl, c.mantissa)
    return (
        _Lanes(builder, _constant(value.type, c.sigmoid_scale)) / power.times_plus(p, power + c.sigmoid_scale)
    ).value


@intrinsic
def tanh(_, x):
    """tanh, lane by lane; with fused multiply-adds at most 1.4 ulp off."""
    return x(x), lambda context, builder, signature, operands: _tanh(builder, *operands)


@intrinsic
def sigmoid(_, x):
    """1 / (1 + exp(−x)), lane by lane; with fused multiply-adds at most 2.5 ulp off."""
    return x(x), lambda context, builder, signature, operands: _sigmoid(builder, *operands)


@_kernel
def activate(like, gate, source, target, count):
    """tanh, or the sigmoid if ``gate``, of ``count`` numbers, a multiple of a panel: for the tests of both."""
    for k in range(0, count, width_of(like)):
        x = load(source, k, splat(like))
        store(target, k, sigmoid(x) if gate else tanh(x))


class Factor(NamedTuple):
    """A product ``left @ right`` to add: so many ``terms`` for each entry.

    ``left[r, k]`` is ``r * row + k * step`` numbers behind ``left``, and lane l of panel p of ``right[k]`` is
    ``k * stride + p * panel + l`` behind ``right``. Either ``step`` or ``row`` is 1.
    """

    left: int
    row: int
    step: int
    right: int
    stride: int
    panel: int
    terms: int


@intrinsic(prefer_literal=True)
def tile(_, out, out_row, start, start_row, factors, like, rows, vectors, by_row):
    """``out = start + factors``, a tile of ``rows`` × ``vectors`` that is summed in registers.

    Every factor has ``step`` 1 if ``by_row``, else ``row`` 1.
    """

    def lower(context, builder, signature, operands):
        both = context.get_value_type(like)
        kind, size = ir.VectorType(both.element, both.count // 2), _size(both)
        out, out_row, start, start_row, given = operands[:5]
        sums = [_constant(kind, 0.0)] * (rows.literal_value * vectors.literal_value)
        for factor in cgutils.unpack_tuple(builder, given):
            values = Factor(*cgutils.unpack_tuple(builder, factor))
            sums = _accumulate(builder, values, sums, vectors.literal_value, kind, by_row.literal_value)
        for position, total in enumerate(sums):
            r, v = divmod(position, vectors.literal_value)
            begin, end = (
                _pointer(builder, address, builder.add(builder.mul(row, _INDEX(r)), _INDEX(v * kind.count)), kind)
                for address, row in ((start, start_row), (out, out_row))
            )
            builder.store(builder.fadd(builder.load(begin, align=size), total), end, align=size)
        return context.get_dummy_value()

    integer = types.int64
    return types.void(integer, integer, integer, integer, factors, like, rows, vectors, by_row), lower


def _opaque(builder: Any, word: Any) -> Any:
    """The same word, of which LLVM knows nothing: it would make one pointer from the other, step by step."""
    return builder.asm(ir.FunctionType(_INDEX, [_INDEX]), "", "=r,0", [word], side_effect=False)


def _accumulate(
    builder: Any, factor: Factor, sums: list[Any], vectors: int, kind: ir.VectorType, by_row: bool
) -> list[Any]:
    """The loop over k: one multiply-add for each sum, k ascending."""
    size, rows = _size(kind), len(sums) // vectors

    def bytes_behind(address: Any, numbers: Any, times: int = 1) -> Any:
        return builder.add(address, builder.mul(numbers, _INDEX(times * size)))

    rights = [_opaque(builder, bytes_behind(factor.right, factor.panel, p)) for p in range(vectors // 2)]
    lefts = [_opaque(builder, bytes_behind(factor.left, factor.row, r)) for r in range(rows if by_row else 1)]
    entry, head, body, done = builder.block, *(builder.append_basic_block(name) for name in ("head", "body", "done"))
    builder.branch(head)
    builder.position_at_end(head)
    counters = [builder.phi(_INDEX) for _ in range(3)]
    totals = [builder.phi(kind) for _ in sums]
    for phi, value in zip((*counters, *totals), (*[_INDEX(0)] * 3, *sums), strict=True):
        phi.add_incoming(value, entry)
    k, left_at, right_at = counters
    builder.cbranch(builder.icmp_signed("<", k, factor.terms), body, done)
    builder.position_at_end(body)
    columns = [
        builder.load(_pointer(builder, builder.add(right, right_at), _INDEX(half * kind.count), kind), align=size)
        for right in rights
        for half in range(2)
    ]
    following = []
    for r in range(rows):
        left, behind = (lefts[r], 0) if by_row else (lefts[0], r)
        at = _pointer(builder, builder.add(left, left_at), _INDEX(behind), kind.element)
        row = _broadcast(builder, builder.load(at, align=size), kind)
        following += [_fused(builder, row, column, totals[r * vectors + v]) for v, column in enumerate(columns)]
    left_step = _INDEX(size) if by_row else builder.mul(factor.step, _INDEX(size))
    right_step = builder.mul(factor.stride, _INDEX(size))
    steps = (builder.add(k, _INDEX(1)), builder.add(left_at, left_step), builder.add(right_at, right_step))
    # the next k's loads stay behind this one's sums: before them they would push the sums out of the registers
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)
    builder.branch(head)
    for phi, value in zip((*counters, *totals), (*steps, *following), strict=True):
        phi.add_incoming(value, body)
    builder.position_at_end(done)
    return totals


@_inner
def product(like, out, out_row, start, start_row, first, second, rows, panels, turned):
    """``out = start + first + second``, ``rows`` × ``panels``, in tiles that fill the registers.

    ``first`` and ``second`` are :class:`Factor` of ``step`` 1; ``out`` and ``start`` are addresses, with numbers per
    row. If ``turned``, the last panel comes first: of a matrix that the cache does not hold, it has what was read last.
    """
    apart()
    size, panel, vector = bytes_of(like), width_of(like), splat(like)
    across = 4 // rows if rows <= 2 else 1
    chunks = (panels + across - 1) // across
    for chunk in range(chunks):
        p = (chunks - 1 - chunk if turned else chunk) * across
        whole = panels - p >= across
        last = p + 1 if whole else panels
        while p < last:
            r = 0
            while r < rows:
                at = out + (r * out_row + p * panel) * size
                begin = start + (r * start_row + p * panel) * size
                factors = (moved(first, r, p, size), moved(second, r, p, size))
                left = rows - r
                if left >= MOST_ROWS and left != EVEN_SPLIT:
                    tile(at, out_row, begin, start_row, factors, vector, MOST_ROWS, 2, 1)
                    r += MOST_ROWS
                elif left >= 4:
                    tile(at, out_row, begin, start_row, factors, vector, 4, 2, 1)
                    r += 4
                elif left >= 2:
                    if across == 2 and whole:
                        tile(at, out_row, begin, start_row, factors, vector, 2, 4, 1)
                    else:
                        tile(at, out_row, begin, start_row, factors, vector, 2, 2, 1)
                    r += 2
                else:
                    if across == 4 and whole:
                        tile(at, out_row, begin, start_row, factors, vector, 1, 8, 1)
                    else:
                        tile(at, out_row, begin, start_row, factors, vector, 1, 2, 1)
                    r += 1
            p += 1


@_inner
def add_outer(like, out, out_row, factor, rows, panels):
    """``out += factor``, ``rows`` × ``panels``; the :class:`Factor` has ``row`` 1, a sum of outer products."""
    apart()
    size, panel, vector = bytes_of(like), width_of(like), splat(like)
    for p in range(panels):
        r = 0
        while r < rows:
            at = out + (r * out_row + p * panel) * size
            factors = (moved(factor, r, p, size),)
            if rows - r >= MOST_ROWS:
                tile(at, out_row, at, out_row, factors, vector, MOST_ROWS, 2, 0)
                r += MOST_ROWS
            elif rows - r >= 4:
                tile(at, out_row, at, out_row, factors, vector, 4, 2, 0)
                r += 4
            elif rows - r >= 2:
                tile(at, out_row, at, out_row, factors, vector, 2, 2, 0)
                r += 2
            else:
                tile(at, out_row, at, out_row, factors, vector, 1, 2, 0)
                r += 1


@register_jitable
def moved(factor, r, p, size):
    """The factor of the tile at row r and panel p."""
    left, right = factor.left + r * factor.row * size, factor.right + p * factor.panel * size
    return Factor(left, factor.row, factor.step, right, factor.stride, factor.panel, factor.terms)


@register_jitable
def packed(left, row, right, count, width):
    """The factor of rows of ``left`` with a matrix packed in panels."""
    return Factor(left, row, np.int64(1), right, width, count * width, count)


@register_jitable
def nothing(none):
    """The factor that adds nothing."""
    return Factor(none, none, none, none, none, none, none)


@register_jitable
def padded(count, width):
    """``count`` rounded up to a multiple of ``width``."""
    return (count + width - 1) // width * width


@_kernel
def pack_recurrent(like, W, diffusion, unconstrained, transposed, n, expected, out):
    """Pack M for M h, or for Mᵀ δ if ``transposed``; returns the columns of a panel, and only writes those expected."""
    width = width_of(like)
    if width != expected:
        return width
    for k in range(n):
        for j in range(padded(n, width)):
            entry = number(like, 0)
            if j < n:
                row, column = (k, j) if transposed else (j, k)
                entry = load(W, row * n + column, like)
                if not unconstrained:
                    entry = entry - load(W, column * n + row, like)  # (F1)
                if j == k:
                    entry = entry - diffusion  # (F1)
            store(out, (j // width * n + k) * width + j % width, entry)
    return width


@_kernel
def pack(like, matrix, rows, columns, row, column, out):
    """Pack a matrix whose entry [k, j] is at ``k * row + j * column``, (rows, columns), in panels of its columns."""
    width = width_of(like)
    for k in range(rows):
        for j in range(padded(columns, width)):
            value = load(matrix, k * row + j * column, like) if j < columns else number(like, 0)
            store(out, (j // width * rows + k) * width + j % width, value)


@_inner
def part(address, index, like, count):
    """A vector of which ``count`` lanes are there; zero in the others."""
    if count >= width_of_vector(like):
        return load(address, index, like)
    return load_first(address, index, like, max(count, 0))


@intrinsic
def width_of_vector(_, vector):
    """How many numbers the vector holds."""
    return types.int64(vector), lambda context, builder, signature, operands: _INDEX(vector.lanes)


@_inner
def put(address, index, value, count, streams):
    """Write the lanes of a vector that are there."""
    if count >= width_of_vector(value):
        if streams:
            stream(address, index, value)
        else:
            store(address, index, value)
    elif count > 0:
        store_first(address, index, value, count)


@_inner
def copy(like, source, source_row, target, target_row, rows, columns, streams):
    """Copy a matrix of ``rows`` × ``columns``, past the cache if ``streams``."""
    apart()
    vector = splat(like)
    for r in range(rows):
        for j in range(0, columns, width_of(like)):
            value = part(source, r * source_row + j, vector, columns - j)
            put(target, r * target_row + j, value, columns - j, streams)


@_inner
def add(like, source, source_row, target, target_row, rows, columns):
    """Add a matrix of ``rows`` × ``columns`` to another."""
    vector = splat(like)
    for r in range(rows):
        for j in range(0, columns, width_of(like)):
            total = part(target, r * target_row + j, vector, columns - j) + part(
                source, r * source_row + j, vector, columns - j
            )
            put(target, r * target_row + j, total, columns - j, NONE)


@_inner
def clear(like, target, count):
    """Write zeros."""
    for k in range(count):
        store(target, k, number(like, 0))


@register_jitable
def kept_at(t, T, keep_every):
    """Where the state of step t is kept, or −1."""
    if t == T:
        return (T + keep_every - 1) // keep_every
    return t // keep_every if t % keep_every == 0 else -1


@register_jitable
def block_of_panels(rows):
    """How many panels are activated together: of few samples many, as one panel of theirs is too little work."""
    return 64 if rows <= 2 else 1


@_inner
def step(step_size, call, x, now, then, s, z, h, streams, a, rows, turned):
    """One step of ``rows`` samples, from the padded states at ``now`` to those at ``then``.

    tanh and the gate go to ``s`` and ``z``, the states once more to ``h``, where these are not 0; ``a`` is scratch.
    """
    apart()
    size, width, epsilon = bytes_of(step_size), width_of(step_size), splat(step_size)
    n, m, columns = call.n, call.m, padded(call.n, width)
    panels, block = columns // width, block_of_panels(rows)
    blocks = (panels + block - 1) // block
    few = m <= FEW_INPUTS
    for k in range(blocks):
        p = (blocks - 1 - k if turned else k) * block
        taken = min(block, panels - p)
        j0, a_row = p * width, taken * width
        at_x, at_z = rows * a_row, 2 * rows * a_row
        by_V = packed(x, m, call.V + j0 * m * size, m, width)
        by_V_z = packed(x, m, call.V_z + j0 * m * size, m, width)
        by_M = packed(now, columns, call.M + j0 * n * size, n, width)
        b, b_z = call.b + j0 * size, call.b_z + j0 * size
        if call.gated:
            product(step_size, a, a_row, call.zeros, call.none, nothing(call.none), by_M, rows, taken, turned)
            if not few:
                product(step_size, a + at_x * size, a_row, b, call.none, by_V, nothing(call.none), rows, taken, turned)
                product(
                    step_size, a + at_z * size, a_row, b_z, call.none, by_V_z, nothing(call.none), rows, taken, turned
                )
        else:
            product(step_size, a, a_row, b, call.none, by_V, by_M, rows, taken, turned)  # (F2)
        for r in range(rows):
            for j in range(0, a_row, width):
                at, there = r * a_row + j, r * columns + j0 + j
                state, a_t = load(now, there, epsilon), load(a, at, epsilon)
                if call.gated:
                    if few:  # a pass of its own would cost more
                        to_a = of_input(step_size, b, by_V, m, r, j)
                        to_a_z = of_input(step_size, b_z, by_V_z, m, r, j)
                    else:
                        to_a, to_a_z = load(a, at_x + at, epsilon), load(a, at_z + at, epsilon)
                    tanh_a = tanh(a_t + to_a)  # (GF1) (GF2)
                    gate = sigmoid(a_t + to_a_z)  # (GF3) (GF4)
                    store(then, there, fma(epsilon, gate * tanh_a, state))  # (GF5)
                    store(a, at_z + at, gate)
                else:
                    tanh_a = tanh(a_t)  # (F3)
                    store(then, there, fma(epsilon, tanh_a, state))  # (F4)
                store(a, at, tanh_a)
        # each array's lines as wholes: halves of two arrays in turn would reach the memory as halves
        if s:
            copy(step_size, a, a_row, s + j0 * size, columns, rows, a_row, streams)
            if call.gated:
                copy(step_size, a + at_z * size, a_row, z + j0 * size, columns, rows, a_row, streams)
        if h:
            out_of = min(a_row, n - j0)
            copy(step_size, then + j0 * size, columns, h + j0 * size, n, rows, out_of, streams & (n == columns))


@_inner
def of_input(like, b, by_V, m, r, j):
    """The vector of b + V x at column j of sample r."""
    width = width_of(like)
    total = load(b, j, splat(like))
    for i in range(m):
        x_i = splat(load(by_V.left, r * m + i, like))
        total = fma(x_i, load(by_V.right, j * m + i * width, splat(like)), total)
    return total


@_kernel
def forward(step_size, call, first, last, scratch):
    """States of the samples ``first`` to ``last``; the scratch holds :func:`forward_numbers`."""
    size = bytes_of(step_size)
    T, B, n, m, keep_every = call.T, call.B, call.n, call.m, call.keep_every
    columns = padded(n, width_of(step_size))
    held = call.tile_rows * columns * size
    for start in range(first, last, call.tile_rows):
        rows = min(call.tile_rows, last - start)
        now, then = scratch, scratch + held
        copy(step_size, call.h0 + start * n * size, n, now, columns, rows, n, NONE)
        copy(step_size, now, columns, call.h + start * n * size, n, rows, n, NONE)
        for t in range(T):
            stashed = (t * B + start) * columns * size
            s, z = call.s + stashed if call.s else NONE, call.z + stashed if call.z else NONE
            kept = kept_at(t + 1, T, keep_every)
            h = call.h + (kept * B + start) * n * size if kept >= 0 else NONE
            x = call.x + (t * B + start) * m * size
            step(step_size, call, x, now, then, s, z, h, call.streams, scratch + 2 * held, rows, t % 2)
            now, then = then, now
    fence()


@register_jitable
def forward_numbers(call, width):
    """Numbers in the scratch of a forward kernel: two states and the pre-activations."""
    return (5 if call.gated else 3) * call.tile_rows * padded(call.n, width)


class Layout(NamedTuple):
    """Where the parts of a backward scratch begin, and how far apart rows are, in numbers.

    ``rights`` holds δ of ``ring_steps`` steps (gated: δ + δ_z, δ and δ_z), ``left`` their [h | x | 1]; the last step
    comes first. ``states``, ``stash`` and ``stash_z`` hold a segment that is computed again.
    """

    adjoint: int
    a: int
    dx: int
    rights: int
    right_row: int
    ring: int
    left: int
    left_row: int
    states: int
    stash: int
    stash_z: int
    end: int


@register_jitable
def odd_lines(count, width):
    """``count`` up to an odd number of lines of the cache: rows an even number of them apart share too few sets."""
    line = width * 32 // VECTOR_BYTES  # a panel has two vectors, a line 64 bytes
    return (padded(count, line) // line | 1) * line


@register_jitable
def layout(call, width):
    """The layout of the scratch of a backward kernel."""
    rows, columns = call.tile_rows, padded(call.n, width)
    held = rows * columns
    right_row, left_row = odd_lines(columns, width), odd_lines(max(columns, call.n + call.m + 1), width)
    ring = rows * call.ring_steps * right_row
    segment = call.keep_every if call.keep_every > 1 else 0
    a = held
    dx = a + (3 if call.gated else 1) * held
    rights = dx + rows * padded(call.m, width)
    left = rights + (3 if call.gated else 1) * ring
    states = left + rows * call.ring_steps * left_row
    stash = states + (segment + 1) * held
    stash_z = stash + segment * held
    end = stash_z + (segment * held if call.gated else 0)
    return Layout(0, a, dx, rights, right_row, ring, left, left_row, states, stash, stash_z, end)


@register_jitable
def sums_rows(call):
    """Rows of the sums: dL/dM by columns, then dV by columns and db (gated: both twice), then dε in one panel."""
    return call.n + (2 if call.gated else 1) * (call.m + 1)


@_inner
def fill_left(like, x, m, left, left_row, n, rows):
    """Write [x | 1] behind the states."""
    for r in range(rows):
        for i in range(m):
            store(left, r * left_row + n + i, load(x, r * m + i, like))
        store(left, r * left_row + n + m, number(like, 1))


@_inner
def begin_adjoint(like, call, start, rows, columns, adjoint):
    """adjoint_T = g_T."""
    at = (call.T * call.B * call.g_states + start) * call.n
    copy(like, call.g + at * bytes_of(like), call.n, adjoint, columns, rows, call.n, NONE)


@register_jitable
def sums_numbers(call, width):
    """Numbers in the sums of a group."""
    return sums_rows(call) * padded(call.n, width) + width


@register_jitable
def in_ring(scratch, ring, row, call, t, rows, size):
    """Address of the rows of step t in a ring that has the last step first."""
    return scratch + (ring + (call.ring_steps - 1 - t % call.ring_steps) * rows * row) * size


@_inner
def replay(step_size, call, s, z, now, then, row, rows):
    """The states after a step whose tanh and gate are known, to the bits that :func:`step` gave them."""
    width, epsilon = width_of(step_size), splat(step_size)
    columns = padded(call.n, width)
    for r in range(rows):
        for j in range(0, columns, width):
            increment = load(s, r * columns + j, epsilon)
            if call.gated:
                increment = load(z, r * columns + j, epsilon) * increment
            store(then, r * row + j, fma(epsilon, increment, load(now, r * row + j, epsilon)))  # (F4) (GF5)


@_inner
def deltas(step_size, call, adjoint, s, z, ahead, right, right_row, ring, rows):
    """δ of a step (gated: δ + δ_z, δ and δ_z, a ``ring`` apart) to ``right``; returns the lanes of its dε.

    ``ahead`` is how many numbers before this step's stash the one lies that is asked for from memory.
    """
    size, width = bytes_of(step_size), width_of(step_size)
    n, columns = call.n, padded(call.n, width)
    epsilon, one, lanes = splat(step_size), splat(number(step_size, 1)), splat(number(step_size, 0))
    for r in range(rows):
        for j in range(0, columns, width):
            at, to = r * columns + j, r * right_row + j
            adjoint_t, s_t = part(adjoint, at, epsilon, n - j), part(s, at, epsilon, n - j)
            prefetch(s, at - ahead, epsilon)
            if call.gated:
                z_t = part(z, at, epsilon, n - j)
                prefetch(z, at - ahead, epsilon)
                delta = epsilon * z_t * fnma(s_t, s_t, one) * adjoint_t  # (GB1)
                delta_z = epsilon * s_t * z_t * (one - z_t) * adjoint_t  # (GB2)
                store(right, to, delta + delta_z)
                store(right + ring * size, to, delta)
                store(right + 2 * ring * size, to, delta_z)
                lanes = fma(adjoint_t, z_t * s_t, lanes)  # (GB8)
            else:
                store(right, to, epsilon * fnma(s_t, s_t, one) * adjoint_t)  # (B1)
                lanes = fma(adjoint_t, s_t, lanes)  # (B7)
    return lanes


@_inner
def input_gradient(step_size, call, right, right_row, ring, dx, out, rows):
    """dx of a step to ``out``, by way of the scratch ``dx``."""
    size, width = bytes_of(step_size), width_of(step_size)
    m, columns = call.m, padded(call.m, width)
    if call.gated:
        by_V = packed(right + ring * size, right_row, call.V_columns, call.n, width)
        by_V_z = packed(right + 2 * ring * size, right_row, call.V_z_columns, call.n, width)
        product(step_size, dx, columns, call.zeros, call.none, by_V, by_V_z, rows, columns // width, NONE)  # (GB7)
    else:
        by_V = packed(right, right_row, call.V_columns, call.n, width)
        product(
            step_size, dx, columns, call.zeros, call.none, nothing(call.none), by_V, rows, columns // width, NONE
        )  # (B6)
    copy(step_size, dx, columns, out, m, rows, m, NONE)


@_inner
def add_gradients(step_size, call, left, left_row, right, right_row, ring, count, sums):
    """Add what ``count`` rows of δ and of [h | x | 1] give to the sums."""
    size, width = bytes_of(step_size), width_of(step_size)
    n, columns = call.n, padded(call.n, width)
    panels, inputs = columns // width, call.m + 1
    if call.gated:
        by_h = Factor(left, np.int64(1), left_row, right, right_row, width, count)
        add_outer(step_size, sums, columns, by_h, n, panels)  # (GB4)
        for gate in range(2):
            to = sums + (n + gate * inputs) * columns * size
            delta = right + (1 + gate) * ring * size
            by_x = Factor(left + n * size, np.int64(1), left_row, delta, right_row, width, count)
            add_outer(step_size, to, columns, by_x, inputs, panels)  # (GB5) (GB6)
    else:
        by_h_x = Factor(left, np.int64(1), left_row, right, right_row, width, count)
        add_outer(step_size, sums, columns, by_h_x, n + inputs, panels)  # (B3) (B4) (B5)


@_kernel
def backward(step_size, call, first, last, scratch, sums):
    """Gradients of the samples ``first`` to ``last``: dx, dh0, and the others as sums of :func:`sums_numbers`."""
    size, width = bytes_of(step_size), width_of(step_size)
    T, B, n, m, keep_every, ring_steps = call.T, call.B, call.n, call.m, call.keep_every, call.ring_steps
    columns, at, lanes = padded(n, width), layout(call, width), splat(number(step_size, 0))
    adjoint, a, dx = scratch, scratch + at.a * size, scratch + at.dx * size
    states, stash, stash_z = scratch + at.states * size, scratch + at.stash * size, scratch + at.stash_z * size
    clear(step_size, sums, sums_numbers(call, width))
    for start in range(first, last, call.tile_rows):
        rows = min(call.tile_rows, last - start)
        held = rows * columns
        begin_adjoint(step_size, call, start, rows, columns, adjoint)
        stop = T
        while stop > 0:
            # the states and the stash of a segment, from its first state
            if keep_every > 1:
                begin = (stop - 1) // keep_every * keep_every
                s_begin, z_begin, stride, ahead = stash, stash_z, held, 0
                h = call.h + (begin // keep_every * B + start) * n * size
                copy(step_size, h, n, states, columns, rows, n, NONE)
                for t in range(begin, stop):
                    k = (t - begin) * held * size
                    x = call.x + (t * B + start) * m * size
                    step(
                        step_size,
                        call,
                        x,
                        states + k,
                        states + k + held * size,
                        stash + k,
                        stash_z + k,
                        NONE,
                        NONE,
                        a,
                        rows,
                        t % 2,
                    )
            else:
                begin = (stop - 1) // ring_steps * ring_steps
                stashed, stride = (begin * B + start) * columns * size, B * columns
                s_begin, z_begin, ahead = call.s + stashed, call.z + stashed, ring_steps * stride
                left = in_ring(scratch, at.left, at.left_row, call, begin, rows, size)
                copy(step_size, call.h + (begin * B + start) * n * size, n, left, at.left_row, rows, n, NONE)
                for t in range(begin, stop - 1):
                    k = (t - begin) * stride * size
                    now = in_ring(scratch, at.left, at.left_row, call, t, rows, size)
                    then = in_ring(scratch, at.left, at.left_row, call, t + 1, rows, size)
                    replay(step_size, call, s_begin + k, z_begin + k, now, then, at.left_row, rows)
            for t in range(stop - 1, begin - 1, -1):
                k = (t - begin) * stride * size
                s, z = s_begin + k, z_begin + k
                right = in_ring(scratch, at.rights, at.right_row, call, t, rows, size)
                left = in_ring(scratch, at.left, at.left_row, call, t, rows, size)
                if keep_every > 1:
                    copy(step_size, states + (t - begin) * held * size, columns, left, at.left_row, rows, n, NONE)
                fill_left(step_size, call.x + (t * B + start) * m * size, m, left, at.left_row, n, rows)
                lanes = lanes + deltas(
                    step_size, call, adjoint, s, z, min(ahead, t * stride), right, at.right_row, at.ring, rows
                )
                by_M = packed(right, at.right_row, call.M_rows, n, width)
                product(
                    step_size,
                    adjoint,
                    columns,
                    adjoint,
                    columns,
                    nothing(call.none),
                    by_M,
                    rows,
                    columns // width,
                    t % 2,
                )  # (B2) (GB3)
                if call.g_states:
                    add(step_size, call.g + (t * B + start) * n * size, n, adjoint, columns, rows, n)  # (B2) (GB3)
                if call.dx:
                    out = call.dx + (t * B + start) * m * size
                    input_gradient(step_size, call, right, at.right_row, at.ring, dx, out, rows)
                if t % ring_steps == 0:
                    steps = min(ring_steps, T - t)
                    right = in_ring(scratch, at.rights, at.right_row, call, t + steps - 1, rows, size)
                    left = in_ring(scratch, at.left, at.left_row, call, t + steps - 1, rows, size)
                    add_gradients(step_size, call, left, at.left_row, right, at.right_row, at.ring, steps * rows, sums)
            stop = begin
        copy(step_size, adjoint, columns, call.dh0 + start * n * size, n, rows, n, NONE)
    store(sums, sums_rows(call) * columns, lanes)


@_inner
def add_groups(like, sums, count, apart_by, groups):
    """Add the sums of all groups, so many bytes apart, to the first, in their order."""
    vector = splat(like)
    for group in range(1, groups):
        for k in range(0, count, width_of(like)):
            total = load(sums, k, vector) + load(sums + group * apart_by, k, vector)
            store(sums, k, total)


@_inner
def finish_recurrent(like, sums, n, unconstrained, dW, ddiffusion):
    """dW and dγ from Gᵀ, (n, padded n)."""
    columns = padded(n, width_of(like))
    trace = number(like, 0)
    for j in range(n):
        for k in range(n):
            G_jk = load(sums, k * columns + j, like)
            store(dW, j * n + k, G_jk if unconstrained else G_jk - load(sums, j * columns + k, like))  # (B8)
        trace += load(sums, j * columns + j, like)
    store(ddiffusion, 0, -trace)  # (B9)


@_inner
def finish_input(like, sums, n, m, dV, db):
    """dV and db from their sums, (m + 1, padded n)."""
    columns = padded(n, width_of(like))
    for j in range(n):
        for i in range(m):
            store(dV, j * m + i, load(sums, i * columns + j, like))
        store(db, j, load(sums, m * columns + j, like))


@_kernel
def finish(like, call, sums, apart_by, groups, unconstrained, dW, dV, db, dV_z, db_z, dstep_size, ddiffusion):
    """Add the sums of the groups in their order, and write the gradients they hold."""
    size, columns = bytes_of(like), padded(call.n, width_of(like))
    add_groups(like, sums, sums_numbers(call, width_of(like)), apart_by, groups)
    finish_recurrent(like, sums, call.n, unconstrained, dW, ddiffusion)
    finish_input(like, sums + call.n * columns * size, call.n, call.m, dV, db)
    if call.gated:
        finish_input(like, sums + (call.n + call.m + 1) * columns * size, call.n, call.m, dV_z, db_z)
    total = number(like, 0)
    for lane in range(width_of(like)):
        total += load(sums, sums_rows(call) * columns + lane, like)
    store(dstep_size, 0, total)
