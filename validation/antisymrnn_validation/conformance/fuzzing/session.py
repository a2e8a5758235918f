"""Calls of one target, each judged; and a sequence of calls that fails, as a script."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array
from antisymrnn_validation.truth.calls import BrokenPromise, converted, features_of, modules_of, promises_bits
from antisymrnn_validation.truth.cases import Case
from antisymrnn_validation.truth.layouts import Layout, arguments_of, described, laid_out
from antisymrnn_validation.truth.oracles import named_arrays
from antisymrnn_validation.truth.structures import structured
from antisymrnn_validation.truth.tolerance import measure

if TYPE_CHECKING:
    pass

HELD = 12
"""Results that are held at a time."""

EDITS: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "redrawn": lambda array, generator: generator.standard_normal(array.shape),
    "halved": lambda array, _: array / 2,
    "reversed": lambda array, _: np.flip(array),
    "zeroed": lambda array, _: np.zeros_like(array),
    "one negated": lambda array, generator: array * (1 - 2 * (_ranks(array) == generator.integers(array.size))),
}
"""What an array may be refilled with."""


def _ranks(array: Array) -> Array:
    return np.arange(array.size).reshape(array.shape)


class Tally(NamedTuple):
    """What a session has done.

    Attributes
    ----------
    calls : int
        Of forward and of backward.
    cells : int
        States that these calls computed: the sum of T B n.
    largest : tuple of int
        T, B, n, m of the problem with the largest T B n².
    """

    calls: int = 0
    cells: int = 0
    largest: tuple[int, int, int, int] = (0, 0, 0, 0)

    def text(self) -> str:
        """In one line."""
        sizes = " ".join(f"{symbol}={size}" for symbol, size in zip("TBnm", self.largest, strict=True))
        return f"{self.calls:,} calls, {self.cells:,} cells, the largest problem {sizes}"


class Failure(NamedTuple):
    """A sequence of calls that fails.

    Attributes
    ----------
    message : str
    steps : tuple of str
        Calls of methods of ``session``; the last one fails.
    """

    message: str
    steps: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Of the steps: how many, and their characters."""
        return len(self.steps), sum(map(len, self.steps))

    def script(self, target: str) -> str:
        """A program that makes the calls again; ``target`` is a Python expression that gives the target."""
        lines = [
            *(f"import {module}" for module in modules_of(target)),
            "from antisymrnn_validation.conformance.fuzzing.session import Session",
            "from antisymrnn_validation.truth.cases import random_case",
            "from antisymrnn_validation.truth.layouts import Layout",
            "from antisymrnn_validation.truth.structures import structured",
            f"session = Session({target})",
            *self.steps,
        ]
        return "\n".join(lines)


class _Problem:
    """A problem, the arrays that the target is given, and the trajectory of the last forward."""

    def __init__(self, case: Case, layouts: Mapping[str, Layout]) -> None:
        self.case, self.given, self.layouts = case, laid_out(case, layouts), dict(layouts)
        self.trajectory: Any = None
        self.keep_every, self.layouts_of_forward = 1, dict(layouts)
        self.borrowed = False  # whether g is a result


class Session:
    """Calls of one target, each judged.

    Parameters
    ----------
    target : module
        A backend or a candidate.

    Raises
    ------
    BrokenPromise
        By every method, if a result is beyond its tolerance, differs from what the same call gave before, has changed
        an argument, or if a later call has changed it.
    """

    def __init__(self, target: ModuleType) -> None:
        self.target, self.features = target, features_of(target)
        self.problems: dict[int, _Problem] = {}
        self.tally = Tally()
        self._bits: dict[tuple[Any, ...], str] = {}
        self._results: list[tuple[str, Array, str]] = []

    def problem(self, slot: int, case: Case, layouts: Mapping[str, Layout] | None = None) -> None:
        """Put a problem into a slot, with arrays of its own that lie in memory as said."""
        self.problems[slot] = _Problem(case, layouts or {})

    def refill(self, slot: int, name: str, edit: str, seed: int = 0) -> None:
        """Refill an array in place by one of :data:`EDITS`; the trajectory is that of other arguments then."""
        problem = self.problems[slot]
        before = arguments_of(problem.case)[name]
        if not before.size:
            return
        values = EDITS[edit](before, np.random.default_rng(seed)).astype(before.dtype)
        shared = [other for other, array in arguments_of(problem.given).items() if array is self._given(slot)[name]]
        array = self._given(slot)[name]
        if not array.flags.writeable or (name == "g" and problem.borrowed):  # or one value in several places
            return
        array[...] = values
        for other in shared:
            problem.case = _replaced(problem.case, other, values)
        if name != "g":
            problem.trajectory = None

    def lay_out(self, slot: int, layouts: Mapping[str, Layout]) -> None:
        """Put the arrays of a slot elsewhere in memory; values and trajectory stay, the arrays until now become NaN."""
        problem = self.problems[slot]
        before, borrowed = arguments_of(problem.given), problem.borrowed
        problem.given, problem.layouts, problem.borrowed = laid_out(problem.case, layouts), dict(layouts), False
        for name, array in before.items():
            if array.flags.writeable and not (name == "g" and borrowed):
                array[...] = np.nan

    def constants(self, slot: int, step_size: float, diffusion: float) -> None:
        """Other constants, with the same arrays."""
        problem = self.problems[slot]
        problem.case = problem.case._replace(step_size=step_size, diffusion=diffusion)
        problem.given = problem.given._replace(step_size=step_size, diffusion=diffusion)
        problem.trajectory = None

    def cotangents(self, slot: int, structures: Sequence[str], seed: int, *, last_state_only: bool = False) -> None:
        """Another g for the same trajectory."""
        problem = self.problems[slot]
        shape = problem.case.h0.shape if last_state_only else (len(problem.case.x) + 1, *problem.case.h0.shape)
        g = np.random.default_rng(seed).standard_normal(shape).astype(problem.case.dtype)
        problem.case = structured(problem.case._replace(g=g), structures, seed)
        problem.given = problem.given._replace(g=laid_out(problem.case, problem.layouts).g)
        problem.borrowed = False

    def states_as_cotangents(self, slot: int) -> None:
        """The states of the trajectory, if it has every one, are the cotangents: the same array."""
        problem = self.problems[slot]
        if problem.trajectory is None or problem.keep_every > 1 or not isinstance(problem.trajectory.h, np.ndarray):
            return
        problem.case = problem.case._replace(g=problem.trajectory.h.copy())
        problem.given = problem.given._replace(g=problem.trajectory.h)
        problem.borrowed = True

    def forward(self, slot: int, *, keep_every: int = 1) -> None:
        """Call forward and judge its states."""
        problem = self.problems[slot]
        problem.keep_every, problem.layouts_of_forward = keep_every, problem.layouts
        with self._watched(slot):
            problem.trajectory = self._forward(problem, keep_every)
        states = {"h": self.target.to_numpy(problem.trajectory.h)}
        self._judge(problem, states, keep_every, problem.layouts)
        self._hold("h", problem.trajectory.h)

    def backward(self, slot: int, *, input_gradient: bool = True) -> None:
        """Call backward on the trajectory, after a forward if there is none, and judge the gradients."""
        problem = self.problems[slot]
        if "gradients" not in self.features:
            return
        if problem.trajectory is None:
            self.forward(slot)
        with self._watched(slot):
            gradients = self._backward(problem, problem.trajectory, input_gradient)
        if (gradients.x is not None) != input_gradient:
            raise BrokenPromise(f"x: expected {'an array' if input_gradient else 'None'}, got {gradients.x!r}")
        named = named_arrays(problem.trajectory.h, gradients)
        arrays = {name: self.target.to_numpy(array) for name, array in named.items() if array is not None}
        self._judge(problem, arrays, problem.keep_every, problem.layouts_of_forward)
        for name in arrays:
            self._hold(name, named[name])

    def repeat(self, slot: int, times: int) -> None:
        """The same pair of calls many times: the same bits each time, where bits are promised."""
        problem = self.problems[slot]
        first = self._pair(problem)
        self._judge(problem, first, 1, problem.layouts)
        for number in range(1, times):
            said = f"in call {number + 1} of the same arrays"
            self._require_same(self._digests(first), self._digests(self._pair(problem)), said)
        self._count(problem, 2 * times)

    def at_once(self, slots: Sequence[int], threads: int) -> None:
        """The pairs of calls of several slots in several threads at a time: the bits of one after another."""
        if not promises_bits(self.target):
            return
        chosen = [self.problems[slot] for slot in slots if slot in self.problems] * threads
        alone = [self._digests(self._pair(problem)) for problem in chosen[: len(chosen) // threads]] * threads
        with ThreadPoolExecutor(threads) as pool:
            for expected, arrays in zip(alone, pool.map(self._pair, chosen), strict=True):
                self._require_same(expected, self._digests(arrays), f"in {threads} threads at a time")
        for problem in chosen:
            self._count(problem, 2)

    def spoil(self, slot: int) -> None:
        """The caller overwrites the gradients that it got; no later call may depend on them."""
        problem = self.problems[slot]
        if "gradients" not in self.features:
            return
        trajectory = self._forward(problem, 1)
        gradients = self._backward(problem, trajectory, True)
        for array in (*gradients.parameters, gradients.x, gradients.h0, trajectory.h):
            if isinstance(array, np.ndarray) and array.flags.writeable:
                array[...] = np.nan
        self._count(problem, 2)

    def _given(self, slot: int) -> dict[str, Array]:
        return arguments_of(self.problems[slot].given)

    def _converted(self, problem: _Problem) -> Case:
        """The arrays as laid out, or converted for a backend whose arrays are not NumPy's."""
        if isinstance(self.target.asarray(problem.case.h0, problem.case.dtype), np.ndarray):
            return problem.given
        return converted(self.target, problem.case)

    def _forward(self, problem: _Problem, keep_every: int) -> Any:
        given, module = self._converted(problem), getattr(self.target, problem.case.cell)
        return module.forward(given.parameters, given.x, given.h0, keep_every=keep_every, **given.arguments)

    def _backward(self, problem: _Problem, trajectory: Any, input_gradient: bool) -> Any:
        given, module = self._converted(problem), getattr(self.target, problem.case.cell)
        return module.backward(
            given.parameters, given.x, trajectory, given.g, input_gradient=input_gradient, **given.arguments
        )

    def _pair(self, problem: _Problem) -> dict[str, Array]:
        """Results of forward and backward, as NumPy arrays."""
        trajectory = self._forward(problem, 1)
        if "gradients" not in self.features:
            return {"h": self.target.to_numpy(trajectory.h)}
        gradients = self._backward(problem, trajectory, True)
        return {name: self.target.to_numpy(a) for name, a in named_arrays(trajectory.h, gradients).items()}

    def _count(self, problem: _Problem, calls: int) -> None:
        T, B, m = problem.case.x.shape
        n = len(problem.case.parameters.b)
        before = self.tally
        T0, B0, n0, _ = before.largest
        largest = (T, B, n, m) if T * B * n**2 > T0 * B0 * n0**2 else before.largest
        self.tally = Tally(before.calls + calls, before.cells + calls * T * B * n, largest)

    @contextlib.contextmanager
    def _watched(self, slot: int) -> Iterator[None]:
        """No argument may change in a call, nor any result of an earlier one."""
        problem = self.problems[slot]
        before = {name: array.tobytes() for name, array in self._given(slot).items()}
        yield
        self._count(problem, 1)
        for name, array in self._given(slot).items():
            if array.tobytes() != before[name]:
                raise BrokenPromise(f"{name}: the call writes into it; {described(problem.given)}")
        for name, array, digest in self._results:
            if _digest(self.target.to_numpy(array)) != digest:
                raise BrokenPromise(f"{name}: a result of an earlier call has changed")

    def _hold(self, name: str, array: Array) -> None:
        """Keep a result, to see whether a later call changes it; the last few."""
        self._results.append((name, array, _digest(self.target.to_numpy(array))))
        del self._results[:-HELD]

    def _judge(
        self, problem: _Problem, arrays: dict[str, Array], keep_every: int, layouts_of_forward: Mapping[str, Layout]
    ) -> None:
        """Hold results against the truth, and against those of the same call before.

        Bits may depend on the layout, as those of BLAS do.
        """
        said = described(problem.given)
        place = "" if said == "all in C order" else f"; {said}"
        for name, array in arrays.items():
            if array.dtype != problem.case.dtype:
                raise BrokenPromise(f"{name}: expected dtype {problem.case.dtype}, got {array.dtype}{place}")
        try:
            measure(arrays, problem.case, keep_every=keep_every, beside_specification=True, oracle="extended")
        except BrokenPromise as broken:
            raise BrokenPromise(f"{broken} ({problem.case.name}{place})", broken.errors, broken.wrong) from None
        if not promises_bits(self.target):
            return
        places = [tuple(sorted(layouts.items())) for layouts in (layouts_of_forward, problem.layouts)]
        for name, digest in self._digests(arrays).items():
            key = (problem.case.key, name, *((keep_every, places[0]) if name == "h" else places))
            if self._bits.setdefault(key, digest) != digest:
                raise BrokenPromise(f"{name}: other bits than the same call gave before ({problem.case.name}{place})")

    @staticmethod
    def _digests(arrays: dict[str, Array]) -> dict[str, str]:
        return {name: _digest(array) for name, array in arrays.items()}

    def _require_same(self, expected: dict[str, str], got: dict[str, str], said: str) -> None:
        if not promises_bits(self.target):
            return
        if differ := [name for name in expected if got[name] != expected[name]]:
            raise BrokenPromise(f"{', '.join(differ)}: other bits {said}")


def _digest(array: Array) -> str:
    return hashlib.blake2b(f"{array.shape}{array.dtype}".encode() + array.tobytes(), digest_size=16).hexdigest()


def _replaced(case: Case, name: str, values: Array) -> Case:
    if name in case.parameters._fields:
        return case._replace(parameters=case.parameters._replace(**{name: values}))
    return case._replace(**{name: values})
