"""Promises about the interface: types, signatures, errors and conversion."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import numpy as np

from antisymrnn_ref.contract import Array, Gradients
from antisymrnn_validation.conformance.check import promise
from antisymrnn_validation.conformance.promises.bad_calls import bad_calls
from antisymrnn_validation.truth.calls import (
    BrokenPromise,
    called,
    converted,
    require,
    require_same_bits,
    run,
)
from antisymrnn_validation.truth.cases import Case
from antisymrnn_validation.truth.oracles import (
    named_arrays,
)


@promise(
    "result types",
    level=4,
    needs={"contract"},
    on={"generic", "corners", "options"},
    source="contract.Gradients, contract.Trajectory",
    usual_cause="a scalar gradient returned as float, or h without h0.",
    fix="Return () arrays for ε and γ, and (K, B, n) states with h[0] = h0.",
)
def result_types(backend: ModuleType, case: Case) -> None:
    """Gradients has the parameters' own type; every array has the contract's shape, dtype and array type."""
    trajectory, gradients = called(backend, case)
    array_type = type(backend.asarray(case.x, case.dtype))
    T, B, _ = case.x.shape
    n = len(case.parameters.b)
    require(type(gradients) is Gradients, f"gradients: expected Gradients, got {type(gradients).__name__}")
    require(
        type(gradients.parameters) is type(case.parameters),
        f"gradients.parameters: expected {type(case.parameters).__name__}, got {type(gradients.parameters).__name__}",
    )
    require(trajectory.keep_every == 1, f"trajectory.keep_every: expected 1, got {trajectory.keep_every}")
    shapes = {name: leaf.shape for name, leaf in case.parameters._asdict().items()}
    shapes |= {"h": (T + 1, B, n), "x": case.x.shape, "h0": (B, n), "step_size": (), "diffusion": ()}
    for name, array in named_arrays(trajectory.h, gradients).items():
        require(type(array) is array_type, f"{name}: expected {array_type.__name__}, got {type(array).__name__}")
        require(tuple(array.shape) == shapes[name], f"{name}: expected shape {shapes[name]}, got {tuple(array.shape)}")
        require(array.dtype == case.dtype, f"{name}: expected dtype {case.dtype}, got {array.dtype}")


@promise(
    "scalar rounding",
    level=4,
    needs={"contract"},
    source="DERIVATION.md, section 1.5",
    usual_cause="a Python float used in float64 arithmetic beside float32 arrays.",
    fix="Round both scalars first, and use the rounded ones everywhere.",
)
def scalar_rounding(backend: ModuleType, case: Case) -> None:
    """ε and γ are rounded once to the dtype of the arrays."""
    plain = run(backend, case)
    for scalar in (lambda value: float(case.dtype.type(value)), case.dtype.type, np.float64):
        rounded = case._replace(step_size=scalar(case.step_size), diffusion=scalar(case.diffusion))
        for name, array in run(backend, rounded).items():
            require_same_bits(name, array, plain[name])
    whole = run(backend, case._replace(step_size=1.0, diffusion=2.0))
    for name, array in run(backend, case._replace(step_size=1, diffusion=2)).items():
        require_same_bits(name, array, whole[name])


@promise(
    "signatures",
    level=4,
    needs={"contract"},
    source="the contract, on arguments",
    usual_cause="defaults: public codes disagree on them.",
    fix="Copy the signatures of antisymrnn_ref/antisymmetric.py.",
)
def signatures(backend: ModuleType, case: Case) -> None:
    """ε and γ are keyword-only and have no default."""
    module = getattr(backend, case.cell)
    shared = {"step_size": inspect.Parameter.empty, "diffusion": inspect.Parameter.empty, "unconstrained": False}
    for function, positional, keywords in (
        (module.forward, ["parameters", "x", "h0"], {**shared, "keep_every": 1}),
        (module.backward, ["parameters", "x", "trajectory", "g"], {**shared, "input_gradient": True}),
    ):
        signature = inspect.signature(function).parameters
        require(list(signature)[: len(positional)] == positional, f"{function.__name__}: expected {positional} first")
        for name, default in keywords.items():
            require(name in signature, f"{function.__name__}: has no {name}")
            found = signature[name]
            require(found.kind is found.KEYWORD_ONLY, f"{function.__name__}: {name} is not keyword-only")
            require(found.default == default, f"{function.__name__}: {name} has the default {found.default!r}")


@promise(
    "errors",
    level=4,
    needs={"contract"},
    source="contract.checked_forward, contract.checked_backward",
    usual_cause="checks of one's own.",
    fix="Decorate forward and backward with the contract's decorators.",
)
def errors(backend: ModuleType, case: Case) -> None:
    """Bad calls raise the contract's exceptions with the contract's words, before any work."""
    given = converted(backend, case)
    module, arguments = getattr(backend, case.cell), case.arguments
    trajectory = module.forward(given.parameters, given.x, given.h0, **arguments)
    wrong = []
    for label, function, changes, expected, message in bad_calls(backend, given, trajectory):
        call = {"parameters": given.parameters, "x": given.x, **arguments}
        call |= {"h0": given.h0} if function == "forward" else {"trajectory": trajectory, "g": given.g}
        try:
            getattr(module, function)(**{**call, **changes})
            wrong.append(f"{label}: expected {expected.__name__}, nothing was raised")
        except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever comes is compared with what is promised)
            if type(error) is not expected or str(error) != message:
                wrong.append(f"{label}: expected {expected.__name__}: {message}; got {type(error).__name__}: {error}")
    require(not wrong, "\n".join(wrong))


@promise(
    "conversion",
    level=4,
    needs={"contract"},
    on={"conversion"},
    source="the contract, on arrays",
    usual_cause="a silent cast.",
    fix="Accept float32 and float64 alone.",
)
def conversion(backend: ModuleType, case: Case) -> None:
    """Arrays are converted without loss and copied by asarray and to_numpy, which refuse another dtype."""
    host = case.x.astype(np.float64)
    for dtype in (np.float32, np.float64):
        source = host.astype(dtype)
        array = backend.asarray(source, dtype)
        source[...] = np.nan
        require(array.dtype == dtype, f"asarray: expected dtype {np.dtype(dtype)}, got {array.dtype}")
        fortran = backend.asarray(np.asfortranarray(host), dtype)
        contiguous = not isinstance(fortran, np.ndarray) or fortran.flags.c_contiguous
        require(contiguous, "asarray: expected a C-contiguous array")
        rounded = backend.to_numpy(backend.asarray(host, dtype))
        require_same_bits("to_numpy(asarray(float64 x))", rounded, host.astype(dtype))
        back = backend.to_numpy(array)
        require(type(back) is np.ndarray, f"to_numpy: expected numpy.ndarray, got {type(back).__name__}")
        require_same_bits("to_numpy(asarray(x))", back, host.astype(dtype))
        back[...] = np.nan
        require_same_bits("to_numpy(asarray(x)), written to", backend.to_numpy(array), host.astype(dtype))
    wrong: list[tuple[Array, Any]] = [(host, np.dtype(name)) for name in ("int64", "float16", "complex128")]
    for array, other in (*wrong, (host, None), (host.astype(complex), np.float64)):
        try:
            backend.asarray(array, other)
        except TypeError:
            continue
        raise BrokenPromise(f"asarray: expected TypeError for {array.dtype} to {other}, nothing was raised")
