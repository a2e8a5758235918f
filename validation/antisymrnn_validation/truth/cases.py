"""Cases: single problems, in generic position, that every backend must solve.

Generic position means h0, every bias and γ non-zero, ε among the paper's larger values, T, B, n, m pairwise different,
W not scaled down, and a random cotangent on every state: there a bug is large. The corners (ε = 1, γ = 0, T = 0 and 1,
B = 1, n = 1, loss on the last state alone, saturation) let real bugs hide, so they are extra cases.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

from antisymrnn_ref.contract import Array, GatedParameters, Parameters

CELLS = ("antisymmetric", "gated")

Result = TypeVar("Result")


class Case(NamedTuple):
    """One problem: the arguments of ``forward`` and ``backward`` as host arrays of one dtype.

    Attributes
    ----------
    name : str
    cell : str
        ``antisymmetric`` (equation (12)) or ``gated`` (equation (13)).
    parameters : Parameters or GatedParameters
    x : (T, B, m) array
    h0 : (B, n) array
    g : (T+1, B, n) or (B, n) array
    step_size, diffusion : float
        As a caller passes them: not yet rounded to the dtype of the arrays.
    unconstrained : bool
        M = W − γI, the ablation.
    recipe : str
        The call of :func:`random_case` that draws it; empty for any other.
    """

    name: str
    cell: str
    parameters: Parameters | GatedParameters
    x: Array
    h0: Array
    g: Array
    step_size: float
    diffusion: float
    unconstrained: bool = False
    recipe: str = ""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every array."""
        dtype: np.dtype[Any] = self.x.dtype
        return dtype

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that ``forward`` and ``backward`` share."""
        return {"step_size": self.step_size, "diffusion": self.diffusion, "unconstrained": self.unconstrained}

    @property
    def key(self) -> str:
        """A hash of the content: cell, constants, and the shape, dtype and bytes of every array; not the names."""
        constants = (float(self.step_size).hex(), float(self.diffusion).hex(), bool(self.unconstrained))
        found = hashlib.blake2b(repr((self.cell, *constants)).encode(), digest_size=16)
        for array in (*self.parameters, self.x, self.h0, self.g):
            found.update(f"{array.shape}{array.dtype.str}".encode())
            found.update(array.tobytes())
        return found.hexdigest()


def random_case(
    cell: str,
    T: int,
    B: int,
    n: int,
    m: int,
    *,
    step_size: float,
    diffusion: float,
    seed: int,
    name: str = "generic",
    dtype: Any = np.float64,
    scale: float = 1.0,
    amplitude: float = 1.0,
    last_state_only: bool = False,
    unconstrained: bool = False,
) -> Case:
    """A case with every array drawn from a standard normal distribution.

    W is divided by √n and multiplied by ``scale``; biases, inputs, h0 and g are multiplied by ``amplitude``.

    Raises
    ------
    ValueError
        If ``cell`` is unknown.
    """
    if cell not in CELLS:
        raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {cell!r}")
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return generator.standard_normal(shape).astype(dtype)

    W = (scale * normal(n, n) / np.sqrt(n)).astype(dtype)

    def sized(*shape: int) -> Array:
        return (amplitude * normal(*shape)).astype(dtype)

    V, b = normal(n, m), sized(n)
    parameters = Parameters(W, V, b) if cell == "antisymmetric" else GatedParameters(W, V, b, normal(n, m), sized(n))
    g = sized(B, n) if last_state_only else sized(T + 1, B, n)
    sizes = f"T={T} B={B} n={n} m={m}"
    label = f"{cell} {name} {sizes} {np.dtype(dtype)}"
    options = {"name": name, "dtype": np.dtype(dtype).name, "scale": scale, "amplitude": amplitude}
    options |= {"last_state_only": last_state_only, "unconstrained": unconstrained}
    told = {"step_size": float(step_size), "diffusion": float(diffusion), "seed": seed, **options}
    recipe = (
        f"random_case({cell!r}, {T}, {B}, {n}, {m}, {', '.join(f'{key}={value!r}' for key, value in told.items())})"
    )
    return Case(label, cell, parameters, sized(T, B, m), sized(B, n), g, step_size, diffusion, unconstrained, recipe)


def generic_cases(*, quick: bool = False) -> list[Case]:
    """The cases in generic position and the corners, for both cells and both dtypes.

    Parameters
    ----------
    quick : bool
        Leave out the longest.
    """
    plans: list[tuple[str, tuple[int, int, int, int], dict[str, Any]]] = [
        ("generic", (11, 4, 7, 3), {"step_size": 0.3, "diffusion": 0.2}),
        ("wide input", (6, 3, 5, 9), {"step_size": 0.5, "diffusion": 0.35}),
        ("ablation", (9, 3, 6, 2), {"step_size": 0.25, "diffusion": 0.15, "unconstrained": True}),
        ("large W", (17, 2, 8, 3), {"step_size": 0.1, "diffusion": 0.1, "scale": 4.0}),
        ("last-state loss", (10, 3, 6, 2), {"step_size": 0.4, "diffusion": 0.3, "last_state_only": True}),
        ("corner ε = 1, γ = 0", (8, 3, 5, 2), {"step_size": 1.0, "diffusion": 0.0}),
        ("T = 0", (0, 3, 5, 2), {"step_size": 0.3, "diffusion": 0.2}),
        ("T = 1", (1, 4, 5, 3), {"step_size": 0.3, "diffusion": 0.2}),
        ("B = 1", (12, 1, 6, 2), {"step_size": 0.3, "diffusion": 0.2}),
        ("n = 1", (7, 3, 1, 2), {"step_size": 0.3, "diffusion": 0.2}),
        ("m = 1", (13, 2, 9, 1), {"step_size": 0.2, "diffusion": 0.4}),
        ("saturated", (9, 3, 5, 2), {"step_size": 0.3, "diffusion": 0.2, "scale": 40.0}),
    ]
    if not quick:
        plans += [
            ("long", (150, 2, 12, 3), {"step_size": 0.1, "diffusion": 0.1}),
            ("longer", (1024, 1, 3, 2), {"step_size": 0.1, "diffusion": 0.1}),  # from here on the paper's sizes
            ("wide", (2, 1, 257, 2), {"step_size": 0.3, "diffusion": 0.2}),
            ("batch", (3, 129, 4, 2), {"step_size": 0.3, "diffusion": 0.2}),
            ("input", (3, 2, 5, 97), {"step_size": 0.3, "diffusion": 0.2}),
        ]
    return [
        random_case(cell, *sizes, name=name, dtype=dtype, seed=seed, **options)
        for seed, (name, sizes, options) in enumerate(plans)
        for cell in CELLS
        for dtype in (np.float64, np.float32)
    ]


def real_sized_cases(*, quick: bool = False) -> list[Case]:
    """Cases of the sizes of real tasks together, multiples of 8 and 16 among them: too large for balls.

    Parameters
    ----------
    quick : bool
        The smaller ones.
    """
    plans: list[tuple[str, str, tuple[int, int, int, int], dict[str, Any]]] = [
        ("antisymmetric", "float64", (16, 16, 128, 96), {"step_size": 0.1, "diffusion": 0.01, "last_state_only": True}),
        ("gated", "float64", (4, 128, 48, 32), {"step_size": 0.25, "diffusion": 0.1}),
        ("antisymmetric", "float32", (8, 32, 256, 98), {"step_size": 0.1, "diffusion": 0.1, "unconstrained": True}),
        ("gated", "float32", (256, 16, 64, 28), {"step_size": 0.1, "diffusion": 0.01}),
    ]
    if not quick:
        plans += [
            ("antisymmetric", "float64", (65, 64, 64, 28), {"step_size": 0.1, "diffusion": 0.1}),  # over 2 MiB
            ("gated", "float64", (1100, 2, 8, 28), {"step_size": 0.05, "diffusion": 0.01, "unconstrained": True}),
            ("antisymmetric", "float32", (290, 128, 16, 8), {"step_size": 0.05, "diffusion": 0.01}),  # over 2 MiB
            ("gated", "float32", (300, 8, 32, 112), {"step_size": 0.05, "diffusion": 0.1, "last_state_only": True}),
        ]
    return [
        random_case(cell, *sizes, name="real sizes", dtype=dtype, seed=201 + number, **options)
        for number, (cell, dtype, sizes, options) in enumerate(plans)
    ]


class Sweep(NamedTuple):
    """A case, and how it is to be run."""

    case: Case
    keep_every: int
    input_gradient: bool


def swept_cases(*, quick: bool = False) -> list[Sweep]:
    """Cases that combine every option with every other, at sizes around the widths that kernels are tiled by.

    Parameters
    ----------
    quick : bool
        A fifth of them.
    """
    generator = np.random.default_rng(2019)
    count = 20 if quick else 108

    def spread(values: list[Any]) -> list[Any]:
        """``count`` values in random order, each of them as often as the others."""
        return list(generator.permutation(np.resize(np.array(values, dtype=object), count)))

    columns = {
        "n": spread([1, 2, 4, 5, 7, 8, 9, 10, 13, 14, 15, 16, 17, 22, 31, 32, 33, 64, 65, 128, 129, 68]),
        "B": spread([1, 1, 2, 3, 5, 8, 9, 16, 17, 18, 34, 37]),
        "m": spread([1, 1, 2, 3, 4, 8, 10, 17, 33]),
        "T": spread([0, 1, 2, 3, 4, 7, 16, 17, 33]),
        "keep_every": spread([1, 1, 2, 3, 5, 1000]),
        "step_size": spread([0.001, 0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 4.0]),
        "diffusion": spread([0.0, 0.001, 0.01, 0.15, 1.5]),
        "scale": spread([0.3, 1.0, 1.0, 3.0]),
        "amplitude": spread([1.0, 1.0, 1.0, 1e-5, 1e3]),
        "same": spread(["", "", "m = n", "B = n", "T = B"]),
        "flags": spread(list(range(12))),
    }
    sweeps = []
    for seed, values in enumerate(zip(*columns.values(), strict=True)):
        row = dict(zip(columns, values, strict=True))
        T, B, n, m = row["T"], row["B"], row["n"], row["m"]
        if row["same"] == "m = n" and n < 40:
            m = n
        if row["same"] == "B = n" and n < 20:
            B = n
        if row["same"] == "T = B":
            T = B
        # a certified truth costs about T B n² ball operations
        B = min(B, max(1, 40_000 // n**2))
        T = min(T, max(2, 100_000 // (B * n**2)))
        flags = row["flags"]
        case = random_case(
            CELLS[seed % 2], T, B, n, m,
            name=f"sweep {seed}", seed=seed, dtype=(np.float64, np.float32)[seed // 2 % 2],
            step_size=row["step_size"], diffusion=row["diffusion"], scale=row["scale"], amplitude=row["amplitude"],
            unconstrained=flags % 2 == 1, last_state_only=flags // 2 % 2 == 1,
        )  # fmt: skip
        sweeps.append(Sweep(case, row["keep_every"], flags % 3 > 0))
    return sweeps


def drawn_cases(count: int, seed: int = 0) -> Iterator[Sweep]:
    """Cases at random: small sizes, every option, magnitudes from tiny to chaotic.

    Parameters
    ----------
    count, seed : int
        The first ``count`` cases of a seed are the same for every count.
    """
    for number in range(count):
        generator = np.random.default_rng((seed, number))
        pick = generator.integers
        T, B, n, m = int(pick(0, 13)), int(pick(1, 6)), int(pick(1, 11)), int(pick(1, 6))
        case = random_case(
            CELLS[pick(2)], T, B, n, m,
            name=f"drawn {seed}.{number}", seed=int(pick(2**31)), dtype=("float64", "float32")[pick(2)],
            step_size=float(10 ** generator.uniform(-2, 0.4)),
            diffusion=float(pick(2) * 10 ** generator.uniform(-3, 0.3)),
            scale=float(10 ** generator.uniform(-1, 1)), amplitude=float(10 ** generator.uniform(-6, 1.5)),
            unconstrained=bool(pick(2)), last_state_only=bool(pick(2)),
        )  # fmt: skip
        yield Sweep(case, int((1, 1, 2, 3, 5, 1000)[pick(6)]), bool(pick(3)))


def generator_of(case: Case) -> np.random.Generator:
    """Random choices of a check: the same for the same case."""
    return np.random.default_rng(int(case.key, 16))


class _ByContent:
    """A case that is equal to another of the same content."""

    def __init__(self, case: Case) -> None:
        self.case, self.key = case, case.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByContent) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def cached_by_content(maxsize: int) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Cache a function of a case, and of what can be hashed, by the content of the case; for ``maxsize`` calls."""

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        @functools.lru_cache(maxsize)
        def cached(given: _ByContent, *arguments: Any) -> Result:
            return function(given.case, *arguments)

        @functools.wraps(function)
        def of(case: Case, *arguments: Any) -> Result:
            return cached(_ByContent(case), *arguments)

        of.cache_clear = cached.cache_clear  # type: ignore[attr-defined]
        return of

    return decorate
