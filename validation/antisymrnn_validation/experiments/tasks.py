"""The paper's tasks: images as sequences, one pixel or one row of pixels a step, and scikit-learn's digits beside them.

Source of all: the paper's section 4. Its scaling of the input is not published; here a pixel is divided by the largest
value it can have, so that it lies in [0, 1].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import antisymrnn_ref
from antisymrnn_ref import initialization, readout
from antisymrnn_ref.contract import Array
from antisymrnn_validation.experiments.data import (
    DataError,
    Images,
    load_cifar,
    load_digits,
    load_mnist,
)
from antisymrnn_validation.output.names import did_you_mean
from antisymrnn_validation.truth.cases import Case

TASKS = ("digits", "mnist", "pmnist", "cifar", "noise-padded")

PERMUTATION_SEED = 0
"""Of the one permutation of permuted MNIST, see :func:`permutation`."""


class Task(NamedTuple):
    """A classification of sequences.

    Attributes
    ----------
    name : str
        One of ``TASKS``.
    T : int
        Steps.
    m : int
        Inputs of a step.
    classes : int
    train_labels, test_labels : (N,) array of int64
        0 to classes − 1.
    train_pixels, test_pixels : (N, S, m) array of uint8
        The first S steps of each sequence; the T − S others are noise.
    white : float
        Largest pixel value, which becomes 1.
    """

    name: str
    T: int
    m: int
    classes: int
    train_labels: Array
    test_labels: Array
    train_pixels: Array
    test_pixels: Array
    white: float


def load(name: str, data: Path | None) -> Task:
    """Load a task.

    Parameters
    ----------
    name : str
        ``digits``: scikit-learn's 8 × 8 digits, m = 1, T = 64; of each class, in the order of the data set, every fifth
        image (the 5th, 10th, …) is for the test: 1442 to train on, 355 to test on.
        ``mnist``: m = 1, T = 784, in scanline order. ``pmnist``: the same under the fixed :func:`permutation`.
        ``cifar``: m = 3, T = 1024; a step is red, green and blue of one pixel, in scanline order.
        ``noise-padded``: m = 96, T = 1000; a step is one row of CIFAR-10, its 32 pixels from left to right with red,
        green and blue of each together; after 32 rows come 968 steps of noise.
    data : path, optional
        Directory of the official files, see :func:`~antisymrnn_validation.experiments.data.load_mnist` and
        :func:`~antisymrnn_validation.experiments.data.load_cifar`. ``digits`` needs none and ignores it.

    Returns
    -------
    Task

    Raises
    ------
    DataError
        If there is no directory, or a file is missing or not the official one.
    ValueError
        If there is no such task.
    """
    check_name(name)
    return _task(name, *(_images(name, data, split) for split in ("train", "test")))


def first_test_sample(name: str, data: Path | None) -> Array:
    """The first sequence of a task's test set, without noise; the training set is not read.

    Arguments and errors are those of :func:`load`.

    Returns
    -------
    (S, m) array of float64
        Pixels in [0, 1], in the order and grouping of the task's steps.
    """
    check_name(name)
    images = _images(name, data, "test")
    pixels = _pixels(name, images._replace(images=images.images[:1]))
    return _time_major(pixels, [0], pixels.shape[1], np.dtype(np.float64), images.scale)[:, 0]


def first_digit_rows() -> Array:
    """The first of scikit-learn's digits by rows, (8, 8) float64 in [0, 1]: what needs no download."""
    digits = load_digits()
    return digits.images[0] / digits.scale


def followed_by_noise(pixels: Array, T: int, generator: np.random.Generator) -> Array:
    """(T, m) array: the first T steps of pixels (S, m) followed by T − S steps of standard Gaussian noise."""
    noise = generator.standard_normal((max(T - len(pixels), 0), pixels.shape[1]))
    return np.concatenate([pixels[:T], noise])


def sequences(
    task: Task, split: str, indices: Sequence[int] | Array, dtype: Any, generator: np.random.Generator | None = None
) -> Array:
    """Some samples of a task as a batch of sequences.

    Parameters
    ----------
    task : Task
    split : str
        ``train`` or ``test``.
    indices : sequence of B integers
        Which samples, 0 to N − 1.
    dtype : dtype
        float32 or float64.
    generator : numpy Generator, optional
        Of the noise; required by ``noise-padded``, ignored by the other tasks.

    Returns
    -------
    (T, B, m) array
        C-contiguous and new. Noise is standard Gaussian, independent for every sample, step, input and call: it is
        drawn from the generator in the order of the array, in ``dtype``.

    Raises
    ------
    IndexError
        If an index is out of range.
    TypeError
        If an index is not an integer, or there is no such dtype.
    ValueError
        If the split or the dtype is another one, or the generator is missing.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split: expected train or test, got {split!r}")
    dtype = np.dtype(dtype)
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype: expected float32 or float64, got {dtype}")
    pixels = task.train_pixels if split == "train" else task.test_pixels
    S = pixels.shape[1]
    if S < task.T and generator is None:
        raise ValueError(f"generator: expected a numpy Generator for the noise of {task.name}, got None")
    x = _time_major(pixels, indices, task.T, dtype, task.white)
    if S < task.T and generator is not None:
        generator.standard_normal(dtype=dtype.type, out=x[S:])
    return x


def permutation() -> Array:
    """The order of the pixels in permuted MNIST: step t is pixel ``permutation()[t]`` of the scanline order.

    Returns
    -------
    (784,) array of int64
        What sorts the first 784 raw 64-bit outputs of NumPy's PCG64 with seed ``PERMUTATION_SEED``; NumPy promises
        that these never change, which it does not of ``Generator.permutation``.
    """
    return np.argsort(np.random.PCG64(PERMUTATION_SEED).random_raw(784), kind="stable").astype(np.int64)


def check_name(name: str) -> None:
    """Raise ValueError for an unknown task; the message lists all of them, and a name that is close."""
    if name not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {name!r}{did_you_mean(str(name), TASKS)}")


def pixel_sequences(images: Images, indices: Sequence[int] | Array) -> Array:
    """Grey images as sequences, one pixel a step, in scanline order.

    Parameters
    ----------
    images : Images
        (N, rows, columns).
    indices : sequence of B integers
        Which images, 0 to N−1.

    Returns
    -------
    (T, B, 1) array of float64
        Pixels divided by ``images.scale``, T = rows · columns; C-contiguous.

    Raises
    ------
    IndexError
        If an index is out of range.
    """
    T = math.prod(images.images.shape[1:])
    return _time_major(images.images.reshape(-1, T, 1), indices, T, np.dtype(np.float64), images.scale)


def _images(name: str, data: Path | None, split: str) -> Images:
    """The images of one split of a task."""
    if name == "digits":
        digits = load_digits()
        chosen = _every_fifth(digits.labels) == (split == "test")
        return digits._replace(images=digits.images[chosen], labels=digits.labels[chosen])
    if data is None:
        what = "MNIST" if name.endswith("mnist") else "CIFAR-10"
        raise DataError(
            f"{name}: expected a folder with the {what} files, got none: name it by --data DIR or ANTISYMRNN_DATA; "
            f"antisymrnn train {name} --data DIR --download fetches missing files; train digits needs none"
        )
    return load_mnist(data, split, official=True) if name.endswith("mnist") else load_cifar(data, split)


def _pixels(name: str, split: Images) -> Array:
    """(N, S, m): the pixels of a split in the order and grouping of a task's steps."""
    pixels = split.images.reshape(len(split.images), -1, {"cifar": 3, "noise-padded": 96}.get(name, 1))
    return np.ascontiguousarray(pixels[:, permutation()]) if name == "pmnist" else pixels


def _task(name: str, train: Images, test: Images) -> Task:
    pixels = [_pixels(name, split) for split in (train, test)]
    _, S, m = pixels[0].shape
    T = 1000 if name == "noise-padded" else S
    labels = [split.labels.astype(np.int64) for split in (train, test)]
    return Task(name, T, m, 10, labels[0], labels[1], pixels[0], pixels[1], train.scale)


def _every_fifth(labels: Array) -> Array:
    """Of each class the 5th, 10th, … sample, as a mask."""
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[4::5]] = True
    return chosen


def _time_major(pixels: Array, indices: Sequence[int] | Array, T: int, dtype: np.dtype[Any], white: float) -> Array:
    """(T, B, m): the pixels of (N, S, m) that are asked for, over ``white``; what follows step S is not yet written."""
    chosen = np.asarray(indices)
    if chosen.size and chosen.dtype.kind not in "iu":
        raise TypeError(f"indices: expected integers, got {chosen.dtype}")
    chosen = chosen.astype(np.intp).reshape(-1)
    outside = chosen[(chosen < 0) | (chosen >= len(pixels))]
    if outside.size:
        raise IndexError(f"indices: expected 0 to {len(pixels) - 1}, got {outside[0]}")
    _, S, m = pixels.shape
    x = np.empty((T, len(chosen), m), dtype)
    np.divide(np.ascontiguousarray(pixels[chosen].transpose(1, 0, 2)), dtype.type(white), out=x[:S])
    return x


def real_case(cell: str, sequences: Array, labels: Array, *, n: int, seed: int = 0) -> Case:
    """A case on real input: the paper's initialisation, and the cotangent of a real loss.

    Parameters
    ----------
    cell : str
    sequences : (T, B, m) float64 array
    labels : (B,) array of integers
        Classes 0 … 9.
    n : int
        Hidden units.
    seed : int
        Of the parameters.

    Returns
    -------
    Case
        ε = γ = 0.01, σ_w = 1, float64. The cotangent of the last state is that of the softmax cross-entropy of a random
        readout. To stay in generic position, biases, h0 and the cotangents of all other states are small and random.
    """
    generator = np.random.default_rng(seed)
    T, B, m = sequences.shape

    def small(*shape: int) -> Array:
        return 0.1 * generator.standard_normal(shape)

    draw = initialization.gated_parameters if cell == "gated" else initialization.parameters
    parameters = draw(generator, n, m, sigma_w=1.0)
    parameters = parameters._replace(**{name: small(n) for name in parameters._fields if name.startswith("b")})
    h0, step_size, diffusion = small(B, n), 0.01, 0.01
    trajectory = getattr(antisymrnn_ref, cell).forward(
        parameters, sequences, h0, step_size=step_size, diffusion=diffusion, keep_every=max(T, 1)
    )
    layer = readout.ReadoutParameters(generator.standard_normal((10, n)) / np.sqrt(n), small(10))
    g = small(T + 1, B, n) / max(T, 1)
    g[-1] = readout.cross_entropy(layer, trajectory.h[-1], labels).h
    name = f"{cell} real input T={T} B={B} n={n} m={m} float64"
    return Case(name, cell, parameters, sequences, h0, g, step_size, diffusion)


class Data(NamedTuple):
    """What a run needs of a task.

    Attributes
    ----------
    m, classes : int
    train_labels, test_labels : (N,) arrays of integers
    sequences : callable
        ``sequences(split, indices, dtype, generator)`` gives (T, B, m).
    """

    m: int
    classes: int
    train_labels: Array
    test_labels: Array
    sequences: Callable[..., Array]


@functools.cache
def data_of(name: str, folder: Path | None) -> Data:
    """What a run needs of a task, see :func:`load`; kept for the next run."""
    task = load(name, folder)
    return Data(task.m, task.classes, task.train_labels, task.test_labels, functools.partial(sequences, task))
