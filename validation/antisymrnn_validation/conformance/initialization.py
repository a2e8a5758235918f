"""Initial weights of a module or a function beside the paper's: V ~ N(0, 1/m), W ~ N(0, σ_w²/n), biases 0.

Many parameters are drawn at three sizes. Every test is two-sided and at the level :data:`FALSE_ALARM` divided by the
number of tests, so that weights that are the paper's are called different with that probability at most, all tests
together; the variances are judged by their exact χ² or F distribution under (I1) and (I2).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from antisymrnn_ref.contract import Array, GatedParameters
from antisymrnn_validation.conformance.targets.calling import load_object

SIZES = ((3, 2, 400), (24, 7, 80), (96, 40, 8))
"""n, m and how many parameters are drawn: at each size thousands of entries of W and V, small n among them."""

FALSE_ALARM = 1e-6
"""Probability that the paper's weights are called different, all tests together."""

TESTS = 64
"""At least as many tests as are made: for each of three weights at three sizes their mean, variance, distribution, and
for each pair of weights their correlation."""

Draw = Callable[[int, int, int], Mapping[str, Array]]
"""Parameters by their names in the contract, from n, m and a seed."""

WEIGHTS, BIASES = ("W", "V", "V_z"), ("b", "b_z")


class Row(NamedTuple):
    """What is known of one array.

    Attributes
    ----------
    verdict : "as the paper", "reported" or "differs"
        Reported is what the paper does not say, or what does not change a variance.
    array, expected, measured : str
    looks_like : str
        The name of a known initialization; empty for none.
    """

    verdict: Literal["as the paper", "reported", "differs"]
    array: str
    expected: str
    measured: str
    looks_like: str = ""


def of_function(function: Any, sigma_w: float | None) -> Draw:
    """Draws of a function ``init(n, m, seed)``, or of one with the arguments of ``antisymrnn_ref.initialization``."""
    if "generator" in inspect.signature(function).parameters:
        scale = 1.0 if sigma_w is None else sigma_w
        return lambda n, m, seed: _by_name(function(np.random.default_rng(seed), n, m, sigma_w=scale))
    return lambda n, m, seed: _by_name(function(n, m, seed))


def of_class(cls: Any, seeded: Callable[[int], object]) -> Draw:
    """Draws of a class of modules, each made by ``Class(m, n)`` after the framework's generator is seeded."""

    def draw(n: int, m: int, seed: int) -> dict[str, Array]:
        seeded(seed)
        module = cls(m, n)
        arrays = {name: value.detach().cpu().numpy() for name, value in module.named_parameters()}
        names = dict(getattr(module, "contract_names", {}))
        return {name: arrays[names.get(name, name)] for name in (*WEIGHTS, *BIASES) if names.get(name, name) in arrays}

    return draw


def load_draw(option: str, path: str, sigma_w: float | None) -> Draw:
    """What draws the parameters: of ``torch`` a class of modules, otherwise a function."""
    found = load_object(path)
    if isinstance(found, type) and hasattr(found, "named_parameters"):
        import torch

        return of_class(found, torch.manual_seed)
    if option == "torch" or not callable(found):
        wanted = "a class of modules" if option == "torch" else "a function init(n, m, seed)"
        raise TypeError(f"{path}: --initialization: expected {wanted}, got {type(found).__name__}")
    return of_function(found, sigma_w)


def judge_initialization(draw: Draw, *, sigma_w: float | None = None, seed: int = 0) -> list[Row]:
    """Rows of every array, and of how they depend on the seed.

    Parameters
    ----------
    draw : callable
    sigma_w : float, optional
        σ_w that W should have; without it, it is estimated.
    seed : int
        The first seed.

    Raises
    ------
    TypeError, ValueError
        If the parameters lack W, V or b, are no arrays, or have other shapes than (n, n), (n, m) and (n,).
    """
    drawn = [[_checked(draw(n, m, seed + k), n, m) for k in range(count)] for n, m, count in SIZES]
    names = list(drawn[0][0])
    stacks = {name: [np.stack([each[name] for each in of_size]) for of_size in drawn] for name in names}
    rows = _seeds(draw, drawn, seed)
    for name in names:
        if name in BIASES:
            rows.append(_bias(name, stacks[name]))
        elif name == "W":
            rows += _recurrent(stacks["W"], sigma_w)
        else:
            expected = [1 / m for _, m, _ in SIZES]
            rows.append(_weight(name, "N(0, 1/m)", [s.ravel() for s in stacks[name]], expected, stacks[name]))
    pairs = [(one, other) for one in names for other in names if one < other and {one, other} <= {"V", "V_z"}]
    rows += [_pair(one, other, stacks) for one, other in pairs]
    return rows


def _by_name(parameters: Any) -> dict[str, Array]:
    given = parameters._asdict() if hasattr(parameters, "_asdict") else parameters
    if not isinstance(given, Mapping):
        raise TypeError(f"parameters: expected a dictionary or a named tuple, got {type(parameters).__name__}")
    return {name: np.asarray(given[name]) for name in GatedParameters._fields if name in given}


def _checked(parameters: Mapping[str, Array], n: int, m: int) -> dict[str, Array]:
    shapes = {"W": (n, n), "V": (n, m), "b": (n,), "V_z": (n, m), "b_z": (n,)}
    if lacking := [name for name in ("W", "V", "b") if name not in parameters]:
        raise ValueError(f"parameters: expected W, V and b, got no {', '.join(lacking)}")
    for name, array in parameters.items():
        if array.shape != shapes[name]:
            raise ValueError(f"{name}: expected shape {shapes[name]} for n = {n}, m = {m}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers")
    return {name: array.astype(np.float64) for name, array in parameters.items()}


def _seeds(draw: Draw, drawn: Sequence[Sequence[Mapping[str, Array]]], seed: int) -> list[Row]:
    """Whether the same seed gives the same values, and other seeds other values."""
    (n, m, _), first = SIZES[1], drawn[1][0]
    again = _checked(draw(n, m, seed), n, m)
    repeats = all(np.array_equal(first[name], again[name]) for name in first)
    same = []
    for name in WEIGHTS:
        if name in first and first[name].any() and all(np.array_equal(first[name], each[name]) for each in drawn[1]):
            same.append(name)
    return [
        Row(
            "as the paper" if repeats else "reported", "seed", "the same values for the same seed",
            "the same values" if repeats else "other values",
        ),
        Row(
            "differs" if same else "as the paper", "seed", "other values for another seed",
            f"the same {', '.join(same)} for every seed" if same else "other values", "no randomness" if same else "",
        ),
    ]  # fmt: skip


def _bias(name: str, arrays: Sequence[Array]) -> Row:
    largest = max(float(np.abs(array).max()) for array in arrays)
    if not largest:
        return Row("as the paper", name, "0", "0")
    values = [array.ravel() for array in arrays]
    variances = [float(value.var()) for value in values]
    if not any(variances):
        return Row("differs", name, "0", f"{values[0][0]:.4g}", "a constant")
    return Row("differs", name, "0", _deviations(variances), _known(values, variances))


def _recurrent(arrays: Sequence[Array], sigma_w: float | None) -> list[Row]:
    """W: its structure, then the variance of its free entries."""
    rows, structure, entries = [], "full", [array.ravel() for array in arrays]
    for which, part in (("upper", np.triu), ("lower", np.tril)):
        sign = 1 if which == "upper" else -1
        if any(array.any() for array in arrays) and all(np.array_equal(a, part(a, sign)) for a in arrays):
            structure = f"strictly {which} triangular"
            entries = [a[:, part(np.ones(a.shape[1:], bool), sign)] for a in arrays]
            entries = [entry.ravel() for entry in entries]
    rows.append(Row("as the paper", "W", "full or strictly triangular", structure))
    if name := _matrix_structure(arrays):
        return [Row("differs", "W", "independent entries, full or strictly triangular", name, name)]
    ns = [n for n, *_ in SIZES]
    if not any(entry.any() for entry in entries):
        zero = sigma_w in (None, 0.0)
        return [*rows, Row("as the paper" if zero else "differs", "W", "N(0, σ_w²/n)", "σ_w = 0")]
    if sigma_w is not None:
        expected = [sigma_w**2 / n for n in ns]
        return [*rows, _weight("W", f"N(0, σ_w²/n), σ_w = {sigma_w:g}", entries, expected, arrays)]
    scaled = [float(np.mean(entry**2)) * n for entry, n in zip(entries, ns, strict=True)]
    pooled = float(np.average(scaled, weights=[entry.size for entry in entries]))
    row = _weight("W", "N(0, σ_w²/n), σ_w not declared", entries, [pooled / n for n in ns], arrays, estimated=True)
    return [*rows, row._replace(measured=f"{row.measured}; σ_w = {np.sqrt(pooled):.3g} if it is one number")]


def _matrix_structure(arrays: Sequence[Array]) -> str:
    """What all matrices are, if their entries depend on each other: orthogonal, symmetric or antisymmetric."""
    if not any(array.any() for array in arrays):
        return ""
    if all(np.array_equal(a, -a.swapaxes(1, 2)) for a in arrays):
        return "antisymmetric: 2W acts"
    if all(np.array_equal(a, a.swapaxes(1, 2)) for a in arrays):
        return "symmetric: W − Wᵀ is 0"
    products = [a @ a.swapaxes(1, 2) for a in arrays]
    scales = [np.trace(p, axis1=1, axis2=2)[:, None, None] / p.shape[-1] for p in products]
    gaps = [np.abs(p / s - np.eye(p.shape[-1])).max() for p, s in zip(products, scales, strict=True) if s.all()]
    return "orthogonal" if gaps and max(gaps) < 1e-4 else ""


def _weight(
    name: str,
    expected: str,
    entries: Sequence[Array],
    variances: Sequence[float],
    arrays: Sequence[Array],
    *,
    estimated: bool = False,
) -> Row:
    """The verdict on independent entries of three sizes, of mean 0 and these variances."""
    level = FALSE_ALARM / TESTS
    squares = [float(np.mean(entry**2)) for entry in entries]
    scaled = [entry / np.sqrt(np.mean(entry**2)) for entry in entries if entry.any()]
    means = [float(2 * stats.norm.sf(abs(entry.mean()) * np.sqrt(entry.size))) for entry in scaled]
    off = min([*_variance_p(entries, variances, estimated), *means]) < level
    normal = all(stats.kstest(entry, "norm").pvalue >= level for entry in scaled)
    known = _known(entries, squares, square=name == "W")
    structure = "orthogonal" if name != "W" and _orthogonal_columns(arrays) else ""
    measured = f"{_deviations(squares)}, {'normal' if normal else _shape(entries)}"
    if off or structure:
        return Row("differs", name, expected, measured, structure or known)
    if normal:
        return Row("as the paper", name, expected, measured)
    return Row("reported", name, expected, measured, known or _shape(entries))


def _orthogonal_columns(arrays: Sequence[Array]) -> bool:
    """Whether the columns of every (n, m) matrix with m < n are orthogonal and of one length."""
    products = [a.swapaxes(1, 2) @ a for a in arrays if a.any()]
    scales = [np.trace(p, axis1=1, axis2=2)[:, None, None] / p.shape[-1] for p in products]
    return bool(products) and all(
        np.abs(p / s - np.eye(p.shape[-1])).max() < 1e-4 for p, s in zip(products, scales, strict=True)
    )


def _variance_p(entries: Sequence[Array], variances: Sequence[float], estimated: bool) -> list[float]:
    """Two-sided probabilities: of χ² for given variances; of F, each size with the largest, for an estimated one."""
    sums = [float(np.sum(e**2)) / v for e, v in zip(entries, variances, strict=True)]
    if not estimated:
        laws = [stats.chi2(e.size) for e in entries]
        return [2 * min(law.cdf(s), law.sf(s)) for law, s in zip(laws, sums, strict=True)]
    means, last = [s / e.size for s, e in zip(sums, entries, strict=True)], entries[-1].size
    laws = [stats.f(e.size, last) for e in entries[:-1]]
    ratios = [mean / means[-1] for mean in means[:-1]]
    return [2 * min(law.cdf(r), law.sf(r)) for law, r in zip(laws, ratios, strict=True)]


def _pair(one: str, other: str, stacks: Mapping[str, Sequence[Array]]) -> Row:
    """Whether two weights are drawn independently."""
    left, right = (np.concatenate([s.ravel() for s in stacks[name]]) for name in (one, other))
    expected = f"independent of {one}"
    if not (left.any() and right.any()):
        return Row("as the paper", other, expected, "0")
    correlation = float(left @ right / np.sqrt((left @ left) * (right @ right)))
    chance = float(2 * stats.norm.sf(abs(correlation) * np.sqrt(left.size) * 0.8))
    told = "equal" if np.array_equal(left, right) else f"correlation {correlation:.2g}"
    return Row("differs" if chance < FALSE_ALARM / TESTS else "as the paper", other, expected, told)


KNOWN: dict[str, tuple[str, float, int, int, int]] = {
    "1/m for 1/√m": ("normal", 1, 0, -2, 0),
    "1/n for 1/√n": ("normal", 1, -2, 0, 0),
    "1/√n for 1/√m": ("normal", 1, -1, 0, 0),
    "PyTorch's default, uniform(−1/√n, 1/√n)": ("uniform", 1 / 3, -1, 0, 0),
    "PyTorch's nn.Linear, uniform(−1/√m, 1/√m)": ("uniform", 1 / 3, 0, -1, 0),
    "uniform of the same variance": ("uniform", 1, 0, -1, 0),
    "Xavier, uniform": ("uniform", 2, 0, 0, -1),
    "Xavier, normal": ("normal", 2, 0, 0, -1),
    "Kaiming, uniform": ("uniform", 2, 0, -1, 0),
    "Kaiming, normal": ("normal", 2, 0, -1, 0),
    "standard normal": ("normal", 1, 0, 0, 0),
}
"""Known initializations: the distribution, and c, i, j, k of the variance c nⁱ mʲ (n + m)ᵏ."""

KNOWN_SQUARE: dict[str, tuple[str, float, int, int, int]] = {
    **{name: KNOWN[name] for name in ("1/n for 1/√n", "PyTorch's default, uniform(−1/√n, 1/√n)", "standard normal")},
    "Xavier, uniform": ("uniform", 1, -1, 0, 0),
    "Kaiming, uniform": ("uniform", 2, -1, 0, 0),
    "Xavier, normal": ("normal", 1, -1, 0, 0),
    "Kaiming, normal": ("normal", 2, -1, 0, 0),
}
"""The same of W, which has n inputs and n outputs."""

CLOSE = 0.12
"""Relative differences of variances, at every size, that a known initialization may have."""


def _known(entries: Sequence[Array], variances: Sequence[float], *, square: bool = False) -> str:
    """The known initialization with these variances and this distribution; of an unknown scale, how it goes by n."""
    shape = _shape(entries)
    for name, (distribution, c, i, j, k) in (KNOWN_SQUARE if square else KNOWN).items():
        ratios = [v / (c * n**i * m**j * (n + m) ** k) for v, (n, m, _) in zip(variances, SIZES, strict=True)]
        if distribution == shape and max(abs(ratio - 1) for ratio in ratios) < CLOSE:
            return name
    powers = {"1/n for 1/√n": 2, "no factor 1/√n": 0} if square else {}
    for name, power in powers.items():
        scaled = [v * n**power for v, (n, _, _) in zip(variances, SIZES, strict=True)]
        if max(scaled) < (1 + CLOSE) * min(scaled):
            return name
    return ""


def _shape(entries: Sequence[Array]) -> str:
    """Which distribution the entries have, whatever their scale: normal, uniform, constant or another."""
    if not any(entry.var() for entry in entries):
        return "constant"
    scaled = [e / np.sqrt(np.mean(e**2)) for e in entries if e.any()]
    laws = {"normal": ("norm", ()), "uniform": ("uniform", (-np.sqrt(3), 2 * np.sqrt(3)))}
    for name, (law, arguments) in laws.items():
        if all(stats.kstest(e, law, args=arguments).pvalue >= FALSE_ALARM for e in scaled):
            return name
    return "of another distribution"


def _deviations(variances: Sequence[float]) -> str:
    """Standard deviations by size."""
    return "standard deviations " + ", ".join(
        f"{np.sqrt(v):.3g} (n = {n}, m = {m})" for v, (n, m, _) in zip(variances, SIZES, strict=True)
    )
