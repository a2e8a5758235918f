"""Labelled images: MNIST and CIFAR-10 as they are downloaded, and scikit-learn's bundled handwritten digits.

An IDX file starts with four bytes: 0, 0, the type of an entry (8: unsigned byte) and the number of dimensions d. Then
come d sizes, big-endian, four bytes each, then the entries in row-major order. A batch of CIFAR-10 is 10,000 records,
each the byte of the label and three planes, red, green and blue, of 32 × 32 bytes, row-major. No size is believed
before the bytes are there: a file may be cut off, be another one than its name says, or unpack to far more than it
promises. An archive is read as a stream; nothing of it is ever written to a disk.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import lzma
import math
import os
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array
from antisymrnn_validation.experiments.near_misses import kind_of, misplaced, other_version, version_of

LARGEST_IDX = 2**30
"""Largest number of entries an IDX file may promise; the largest official file has 47,040,000."""

CONTENTS = {1: "labels (IDX magic 0x00000801)", 3: "images (IDX magic 0x00000803)"}
"""What an IDX file of unsigned bytes holds, by its number of dimensions."""

_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
OFFICIAL = {
    "train-images-idx3-ubyte.gz": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "train-labels-idx1-ubyte.gz": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "t10k-images-idx3-ubyte.gz": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "t10k-labels-idx1-ubyte.gz": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
"""SHA-256 of what the official files hold, uncompressed; of an IDX file without its header."""

CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"

_BATCHES = {"train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test": ("test_batch.bin",)}
_RECORDS = 10_000  # of a batch
_RECORD = 1 + 3 * 32 * 32
_PACKED = ("", ".xz", ".gz")
_IN_ARCHIVE = "cifar-10-batches-bin"
_LARGEST_ARCHIVE = 2**28  # bytes, unpacked; the six batches have 184,380,000
_XZ_MEMORY = 2**27  # what xz may ask for; its largest preset takes 65 MiB
_DOWNLOAD = "antisymrnn train TASK --data DIR --download fetches them"
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 2**20


class DataError(ValueError):
    """A data file or directory that cannot be used; the message names it, what was expected and what was found."""


class Images(NamedTuple):
    """Labelled images.

    Attributes
    ----------
    images : (N, rows, columns) or (N, rows, columns, 3) array of uint8
        Grey, or red, green and blue.
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
            _check_gzip(path, compressed, "a gzip-compressed IDX file")
            with gzip.GzipFile(fileobj=compressed) as stream:
                return _entries(path, stream)
    except EOFError:
        raise DataError(f"{path}: expected a whole gzip file, got one that is cut off; download it again") from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: expected an intact gzip file, got a damaged one ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def load_mnist(directory: str | os.PathLike[str], split: str = "test", *, official: bool = False) -> Images:
    """Load one split of MNIST from the gzip IDX files as they are downloaded.

    Parameters
    ----------
    directory : str or path
        Holds the files ``train-images-idx3-ubyte.gz``, … or a folder ``mnist`` that does.
    split : str
        ``train`` or ``test``.
    official : bool
        Refuse all but the official 60,000 and 10,000 images.

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
    if official:
        _check_official(image_path, image_path.name, images)
        _check_official(label_path, label_path.name, labels)
    return Images(images, labels, "MNIST", 255.0)


def load_cifar(directory: str | os.PathLike[str], split: str = "test") -> Images:
    """Load one split of CIFAR-10 from the binary version: the archive as it is downloaded, or its batches.

    Parameters
    ----------
    directory : str or path
        It, its folder ``cifar10`` or a folder ``cifar-10-batches-bin`` in either holds ``data_batch_1.bin``, …, plain
        or packed as ``.xz`` or ``.gz``; or it or its folder ``cifar10`` holds ``cifar-10-binary.tar.gz``.
    split : str
        ``train`` or ``test``.

    Returns
    -------
    Images
        (N, 32, 32, 3): ``images[i, row, column]`` is the red, green and blue of one pixel, 0 to 255.

    Raises
    ------
    DataError
        If the directory or a file is missing, cut off, damaged, too long or not the official one, or the archive holds
        anything but plain files inside ``cifar-10-batches-bin``.
    ValueError
        If ``split`` is neither.
    """
    if split not in _BATCHES:
        raise ValueError(f"split: expected train or test, got {split!r}")
    paths = _cifar_files(Path(directory), _BATCHES[split])
    if isinstance(paths, Path):
        packed = _archived(paths, _BATCHES[split])
        named = [(paths / _IN_ARCHIVE / name, name, packed[name]) for name in _BATCHES[split]]
    else:
        with ThreadPoolExecutor(min(len(paths), os.cpu_count() or 1)) as pool:  # unpacking lets go of the interpreter
            contents = list(pool.map(_batch, paths))
        named = list(zip(paths, _BATCHES[split], contents, strict=True))
    images = np.empty((len(named) * _RECORDS, 32, 32, 3), np.uint8)
    labels = np.empty(len(images), np.uint8)
    for k, (path, name, content) in enumerate(named):
        records = np.frombuffer(content, np.uint8).reshape(_RECORDS, _RECORD)
        here = slice(k * _RECORDS, (k + 1) * _RECORDS)
        labels[here] = records[:, 0]
        if labels[here].max() > 9:
            raise DataError(f"{path}: expected labels 0 to 9, got {labels[here].max()}")
        _check_official(path, name, records)
        images[here] = records[:, 1:].reshape(_RECORDS, 3, 32, 32).transpose(0, 2, 3, 1)
    return Images(images, labels, "CIFAR-10", 255.0)


def load_digits() -> Images:
    """The 1797 handwritten digits that come with scikit-learn: 8 × 8 pixels, 0 to 16. Nothing is downloaded.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, the test set.
    """
    from sklearn import datasets  # here, because it takes seconds

    digits = datasets.load_digits()
    return Images(digits.images.astype(np.uint8), digits.target.astype(np.uint8), "digits", 16.0)


def _check_directory(directory: Path, name: str) -> None:
    if not os.path.isdir(directory):
        came = "a file" if os.path.exists(directory) else f"nothing; {_DOWNLOAD}"
        raise DataError(f"{directory}: expected a directory with the {name} files, got {came}")


def _mnist_folder(directory: Path, names: tuple[str, str]) -> Path:
    """The directory or its folder ``mnist``, whichever has both files."""
    _check_directory(directory, "MNIST")
    folders = [folder for folder in (directory, directory / "mnist") if os.path.isdir(folder)]
    missing = {folder: [name for name in names if not os.path.exists(folder / name)] for folder in folders}
    folder = min(folders, key=lambda folder: len(missing[folder]))  # on a tie the directory itself
    if missing[folder]:
        found = [misplaced(folder / name, folders) for name in missing[folder]]
        hint = "; ".join(filter(None, found)) or _DOWNLOAD
        raise DataError(f"{folder}: expected {' and '.join(names)}, missing {' and '.join(missing[folder])}; {hint}")
    return folder


def _read(path: Path, dimensions: int) -> Array:
    array = read_idx(path)
    if array.ndim != dimensions:
        raise DataError(f"{path}: expected {CONTENTS[dimensions]}, got {CONTENTS[array.ndim]}; are two files swapped?")
    return array


def _check_gzip(path: Path, stream: BinaryIO, what: str) -> None:
    """Refuse what is no gzip file, by its name for what it is."""
    start = stream.read(64)
    stream.seek(0)
    if not start:
        raise DataError(f"{path}: expected {what}, got an empty file")
    if not start.startswith(_GZIP_MAGIC):
        raise DataError(f"{path}: expected {what}, as downloaded, got {kind_of(start)}; {_DOWNLOAD}")


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


def _check_official(path: Path, name: str, array: Array) -> None:
    came = hashlib.sha256(array).hexdigest()
    if came != OFFICIAL[name]:
        other = [known for known, digest in OFFICIAL.items() if digest == came]
        hint = f"; it holds what belongs in {other[0]}: are two files swapped?" if other else "; download it again"
        raise DataError(f"{path}: expected the official contents (SHA-256 {OFFICIAL[name]}), got {came}{hint}")


def _cifar_files(directory: Path, names: tuple[str, ...]) -> Path | list[Path]:
    """The files of the batches, or the archive if there is a batch of which there is no file."""
    _check_directory(directory, "CIFAR-10")
    parents = (directory, directory / "cifar10")
    folders = [folder for parent in parents for folder in (parent, parent / _IN_ARCHIVE)]
    missing = list(names)
    for folder in folders:
        found = [[folder / (name + end) for end in _PACKED if os.path.exists(folder / (name + end))] for name in names]
        if all(found):
            return [paths[0] for paths in found]
        missing = min(missing, [name for name, paths in zip(names, found, strict=True) if not paths], key=len)
    for parent in parents:
        if os.path.exists(parent / CIFAR_ARCHIVE):
            return parent / CIFAR_ARCHIVE
    archives = (misplaced(parent / CIFAR_ARCHIVE, parents) for parent in parents if parent.is_dir())
    batches = (misplaced(directory / name, folders) for name in missing)
    hint = next(filter(None, itertools.chain(archives, batches, [other_version(parents)])), "")
    raise DataError(
        f"{directory}: expected {CIFAR_ARCHIVE} or {' and '.join(names)}, plain or as .xz or .gz, here or in cifar10; "
        f"missing {' and '.join(missing)}; {f'{hint}; ' if hint else ''}{_DOWNLOAD}"
    )


def _batch(path: Path) -> bytearray:
    """What a batch holds, unpacked; never more than a byte too many."""
    if not os.path.isfile(path):
        came = "a directory" if os.path.isdir(path) else "a special file"
        raise DataError(f"{path}: expected a batch of CIFAR-10, got {came}")
    size = _RECORDS * _RECORD
    try:
        with open(path, "rb") as raw:
            gz = path.suffix == ".gz"
            if gz:
                _check_gzip(path, raw, "a batch of CIFAR-10 as .gz")
            stream = _Xz(raw) if path.suffix == ".xz" else gzip.GzipFile(fileobj=raw) if gz else raw
            data = _exactly(path, stream, size, f"{_RECORDS} records of {_RECORD} bytes = {size} bytes")
            if stream.read(1):
                raise DataError(f"{path}: expected {_RECORDS} records of {_RECORD} bytes = {size} bytes, got more")
            return data
    except EOFError:
        raise DataError(f"{path}: expected a whole {path.suffix} file, got one that is cut off") from None
    except (zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise DataError(f"{path}: expected an intact {path.suffix} file, got a damaged one ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


class _Xz:
    """Reads an xz file of one stream in pieces, and bounds what its header may ask for."""

    def __init__(self, raw: BinaryIO):
        self._raw, self._decoder = raw, lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def read(self, size: int) -> bytes:
        while not self._decoder.eof:
            fed = self._raw.read(2**16) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not fed:
                raise EOFError
            piece = self._decoder.decompress(fed, size)
            if piece:
                return piece
        if self._decoder.unused_data or self._raw.read(1):
            raise lzma.LZMAError("there is something behind the end")
        return b""


class _Bounded:
    """Reads a stream and refuses to go on where an archive has become too long."""

    def __init__(self, path: Path, stream: Any):
        self._path, self._stream, self._left = path, stream, _LARGEST_ARCHIVE

    def read(self, size: int) -> bytes:
        piece: bytes = self._stream.read(size)
        self._left -= len(piece)
        if self._left < 0:
            raise DataError(f"{self._path}: expected at most {_LARGEST_ARCHIVE} bytes when unpacked, got more")
        return piece


def _archived(path: Path, names: tuple[str, ...]) -> dict[str, bytearray]:
    """The batches in an archive, which is read to its end; nothing is written anywhere."""
    if not os.path.isfile(path):
        raise DataError(f"{path}: expected an archive of CIFAR-10, got a directory or a special file")
    found: dict[str, bytearray] = {}
    try:
        with open(path, "rb") as raw, gzip.GzipFile(fileobj=raw) as unpacked:
            _check_gzip(path, raw, "an archive of CIFAR-10")
            stream = _Bounded(path, unpacked)
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as archive:  # type: ignore[call-overload]
                for member in archive:
                    _check_member(path, member)
                    name = member.name.removeprefix(f"{_IN_ARCHIVE}/")
                    if name not in names:
                        continue
                    if name in found:
                        raise DataError(f"{path}: expected {member.name!r} once, got it twice")
                    content = archive.extractfile(member)
                    found[name] = _exactly(path, content, member.size, f"{member.size} bytes of {member.name}")
            while stream.read(_CHUNK):  # to the end: this also checks the length and the checksum
                pass
    except EOFError:
        raise DataError(f"{path}: expected a whole archive, got one that is cut off; download it again") from None
    except DataError:
        raise
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile, ValueError, RecursionError) as error:  # some by headers
        raise DataError(f"{path}: expected an intact .tar.gz archive, got a damaged one ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{path}: expected {_IN_ARCHIVE}/ with {' and '.join(names)}, missing {' and '.join(missing)}")
    return found


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    """Refuse whatever the official archive does not hold: links, devices, paths that lead elsewhere, sizes."""
    name = repr(member.name)
    parts = member.name.split("/")
    if parts[0] != _IN_ARCHIVE or len(parts) > 2 or ".." in parts or "\\" in member.name:
        version = version_of(parts[0])
        hint = f": this is {version}, the binary version is needed; {_DOWNLOAD}" if version else ""
        raise DataError(f"{path}: expected nothing outside {_IN_ARCHIVE}/, got {name}{hint}")
    if not (member.isdir() or member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)) or member.issparse():
        raise DataError(f"{path}: expected plain files, got {name}, which is a link, a device or sparse")
    size = _RECORDS * _RECORD
    if parts[-1] in sum(_BATCHES.values(), ()) and (member.isdir() or member.size != size):
        raise DataError(f"{path}: expected {name} with {_RECORDS} records of {_RECORD} bytes, got {member.size} bytes")
    if member.size > size:
        raise DataError(f"{path}: expected no file larger than {size} bytes, got {name} with {member.size}")
