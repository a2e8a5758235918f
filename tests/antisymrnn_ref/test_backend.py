"""Finding a backend by name."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import antisymrnn_ref
from antisymrnn_ref import BackendUnavailable, backend, load_backend
from antisymrnn_ref.installation import install_command


def test_the_specification_is_backend_zero() -> None:
    assert load_backend("numpy") is antisymrnn_ref


def test_module_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_backend.py").write_text("from antisymrnn_ref import antisymmetric, asarray, gated, to_numpy\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_backend("my_backend").gated is antisymrnn_ref.gated


def test_unknown_name_lists_what_is_known_and_what_is_close() -> None:
    # "num" is three quarters of two names; "cuba" is two thirds of one
    for close, meant in (("numpi", "numpy"), ("NUMPY", "numpy"), ("num", "numpy"), ("numba.", "numba")):
        with pytest.raises(ValueError, match="^backend: ") as error:
            load_backend(close)
        known = ", ".join(backend.backend_modules())
        assert str(error.value) == (
            f"backend: expected one of {known} or a module path, got {close!r}; did you mean {meant!r}?"
        )
        assert error.value.__suppress_context__ or error.value.__context__ is None
    for far in ("nu", "numerics", "keras0", "cuba"):
        with pytest.raises(ValueError, match=f"got '{far}'; there is no module '{far}' where Python looks$"):
            load_backend(far)
    with pytest.raises(
        ValueError,
        match="module path, got 'no_such_package.module'; there is no module 'no_such_package' where Python looks$",
    ):
        load_backend("no_such_package.module")


@pytest.mark.parametrize("name", ["", ".", "..x", "a..b", "numpy ", "\0", "a/b"])
def test_names_that_are_no_module_paths(name: str) -> None:
    with pytest.raises(ValueError, match="^backend: expected one of"):
        load_backend(name)


@pytest.mark.parametrize("name", [None, 3, antisymrnn_ref])
def test_name_of_another_type(name: object) -> None:
    with pytest.raises(TypeError, match="^backend: expected a name, got (NoneType|int|module)$"):
        load_backend(name)  # type: ignore[arg-type]


def test_a_module_that_is_no_backend() -> None:
    with pytest.raises(TypeError) as error:
        load_backend("json")
    assert str(error.value) == (
        "backend 'json': json is not a backend, it has no asarray, to_numpy, "
        "antisymmetric.forward, antisymmetric.backward, gated.forward, gated.backward"
    )


def test_a_promise_that_cannot_be_called_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "still_backend.py").write_text(
        "from antisymrnn_ref import antisymmetric, asarray, gated\nto_numpy = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TypeError, match="still_backend is not a backend, it has no to_numpy$"):
        load_backend("still_backend")


def test_a_backend_that_cannot_import_from_itself_is_not_an_unknown_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "circular_backend.py").write_text("from circular_backend import antisymmetric\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendUnavailable, match="importing circular_backend failed: cannot import name") as error:
        load_backend("circular_backend")
    assert isinstance(error.value.__cause__, ImportError)


def test_an_import_error_that_names_no_module_names_the_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "silent_backend.py").write_text("raise ImportError('no reason')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendUnavailable) as error:
        load_backend("silent_backend")
    assert str(error.value) == (
        "backend 'silent_backend': importing silent_backend failed: no reason; "
        "install the package that brings silent_backend"
    )


def test_missing_library_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy_backend.py").write_text("import library_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendUnavailable, match="'needy_backend'.*library_that_is_not_there"):
        load_backend("needy_backend")


def test_a_missing_library_that_the_backends_name_begins_with_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy_backend.py").write_text("import needy\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendUnavailable, match="needy'; install the package that brings needy$"):
        load_backend("needy_backend")


def test_a_registered_backend_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("mine", "no_such_package", backend.ENTRY_POINT_GROUP)
    monkeypatch.setattr(backend, "entry_points", lambda group: [point])  # noqa: ARG005
    with pytest.raises(BackendUnavailable, match="^backend 'mine': importing no_such_package failed"):
        load_backend("mine")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import library_that_is_not_there\n", "library_that_is_not_there"),
        (
            "from antisymrnn_ref import BackendUnavailable\nraise BackendUnavailable('needs a device')\n",
            "needs a device",
        ),
    ],
)
def test_a_parent_package_that_cannot_be_imported_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    (tmp_path / "parent_package").mkdir()
    (tmp_path / "parent_package" / "__init__.py").write_text(source)
    (tmp_path / "parent_package" / "my_backend.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendUnavailable, match=reason):
        load_backend("parent_package.my_backend")


def test_the_backends_own_reason_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "needs a device: install the driver"
    (tmp_path / "deviceless_backend.py").write_text(
        f"from antisymrnn_ref import BackendUnavailable\nraise BackendUnavailable({reason!r})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendUnavailable, match=reason):
        load_backend("deviceless_backend")


def test_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("mine", "registered_backend", backend.ENTRY_POINT_GROUP)
    monkeypatch.setattr(backend, "entry_points", lambda group: [point] if group == point.group else [])
    module = ModuleType("registered_backend")
    for name in ("asarray", "to_numpy", "antisymmetric", "gated"):
        setattr(module, name, getattr(antisymrnn_ref, name))
    monkeypatch.setitem(sys.modules, "registered_backend", module)
    assert load_backend("mine") is module
    assert set(backend.backend_modules()) == {"mine", "numpy", "numba", "cupy"}


def test_the_entry_point_group_is_the_one_that_third_parties_are_given() -> None:
    assert backend.ENTRY_POINT_GROUP == "antisymrnn_ref.backends"


def test_an_entry_point_that_names_an_object_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("mine", "package:thing", backend.ENTRY_POINT_GROUP)
    monkeypatch.setattr(backend, "entry_points", lambda group: [point])  # noqa: ARG005
    with pytest.raises(TypeError, match="^backend 'mine': its entry point is to name a module.*, got 'package:thing'$"):
        load_backend("mine")


def test_an_entry_point_cannot_take_a_built_in_name(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("numpy", "json", backend.ENTRY_POINT_GROUP)
    monkeypatch.setattr(backend, "entry_points", lambda group: [point])  # noqa: ARG005
    assert load_backend("numpy") is antisymrnn_ref


@pytest.mark.parametrize("name", ["numba", "cupy"])
def test_a_built_in_backend_that_is_not_there_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, backend.BUILT_IN[name], None)
    with pytest.raises(BackendUnavailable) as error:
        load_backend(name)
    assert str(error.value) == (
        f"backend {name!r}: this version of antisymrnn-ref comes without the package antisymrnn_{name}; "
        "install one that has it"
    )
    assert isinstance(error.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(("name", "extras"), [("numba", ["numba"]), ("cupy", ["cuda12", "cuda13"])])
def test_a_built_in_backend_without_its_library_says_how_to_get_it(
    name: str, extras: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"antisymrnn_{name}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("import library_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(BackendUnavailable) as error:
        load_backend(name)
    assert str(error.value) == (
        f"backend {name!r}: importing {package} failed: No module named 'library_that_is_not_there'; "
        f"install it: {' or '.join(map(install_command, extras))}"
    )


def test_asarray_never_guesses_a_dtype() -> None:
    array = antisymrnn_ref.asarray([[1, 2], [3, 4]], np.float32)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    for dtype in (np.int64, np.float16, ">f8", complex, None, "bfloat16", "abc", 3):
        with pytest.raises(TypeError, match="dtype: expected float32 or float64"):
            antisymrnn_ref.asarray([1.0], dtype)
    with pytest.raises(TypeError, match="array: expected no mask"):
        antisymrnn_ref.asarray(np.ma.masked_array([1.0, 2.0], mask=[0, 1]), np.float64)
    for array in ([1j], ["1.0"], [None], [10**400], np.array(["2020-01-01"], "M8[D]")):
        with pytest.raises(TypeError, match="array: expected real numbers, got dtype"):
            antisymrnn_ref.asarray(array, np.float64)
    with pytest.raises(TypeError, match="array: expected numpy.ndarray, got list"):
        antisymrnn_ref.to_numpy([1.0])


class Tensor:
    """As one of PyTorch that NumPy cannot read."""

    def __init__(self, dtype: str, requires_grad: bool = False, device: str = "cpu") -> None:
        self.dtype, self.requires_grad, self.device = dtype, requires_grad, device

    def __array__(self, *_: object, **__: object) -> None:
        raise (RuntimeError if self.requires_grad else TypeError)("in PyTorch's words")


@pytest.mark.parametrize(
    ("tensor", "conversion"),
    [
        (Tensor("torch.bfloat16"), "; convert it: array.float()"),
        (Tensor("torch.float8_e4m3fn", device="cuda:0"), "; convert it: array.cpu().float()"),
        (Tensor("torch.float64", requires_grad=True), "; convert it: array.detach()"),
        (Tensor("torch.bfloat16", True, "mps"), "; convert it: array.detach().cpu().float()"),
        (Tensor("of no kind"), ""),
    ],
)
def test_a_tensor_that_numpy_cannot_read_says_how_to_convert_it(tensor: Tensor, conversion: str) -> None:
    with pytest.raises(TypeError) as error:
        antisymrnn_ref.asarray(tensor, np.float32)
    got = f"{Tensor.__module__}.Tensor that NumPy cannot read (in PyTorch's words)"
    assert str(error.value) == f"array: expected real numbers, got {got}{conversion}"


def test_a_tensor_of_pytorch_in_bfloat16_says_how_to_convert_it() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    array = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(TypeError, match=r"; convert it: array\.detach\(\)\.float\(\)$"):
        antisymrnn_ref.asarray(array, np.float64)
    with pytest.raises(TypeError, match=r"; convert it: array\.float\(\)$"):
        antisymrnn_ref.asarray(array.detach(), np.float64)
    assert antisymrnn_ref.asarray(array.detach().float(), np.float64).tolist() == [1.0, 1.0]
    with pytest.raises(TypeError, match=r"^dtype: expected float32 or float64, got torch\.bfloat16$"):
        antisymrnn_ref.asarray([1.0], torch.bfloat16)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn"])
def test_an_array_of_a_dtype_that_numpy_does_not_have_says_how_to_convert_it(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes, which has bfloat16, is not installed")
    array = np.ones((2, 2), getattr(ml_dtypes, name))
    with pytest.raises(TypeError) as error:
        antisymrnn_ref.asarray(array, np.float64)
    assert str(error.value) == f"array: expected real numbers, got dtype {name}; convert it: array.astype(np.float32)"
    with pytest.raises(TypeError) as error:
        antisymrnn_ref.dynamics.energy(array, array[0])
    assert str(error.value).endswith(f"got {name}; convert it: M.astype(np.float32)")
    with pytest.raises(TypeError, match=f"^dtype: expected float32 or float64, got {name}$"):
        antisymrnn_ref.asarray(array.astype(np.float32), array.dtype)


def test_lists_of_unequal_lengths_are_not_an_array() -> None:
    with pytest.raises(ValueError, match=r"^array: expected real numbers in one shape, got list \(.*inhomogeneous"):
        antisymrnn_ref.asarray([[1.0], [1.0, 2.0]], np.float64)


def test_half_and_swapped_arrays_are_converted() -> None:
    for dtype in ("f2", ">f4", ">f8"):
        assert antisymrnn_ref.asarray(np.array([1.5], dtype), np.float32).dtype == np.float32


def test_what_is_too_large_for_the_dtype_becomes_infinite_without_a_warning() -> None:
    assert antisymrnn_ref.asarray([1e300, -1e300], np.float32).tolist() == [np.inf, -np.inf]
