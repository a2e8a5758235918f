"""One step of training, the splits and batches, and evaluation: functions on any backend.

Every draw is derived from the seed and from what it is for (an epoch, an iteration), never from draws before it: a run
that is resumed sees the same batches and the same noise, to the bit. A batch may be cut into shards, whose gradients
are added in their order: where each was computed changes no bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl

from antisymrnn_ref import initialization, readout
from antisymrnn_ref.contract import Array, GatedParameters, Parameters
from antisymrnn_ref.readout import ReadoutParameters
from antisymrnn_validation.experiments import optimizers
from antisymrnn_validation.experiments.configuration import Configuration, cell_options, is_triangular

SPLITS = ("train", "test")
"""The two parts of a task's data."""

BLOCK = 256
"""How many sequences are evaluated at a time."""

_ADVICE = "try a smaller --learning-rate, --clip 1, a smaller --step-size or a larger --diffusion"
_PARAMETERS, _SPLIT, _EPOCH, _NOISE, _EVALUATION = range(5)  # what a generator is for


class State(NamedTuple):
    """All that the next step depends on.

    Attributes
    ----------
    iteration : int
        Steps done.
    cell : Parameters or GatedParameters
    layer : ReadoutParameters
    slots : tuple of tuples of arrays
        Of the optimizer, for each array of cell and then of layer.
    best : float
        Best accuracy on the validation split so far; −1 before the first.
    best_iteration : int
    """

    iteration: int
    cell: Parameters | GatedParameters
    layer: ReadoutParameters
    slots: tuple[tuple[Array, ...], ...]
    best: float = -1.0
    best_iteration: int = 0


class Gradient(NamedTuple):
    """Of the mean loss of a batch, or of the part of it that a shard contributes.

    Attributes
    ----------
    loss : float
        The mean loss, or the shard's part of that mean.
    right : int
        How many samples the model has right.
    arrays : tuple of arrays
        Of cell and then of layer, in the dtype of the configuration.
    """

    loss: float
    right: int
    arrays: tuple[Array, ...]


class Diverged(ArithmeticError):
    """A loss, gradient or parameter is not finite; the message says where, and what to try."""


def initial(configuration: Configuration, m: int, classes: int) -> State:
    """The state before the first step, drawn from the seed; the readout's weights ~ N(0, 1/n), its bias 0."""
    generator = _generator(configuration, _PARAMETERS)
    n, dtype = configuration.units, np.dtype(configuration.dtype)
    draw = initialization.gated_parameters if configuration.cell == "gated" else initialization.parameters
    cell = draw(generator, n, m, sigma_w=configuration.sigma_w, triangular=is_triangular(configuration), dtype=dtype)
    weights = (generator.standard_normal((classes, n)) / math.sqrt(n)).astype(dtype)
    layer = ReadoutParameters(weights, np.zeros(classes, dtype))
    zeros = tuple((np.zeros_like(array),) * optimizers.SLOTS[configuration.optimizer] for array in (*cell, *layer))
    return State(0, cell, layer, zeros)


def parameter_count(configuration: Configuration, state: State) -> int:
    """Trainable numbers: those of the arrays, of a strictly triangular W only what stands above its diagonal."""
    n = configuration.units
    below = n * (n + 1) // 2 if is_triangular(configuration) else 0
    return sum(int(array.size) for array in (*state.cell, *state.layer)) - below


def splits(configuration: Configuration, size: int) -> tuple[Array, Array]:
    """Indices to train on and indices to validate on: a partition of the training set, fixed by the seed."""
    order = _generator(configuration, _SPLIT).permutation(size)
    held_out = min(max(1, round(configuration.validation * size)), size - 1)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def batch_size(configuration: Configuration, samples: int) -> int:
    """Sequences in an iteration; ``samples`` are in the training set, the validation split among them."""
    return min(configuration.batch, len(splits(configuration, samples)[0]))


def batch_indices(configuration: Configuration, train: Array, iteration: int) -> Array:
    """Indices of the batch of an iteration, from 0: each epoch goes through its own permutation, in whole batches."""
    size = min(configuration.batch, len(train))
    epoch, k = divmod(iteration, len(train) // size)
    order = _permutation(configuration.seed, epoch, len(train))
    return train[order[k * size : (k + 1) * size]]


def batch_noise(configuration: Configuration, iteration: int) -> np.random.Generator:
    """The generator of the noise in the batch of an iteration."""
    return _generator(configuration, _NOISE, iteration)


def gradient(
    backend: ModuleType, configuration: Configuration, state: State, x: Array, labels: Array, size: int
) -> Gradient:
    """Forward, readout and backward of a shard.

    Parameters
    ----------
    backend : module
        Any that keeps the contract.
    configuration : Configuration
    state : State
        Its slots are not looked at.
    x : (T, B, m) array
        In the dtype of the configuration.
    labels : (B,) array of integers
    size : int
        Samples of the whole batch, at least B.

    Returns
    -------
    Gradient
        In memory of its own. No argument is written.
    """
    module, options = getattr(backend, configuration.cell), cell_options(configuration)
    dtype = np.dtype(configuration.dtype)
    cell = type(state.cell)(*(backend.asarray(array, dtype) for array in state.cell))
    device_x = backend.asarray(x, dtype)
    h0 = backend.asarray(np.zeros((x.shape[1], configuration.units), dtype), dtype)
    trajectory = module.forward(cell, device_x, h0, **options)
    loss = _cross_entropy(state.layer, backend.to_numpy(trajectory.h[-1]), labels)
    cotangent = backend.asarray(loss.h, dtype)
    gradients = module.backward(cell, device_x, trajectory, cotangent, input_gradient=False, **options)
    found = [np.asarray(backend.to_numpy(array)) for array in gradients.parameters]
    if is_triangular(configuration):
        found[0] = np.triu(found[0], k=1)
    part = len(labels) / size
    with np.errstate(all="ignore"):
        arrays = tuple(array * dtype.type(part) for array in (*found, *loss.parameters))
    right = int((loss.logits.argmax(axis=1) == labels).sum())
    return Gradient(float(loss.value) * part, right, arrays)


def each_here(
    backend: ModuleType, configuration: Configuration, state: State, shards: Sequence[tuple[Array, Array, int]]
) -> list[Gradient]:
    """The :func:`gradient` of each shard, one after the other."""
    return [gradient(backend, configuration, state, *shard) for shard in shards]


def step(
    backend: ModuleType,
    configuration: Configuration,
    state: State,
    x: Array,
    labels: Array,
    *,
    each: Callable[..., Sequence[Gradient]] = each_here,
) -> tuple[State, dict[str, float]]:
    """The gradient of a batch, shard by shard, and the update.

    Parameters
    ----------
    backend : module
        Any that keeps the contract.
    configuration : Configuration
        Its ``shards`` cut the batch into as many runs of samples, as equal as can be, the longer ones first.
    state : State
    x : (T, B, m) array
        In the dtype of the configuration.
    labels : (B,) array of integers
    each : callable
        As :func:`each_here`: wherever it computes, its results come in the order of the shards.

    Returns
    -------
    state : State
        In memory of its own. No argument is written.
    measured : dict
        ``loss``, ``accuracy``, ``norm`` (of the gradient, before it is clipped) and ``rate``.

    Raises
    ------
    Diverged
        If the loss, the gradient or a parameter is not finite.
    """
    size = len(labels)
    count = min(configuration.shards, size)
    pieces = zip(np.array_split(x, count, axis=1), np.array_split(labels, count), strict=True)
    shards = [(np.ascontiguousarray(piece), its, size) for piece, its in pieces]
    with np.errstate(all="ignore"):
        whole = functools.reduce(_plus, each(backend, configuration, state, shards))
    return _updated(configuration, state, whole, size)


def evaluate(
    backend: ModuleType, configuration: Configuration, state: State, split: str, sequences: Any, labels: Array
) -> tuple[float, float]:
    """Mean loss and accuracy.

    The same samples in the same order have the same noise in every evaluation of their split, so that states are
    compared on the same sequences.

    Parameters
    ----------
    backend : module
    configuration : Configuration
    state : State
    split : str
        ``train`` or ``test``.
    sequences : callable
        ``sequences(start, stop, generator)`` gives (T, B, m) of the samples from start to stop.
    labels : (N,) array of integers

    Returns
    -------
    loss, accuracy : float

    Raises
    ------
    Diverged
        If the loss is not finite.
    """
    module, dtype = getattr(backend, configuration.cell), np.dtype(configuration.dtype)
    cell = type(state.cell)(*(backend.asarray(array, dtype) for array in state.cell))
    total, right = 0.0, 0
    for start in range(0, len(labels), BLOCK):
        stop = min(start + BLOCK, len(labels))
        x = sequences(start, stop, _generator(configuration, _EVALUATION, SPLITS.index(split), start))
        h0 = backend.asarray(np.zeros((stop - start, configuration.units), dtype), dtype)
        options = cell_options(configuration) | {"keep_every": max(len(x), 1)}
        h = backend.to_numpy(module.forward(cell, backend.asarray(x, dtype), h0, **options).h[-1])
        loss = _cross_entropy(state.layer, h, labels[start:stop])
        total += float(loss.value) * (stop - start)
        right += int((loss.logits.argmax(axis=1) == labels[start:stop]).sum())
    if not math.isfinite(total):
        raise Diverged(
            f"diverged by iteration {state.iteration}: the loss on samples of the {split} set is {total}; {_ADVICE}"
        )
    return total / len(labels), right / len(labels)


def _cross_entropy(layer: ReadoutParameters, h: Array, labels: Array) -> readout.Loss:
    """The specification's, on one thread of NumPy's BLAS, whose order of summation depends on its threads."""
    with _blas().limit(limits=1, user_api="blas"):
        return readout.cross_entropy(layer, h, labels)


@functools.cache
def _blas() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def _plus(first: Gradient, second: Gradient) -> Gradient:
    arrays = tuple(one + other for one, other in zip(first.arrays, second.arrays, strict=True))
    return Gradient(first.loss + second.loss, first.right + second.right, arrays)


def _updated(configuration: Configuration, state: State, whole: Gradient, size: int) -> tuple[State, dict[str, float]]:
    """The next state, and what was measured, from the gradient of a batch of ``size``."""
    found, dtype = whole.arrays, np.dtype(configuration.dtype)
    with np.errstate(all="ignore"):
        # not by BLAS, whose order of summation depends on its threads
        norm = math.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in found))
    k = state.iteration + 1
    if not (math.isfinite(norm) and math.isfinite(whole.loss)):
        raise Diverged(_advice(k, norm, whole.loss))
    if 0 < configuration.clip < norm:
        found = tuple(array * dtype.type(configuration.clip / norm) for array in found)
    rate = optimizers.scheduled_rate(configuration.schedule, configuration.learning_rate, k, configuration.iterations)
    values, slots = [], []
    with np.errstate(all="ignore"):
        for value, its, kept in zip((*state.cell, *state.layer), found, state.slots, strict=True):
            value, kept = optimizers.update(configuration.optimizer, value, its, kept, rate, k, configuration.momentum)
            values.append(value)
            slots.append(kept)
    if not all(np.isfinite(array).all() for array in values):
        raise Diverged(_advice(k, norm, whole.loss))
    changed = state._replace(
        iteration=k, cell=type(state.cell)(*values[:-2]), layer=ReadoutParameters(*values[-2:]), slots=tuple(slots)
    )
    return changed, {"loss": whole.loss, "accuracy": whole.right / size, "norm": norm, "rate": rate}


@functools.lru_cache(maxsize=1)
def _permutation(seed: int, epoch: int, size: int) -> Array:
    return np.random.default_rng((seed, _EPOCH, epoch)).permutation(size)


def _generator(configuration: Configuration, *purpose: int) -> np.random.Generator:
    return np.random.default_rng((configuration.seed, *purpose))


def _advice(k: int, norm: float, loss: float) -> str:
    return f"diverged at iteration {k}: loss {loss:g}, gradient norm {norm:g}; {_ADVICE}"
