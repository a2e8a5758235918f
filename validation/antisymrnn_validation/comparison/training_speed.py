"""Where an iteration of training spends its time, and the same training in PyTorch beside it.

The profile is of the loop that trains, :func:`runs.train`: its functions are replaced by themselves under a clock. The
contest times whole iterations, from the indices of the batch to the updated parameters, in turns.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import antisymrnn_ref.readout
from antisymrnn_ref.contract import Array
from antisymrnn_validation.comparison import agreement, contenders, timing
from antisymrnn_validation.comparison.timing import Sample, Timed
from antisymrnn_validation.experiments import optimizers, runs, training
from antisymrnn_validation.experiments.configuration import Configuration, is_triangular
from antisymrnn_validation.experiments.tasks import Data
from antisymrnn_validation.experiments.training import State
from antisymrnn_validation.truth.cases import Case

WARM = 5
"""Iterations before the profile begins."""

AGREEMENT = 1e-9
"""Of the loss and the gradients in float64, relative to the largest entry: rounding, where a wrong model is far off."""


class Profile(NamedTuple):
    """Mean seconds.

    Attributes
    ----------
    iterations : int
        That were measured.
    iteration : dict
        Of one iteration, by part: ``forward`` and ``backward`` of the backend, ``readout``, ``update`` (of the
        optimizer), ``rest of the step`` (copies, norm, checks; of a device also the wait for it) and ``data`` (the
        wait for the batch, and the loop).
    evaluation, checkpoint : float
        Of one evaluation on the validation split, and of writing the checkpoint after it.
    """

    iterations: int
    iteration: dict[str, float]
    evaluation: float
    checkpoint: float

    @property
    def seconds(self) -> float:
        """Of one iteration."""
        return sum(self.iteration.values())

    @property
    def backend(self) -> float:
        """The part of an iteration that is the backend's forward and backward."""
        return (self.iteration["forward"] + self.iteration["backward"]) / self.seconds


class TrainingContest(NamedTuple):
    """Iterations of a backend and of PyTorch in turns.

    Attributes
    ----------
    errors : dict of str to float
        Of PyTorch against the backend in float64, by array and ``loss``, relative to the largest entry.
    samples : dict of str to list of Sample
        By contender; empty if they do not agree.
    """

    errors: dict[str, float]
    samples: dict[str, list[Sample]]


def profile(configuration: Configuration, data: Data, backend: ModuleType, iterations: int) -> Profile:
    """Train in a temporary folder and measure ``iterations`` iterations after the first ``WARM``."""
    short = configuration._replace(iterations=WARM + iterations, evaluate_every=WARM + iterations, patience=0)
    data = data._replace(test_labels=data.test_labels[:1])
    start, end, evaluation = 0.0, 0.0, 0.0

    def progress(k: int, _: Any) -> None:
        nonlocal start, end
        if k == WARM:
            spent.clear()
            start = time.perf_counter()
        end = time.perf_counter()

    def evaluated(_: Any) -> None:  # the test set comes after it
        nonlocal evaluation
        evaluation = spent["evaluation",]

    cell = getattr(backend, configuration.cell)
    timed = {
        "forward": (cell, "forward"),
        "backward": (cell, "backward"),
        "readout": (antisymrnn_ref.readout, "cross_entropy"),
        "update": (optimizers, "update"),
        "step": (training, "step"),
        "evaluation": (training, "evaluate"),
        "checkpoint": (runs, "save_state"),
        "metrics": (runs, "append_metrics"),
    }
    with tempfile.TemporaryDirectory() as folder, _clocks(timed) as spent:
        runs.train(Path(folder), short, data, backend, progress=progress, evaluated=evaluated)
    parts = {part: spent.get(("step", part), 0.0) for part in ("forward", "backward", "readout", "update")}
    steps = spent["step",]
    parts |= {"rest of the step": steps - sum(parts.values()), "data": end - start - steps}
    return Profile(
        iterations,
        {part: seconds / iterations for part, seconds in parts.items()},
        evaluation,
        spent["checkpoint",] + spent["metrics",],
    )


def contest(configuration: Configuration, data: Data, backend: ModuleType, name: str, samples: int) -> TrainingContest:
    """Check that PyTorch trains the same model, then time whole iterations in turns.

    Parameters
    ----------
    configuration : Configuration
    data : Data
    backend : module
    name : str
        Of the backend.
    samples : int
        Of each of the two.
    """
    learn, _ = training.splits(configuration, len(data.train_labels))
    state = training.initial(configuration, data.m, data.classes)

    def batch(k: int, dtype: str) -> tuple[Array, Array]:
        chosen = training.batch_indices(configuration, learn, k)
        x = data.sequences("train", chosen, np.dtype(dtype), training.batch_noise(configuration, k))
        return x, data.train_labels[chosen]

    errors = _errors(configuration, backend, state, *batch(0, "float64"))
    if not max(errors.values()) <= AGREEMENT:
        return TrainingContest(errors, {})
    in_torch, k = torch_training(configuration, state), 0

    def with_backend() -> None:
        nonlocal state
        state, _ = training.step(backend, configuration, state, *batch(state.iteration, configuration.dtype))

    def with_torch() -> None:
        nonlocal k
        in_torch(*batch(k, configuration.dtype))
        k += 1

    calls = {name: with_backend, "torch eager": with_torch}
    for call in calls.values():
        call()
    turns = [Timed(each, call, samples) for each, call in calls.items()]
    taken = timing.take_turns(turns, lambda: 1.0, lambda: 1.0)  # no gate: a ratio of neighbours needs none
    return TrainingContest(errors, dict(zip(calls, taken, strict=True)))


def torch_training(configuration: Configuration, state: State) -> Callable[[Array, Array], tuple[float, list[Array]]]:
    """Training from a state in PyTorch: the loop of :func:`contenders.torch_eager`, its gradients, its optimizer.

    Returns
    -------
    callable
        One iteration: takes (T, B, m) and (B,), returns the loss and the gradients as the optimizer had them, in the
        order of the state's arrays.
    """
    import torch

    leaves = [torch.tensor(array).requires_grad_() for array in (*state.cell, *state.layer)]
    optimizer = {
        "sgd": functools.partial(torch.optim.SGD, momentum=configuration.momentum),
        "adagrad": torch.optim.Adagrad,
        "adam": torch.optim.Adam,
    }[configuration.optimizer](leaves, lr=configuration.learning_rate)
    k = state.iteration

    def step(x: Array, labels: Array) -> tuple[float, list[Array]]:
        nonlocal k
        k += 1
        *cell, weights, bias = leaves
        if is_triangular(configuration):
            cell[0] = torch.triu(cell[0], 1)
        h0 = np.zeros((x.shape[1], configuration.units), x.dtype)
        case = Case(
            "", configuration.cell, state.cell, x, h0, h0, configuration.step_size, configuration.diffusion,
            unconstrained=configuration.unconstrained,
        )  # fmt: skip
        h = contenders.torch_last_state(case, cell)()
        loss = torch.nn.functional.cross_entropy(torch.addmm(bias, h, weights.T), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        gradients = [leaf.grad.numpy() for leaf in leaves]
        if configuration.clip:
            torch.nn.utils.clip_grad_norm_(leaves, configuration.clip)
        for group in optimizer.param_groups:
            group["lr"] = optimizers.scheduled_rate(
                configuration.schedule, configuration.learning_rate, k, configuration.iterations
            )
        optimizer.step()
        return loss.item(), gradients

    return step


def _errors(
    configuration: Configuration, backend: ModuleType, state: State, x: Array, labels: Array
) -> dict[str, float]:
    """The loss and the gradients of PyTorch against the backend's, in float64."""
    double = configuration._replace(dtype="float64", optimizer="sgd", clip=0.0)
    cell = type(state.cell)(*(array.astype(np.float64) for array in state.cell))
    layer = type(state.layer)(*(array.astype(np.float64) for array in state.layer))
    zeros = tuple((np.zeros_like(array),) for array in (*cell, *layer))
    first = state._replace(cell=cell, layer=layer, slots=zeros)
    after, measured = training.step(backend, double, first, x, labels)
    loss, gradients = torch_training(double, first)(x, labels)
    ours = {"loss": np.array(measured["loss"])}
    theirs = {"loss": np.array(loss)}
    for name, (velocity,), gradient in zip((*cell._fields, *layer._fields), after.slots, gradients, strict=True):
        ours[name], theirs[name] = velocity, gradient  # sgd's first velocity is the gradient
    return agreement.relative_errors(theirs, ours)


@contextlib.contextmanager
def _clocks(parts: dict[str, tuple[Any, str]]) -> Iterator[dict[tuple[str, ...], float]]:
    """Seconds spent in functions, given as owner and name, by the parts they were called within and their own."""
    spent: dict[tuple[str, ...], float] = {}
    within: list[str] = []

    def clocked(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            within.append(part)
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                key = tuple(within)
                spent[key] = spent.get(key, 0.0) + time.perf_counter() - start
                within.pop()

        return call

    originals = {part: getattr(owner, name) for part, (owner, name) in parts.items()}
    try:
        for part, (owner, name) in parts.items():
            setattr(owner, name, clocked(part, originals[part]))
        yield spent
    finally:
        for part, (owner, name) in parts.items():
            setattr(owner, name, originals[part])
