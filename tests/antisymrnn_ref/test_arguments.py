"""The checks that every call goes through, one by one: what they accept, what they return, what they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from antisymrnn_ref import arguments
from antisymrnn_ref.arguments import DTYPES, NUMBER, REAL, Arrays, check_arrays, check_operands

WIDE = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps


def said(error: type[Exception], call: Callable[[], Any]) -> str:
    with pytest.raises(error) as raised:
        call()
    assert raised.type is error
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None or raised.value.__suppress_context__, "the cause is in the message"
    return str(raised.value)


def of_dtype(name: Any, shape: tuple[int, ...] = (2,)) -> Any:
    return np.zeros(shape, name)


def test_the_dtypes_are_those_of_the_contract_and_every_wider_one() -> None:
    assert [dtype.name for dtype in DTYPES] == ["float32", "float64"]
    assert list(REAL) == [*DTYPES, np.dtype("g")]
    assert list(NUMBER) == [*REAL, np.dtype("c8"), np.dtype("c16"), np.dtype("G")]


# Texts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        ("x" * 40, "x" * 40),
        ("x" * 41, "x" * 20 + "…"),
        (10**39, "1" + "0" * 39),
        (10**40, "1" + "0" * 19 + "…"),
        (2**1000 - 1, str(2**1000 - 1)[:20] + "…"),
        (2**1000, "an integer of 1001 bits"),
        (-(10**400), "an integer of 1329 bits"),
        (Fraction(1, 3), "1/3"),
    ],
)
def test_long_numbers_are_cut(value: Any, text: str) -> None:
    assert arguments.shown(value) == text


def test_names_of_types_and_shapes() -> None:
    assert arguments.type_name(float) == "float"
    assert arguments.type_name(np.ndarray) == "numpy.ndarray"
    assert arguments.type_name(Arrays) == "antisymrnn_ref.arguments.Arrays"
    assert arguments.shape_text([]) == "()"
    assert arguments.shape_text(["n"]) == "(n,)"
    assert arguments.shape_text(["B", "n"]) == "(B, n)"


# Arrays


def test_a_symbol_has_one_size_throughout_and_a_refused_array_sets_none() -> None:
    arrays = Arrays()
    assert (arrays.first, arrays.precision) == ("", np.float64)
    assert arrays.describe("T", "B", "n") == "(T, B, n) with B >= 1 and n >= 1"
    assert arrays.describe("...", "n", "n") == "(..., n, n) with n >= 1"
    assert arrays.describe("T") == "(T,)"
    message = said(ValueError, lambda: arrays.check("M", np.zeros((2, 3)), "n", "n"))
    assert message == "M: expected (n, n) with n >= 1, got (2, 3)"
    assert arrays.sizes == {}
    arrays.check("x", np.zeros((0, 2, 3)), "T", "B", "m")
    assert (arrays.first, arrays.sizes) == ("M", {"T": 0, "B": 2, "m": 3})
    assert arrays.describe("B", "n") == "(B, n) = (2, n) with n >= 1"
    assert arrays.describe("B", "m") == "(B, m) = (2, 3)"
    arrays.check("h", np.zeros((7, 5, 2, 3)), "...", "B", "m")
    arrays.check("u", np.zeros(3), "...", "m")
    arrays.check("any", np.zeros(()), "...")
    for shape in ((3,), (2, 4), (3, 2), (2, 0)):
        message = said(ValueError, lambda shape=shape: arrays.check("h", np.zeros(shape), "...", "B", "m"))
        assert message == f"h: expected (..., B, m) = (..., 2, 3), got {shape}"
    for shape in ((2,), (2, 3, 1), ()):
        message = said(ValueError, lambda shape=shape: arrays.check("h", np.zeros(shape), "B", "m"))
        assert message == f"h: expected (B, m) = (2, 3), got {shape}"
    message = said(ValueError, lambda: arrays.check("h", np.zeros(()), "...", "B", "m"))
    assert message == "h: expected (..., B, m) = (..., 2, 3), got ()"
    arrays.check("one", np.zeros((1, 1)), "p", "q")
    message = said(ValueError, lambda: arrays.check("V", np.zeros((1, 0)), "n", "k", note=" for k = 2"))
    assert message == "V: expected (n, k) with n >= 1 and k >= 1 for k = 2, got (1, 0)"
    assert set(arrays.sizes) == {"T", "B", "m", "p", "q"}


def test_the_arrays_of_a_call_have_the_dtype_of_the_first() -> None:
    arrays = Arrays()
    arrays.check_dtype("W", of_dtype("f4"))
    assert arrays.precision == np.float32
    assert said(TypeError, lambda: arrays.check_dtype("V", of_dtype("f8"))) == (
        "V: expected dtype float32 as W has, got float64"
    )
    assert said(TypeError, lambda: arrays.check_dtype("b", of_dtype("i8"))) == (
        "b: expected float32 as W has, got int64; convert it: b.astype(np.float32)".replace(
            "expected", "expected dtype"
        )
    )
    assert said(TypeError, lambda: arrays.check_dtype("b", of_dtype(">f4"))) == (
        "b: expected dtype float32 as W has, got >f4; convert it: b.astype(b.dtype.newbyteorder('='))"
    )
    # in its own byte order it would be of another dtype than W
    assert said(TypeError, lambda: arrays.check_dtype("b", of_dtype(">f8"))) == (
        "b: expected dtype float32 as W has, got >f8; convert it: b.astype(np.float32)"
    )
    assert said(TypeError, lambda: arrays.check_dtype("b", of_dtype("c8"))) == (
        "b: expected dtype float32 as W has, got complex64"
    )
    assert arrays.first == "W"


def test_real_and_complex_arrays_of_one_precision_may_meet() -> None:
    arrays = Arrays(NUMBER)
    arrays.check_dtype("M", of_dtype("c8"))
    assert arrays.precision == np.float32
    arrays.check_dtype("h", of_dtype("f4"))
    assert said(TypeError, lambda: arrays.check_dtype("u", of_dtype("c16"))) == (
        "u: expected precision float32 as M has, got complex128"
    )
    names = " or ".join(dtype.name for dtype in NUMBER)
    assert said(TypeError, lambda: arrays.check_dtype("u", of_dtype("i2"))) == (
        f"u: expected dtype {names}, got int16; convert it: u.astype(np.float32)"
    )
    assert said(TypeError, lambda: Arrays(REAL).check_dtype("u", of_dtype("c16"))) == (
        f"u: expected dtype {' or '.join(dtype.name for dtype in REAL)}, got complex128"
    )


@pytest.mark.parametrize(
    ("dtype", "conversion"),
    [
        ("f2", "; convert it: W.astype(np.float32)"),
        ("?", "; convert it: W.astype(np.float64)"),
        ("i1", "; convert it: W.astype(np.float64)"),
        ("u2", "; convert it: W.astype(np.float64)"),
        (">i4", "; convert it: W.astype(np.float64)"),
        (">f4", "; convert it: W.astype(W.dtype.newbyteorder('='))"),
        (">f8", "; convert it: W.astype(W.dtype.newbyteorder('='))"),
        ("c16", ""),
        ("O", ""),
        ("U1", ""),
        ("S1", ""),
        ("M8[s]", ""),
        ("m8[s]", ""),
        ([("x", "f4")], ""),
    ],
)
def test_what_is_a_real_number_can_be_converted(dtype: Any, conversion: str) -> None:
    array = np.zeros((2, 2), dtype)
    message = said(TypeError, lambda: Arrays().check("W", array, "n", "n"))
    assert message == f"W: expected dtype float32 or float64, got {array.dtype}{conversion}"
    if dtype not in ("f2", ">f4", ">f8"):
        if conversion:
            assert arguments.asarray(array, np.float32).dtype == np.float32
        else:
            assert said(TypeError, lambda: arguments.asarray(array, np.float32)) == (
                f"array: expected real numbers, got dtype {array.dtype}"
            )


def test_another_array_type_is_refused_with_the_hint() -> None:
    message = said(TypeError, lambda: Arrays(array_type=list, hint="; so there").check("h", np.zeros(2), "n"))
    assert message == "h: expected list, got numpy.ndarray; so there"
    message = said(TypeError, lambda: check_arrays(DTYPES, a=([1.0], "n")))
    assert message == "a: expected numpy.ndarray, got list"


def test_check_arrays_gives_the_precision() -> None:
    assert check_arrays(DTYPES) == np.float64
    assert check_arrays(NUMBER, a=(of_dtype("c8"), "n"), b=(of_dtype("f4"), "... n")) == np.float32
    assert check_arrays(NUMBER, a=(of_dtype("G"), "n")) == np.longdouble
    message = said(ValueError, lambda: check_arrays(DTYPES, M=(np.zeros((2, 2)), "n n"), h=(np.zeros((2, 3)), "... n")))
    assert message == "h: expected (..., n) = (..., 2), got (2, 3)"


# Operands


@pytest.mark.parametrize(
    ("precision", "value", "dtype"),
    [
        ("f4", 0.1, "f4"),
        ("f4", 3, "f4"),
        ("f4", Fraction(1, 3), "f4"),
        ("f4", np.float64(0.1), "f4"),
        ("f4", np.int8(3), "f4"),
        ("f4", 0.1 + 1j, "c8"),
        ("f8", np.float32(0.1), "f8"),
        ("f8", 0.1j, "c16"),
        ("f8", np.complex64(1j), "c16"),
        ("g", 0.1, "g"),
        ("c8", 0.1, "f4"),
        ("c8", 1j, "c8"),
    ],
)
def test_a_number_is_rounded_to_the_precision_of_the_arrays(precision: str, value: Any, dtype: str) -> None:
    array = of_dtype(precision)
    first, second = check_operands(a=(array, NUMBER), b=(value, NUMBER))
    assert first is array
    assert (type(second), second.dtype, second.shape) == (np.ndarray, np.dtype(dtype), ())
    assert second == np.dtype(dtype).type(complex(value) if "c" in dtype else value)


def test_numbers_alone_are_float64() -> None:
    assert [operand.dtype.name for operand in check_operands(a=(1, REAL), b=(1j, NUMBER))] == ["float64", "complex128"]
    (infinite,) = check_operands(a=(1e39, REAL), b=(of_dtype("f4"), REAL))[:1]
    assert infinite == math.inf


@pytest.mark.parametrize(
    ("value", "expected", "got"),
    [
        (True, "a number", "bool"),
        (np.bool_(True), "a number", f"numpy.{np.bool_.__name__}"),
        ("1", "a number", "str"),
        (None, "a number", "NoneType"),
        (Decimal(1), "a number", "decimal.Decimal"),
        ([1.0], "a number", "list"),
        (1j, "a real number", "complex"),
        (np.complex64(1), "a real number", "numpy.complex64"),
        (False, "a real number", "bool"),
    ],
)
def test_what_is_no_number_is_refused(value: Any, expected: str, got: str) -> None:
    dtypes = REAL if "real" in expected else NUMBER
    message = said(TypeError, lambda: check_operands(omega=(value, dtypes), d=(1.0, REAL)))
    assert message == f"omega: expected {expected} or numpy.ndarray, got {got}"


def test_operands_that_do_not_meet_are_refused() -> None:
    message = said(ValueError, lambda: check_operands(a=(np.zeros((4, 2)), REAL), b=(1, REAL), c=(np.zeros(3), REAL)))
    assert message == "a, c: expected shapes that broadcast, got [(4, 2), (3,)]"
    message = said(TypeError, lambda: check_operands(a=(of_dtype("f4"), REAL), c=(of_dtype("f8"), NUMBER)))
    assert message == "c: expected precision float32 as a has, got float64"
    message = said(TypeError, lambda: check_operands(a=(of_dtype("c8"), REAL)))
    assert message == f"a: expected dtype {' or '.join(dtype.name for dtype in REAL)}, got complex64"
    message = said(ValueError, lambda: check_operands(a=(of_dtype("f4"), REAL), b=(10**400, REAL)))
    assert message == "b: expected a number in float32, got an integer of 1329 bits"
    message = said(ValueError, lambda: check_operands(a=(Fraction(10**400), REAL)))
    assert message == f"a: expected a number in float64, got {str(10**400)[:20]}…"


# Numbers


@pytest.mark.parametrize("value", [2, np.int8(2), np.uint64(2), np.int64(7)])
def test_integers(value: Any) -> None:
    arguments.check_integer("n", value, 2)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (1, ValueError, "n: expected an integer >= 2, got 1"),
        (np.int8(-3), ValueError, "n: expected an integer >= 2, got -3"),
        (-(10**400), ValueError, "n: expected an integer >= 2, got an integer of 1329 bits"),
        (True, TypeError, "n: expected an integer, got bool"),
        (np.bool_(True), TypeError, f"n: expected an integer, got numpy.{np.bool_.__name__}"),
        (2.0, TypeError, "n: expected an integer, got float"),
        (Fraction(2), TypeError, "n: expected an integer, got fractions.Fraction"),
    ],
)
def test_what_is_no_integer_is_refused(value: Any, error: type[Exception], message: str) -> None:
    assert said(error, lambda: arguments.check_integer("n", value, 2)) == message


def test_true_and_false() -> None:
    arguments.check_bool("gated", True)
    arguments.check_bool("gated", False)
    for value, name in ((1, "int"), (np.bool_(True), f"numpy.{np.bool_.__name__}"), (None, "NoneType")):
        message = said(TypeError, lambda value=value: arguments.check_bool("gated", value))
        assert message == f"gated: expected True or False, got {name}"


@pytest.mark.parametrize(
    "value", [0.1, 3, Fraction(1, 3), np.float32(0.1), np.longdouble(0.1), np.int8(3), 1e-45, 10**30]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_real_numbers_are_rounded_to_the_dtype(value: Any, dtype: Any) -> None:
    for check in (arguments.positive, arguments.non_negative):
        found = check("step_size", value, dtype)
        assert type(found) is float
        assert found == float(dtype.type(value)) > 0


def test_zero_is_not_positive_and_not_negative() -> None:
    for zero in (0, 0.0, -0.0, 1e-60):
        assert arguments.non_negative("gamma", zero, DTYPES[0]) == 0
        message = said(ValueError, lambda zero=zero: arguments.positive("gamma", zero, DTYPES[0]))
        assert message == f"gamma: expected a finite number > 0 in float32, got {zero}"
    with np.errstate(all="raise"):
        assert arguments.non_negative("gamma", np.float64(1e-60), DTYPES[0]) == 0
        said(ValueError, lambda: arguments.positive("gamma", 1e60, DTYPES[0]))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1, ValueError, "gamma: expected a finite number >= 0 in float32, got -1"),
        (math.inf, ValueError, "gamma: expected a finite number >= 0 in float32, got inf"),
        (math.nan, ValueError, "gamma: expected a finite number >= 0 in float32, got nan"),
        (1e39, ValueError, "gamma: expected a finite number >= 0 in float32, got 1e+39"),
        (10**400, ValueError, "gamma: expected a finite number >= 0 in float32, got an integer of 1329 bits"),
        (-(10**400), ValueError, "gamma: expected a finite number >= 0 in float32, got an integer of 1329 bits"),
        (True, TypeError, "gamma: expected a real number, got bool"),
        (np.bool_(False), TypeError, f"gamma: expected a real number, got numpy.{np.bool_.__name__}"),
        (1j, TypeError, "gamma: expected a real number, got complex"),
        ("1", TypeError, "gamma: expected a real number, got str"),
        (Decimal(1), TypeError, "gamma: expected a real number, got decimal.Decimal"),
    ],
)
def test_what_is_no_finite_number_in_the_range_is_refused(value: Any, error: type[Exception], message: str) -> None:
    assert said(error, lambda: arguments.non_negative("gamma", value, DTYPES[0])) == message


# Conversions


def test_asarray_copies_in_c_order_and_to_numpy_copies() -> None:
    given = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    array = arguments.asarray(given, np.float64)
    assert array.flags.c_contiguous
    assert array.tolist() == given.tolist()
    back = arguments.to_numpy(array)
    assert back.tolist() == array.tolist()
    assert not np.shares_memory(array, given)
    assert not np.shares_memory(back, array)
    message = said(TypeError, lambda: arguments.to_numpy([1.0]))
    assert message == "array: expected numpy.ndarray, got list"
    for name in ("float32", "float64"):
        assert arguments.asarray([True, 2, 0.1], name).dtype == name
    assert arguments.asarray(1e39, np.float32).tolist() == math.inf


@pytest.mark.parametrize(
    ("array", "dtype", "message"),
    [
        ([1.0], None, "dtype: expected float32 or float64, got None"),
        ([1.0], "g", f"dtype: expected float32 or float64, got {np.dtype('g')}"),
        ([1.0], np.int64, "dtype: expected float32 or float64, got int64"),
        ([1.0], "abc", "dtype: expected float32 or float64, got abc"),
        (
            np.ma.masked_array([1.0], mask=[False]),
            "f8",
            "array: expected no mask, got numpy.ma.MaskedArray; fill it first",
        ),
        ([1j], "f8", "array: expected real numbers, got dtype complex128"),
        (["1"], "f8", "array: expected real numbers, got dtype <U1"),
    ],
)
def test_what_asarray_refuses(array: Any, dtype: Any, message: str) -> None:
    assert said(TypeError, lambda: arguments.asarray(array, dtype)) == message


class Word:
    """What is known by its text alone, as PyTorch's dtypes and devices."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class Unreadable:
    def __init__(self, error: Exception, **attributes: Any) -> None:
        self.error = error
        self.__dict__.update(attributes)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("attributes", "conversion"),
    [
        ({}, ""),
        ({"dtype": "mine.bfloat16", "requires_grad": True}, ""),
        ({"dtype": "torch.float32"}, ""),
        ({"dtype": "torch.float32", "device": "cpu"}, ""),
        ({"dtype": "torch.float32", "device": "cuda:0"}, "; convert it: array.cpu()"),
        ({"dtype": "torch.float32", "requires_grad": True}, "; convert it: array.detach()"),
        ({"dtype": Word("torch.float32"), "device": Word("cpu")}, ""),
        ({"dtype": Word("torch.bfloat16"), "device": Word("mps")}, "; convert it: array.cpu().float()"),
        ({"dtype": "torch.float8_e5m2"}, "; convert it: array.float()"),
        (
            {"dtype": "torch.bfloat16", "requires_grad": True, "device": "mps"},
            "; convert it: array.detach().cpu().float()",
        ),
    ],
)
@pytest.mark.parametrize("error", [TypeError, RuntimeError])
def test_what_numpy_cannot_read(error: type[Exception], attributes: Any, conversion: str) -> None:
    array = Unreadable(error("its words"), **attributes)
    got = f"{__name__}.Unreadable that NumPy cannot read (its words){conversion}"
    assert said(TypeError, lambda: arguments.asarray(array, "f4")) == f"array: expected real numbers, got {got}"
    message = said(ValueError, lambda: arguments.asarray(Unreadable(ValueError("its words")), "f4"))
    assert message == f"array: expected real numbers in one shape, got {__name__}.Unreadable (its words)"


@pytest.mark.skipif(not WIDE, reason="longdouble is float64 here")
def test_longdouble_is_converted_to_float64() -> None:
    assert said(TypeError, lambda: Arrays().check("W", of_dtype("g"), "n")) == (
        f"W: expected dtype float32 or float64, got {np.dtype('g')}; convert it: W.astype(np.float64)"
    )
