"""One step of training, the splits and batches, and evaluation: functions on any backend.

Every draw is derived from the seed and from what it is for (an epoch, an iteration), never from draws before it: a run
that is resumed sees the same batches and the same noise, to the bit. A batch may be cut into shards, whose gradients
are added in their order: where each was computed changes no bit.
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import threadpoolctl

from antisymrnn_ref import initialization, readout
from antisymrnn_ref.contract import Array, GatedParameters, Parameters
from antisymrnn_ref.readout import ReadoutParameters
from antisymrnn_validation.experiments import optimizers
from antisymrnn_validation.truth.cases import CELLS

CHOICES = {
    "cell": CELLS,
    "optimizer": tuple(optimizers.SLOTS),
    "schedule": optimizers.SCHEDULES,
    "dtype": ("float32", "float64"),
}
"""What some fields of a configuration may be."""

_KINDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
MOST_UNITS = 2**30 - 1
"""With more W would have more bytes than an array of NumPy can."""

SPLITS = ("train", "test")
"""The two parts of a task's data."""

BLOCK = 256
"""How many sequences are evaluated at a time."""

_ADVICE = "try a smaller --learning-rate, --clip 1, a smaller --step-size or a larger --diffusion"
_PARAMETERS, _SPLIT, _EPOCH, _NOISE, _EVALUATION = range(5)  # what a generator is for


class Configuration(NamedTuple):
    """Everything that decides the numbers of a run; ``config.json`` holds it.

    Every number is finite and at least 0, ε above 0. Where the paper says something, its set is given as published or,
    where only later sources have it, unconfirmed; the rest is our choice.

    Attributes
    ----------
    task : str
        One of ``tasks.TASKS``.
    backend : str
        A name or module path that ``load_backend`` takes.
    cell : str
        ``antisymmetric``, equation (12), or ``gated``, equation (13).
    unconstrained : bool
        W as it is in place of W − Wᵀ; the published ablation, of the gated cell alone.
    full : bool
        Train all of W; else what is strictly above its diagonal, as the published parameter counts have it.
    units : int
        n, from 1. Published: 128 for MNIST, 256 for CIFAR-10, 196 in the ablation.
    step_size : float
        ε. Published: 0.01, 0.1 or 1.
    diffusion : float
        γ. Unconfirmed: 0.001, 0.01, 0.1 or 1.
    sigma_w : float
        W ~ N(0, σ_w²/n). Published: 0, 1, 2, 4, 8 or 16.
    optimizer : str
        ``sgd`` (with momentum) or ``adagrad``, both published, or ``adam``, ours.
    learning_rate : float
        Unconfirmed: 0.1, 0.2, … 1.
    momentum : float
        Of ``sgd``. The paper has some, of unknown size.
    schedule : str
        One of ``optimizers.SCHEDULES``. Not published.
    clip : float
        Largest norm of the gradient, 0 for none. Not published.
    batch : int
        B, from 1. Unconfirmed: 128.
    iterations : int
        From 1. Unconfirmed: 50,000; 10,000 for noise-padded.
    evaluate_every : int
        Iterations between two evaluations and checkpoints, from 1. Ours.
    patience : int
        Iterations without a better accuracy on the validation split after which the run ends, 0 for no end. Ours.
    validation : float
        Part of the training set to validate on, between 0 and 1. Ours.
    seed : int
        Of every draw.
    dtype : str
        ``float32`` or ``float64``. Not published.
    shards : int
        Parts of a batch whose gradients are added in their order, from 1 to B. Ours.
    """

    task: str
    backend: str = "numba"
    cell: str = "antisymmetric"
    unconstrained: bool = False
    full: bool = False
    units: int = 128
    step_size: float = 0.01
    diffusion: float = 0.01
    sigma_w: float = 1.0
    optimizer: str = "adagrad"
    learning_rate: float = 0.1
    momentum: float = 0.9
    schedule: str = "constant"
    clip: float = 0.0
    batch: int = 128
    iterations: int = 50_000
    evaluate_every: int = 500
    patience: int = 0
    validation: float = 0.1
    seed: int = 0
    dtype: str = "float32"
    shards: int = 1


DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "units": 64, "step_size": 0.3, "diffusion": 0.5, "sigma_w": 0.5, "optimizer": "adam", "learning_rate": 0.03,
        "schedule": "cosine", "clip": 1.0, "batch": 32, "iterations": 2000, "evaluate_every": 100,
    },
    "noise-padded": {"units": 256, "iterations": 10_000},
    "cifar": {"units": 256},
}  # fmt: skip
"""What differs from the defaults of :class:`Configuration`, by task."""


def usual(task: str) -> Configuration:
    """The configuration of a task where nothing is asked for."""
    return Configuration(task, **DEFAULTS.get(task, {}))


TYPES = get_type_hints(Configuration)
"""Of the fields of a configuration, by name."""


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


def check_type(name: str, value: object) -> None:
    """Refuse a value that is not of the type of its field; a whole number is a number, true and false are not.

    Raises
    ------
    ValueError
        Naming the field, what was expected and what came.
    """
    kind = TYPES[name]
    if type(value) not in ((int, float) if kind is float else (kind,)):
        raise ValueError(f"{name}: expected {_KINDS[kind]}, got {value!r:.60}")


def check(configuration: Configuration) -> None:
    """Refuse a configuration that cannot be trained.

    Raises
    ------
    ValueError
        Naming the field, what was expected and what came.
    """
    for name, value in configuration._asdict().items():
        check_type(name, value)
    for name, known in CHOICES.items():
        if (value := getattr(configuration, name)) not in known:
            close = difflib.get_close_matches(value, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{name}: expected {' or '.join(known)}, got {value!r}{hint}")
    for name in ("units", "batch", "iterations", "evaluate_every", "shards"):
        if getattr(configuration, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(configuration, name)}")
    for name in ("patience", "seed"):
        if getattr(configuration, name) < 0:
            raise ValueError(f"{name}: expected at least 0, got {getattr(configuration, name)}")
    if configuration.units > MOST_UNITS:
        raise ValueError(f"units: expected at most {MOST_UNITS}, got {configuration.units}")
    largest = float(np.finfo(configuration.dtype).max)
    for name in ("step_size", "diffusion", "sigma_w", "momentum", "clip", "learning_rate"):
        value = getattr(configuration, name)
        if not 0 <= value <= largest:
            raise ValueError(
                f"{name}: expected a finite number of at least 0 in {configuration.dtype}, got {value!r:.60}"
            )
    if not np.dtype(configuration.dtype).type(configuration.step_size) > 0:
        raise ValueError(f"step_size: expected more than 0 in {configuration.dtype}, got {configuration.step_size}")
    if configuration.shards > configuration.batch:
        raise ValueError(f"shards: expected at most batch = {configuration.batch}, got {configuration.shards}")
    if not 0 < configuration.validation < 1:
        raise ValueError(f"validation: expected a part between 0 and 1, got {configuration.validation}")
    if configuration.unconstrained and configuration.cell != "gated":
        raise ValueError("unconstrained: expected the gated cell, as in the paper's ablation")


def initial(configuration: Configuration, m: int, classes: int) -> State:
    """The state before the first step, drawn from the seed; the readout's weights ~ N(0, 1/n), its bias 0."""
    generator = _generator(configuration, _PARAMETERS)
    n, dtype = configuration.units, np.dtype(configuration.dtype)
    draw = initialization.gated_parameters if configuration.cell == "gated" else initialization.parameters
    cell = draw(generator, n, m, sigma_w=configuration.sigma_w, triangular=triangular(configuration), dtype=dtype)
    weights = (generator.standard_normal((classes, n)) / math.sqrt(n)).astype(dtype)
    layer = ReadoutParameters(weights, np.zeros(classes, dtype))
    zeros = tuple((np.zeros_like(array),) * optimizers.SLOTS[configuration.optimizer] for array in (*cell, *layer))
    return State(0, cell, layer, zeros)


def parameter_count(configuration: Configuration, state: State) -> int:
    """Trainable numbers: those of the arrays, of a strictly triangular W only what stands above its diagonal."""
    n = configuration.units
    below = n * (n + 1) // 2 if triangular(configuration) else 0
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
    module, options = getattr(backend, configuration.cell), _options(configuration)
    dtype = np.dtype(configuration.dtype)
    cell = type(state.cell)(*(backend.asarray(array, dtype) for array in state.cell))
    device_x = backend.asarray(x, dtype)
    h0 = backend.asarray(np.zeros((x.shape[1], configuration.units), dtype), dtype)
    trajectory = module.forward(cell, device_x, h0, **options)
    loss = _cross_entropy(state.layer, backend.to_numpy(trajectory.h[-1]), labels)
    cotangent = backend.asarray(loss.h, dtype)
    gradients = module.backward(cell, device_x, trajectory, cotangent, input_gradient=False, **options)
    found = [np.asarray(backend.to_numpy(array)) for array in gradients.parameters]
    if triangular(configuration):
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
        options = _options(configuration) | {"keep_every": max(len(x), 1)}
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
    """The specification's, on one thread of NumPy's BLAS, which sums in an order that goes by its threads."""
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
        # not by BLAS, which sums in an order that goes by its threads
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


def triangular(configuration: Configuration) -> bool:
    """Whether only what is strictly above the diagonal of W is trained."""
    return not (configuration.full or configuration.unconstrained)


def _options(configuration: Configuration) -> dict[str, Any]:
    options: dict[str, Any] = {"step_size": configuration.step_size, "diffusion": configuration.diffusion}
    return options | ({"unconstrained": True} if configuration.unconstrained else {})


def _generator(configuration: Configuration, *purpose: int) -> np.random.Generator:
    return np.random.default_rng((configuration.seed, *purpose))


def _advice(k: int, norm: float, loss: float) -> str:
    return f"diverged at iteration {k}: loss {loss:g}, gradient norm {norm:g}; {_ADVICE}"
