"""Argument checks and conversions: a message names the argument, what was expected in symbols and values, what came."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""``numpy.ndarray``, or the array type of the backend."""

DTYPES: tuple[np.dtype[Any], ...] = (np.dtype(np.float32), np.dtype(np.float64))
"""The dtypes of a call of either cell."""

REAL: tuple[np.dtype[Any], ...] = (*DTYPES, np.dtype(np.longdouble))
"""Every real precision."""

NUMBER: tuple[np.dtype[Any], ...] = (*REAL, np.dtype("complex64"), np.dtype("complex128"), np.dtype(np.clongdouble))
"""Every precision, real or complex."""


class Arrays:
    """Checks array after array; remembers the first one's precision and the size of each symbol met so far.

    Parameters
    ----------
    dtypes : tuple of dtype
        What to accept. A real and a complex dtype of the same precision may meet.
    array_type : type
        What to accept; no other, not even a subclass.
    hint : str
        What to add to the message about another type.
    """

    def __init__(
        self, dtypes: tuple[np.dtype[Any], ...] = DTYPES, array_type: type = np.ndarray, hint: str = ""
    ) -> None:
        self.dtypes, self.array_type, self.hint = dtypes, array_type, hint
        self.sizes: dict[str, int] = {}
        self.first = ""
        self.precision: np.dtype[Any] = np.dtype(np.float64)

    def check(self, name: str, array: Any, *symbols: str, note: str = "") -> None:
        """Check type, dtype and shape; "..." as the first symbol stands for any leading axes.

        A symbol has one size throughout, and every size but T is at least 1.
        """
        self.check_dtype(name, array)
        shape, named = array.shape, symbols
        if symbols[:1] == ("...",):
            named = symbols[1:]
            shape = shape[len(shape) - len(named) :]
        sizes = dict(self.sizes)
        fits = len(shape) == len(named) and all(
            sizes.setdefault(symbol, size) == size and size >= _least(symbol)
            for symbol, size in zip(named, shape, strict=True)
        )
        if not fits:
            raise ValueError(f"{name}: expected {self.describe(*symbols)}{note}, got {tuple(array.shape)}")
        self.sizes = sizes

    def check_dtype(self, name: str, array: Any) -> None:
        """Check type and dtype."""
        check_type(name, array, self.array_type, self.hint)
        if array.dtype not in self.dtypes:
            raise TypeError(
                f"{name}: expected dtype {self._expected()}, got {array.dtype}{self._conversion(name, array.dtype)}"
            )
        precision = np.finfo(array.dtype).dtype
        if not self.first:
            self.first, self.precision = name, precision
        elif precision != self.precision:
            word = "dtype" if self.dtypes == DTYPES else "precision"
            raise TypeError(f"{name}: expected {word} {self.precision} as {self.first} has, got {array.dtype}")

    def describe(self, *symbols: str) -> str:
        """``(B, n) = (16, 64)``, a size not yet known as its symbol, with the least size where it has one."""
        texts = [shape_text(symbols), shape_text([str(self.sizes.get(symbol, symbol)) for symbol in symbols])]
        free = [s for s in dict.fromkeys(symbols) if s != "..." and s not in self.sizes and _least(s)]
        bounds = f" with {' and '.join(f'{symbol} >= 1' for symbol in free)}" if free else ""
        return " = ".join(dict.fromkeys(texts)) + bounds

    def _expected(self) -> str:
        # once met, the first array's dtype says more than the list
        if self.first and self.dtypes == DTYPES:
            return f"{self.precision} as {self.first} has"
        return " or ".join(map(str, self.dtypes))

    def _conversion(self, name: str, dtype: np.dtype[Any]) -> str:
        """How to convert an array of real numbers, or one whose bytes are swapped, to what is expected."""
        met = self.precision if self.first else None
        native = dtype.newbyteorder("=")
        if native in self.dtypes and (met is None or met == native):
            return f"; convert it: {name}.astype({name}.dtype.newbyteorder('='))"
        if not _is_real(dtype):
            return ""
        return f"; convert it: {name}.astype(np.{met or _nearest(dtype)})"


def asarray(array: Any, dtype: Any) -> Array:
    """Convert to a NumPy array of a dtype of the contract.

    Parameters
    ----------
    array : array_like
        Real numbers of any shape.
    dtype : dtype
        float32 or float64; rounding to it is what the caller asks for here, and only here.

    Returns
    -------
    numpy.ndarray
        C-contiguous, in memory of its own.

    Raises
    ------
    TypeError
        For another dtype, for complex numbers, objects or text, or for what NumPy cannot read; of a dtype that NumPy
        does not have, such as bfloat16, the message says how to convert it.
    ValueError
        For lists of unequal lengths.
    """
    try:
        wanted = None if dtype is None else np.dtype(dtype)
    except TypeError:  # of PyTorch, or no dtype at all
        wanted = None
    if wanted is None or wanted not in DTYPES:  # to NumPy None is float64
        raise TypeError(f"dtype: expected float32 or float64, got {dtype if wanted is None else wanted}")
    try:
        given = np.asarray(array)
    except ValueError as error:
        raise ValueError(f"array: expected real numbers in one shape, got {type_name(type(array))} ({error})") from None
    except (TypeError, RuntimeError) as error:
        got = f"{type_name(type(array))} that NumPy cannot read ({error})"
        raise TypeError(f"array: expected real numbers, got {got}{_conversion_of_tensor(array)}") from None
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("array: expected no mask, got numpy.ma.MaskedArray; fill it first")
    if given.dtype.kind not in "biuf":
        how = f"; convert it: array.astype(np.{_nearest(given.dtype)})" if _is_real(given.dtype) else ""
        raise TypeError(f"array: expected real numbers, got dtype {given.dtype}{how}")
    with np.errstate(over="ignore"):
        return np.array(given, dtype=wanted, order="C")


def to_numpy(array: Array) -> np.ndarray[Any, Any]:
    """Convert back: a new ``numpy.ndarray`` with the same values.

    Raises
    ------
    TypeError
        If ``array`` is not a ``numpy.ndarray``.
    """
    check_type("array", array, np.ndarray)
    return array.copy()  # type: ignore[no-any-return]


def check_arrays(dtypes: tuple[np.dtype[Any], ...], **arguments: tuple[Any, str]) -> np.dtype[Any]:
    """Check arrays against shapes in symbols: ``check_arrays(DTYPES, M=(M, "n n"), h=(h, "... n"))``.

    Returns
    -------
    dtype
        The one precision of the arrays, a real dtype; float64 if there is none.
    """
    arrays = Arrays(dtypes)
    for name, (array, symbols) in arguments.items():
        arrays.check(name, array, *symbols.split())
    return arrays.precision


def check_operands(**arguments: tuple[Any, tuple[np.dtype[Any], ...]]) -> list[Array]:
    """Check numbers and arrays that are to broadcast: ``check_operands(omega=(omega, REAL), d=(d, REAL))``.

    Parameters
    ----------
    **arguments : (value, dtypes)
        Under the argument's name, the value and REAL or NUMBER, what it may be.

    Returns
    -------
    list of array
        The values: arrays as they are, numbers rounded to the precision of the arrays, float64 if there is none.
    """
    for name, (value, dtypes) in arguments.items():
        kind, expected = (numbers.Real, "a real number") if dtypes is REAL else (numbers.Complex, "a number")
        if type(value) is np.ndarray:
            check_arrays(dtypes, **{name: (value, "...")})
        elif isinstance(value, bool) or not isinstance(value, kind):
            raise TypeError(f"{name}: expected {expected} or numpy.ndarray, got {type_name(type(value))}")
    arrays = {name: value for name, (value, _) in arguments.items() if type(value) is np.ndarray}
    precision = check_arrays(NUMBER, **{name: (array, "...") for name, array in arrays.items()})
    shapes = [array.shape for array in arrays.values()]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"{', '.join(arrays)}: expected shapes that broadcast, got {shapes}") from None
    return [_as_array(name, value, precision) for name, (value, _) in arguments.items()]


def check_type(name: str, value: Any, type_: type, hint: str = "") -> None:
    """Check that a value is of exactly this type."""
    if type(value) is not type_:
        raise TypeError(f"{name}: expected {type_name(type_)}, got {type_name(type(value))}{hint}")


def check_integer(name: str, value: Any, least: int) -> None:
    """Check that a value is an integer and at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected an integer, got {type_name(type(value))}")
    if value < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {shown(value)}")


def check_bool(name: str, value: Any) -> None:
    """Check that a value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {type_name(type(value))}")


def positive(name: str, value: Any, dtype: np.dtype[Any]) -> float:
    """Check a real number, rounded to the dtype: finite and > 0."""
    return _rounded(name, value, dtype, "> 0", operator.gt)


def non_negative(name: str, value: Any, dtype: np.dtype[Any]) -> float:
    """Check a real number, rounded to the dtype: finite and >= 0."""
    return _rounded(name, value, dtype, ">= 0", operator.ge)


def type_name(type_: type) -> str:
    """``float``, ``numpy.ndarray``: a type with its module, but for the built-in ones."""
    return type_.__qualname__ if type_.__module__ == "builtins" else f"{type_.__module__}.{type_.__qualname__}"


def shown(value: Any) -> str:
    """Text of a number, cut after twenty digits where it is longer than forty."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:20]}…"


def shape_text(items: Sequence[str]) -> str:
    """``(B, n)`` from the texts of a tuple's items."""
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _is_real(dtype: np.dtype[Any]) -> bool:
    """Whether entries are real numbers: NumPy's, or of a dtype like bfloat16, whose kind is no number's to NumPy."""
    return dtype.kind in "biuf" or "float" in dtype.name


def _nearest(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The narrowest dtype of a call that holds the floats, or the widest for other numbers."""
    return DTYPES[0] if dtype.itemsize <= 2 and "float" in dtype.name else DTYPES[1]


def _conversion_of_tensor(array: Any) -> str:
    """How to make of a tensor of PyTorch what NumPy can read."""
    dtype = str(getattr(array, "dtype", ""))
    if not dtype.startswith("torch."):
        return ""
    steps = ".detach()" if getattr(array, "requires_grad", False) else ""
    steps += ".cpu()" if str(getattr(array, "device", "cpu")) != "cpu" else ""
    steps += ".float()" if "bfloat" in dtype or "float8" in dtype else ""
    return f"; convert it: array{steps}" if steps else ""


def _least(symbol: str) -> int:
    return 0 if symbol == "T" else 1


def _rounded(name: str, value: Any, dtype: np.dtype[Any], range_: str, inside: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a real number, got {type_name(type(value))}")
    try:
        with np.errstate(over="ignore", under="ignore"):
            rounded = float(dtype.type(value))
    except OverflowError:
        rounded = math.inf
    if not (math.isfinite(rounded) and inside(rounded, 0.0)):
        raise ValueError(f"{name}: expected a finite number {range_} in {dtype}, got {shown(value)}")
    return rounded


def _as_array(name: str, value: Any, precision: np.dtype[Any]) -> Array:
    if type(value) is np.ndarray:
        return value
    dtype = precision if isinstance(value, numbers.Real) else np.result_type(precision, np.complex64)
    try:
        with np.errstate(over="ignore"):
            return np.asarray(value).astype(dtype)
    except OverflowError:
        raise ValueError(f"{name}: expected a number in {dtype}, got {shown(value)}") from None
