"""Checks of the paper's counts: degrees of freedom, initial variances, and the parameter columns of Tables 1 and 2."""

from __future__ import annotations

import math

import numpy as np
from flint import fmpq

from antisymrnn_ref import antisymmetric, initialization
from antisymrnn_validation.claims.evidence import Outcome, decide, fractions, largest


def degrees_of_freedom(quick: bool) -> Outcome:
    """Exact rank of the map W ↦ W − Wᵀ, and of its restriction to strictly upper triangular W."""
    ranks, expected, triangular = [], [], []
    for n in range(1, 6 if quick else 9):
        units = np.eye(n * n, dtype=int).reshape(n * n, n, n)
        images = np.array([antisymmetric.recurrent_matrix(unit, 0) for unit in units]).reshape(n * n, -1)
        upper = [row for row, unit in zip(images, units, strict=True) if np.triu(unit, 1).any()]
        ranks.append(fractions(images).rank())
        triangular.append(fractions(np.array(upper)).rank() if upper else 0)
        expected.append(n * (n - 1) // 2)
    counts = [initialization.parameter_count(n, 1, 1) - 2 * n - n - 1 for n in range(1, len(ranks) + 1)]
    return Outcome(
        decide(ranks == triangular == counts == expected),
        f"For n = 1 to {len(ranks)} the exact ranks of W ↦ W − Wᵀ are {ranks}, for strictly upper triangular W "
        f"{triangular}, and n(n−1)/2 is {expected}.",
        {"ranks": ranks, "ranks of triangular W": triangular, "n(n−1)/2": expected, "counted by the code": counts},
    )


def initial_variances(quick: bool) -> Outcome:
    """Sample variances of W, V and V_z against σ_w²/n and 1/m, and ‖W − Wᵀ‖₂ against 2√2 σ_w."""
    generator, n, m = np.random.default_rng(34), 96 if quick else 256, 96
    deviations, edges = [], []
    for sigma_w in (1.0, 2.0, 16.0):
        parameters = initialization.gated_parameters(generator, n, m, sigma_w=sigma_w)
        for array, variance in ((parameters.W, sigma_w**2 / n), (parameters.V, 1 / m), (parameters.V_z, 1 / m)):
            # the sample variance of N normal numbers has relative standard deviation √(2/N); it is more than
            # √(2y) + y √(2/N) of these off with probability at most 2e^(−y) (Laurent, Massart): 5 with 2e-5, N > 9000
            deviations.append(abs(float((array**2).mean()) / variance - 1) / np.sqrt(2 / array.size))
        edges.append(float(np.linalg.norm(parameters.W - parameters.W.T, 2) / (2 * np.sqrt(2) * sigma_w)))
    worst = largest(deviations)
    # the squares of the eigenvalues of i(W − Wᵀ) are a Laguerre ensemble, so that 2 n^(2/3) (edge − 1) tends in law to
    # the Tracy-Widom law of β = 2, which has about e^(−8³/12) of its mass below −8 and e^(−(4/3) 8^(3/2)) above 8
    edge = largest(abs(value - 1) for value in edges) * n ** (2 / 3)
    enough = math.ceil(1000 / (2 * np.sqrt(2) * min(edges))) / 1000  # there ε‖W − Wᵀ‖₂ > 1: (S5) at d = 1
    return Outcome(
        decide(worst <= 5 and edge <= 4),
        f"n = {n}, m = {m}, σ_w = 1, 2, 16: sample variances within {worst:.1f} standard deviations; ‖W − Wᵀ‖₂ is "
        f"{min(edges):.3f} to {max(edges):.3f} of 2√2 σ_w, so that with these W no γ makes (12) Euler-stable "
        f"for every D where ε σ_w > {enough}.",
        {"arrays": len(deviations), "worst deviation in standard deviations": worst, "‖W − Wᵀ‖₂ / (2√2 σ_w)": edges},
    )


MODELS = [
    ("MNIST", 128, 1, False, False, 10),
    ("MNIST, gated", 128, 1, True, False, 10),
    ("pixel CIFAR-10", 256, 3, False, False, 36),
    ("pixel CIFAR-10, gated", 256, 3, True, False, 37),
    ("pixel CIFAR-10, ablation", 196, 3, True, True, 42),
]
"""Task, n, m, gated, unconstrained, published thousands of parameters (Tables 1 and 2)."""


def lstm_count(n: int, m: int, classes: int) -> int:
    """Parameters of an LSTM with one bias per gate, and its readout."""
    return 4 * (n * n + n * m + n) + classes * (n + 1)


def thousands(count: int) -> int:
    """Rounded to the nearest thousand, as the tables print it."""
    return (count + 500) // 1000


def published_counts(quick: bool) -> Outcome:  # noqa: ARG001
    """The last columns of Tables 1 and 2, by counting, with m = 1 and m = 3.

    The rows of other authors' models are left out: FC uRNN (16k, 270k), soft orthogonal (18k), KRU (11k). Their counts
    depend on what the paper does not say: whether a complex number counts once or twice, whether a unitary matrix has
    n² or 2n² numbers, how an orthogonal one is factorised, whether the initial state is learned.
    """
    counts = {
        name: initialization.parameter_count(n, m, 10, gated=gate, unconstrained=unconstrained)
        for name, n, m, gate, unconstrained, _ in MODELS
    }
    counts |= {"LSTM, MNIST": lstm_count(128, 1, 10), "LSTM, pixel CIFAR-10": lstm_count(128, 3, 10)}
    published = [row[-1] for row in MODELS] + [68, 69]
    matching = sum(thousands(count) == printed for count, printed in zip(counts.values(), published, strict=True))
    return Outcome(
        decide(matching == len(counts)),
        f"{matching} of {len(counts)} counts round to the printed thousands: "
        + ", ".join(f"{name} {count:,}" for name, count in counts.items())
        + ". FC uRNN, soft orthogonal and KRU are not counted: the paper does not say how they are parametrised.",
        dict(counts) | {"rows": len(counts), "matching": matching},
    )


def published_counts_when_padded(quick: bool) -> Outcome:  # noqa: ARG001
    """The same column of Table 2 for the noise-padded task, m = 96, by counting."""
    counts = {
        name.replace("pixel", "noise-padded"): (
            initialization.parameter_count(n, 96, 10, gated=gate, unconstrained=unconstrained),
            printed,
        )
        for name, n, m, gate, unconstrained, printed in MODELS
        if m == 3
    }
    counts["noise-padded, LSTM"] = (lstm_count(128, 96, 10), 69)
    matching = sum(thousands(count) == printed for count, printed in counts.values())
    return Outcome(
        decide(matching == len(counts), refuted=matching < len(counts)),
        f"With m = 96 {matching} of {len(counts)} counts round to the printed thousands: "
        + ", ".join(f"{name} {count:,}, printed {printed}k" for name, (count, printed) in counts.items())
        + ".",
        {name: count for name, (count, _) in counts.items()} | {"rows": len(counts), "matching": matching},
    )


def gate_is_cheap(quick: bool) -> Outcome:  # noqa: ARG001
    """Parameters that the gate of (13) adds: n(m + 1), against the n(n−1)/2 + n(m + 1) of a gate with its own W."""
    extra, shares = {}, {}
    for name, n, m in (("MNIST", 128, 1), ("pixel CIFAR-10", 256, 3), ("noise-padded CIFAR-10", 256, 96)):
        plain, gate = (initialization.parameter_count(n, m, 10, gated=value) for value in (False, True))
        extra[name] = gate - plain == n * (m + 1) and gate - plain < n * (n - 1) // 2 + n * (m + 1)
        shares[name] = fmpq(gate - plain, plain)
    # "slightly" is taken as less than a tenth
    large = [name for name, share in shares.items() if share >= fmpq(1, 10)]
    small = {name: share for name, share in shares.items() if share < fmpq(1, 10)}
    return Outcome(
        decide(
            all(extra.values()) and not large,
            refuted=bool(large),
            under_condition=all(extra.values()) and len(small) == 2,
        ),
        "The gate adds n(m + 1) parameters in all three tasks: "
        + ", ".join(f"{name} {share} = {float(share):.1%}" for name, share in shares.items())
        + ".",
        {f"share added, {name}": str(share) for name, share in shares.items()},
    )


def lstm_has_more_parameters(quick: bool) -> Outcome:  # noqa: ARG001
    """Ratios of counts: one seventh on MNIST, about half on pixel CIFAR-10, fewer on the noise-padded task."""
    count = initialization.parameter_count
    ratios = {
        "MNIST": fmpq(lstm_count(128, 1, 10), count(128, 1, 10)),
        "MNIST, gated": fmpq(lstm_count(128, 1, 10), count(128, 1, 10, gated=True)),
        "pixel CIFAR-10": fmpq(lstm_count(128, 3, 10), count(256, 3, 10)),
        "pixel CIFAR-10, gated": fmpq(lstm_count(128, 3, 10), count(256, 3, 10, gated=True)),
        "noise-padded": fmpq(lstm_count(128, 96, 10), count(256, 96, 10)),
        "noise-padded, gated": fmpq(lstm_count(128, 96, 10), count(256, 96, 10, gated=True)),
    }
    values = list(ratios.values())
    # to the nearest whole number, as the paper says it
    sevenths = all(fmpq(13, 2) <= ratio < fmpq(15, 2) for ratio in values[:2])
    halves = all(fmpq(3, 2) <= ratio < fmpq(5, 2) for ratio in values[2:4])
    return Outcome(
        decide(sevenths and halves and all(ratio > 1 for ratio in values[4:])),
        "An LSTM with 128 units has so many times the parameters: "
        + ", ".join(f"{name} {float(ratio):.2f}" for name, ratio in ratios.items())
        + ".",
        {name: str(ratio) for name, ratio in ratios.items()},
    )
