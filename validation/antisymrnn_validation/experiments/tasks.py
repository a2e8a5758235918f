"""Real input: MNIST as it is downloaded, and scikit-learn's bundled handwritten digits, as pixel sequences.

An IDX file starts with four bytes: 0, 0, the type of an entry (8: unsigned byte) and the number of dimensions d. Then
come d sizes, big-endian, four bytes each, then the entries in row-major order. No size is believed before the bytes
are there: a file may be cut off, be another one than its name says, or unpack to far more than it promises.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

import antisymrnn_ref
from antisymrnn_ref import initialization, readout
from antisymrnn_ref.contract import Array
from antisymrnn_validation.conformance.cases import Case

LARGEST_IDX = 2**30
"""Largest number of entries an IDX file may promise; the largest official file has 47,040,000."""

CONTENTS = {1: "labels (IDX magic 0x00000801)", 3: "images (IDX magic 0x00000803)"}
"""What an IDX file of unsigned bytes holds, by its number of dimensions."""

_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 2**20


class DataError(ValueError):
    """A data file or directory that cannot be used; the message names it, what was expected and what came."""


class Images(NamedTuple):
    """Labelled grey images.

    Attributes
    ----------
    images : (N, rows, columns) array of uint8
    labels : (N,) array of uint8
        0 to 9.
    name : str
        What the images are, as a report calls them.
    scale : float
        Largest pixel value.
    """

    images: Array
    labels: Array
    name: str
    scale: float


def read_idx(path: str | os.PathLike[str]) -> Array:
    """Read a gzip-compressed IDX file of unsigned bytes, whole, its checksum included.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    array of uint8
        (N,) labels or (N, rows, columns) images, in memory of its own.

    Raises
    ------
    DataError
        If the file is missing, empty, cut off, not gzip, not IDX, or has more or fewer entries than its header says.
    """
    path = Path(path)
    if not os.path.isfile(path):
        came = "a directory" if os.path.isdir(path) else "nothing" if not os.path.exists(path) else "a special file"
        raise DataError(f"{path}: expected a gzip-compressed IDX file, got {came}")
    try:
        with open(path, "rb") as compressed:
            _check_gzip(path, compressed)
            with gzip.GzipFile(fileobj=compressed) as stream:
                return _entries(path, stream)
    except EOFError:
        raise DataError(f"{path}: expected a whole gzip file, got one that is cut off; download it again") from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: expected an intact gzip file, got a damaged one ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def load_mnist(directory: str | os.PathLike[str], split: str = "test") -> Images:
    """Load one split of MNIST from the gzip IDX files as they are downloaded.

    Parameters
    ----------
    directory : str or path
        Holds the files ``train-images-idx3-ubyte.gz``, … or a folder ``mnist`` that does.
    split : str
        ``train`` or ``test``.

    Returns
    -------
    Images
        28 × 28 pixels, 0 to 255.

    Raises
    ------
    DataError
        If the directory or a file is missing, a file cannot be used (:func:`read_idx`), labels stand where images are
        expected or the other way round, or images and labels do not belong together.
    ValueError
        If ``split`` is neither.
    """
    if split not in _FILES:
        raise ValueError(f"split: expected train or test, got {split!r}")
    folder = _mnist_folder(Path(directory), _FILES[split])
    image_path, label_path = (folder / name for name in _FILES[split])
    images, labels = _read(image_path, 3), _read(label_path, 1)
    if images.shape[1:] != (28, 28):
        raise DataError(f"{image_path}: expected images of 28 x 28 pixels, got {images.shape[1]} x {images.shape[2]}")
    if len(labels) != len(images):
        raise DataError(
            f"{label_path}: expected {len(images)} labels, one for each image in {image_path.name}, got {len(labels)}"
        )
    if labels.max() > 9:
        raise DataError(f"{label_path}: expected labels 0 to 9, got {labels[labels > 9][0]}")
    return Images(images, labels, "MNIST", 255.0)


def load_digits() -> Images:
    """The 1797 handwritten digits that come with scikit-learn: 8 × 8 pixels, 0 to 16. Nothing is downloaded.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, the test set.
    """
    from sklearn import datasets  # here, because it takes seconds

    digits = datasets.load_digits()
    return Images(digits.images.astype(np.uint8), digits.target.astype(np.uint8), "digits", 16.0)


def pixel_sequences(images: Images, indices: Sequence[int] | Array) -> Array:
    """Images as sequences, one pixel a step, in scanline order.

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

    Notes
    -----
    Source: the paper's section 4, pixel MNIST: "one pixel at a time", m = 1. The paper does not give the scaling.
    """
    chosen = np.asarray(indices, dtype=np.intp)
    outside = chosen[(chosen < 0) | (chosen >= len(images.images))]
    if outside.size:
        raise IndexError(f"indices: expected 0 to {len(images.images) - 1}, got {outside[0]}")
    pixels = images.images[chosen].reshape(len(chosen), math.prod(images.images.shape[1:]))  # (B, T)
    return np.ascontiguousarray(pixels.T, dtype=np.float64)[:, :, None] / images.scale


def _mnist_folder(directory: Path, names: tuple[str, str]) -> Path:
    """The directory or its folder ``mnist``, whichever has both files."""
    if not os.path.isdir(directory):
        came = "a file" if os.path.exists(directory) else "nothing"
        raise DataError(f"{directory}: expected a directory with the MNIST files, got {came}")
    folders = [folder for folder in (directory, directory / "mnist") if os.path.isdir(folder)]
    missing = {folder: [name for name in names if not os.path.exists(folder / name)] for folder in folders}
    folder = min(folders, key=lambda folder: len(missing[folder]))  # on a tie the directory itself
    if missing[folder]:
        unpacked = [name[: -len(".gz")] for name in missing[folder] if os.path.exists(folder / name[: -len(".gz")])]
        hint = f"; {' and '.join(unpacked)} must stay compressed, as downloaded" if unpacked else ""
        raise DataError(f"{folder}: expected {' and '.join(names)}, missing {' and '.join(missing[folder])}{hint}")
    return folder


def _read(path: Path, dimensions: int) -> Array:
    array = read_idx(path)
    if array.ndim != dimensions:
        raise DataError(f"{path}: expected {CONTENTS[dimensions]}, got {CONTENTS[array.ndim]}; are two files swapped?")
    return array


def _check_gzip(path: Path, stream: BinaryIO) -> None:
    start = stream.read(4)
    stream.seek(0)
    if not start:
        raise DataError(f"{path}: expected a gzip-compressed IDX file, got an empty file")
    if not start.startswith(_GZIP_MAGIC):
        uncompressed = start[:3] == b"\0\0\x08"
        came = "an IDX file that is not compressed" if uncompressed else f"a file that starts with {start!r}"
        raise DataError(f"{path}: expected a gzip-compressed IDX file, as downloaded, got {came}")


def _entries(path: Path, stream: Any) -> Array:
    magic = _exactly(path, stream, 4, "a magic number of 4 bytes")
    dimensions = magic[3]
    if magic[:3] != b"\0\0\x08" or dimensions not in CONTENTS:
        raise DataError(f"{path}: expected {' or '.join(CONTENTS.values())}, got magic 0x{magic.hex()}")
    header = _exactly(path, stream, 4 * dimensions, f"{dimensions} sizes in the IDX header")
    shape = tuple(int.from_bytes(header[k : k + 4], "big") for k in range(0, len(header), 4))
    size, text = math.prod(shape), " x ".join(map(str, shape))
    if not 1 <= size <= LARGEST_IDX:
        raise DataError(f"{path}: expected 1 to {LARGEST_IDX} entries, got a header that promises {text} = {size}")
    data = _exactly(path, stream, size, f"{text} = {size} bytes after the IDX header")
    if stream.read(1):  # at the end of the file this also checks the length and the checksum
        raise DataError(f"{path}: expected {text} = {size} bytes after the IDX header, got more")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _exactly(path: Path, stream: Any, size: int, what: str) -> bytearray:
    """``size`` bytes, in pieces: memory grows with what the file holds, not with what its header says."""
    data = bytearray()
    while len(data) < size:
        piece = stream.read(min(size - len(data), _CHUNK))
        if not piece:
            raise DataError(f"{path}: expected {what}, got {len(data)} bytes")
        data += piece
    return data


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
